import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_fed.errors import DataError
from lightning_fed.radiology import RadiographDataset, read_labels, read_picture


def saved(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


def test_sixteen_bit_png_keeps_every_one_of_its_grey_values(tmp_path):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    image = read_picture(saved(tmp_path / "deep.png", values))
    assert (image.dtype, tuple(image.shape)) == (torch.float32, (1, 256, 256))
    low, high = np.percentile(values, [0.5, 99.5])
    expected = np.clip((values.astype(float) - low) / (high - low), 0, 1)
    np.testing.assert_allclose(image[0].numpy(), expected, atol=1e-7)
    assert len(torch.unique(image)) > 64000


def test_twelve_bits_in_a_sixteen_bit_png_fill_the_range(tmp_path):
    values = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    image = read_picture(saved(tmp_path / "deep.png", values))
    assert (image.min(), image.max()) == (0, 1)
    assert len(torch.unique(image)) > 4000


@pytest.mark.parametrize("name", ["grey.png", "grey.PNG"])
def test_eight_bit_values_are_shares_of_255(tmp_path, name):
    values = np.arange(20, 120, dtype=np.uint8).reshape(10, 10)
    image = read_picture(saved(tmp_path / name, values))
    np.testing.assert_allclose(image[0].numpy(), values / 255, atol=1e-6)


@pytest.mark.parametrize("name", ["colour.png", "colour.jpg", "colour.jpeg"])
def test_colour_becomes_luminance(tmp_path, name):
    pixels = np.zeros((16, 16, 3), dtype=np.uint8)
    pixels[8:] = (255, 0, 0)
    image = read_picture(saved(tmp_path / name, pixels))
    assert float(image[0, 12, 8]) == pytest.approx(0.299, abs=0.01)


def test_size_fits_the_picture_into_a_square(tmp_path):
    values = np.tile(np.arange(200, dtype=np.uint8), (100, 1))
    assert read_picture(saved(tmp_path / "wide.jpg", values), size=(32, 32)).shape == (1, 32, 32)


def test_jpeg_that_is_cut_off_is_refused_by_name(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (200, 200), dtype=np.uint8)
    path = saved(tmp_path / "cut.jpg", pixels)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"cut\.jpg' cannot be used.*truncated"):
        read_picture(path)


@pytest.mark.parametrize("content", [b"", b"no picture at all", b"\x89PNG\r\n\x1a\n"])
def test_file_that_is_no_picture_is_refused_by_name(tmp_path, content):
    (tmp_path / "wrong.png").write_bytes(content)
    with pytest.raises(DataError, match=r"wrong\.png' cannot be used"):
        read_picture(tmp_path / "wrong.png")


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_single_grey_value_is_refused(tmp_path, kind):
    with pytest.raises(DataError, match="one single grey value"):
        read_picture(saved(tmp_path / "flat.png", np.full((8, 8), 7, dtype=kind)))


def test_sixteen_bits_in_colour_are_refused_rather_than_halved(tmp_path):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size, bits, colour = 4, 16, 2
    lines = b"".join(b"\0" + bytes(range(size * 6)) for _ in range(size))
    header = struct.pack(">IIBBBBB", size, size, bits, colour, 0, 0, 0)
    path = tmp_path / "deep.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    )
    with pytest.raises(DataError, match="16 bits in colour"):
        read_picture(path)


# What EXIF's orientation makes of a picture of two rows: 6 is a quarter turn to the right, and so on.
TURNS = {
    1: [[0, 80, 160], [40, 120, 200]],
    2: [[160, 80, 0], [200, 120, 40]],
    3: [[200, 120, 40], [160, 80, 0]],
    4: [[40, 120, 200], [0, 80, 160]],
    5: [[0, 40], [80, 120], [160, 200]],
    6: [[40, 0], [120, 80], [200, 160]],
    7: [[200, 160], [120, 80], [40, 0]],
    8: [[160, 200], [80, 120], [0, 40]],
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("kind", ["shallow.png", "deep.png", "a.jpg"])
def test_picture_stands_upright_as_its_exif_data_says(tmp_path, orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    # Blocks of 16 x 16 pixels, so that JPEG leaves them as they are.
    stored = np.kron(TURNS[1], np.ones((16, 16))).astype(np.uint8)
    pixels = stored.astype(np.uint16) * 256 if kind == "deep.png" else stored
    image = read_picture(saved(tmp_path / kind, pixels, exif=exif))[0].numpy()
    expected = np.kron(TURNS[orientation], np.ones((16, 16))) / (200 if kind == "deep.png" else 255)
    np.testing.assert_allclose(image, expected, atol=0.01)


def test_picture_is_turned_before_it_is_fitted(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = np.tile(np.arange(200, dtype=np.uint8), (100, 1))
    image = read_picture(saved(tmp_path / "wide.jpg", wide, exif=exif), size=(32, 32))[0]
    # Upright it is twice as high as wide, dark above and bright below.
    assert image[:, :8].sum() == image[:, 24:].sum() == 0
    assert image[4, 8:24].mean() < 0.2 < 0.6 < image[-4, 8:24].mean()


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
@pytest.mark.parametrize("exif", [b"Exif\0\0nothing of the kind", b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01"])
def test_exif_data_that_cannot_be_read_turns_nothing(tmp_path, name, exif):
    pixels = np.kron(np.array([[0, 80, 160]]), np.ones((16, 16))).astype(np.uint8)
    image = read_picture(saved(tmp_path / name, pixels, exif=exif))
    np.testing.assert_allclose(image[0].numpy(), pixels / 255, atol=0.01)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.png' does not exist"):
        read_picture(tmp_path / "gone.png")


def test_table_may_mix_dicom_and_pictures_and_a_damaged_picture_is_skipped(tmp_path, write_radiograph):
    pixels = np.random.default_rng(0).integers(0, 255, (30, 30), dtype=np.uint8)
    write_radiograph(pixels, name="a.dcm", bits=8)
    saved(tmp_path / "b.png", pixels.astype(np.uint16) * 256)
    saved(tmp_path / "c.jpg", pixels)
    (tmp_path / "d.jpg").write_bytes(b"damaged")
    (tmp_path / "labels.csv").write_text(
        "file,patient_id,fracture\na.dcm,1,0\nb.png,2,1\nc.jpg,3,0\nd.jpg,4,1\n", encoding="utf-8"
    )
    dataset = RadiographDataset(read_labels(tmp_path), image_size=24, transform=lambda sample: sample)
    assert [row.path.name for row in dataset.radiographs] == ["a.dcm", "b.png", "c.jpg"]
    assert [name for name, _ in dataset.unreadable] == ["d.jpg"]
    assert all(dataset[index]["image"].shape == (1, 24, 24) for index in range(3))
