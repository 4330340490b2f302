"""Headers as archives hold them: numbers that are none, pairs of which half is missing, views that show nothing."""

import math

import numpy as np
import pytest
import torch
from conftest import radiograph_dataset
from pydicom import dcmread
from pydicom.dataset import Dataset

from lightning_fed.errors import DataError
from lightning_fed.radiology import RadiographDataModule, RadiographDataset, read_labels, read_radiograph

RAMP = np.arange(0, 4096, 16).reshape(16, 16)
# A decimal string of this length, to be overwritten in the file: pydicom writes no invalid ones.
PLACE = "77777.77"
WINDOW = {"WindowCenter": 2048, "WindowWidth": 4096, "VOILUTFunction": "LINEAR_EXACT"}


@pytest.fixture
def write_header(tmp_path):
    """Write a 12-bit ramp whose header holds one text exactly as given."""

    def write(keyword, text, **attributes):
        path = tmp_path / f"{keyword}.dcm"
        several = text.count("\\") + 1
        value = [PLACE] * several if several > 1 else PLACE
        radiograph_dataset(RAMP, bits=12, **{**attributes, keyword: value}).save_as(path, enforce_file_format=True)
        place = "\\".join([PLACE] * several).encode()
        content = path.read_bytes()
        assert content.count(place) == 1 and len(text) <= len(place)
        path.write_bytes(content.replace(place, text.encode().ljust(len(place))))
        return path

    return write


@pytest.mark.parametrize("text", ["NaN", "inf", "-inf", "1e999", "2048,5", "wide"])
@pytest.mark.parametrize("keyword", ["WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept"])
def test_number_that_is_none_is_refused_by_file_and_attribute(write_header, keyword, text):
    with pytest.raises(DataError, match=rf"'{keyword}\.dcm' cannot be used: {keyword} is '?{text}"):
        read_radiograph(write_header(keyword, text, **{**WINDOW, keyword: 1}))


@pytest.mark.parametrize("keyword", ["WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept"])
def test_number_too_large_for_the_image_is_refused_by_file_and_attribute(write_header, keyword):
    attributes = {"WindowCenter": 2048, "WindowWidth": 4096} if keyword.startswith("Window") else {}
    with pytest.raises(DataError, match=rf"(?s)'{keyword}\.dcm' cannot be used: .*{keyword} 1e\+?308"):
        read_radiograph(write_header(keyword, "1e308", **attributes))


@pytest.mark.parametrize("keyword", ["PixelPaddingValue", "PixelPaddingRangeLimit"])
def test_padding_that_is_text_is_refused_by_file_and_attribute(tmp_path, keyword):
    dataset = radiograph_dataset(RAMP, bits=12, PixelPaddingValue=0)
    dataset.pop(keyword, None)
    dataset.add_new(keyword, "LO", "none")
    dataset.save_as(tmp_path / "padded.dcm", enforce_file_format=True)
    with pytest.raises(DataError, match=rf"padded\.dcm.*{keyword} is 'none', which is no number"):
        read_radiograph(tmp_path / "padded.dcm")


def test_image_that_is_not_finite_never_reaches_a_data_module(write_header, tmp_path):
    for keyword in ("WindowCenter", "RescaleSlope"):
        write_header(keyword, "NaN", **{**WINDOW, keyword: 1})
    radiograph_dataset(RAMP, bits=12).save_as(tmp_path / "good.dcm", enforce_file_format=True)
    (tmp_path / "labels.csv").write_text(
        "file,patient_id,fracture,split\nWindowCenter.dcm,1,0,train\nRescaleSlope.dcm,2,1,train\ngood.dcm,3,1,train\n",
        encoding="utf-8",
    )
    data = RadiographDataModule(str(tmp_path), image_size=16, augment=False)
    with pytest.warns(UserWarning, match=r"2 radiographs cannot be read(?s:.*)WindowCenter is NaN(?s:.*)RescaleSlope"):
        data.setup("fit")
    (batch,) = data.train_dataloader()
    assert batch["image"].shape == (1, 1, 16, 16)
    assert bool(torch.isfinite(batch["image"]).all())


def test_transform_that_makes_values_that_are_not_finite_is_refused_by_file(tmp_path):
    radiograph_dataset(RAMP, bits=12).save_as(tmp_path / "a.dcm", enforce_file_format=True)
    (tmp_path / "labels.csv").write_text("file,patient_id,fracture\na.dcm,1,0\n", encoding="utf-8")

    def logarithm(sample):
        return {**sample, "image": sample["image"].log()}

    dataset = RadiographDataset(read_labels(tmp_path), image_size=16, transform=logarithm)
    with pytest.raises(DataError, match=r"transform made values of 'a\.dcm' that are not finite"):
        dataset[0]


@pytest.mark.parametrize(
    ("attributes", "slope", "intercept"),
    [
        ({"RescaleSlope": 2, "RescaleIntercept": None}, 2, 0),
        ({"RescaleSlope": 2}, 2, 0),
        ({"RescaleSlope": None, "RescaleIntercept": -1000}, 1, -1000),
        ({"RescaleIntercept": -1000}, 1, -1000),
    ],
)
def test_missing_half_of_the_rescale_is_taken_for_one_or_zero(write_radiograph, attributes, slope, intercept):
    window = {"WindowCenter": 1000, "WindowWidth": 4000, "VOILUTFunction": "LINEAR_EXACT"}
    image = read_radiograph(write_radiograph([[0, 1000, 2000, 4000]], bits=12, **window, **attributes))
    # The window runs from -1000 to 3000.
    expected = [min(max((value * slope + intercept + 1000) / 4000, 0), 1) for value in (0, 1000, 2000, 4000)]
    assert image[0, 0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("centers", "widths"),
    [([500, 2048], [0, 4096]), ([500, 2048], [-3, 4096]), ([90000, 2048], [10, 4096])],
)
def test_window_that_is_invalid_or_shows_nothing_is_passed_over_for_the_next(write_radiograph, centers, widths):
    path = write_radiograph(
        [[0, 1024, 3072, 4095]], bits=12, **{**WINDOW, "WindowCenter": centers, "WindowWidth": widths}
    )
    assert read_radiograph(path)[0, 0].tolist() == pytest.approx([0, 0.25, 0.75, 4095 / 4096])


def test_window_beside_one_that_is_no_number_is_used(write_header):
    path = write_header("WindowCenter", "2048,5\\2048", WindowWidth=[100, 4096], VOILUTFunction="LINEAR_EXACT")
    np.testing.assert_allclose(read_radiograph(path)[0].numpy(), RAMP / 4096, atol=1e-6)


def test_first_of_two_valid_windows_is_the_one_that_is_shown(write_radiograph):
    path = write_radiograph(
        [[0, 1024, 4095]], bits=12, **{**WINDOW, "WindowCenter": [512, 9], "WindowWidth": [1024, 9]}
    )
    assert read_radiograph(path)[0, 0].tolist() == pytest.approx([0, 1, 1])


def voi_table(first):
    """Four entries for -1000, -999, -998 and -997."""
    item = Dataset()
    item.LUTDescriptor = [4, first, 16]
    item.add_new("LUTData", "US", [0, 10, 40, 100])
    return [item]


# Implicit encoding has no sign for the number in question.
@pytest.mark.parametrize(("implicit", "first"), [(True, 64536), (False, 64536), (False, -1000)])
def test_voi_table_may_begin_below_zero_where_the_rescaled_values_do(tmp_path, implicit, first):
    dataset = radiograph_dataset([[0, 1, 2, 3, 900]], bits=12, RescaleSlope=1, RescaleIntercept=-1000)
    dataset.VOILUTSequence = voi_table(first)
    if first < 0:
        dataset.VOILUTSequence[0]["LUTDescriptor"].VR = "SS"
    path = tmp_path / "table.dcm"
    if implicit:
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2"
    dataset.save_as(path, enforce_file_format=True)
    assert read_radiograph(path)[0, 0].tolist() == pytest.approx([0, 0.1, 0.4, 1, 1])


def test_voi_table_of_values_that_cannot_be_negative_begins_where_it_says(write_radiograph):
    item = voi_table(64536)
    path = write_radiograph([[64535, 64537, 64538, 64539]], VOILUTSequence=item)
    assert read_radiograph(path)[0, 0].tolist() == pytest.approx([0, 0.1, 0.4, 1])


def test_modality_table_of_signed_pixels_may_begin_below_zero(tmp_path):
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [4, 65534, 16])
    item.add_new("LUTData", "US", [0, 1000, 500, 250])
    item.ModalityLUTType = "US"
    dataset = radiograph_dataset([[-2, -1, 0, 1]], signed=True, **{**WINDOW, "WindowCenter": 500, "WindowWidth": 1000})
    dataset.ModalityLUTSequence = [item]
    dataset.save_as(tmp_path / "table.dcm", enforce_file_format=True)
    assert read_radiograph(tmp_path / "table.dcm")[0, 0].tolist() == pytest.approx([0, 1, 0.5, 0.25])


@pytest.mark.parametrize("value", [-2048, 2048, 63488])
def test_signed_padding_is_recognised_as_a_number_and_as_either_bit_pattern(tmp_path, value):
    window = {"WindowCenter": 500, "WindowWidth": 1000, "VOILUTFunction": "LINEAR_EXACT"}
    dataset = radiograph_dataset(
        [[-2048, -2048, 0, 500, 1000]], bits=12, signed=True, photometric="MONOCHROME1", **window
    )
    dataset.add_new("PixelPaddingValue", "SS" if value < 0 else "US", value)
    dataset.save_as(tmp_path / "padded.dcm", enforce_file_format=True)
    # Inverted, padding would be white.
    assert read_radiograph(tmp_path / "padded.dcm")[0, 0].tolist() == pytest.approx([0, 0, 1, 0.5, 0])


def test_high_bit_above_the_allocated_bits_is_refused(write_radiograph):
    with pytest.raises(DataError, match=r"image\.dcm.*HighBit is 20 with 16 bits allocated"):
        read_radiograph(write_radiograph(RAMP, bits=12, HighBit=20))


@pytest.mark.parametrize(("frames", "padding"), [(2, 0), (3, 2)])
def test_bytes_of_several_frames_without_their_number_are_refused_by_file(write_radiograph, frames, padding):
    path = write_radiograph(RAMP, bits=12)
    dataset = dcmread(path)
    dataset.PixelData = dataset.PixelData * frames + b"\0" * padding
    dataset.save_as(path)
    with pytest.raises(DataError, match=rf"image\.dcm.*it holds {frames} frames"):
        read_radiograph(path)


def test_padding_behind_one_frame_is_no_second_one(write_radiograph):
    path = write_radiograph(RAMP, bits=12)
    expected = read_radiograph(path)
    dataset = dcmread(path)
    dataset.PixelData += b"\0" * (len(dataset.PixelData) - 2)
    dataset.save_as(path)
    assert torch.equal(read_radiograph(path), expected)


def test_spacing_that_no_data_module_can_use_is_refused(tmp_path):
    for spacing in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(DataError, match=r"pixel_spacing_mm = .* is no distance"):
            RadiographDataModule(str(tmp_path), pixel_spacing_mm=spacing)
