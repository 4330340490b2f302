"""A circle on the detector is one in the tensor, and a centimetre as long in one scanner's image as in another's."""

import numpy as np
import pytest
import torch
from conftest import radiograph_dataset
from PIL import Image
from public_layouts import GRAZ_COLUMNS, graz_row, write_csv, write_graz, write_image
from pydicom.dataset import FileDataset

from lightning_fed.errors import DataError
from lightning_fed.radiology import (
    PooledRadiographs,
    RadiographDataModule,
    read_grazpedwri,
    read_labels,
    read_picture,
    read_radiograph,
)
from lightning_fed.radiology.canvas import at_scale, fit_to_canvas, with_square_pixels


def disc(rows, columns, row_mm, column_mm, radius_mm=10.0, side_mm=40.0):
    """A bright disc in the middle of a field of 40 x 40 mm, sampled at the given distances."""
    y = (np.arange(rows) + 0.5) * row_mm - side_mm / 2
    x = (np.arange(columns) + 0.5) * column_mm - side_mm / 2
    return np.where(np.hypot(y[:, None], x) < radius_mm, 4000, 100)


def extent(image):
    """Height and width in pixels of what is brighter than the middle."""
    bright = image[0] > 0.5
    return int(bright.any(1).sum()), int(bright.any(0).sum())


def with_spacing(path, pixels, **spacing) -> FileDataset:
    radiograph_dataset(pixels, bits=12, WindowCenter=2050, WindowWidth=3900, **spacing).save_as(
        path, enforce_file_format=True
    )
    return path


UNEQUAL = {
    "PixelSpacing": [0.2, 0.4],
    "ImagerPixelSpacing": [0.2, 0.4],
    "NominalScannedPixelSpacing": [0.2, 0.4],
    "PixelAspectRatio": [1, 2],
}


@pytest.mark.parametrize("keyword", UNEQUAL)
@pytest.mark.parametrize("wide", [True, False])
def test_circle_stays_a_circle_when_pixels_are_not_square(tmp_path, keyword, wide):
    spacing = UNEQUAL[keyword] if wide else UNEQUAL[keyword][::-1]
    shape, mm = ((200, 100), (0.2, 0.4)) if wide else ((100, 200), (0.4, 0.2))
    path = with_spacing(tmp_path / "disc.dcm", disc(*shape, *mm), **{keyword: spacing})
    image = read_radiograph(path)
    # 40 mm at the finer distance of 0.2 mm, and in it a disc of 20 mm.
    assert image.shape == (1, 200, 200)
    assert extent(image) == pytest.approx((100, 100), abs=1)
    assert extent(read_radiograph(path, size=(80, 80))) == (40, 40)


@pytest.mark.parametrize("spacing", [{}, {"PixelSpacing": [0.3, 0.3]}, {"PixelAspectRatio": [1, 1]}])
def test_square_pixels_are_left_as_they_are(tmp_path, spacing):
    plain = read_radiograph(with_spacing(tmp_path / "plain.dcm", disc(100, 100, 0.4, 0.4)))
    assert torch.equal(read_radiograph(with_spacing(tmp_path / "a.dcm", disc(100, 100, 0.4, 0.4), **spacing)), plain)


@pytest.mark.parametrize(
    ("spacing", "shape"),
    [
        ({"PixelSpacing": [0.2, 0.4], "ImagerPixelSpacing": [0.4, 0.2]}, (50, 100)),
        ({"PixelSpacing": None, "ImagerPixelSpacing": [0.4, 0.2]}, (100, 50)),
        ({"PixelSpacing": [0, 0], "ImagerPixelSpacing": [0.4, 0.2]}, (100, 50)),
        ({"ImagerPixelSpacing": [0.4, 0.2], "NominalScannedPixelSpacing": [0.2, 0.4]}, (100, 50)),
        ({"NominalScannedPixelSpacing": [0.3, 0.3], "PixelAspectRatio": [1, 2]}, (50, 50)),
    ],
)
def test_distances_in_the_patient_go_before_those_at_the_detector_and_those_before_a_ratio(tmp_path, spacing, shape):
    assert read_radiograph(with_spacing(tmp_path / "a.dcm", disc(50, 50, 0.8, 0.8), **spacing)).shape[1:] == shape


@pytest.mark.parametrize(
    ("spacing", "reason"),
    [
        ({"PixelSpacing": [0.2, -0.2]}, r"PixelSpacing is 0\.2\\-0\.2; needed are two positive numbers"),
        ({"PixelSpacing": [0.2, 0]}, r"PixelSpacing is 0\.2\\0; needed are two positive numbers"),
        ({"ImagerPixelSpacing": [0.2]}, r"ImagerPixelSpacing is 0\.2; needed are two positive numbers"),
        ({"PixelAspectRatio": [1, 5000]}, r"PixelAspectRatio is 1\\5000, a pixel more than 10 times as long as wide"),
    ],
)
def test_spacing_that_cannot_be_is_refused_by_file_and_attribute(tmp_path, spacing, reason):
    with pytest.raises(DataError, match=rf"a\.dcm.*{reason}"):
        read_radiograph(with_spacing(tmp_path / "a.dcm", disc(50, 50, 0.8, 0.8), **spacing))


@pytest.mark.parametrize("text", [b"0,2\\0,2", b"NaN\\0.2", b"0.2\\inf"])
def test_spacing_that_is_no_number_is_refused_by_file_and_attribute(tmp_path, text):
    path = with_spacing(tmp_path / "a.dcm", disc(50, 50, 0.8, 0.8), PixelSpacing=["7.7", "7.7"])
    path.write_bytes(path.read_bytes().replace(b"7.7\\7.7", text))
    with pytest.raises(DataError, match=r"a\.dcm.*PixelSpacing is"):
        read_radiograph(path)


def test_fixed_scale_shows_the_same_disc_of_two_scanners_in_the_same_size(tmp_path):
    fine = with_spacing(tmp_path / "fine.dcm", disc(400, 400, 0.1, 0.1), PixelSpacing=[0.1, 0.1])
    coarse = with_spacing(tmp_path / "coarse.dcm", disc(100, 50, 0.4, 0.8), ImagerPixelSpacing=[0.4, 0.8])
    for path in (fine, coarse):
        image = read_radiograph(path, pixel_spacing_mm=0.5)
        # 40 mm and 20 mm.
        assert image.shape == (1, 80, 80)
        assert extent(image) == pytest.approx((40, 40), abs=2)
    # Cut to 30 mm around the middle, and with a black edge of 5 mm on each side.
    cut, framed = (read_radiograph(fine, pixel_spacing_mm=0.5, size=(side, side)) for side in (60, 100))
    assert torch.equal(framed[:, 20:80, 20:80], cut)
    assert extent(cut) == extent(framed) == pytest.approx((40, 40), abs=1)
    assert framed[:, :10].max() == framed[:, :, 90:].max() == 0


def test_fixed_scale_needs_a_spacing_and_says_which_file_has_none(tmp_path):
    path = with_spacing(tmp_path / "a.dcm", disc(50, 50, 0.8, 0.8), PixelAspectRatio=[1, 1])
    with pytest.raises(DataError, match=r"a\.dcm.*does not tell the distance of its pixels, and pixel_spacing_mm"):
        read_radiograph(path, pixel_spacing_mm=0.5)


def test_fixed_scale_has_a_finest_one_that_the_refusal_names(tmp_path):
    path = with_spacing(tmp_path / "a.dcm", disc(50, 50, 0.8, 0.8), PixelSpacing=[0.8, 0.8])
    with pytest.raises(DataError, match=r"pixel_spacing_mm = 0\.001 magnifies.* 800 times.*give 0\.08 or more"):
        read_radiograph(path, pixel_spacing_mm=0.001, size=(32, 32))
    assert read_radiograph(path, pixel_spacing_mm=0.08, size=(32, 32)).shape == (1, 32, 32)


def test_data_modules_give_every_image_the_same_scale(tmp_path):
    with_spacing(tmp_path / "a.dcm", disc(400, 400, 0.1, 0.1), PixelSpacing=[0.1, 0.1])
    with_spacing(tmp_path / "b.dcm", disc(50, 50, 0.8, 0.8), PixelSpacing=[0.8, 0.8])
    with_spacing(tmp_path / "c.dcm", disc(50, 50, 0.8, 0.8))
    Image.fromarray(disc(100, 100, 0.4, 0.4).astype(np.uint16)).save(tmp_path / "d.png")
    Image.fromarray(disc(100, 100, 0.4, 0.4).astype(np.uint16)).save(tmp_path / "e.png")
    (tmp_path / "labels.csv").write_text(
        "file;patient_id;fracture;split;pixel_spacing_mm\na.dcm;1;0;train;\nb.dcm;2;1;train;\nc.dcm;3;1;train;\n"
        "d.png;4;1;train;0,4\ne.png;5;1;train;0\n",
        encoding="utf-8",
    )
    options = {"image_size": 32, "augment": False, "pixel_spacing_mm": 1.0}
    data = RadiographDataModule(str(tmp_path), **options)
    with pytest.warns(
        UserWarning, match=r"2 radiographs(?s:.*)c\.dcm(?s:.*)e\.png.*distance of its pixels is not known"
    ):
        data.setup("fit")
    images = [data.dataset("train").image(index) for index in range(3)]
    # 32 mm of the 40, and the 20 mm of the disc.
    assert [extent(image) for image in images] == [pytest.approx((20, 20), abs=2)] * 3
    pooled = PooledRadiographs([str(tmp_path)], **options)
    with pytest.warns(UserWarning, match="2 radiographs"):
        assert torch.equal(pooled.dataset("train")[0]["image"], images[0])


@pytest.mark.parametrize("cell", ["-0.1", "nan", "inf", "wide"])
def test_spacing_of_a_table_that_is_none_is_refused_by_row_and_column(tmp_path, cell):
    write_image(tmp_path / "a.png")
    write_csv(tmp_path / "labels.csv", ["file", "patient_id", "fracture", "pixel_spacing_mm"], ["a.png", 1, 0, cell])
    with pytest.raises(DataError, match=rf"row 2 of 'labels\.csv': pixel_spacing_mm = '{cell}' is no distance"):
        read_labels(tmp_path)


def test_grazpedwri_tells_the_distance_of_its_pixels(tmp_path):
    (row,) = read_grazpedwri(write_graz(tmp_path, [graz_row(1)]))
    assert row.pixel_spacing_mm == 0.144
    # 40 x 30 pixels of 0.144 mm are 5.76 x 4.32 mm.
    assert read_picture(row.path, pixel_spacing_mm=0.1, spacing_mm=row.pixel_spacing_mm).shape == (1, 58, 43)


def test_grazpedwri_without_that_column_is_read_as_before(tmp_path):
    at = GRAZ_COLUMNS.index("pixel_spacing")
    row = graz_row(1)
    write_image(tmp_path / "images" / f"{row[0]}.png")
    write_csv(tmp_path / "dataset.csv", GRAZ_COLUMNS[:at] + GRAZ_COLUMNS[at + 1 :], row[:at] + row[at + 1 :])
    assert read_grazpedwri(tmp_path)[0].pixel_spacing_mm is None


def test_resampling_keeps_the_range_of_an_image_and_its_dtype():
    torch.manual_seed(0)
    image = torch.rand(1, 31, 17, dtype=torch.float64)
    for result in (
        with_square_pixels(image, (0.3, 0.2)),
        fit_to_canvas(image, (40, 40), pixel=(0.3, 0.2)),
        at_scale(image, (0.3, 0.2), 0.07),
    ):
        assert result.dtype == torch.float64
        assert result.max() <= image.max() and result.min() >= 0
    assert with_square_pixels(image, (0.3, 0.2)).shape == (1, 46, 17)
    assert at_scale(image, (0.3, 0.2), 0.1).shape == (1, 93, 34)
