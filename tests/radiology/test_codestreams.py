"""Compressed frames: whole ones with anything behind them are read, and nothing that was cut off is."""

import logging
import subprocess
import sys

import gdcm
import numpy as np
import pydicom
import pytest
import torch
from conftest import radiograph_dataset
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from lightning_fed.errors import DataError
from lightning_fed.radiology import read_picture, read_radiograph
from lightning_fed.radiology.codestreams import check_lossless_jpeg, jpeg_structure

EOI = b"\xff\xd9"
SHIPPED = (
    "JPEG2000.dcm",
    "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "JPEGLSNearLossless_16.dcm",
    "SC_rgb_jpeg_dcmtk.dcm",
    "SC_rgb_jpeg_gdcm.dcm",
)


def frame_of(dataset):
    return next(generate_frames(dataset.PixelData, number_of_frames=1)).rstrip(b"\0")


def with_frame(path, dataset, *frames):
    dataset.PixelData = encapsulate(list(frames))
    dataset.save_as(path)
    return path


def noise(shape=(90, 70), top=4096, black_from=None):
    pixels = np.random.default_rng(0).integers(0, top, shape)
    pixels[slice(black_from, None) if black_from else slice(0)] = 0
    return pixels


def lossless_jpeg(path, pixels, process=gdcm.TransferSyntax.JPEGLosslessProcess14_1, **options):
    """Write a lossless JPEG in DICOM, which pydicom cannot, and return its data set."""
    radiograph_dataset(pixels, **options).save_as(path, enforce_file_format=True)
    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(path))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(process))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return pydicom.dcmread(path)


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("padding", [b"\0" * 15, b"\0" * 4000, b"\xff\xd8\xff\xd9" * 40])
def test_whole_frame_is_read_whatever_stands_behind_its_end(name, padding, tmp_path):
    path = get_testdata_file(name, download=False)
    dataset = pydicom.dcmread(path)
    padded = with_frame(tmp_path / "padded.dcm", dataset, frame_of(dataset) + padding)
    assert torch.equal(read_radiograph(padded), read_radiograph(path))


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("share", [0.5, 0.97])
def test_part_of_a_frame_with_an_end_marker_put_behind_it_is_refused(name, share, tmp_path):
    dataset = pydicom.dcmread(get_testdata_file(name, download=False))
    frame = frame_of(dataset)
    cut = with_frame(tmp_path / "cut.dcm", dataset, frame[: int(len(frame) * share)] + EOI)
    with pytest.raises(DataError, match=r"cut\.dcm' cannot be used: .*(truncated|cannot be decoded)"):
        read_radiograph(cut)


@pytest.mark.parametrize(
    ("pixels", "options"),
    [
        (noise(), {"bits": 12}),
        (noise(black_from=50), {"bits": 12}),
        (noise(top=65536), {}),
        (noise(top=2) * 32768, {}),
        (noise() - 2048, {"bits": 12, "signed": True}),
        (noise() - 2048, {"signed": True}),
        (noise((90, 70, 3), top=256), {"bits": 8, "photometric": "RGB"}),
    ],
    ids=["12 bits", "black border", "16 bits", "two values", "signed 12", "signed 16", "colour"],
)
@pytest.mark.parametrize(
    "process", [gdcm.TransferSyntax.JPEGLosslessProcess14, gdcm.TransferSyntax.JPEGLosslessProcess14_1]
)
def test_lossless_jpeg_is_read_when_whole_and_refused_when_cut_anywhere(pixels, options, process, tmp_path):
    radiograph_dataset(pixels, **options).save_as(tmp_path / "plain.dcm", enforce_file_format=True)
    dataset = lossless_jpeg(tmp_path / "whole.dcm", pixels, process, **options)
    assert torch.equal(read_radiograph(tmp_path / "whole.dcm"), read_radiograph(tmp_path / "plain.dcm"))
    frame = frame_of(dataset)
    first, last = jpeg_structure(frame).scans[-1].data
    for share in (0.1, 0.5, 0.9, 0.995):
        cut = with_frame(tmp_path / "cut.dcm", dataset, frame[: first + int((last - first) * share)] + EOI)
        with pytest.raises(DataError, match=r"cut\.dcm.*truncated"):
            read_radiograph(cut)


@pytest.mark.parametrize("selection", range(1, 8))
def test_bits_that_a_lossless_jpeg_needs_are_counted_for_each_predictor(selection):
    # Two lines of three samples of 8 bits, and 2 bits for the code of every category.
    pixels = np.array([[128, 130, 130], [120, 130, 140]])
    # First line: 0, 2 and 0 from the left neighbour (128 before the first): categories 0, 2, 0.
    first_line = [0, 2, 0]
    # Second line: -8 from above at its beginning, then as in T.81 table H.1.
    left, above, corner = (120, 130), (130, 130), (128, 130)
    predicted = {
        1: left,
        2: above,
        3: corner,
        4: (120 + 130 - 128, 130 + 130 - 130),
        5: (120 + 1, 130 + 0),
        6: (130 - 4, 130 + 0),
        7: (125, 130),
    }[selection]
    second_line = [
        4,
        *(abs(value - expected).bit_length() for value, expected in zip((130, 140), predicted, strict=True)),
    ]
    bits = sum(2 + category for category in first_line + second_line)
    table = bytes([0, 0, 17, *[0] * 14, *range(17)])
    header = b"\xff\xd8\xff\xc4" + (2 + len(table)).to_bytes(2, "big") + table
    header += b"\xff\xc3\x00\x0b\x08\x00\x02\x00\x03\x01\x01\x11\x00"
    header += b"\xff\xda\x00\x08\x01\x01\x00" + bytes([selection, 0, 0])
    enough = header + b"\x11" * -(-bits // 8) + EOI
    check_lossless_jpeg(jpeg_structure(enough), pixels, enough)
    short = header + b"\x11" * (bits // 8 - (bits % 8 == 0)) + EOI
    with pytest.raises(ValueError, match="truncated"):
        check_lossless_jpeg(jpeg_structure(short), pixels, short)


@pytest.mark.parametrize("options", [{}, {"quality": 20}, {"progressive": True}, {"restart_marker_rows": 2}])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_picture_is_read_when_whole_and_refused_when_cut_anywhere(options, mode, tmp_path):
    picture = Image.fromarray(noise((120, 100, 3), 256).astype(np.uint8)).convert(mode)
    picture.save(tmp_path / "whole.jpg", **options)
    whole = (tmp_path / "whole.jpg").read_bytes()
    expected = read_picture(tmp_path / "whole.jpg")
    (tmp_path / "padded.jpg").write_bytes(whole + bytes(3000))
    assert torch.equal(read_picture(tmp_path / "padded.jpg"), expected)
    for share in (0.3, 0.5, 0.8, 0.95):
        for end in (b"", EOI):
            (tmp_path / "cut.jpg").write_bytes(whole[: int(len(whole) * share)] + end)
            with pytest.raises(DataError, match=r"cut\.jpg' cannot be used"):
                read_picture(tmp_path / "cut.jpg")


def test_jpeg_picture_with_a_black_lower_half_is_read(tmp_path):
    Image.fromarray(noise((120, 100), 256, black_from=60).astype(np.uint8)).save(tmp_path / "dark.jpg")
    assert read_picture(tmp_path / "dark.jpg").shape == (1, 120, 100)


@pytest.mark.parametrize("change", ["half", "bit"])
def test_png_that_lacks_data_or_has_a_wrong_bit_is_refused(change, tmp_path):
    Image.fromarray(noise((120, 100), 65536).astype(np.uint16)).save(tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())
    middle = len(content) // 2
    if change == "bit":
        content[middle] ^= 16
    else:
        # A quarter is missing, and the end is there.
        del content[middle : middle + len(content) // 4]
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.png' cannot be used"):
        read_picture(tmp_path / "a.png")


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_second_frame_without_their_number_is_refused_by_file(syntax, tmp_path):
    dataset = radiograph_dataset(noise(), bits=12)
    dataset.compress(syntax)
    frame = frame_of(dataset)
    path = with_frame(tmp_path / "two.dcm", dataset, frame, frame)
    with pytest.raises(DataError, match=r"two\.dcm.*it holds 2 frames"):
        read_radiograph(path)


def test_frame_in_several_fragments_is_one_frame(tmp_path):
    dataset = radiograph_dataset(noise(), bits=12)
    dataset.save_as(tmp_path / "plain.dcm", enforce_file_format=True)
    dataset.compress(JPEG2000Lossless)
    frame = frame_of(dataset)
    dataset.PixelData = encapsulate([frame], fragments_per_frame=4)
    dataset.save_as(tmp_path / "parts.dcm")
    assert torch.equal(read_radiograph(tmp_path / "parts.dcm"), read_radiograph(tmp_path / "plain.dcm"))


@pytest.mark.parametrize("name", ["JPEG2000.dcm", "SC_rgb_jpeg_dcmtk.dcm", "MR_small_jpeg_ls_lossless.dcm"])
def test_frame_of_another_size_than_its_header_says_is_refused(name, tmp_path):
    dataset = pydicom.dcmread(get_testdata_file(name, download=False))
    rows = dataset.Rows
    dataset.Rows = rows // 2
    dataset.save_as(tmp_path / "other.dcm")
    with pytest.raises(DataError, match=rf"other\.dcm.*is of {rows} x .* say {rows // 2} x"):
        read_radiograph(tmp_path / "other.dcm")


@pytest.mark.parametrize("seed", range(30))
def test_damaged_frame_is_an_image_or_a_refusal_and_nothing_else(seed, tmp_path):
    random = np.random.default_rng(seed)
    dataset = pydicom.dcmread(get_testdata_file(SHIPPED[seed % len(SHIPPED)], download=False))
    frame = bytearray(frame_of(dataset))
    for position in random.integers(0, min(len(frame), 400), 5):
        frame[position] = random.integers(256)
    path = with_frame(tmp_path / "damaged.dcm", dataset, bytes(frame))
    try:
        image = read_radiograph(path)
    except DataError as error:
        assert "damaged.dcm" in str(error)
    else:
        assert bool(torch.isfinite(image).all()) and 0 <= image.min() < image.max() <= 1


def test_ten_files_that_cannot_be_decoded_print_nothing_but_their_refusals(tmp_path):
    names = ["JPEG2000.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "JPEGLSNearLossless_16.dcm"]
    for number, name in enumerate([*names, "JPGExtended.dcm", "JPEG-lossy.dcm", *names]):
        dataset = pydicom.dcmread(get_testdata_file(name, download=False))
        frame = frame_of(dataset)
        with_frame(tmp_path / f"{number}.dcm", dataset, frame[: len(frame) // 2] + frame[len(frame) * 3 // 4 :])
    # In a process of its own, because pytest has handlers for the libraries' loggers.
    program = """
import sys
from pathlib import Path
from lightning_fed.errors import DataError
from lightning_fed.radiology import read_radiograph
for path in sorted(Path(sys.argv[1]).glob("*.dcm")):
    try:
        read_radiograph(path)
    except DataError as error:
        print(error)
"""
    child = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert child.stderr == ""
    assert [line.split("'")[1] for line in child.stdout.splitlines()] == [f"{number}.dcm" for number in range(10)]


def test_reading_leaves_other_libraries_as_talkative_as_before(caplog):
    logging.getLogger("pydicom").setLevel(logging.DEBUG)
    try:
        with pytest.raises(DataError):
            read_radiograph(get_testdata_file("JPGExtended.dcm", download=False))
        assert logging.getLogger("pydicom").level == logging.DEBUG
        assert logging.getLogger("pydicom").propagate
    finally:
        logging.getLogger("pydicom").setLevel(logging.NOTSET)
    assert not [record for record in caplog.records if record.name.startswith("pydicom")]


def test_jpeg_in_dicom_is_what_the_decoder_made_of_it(tmp_path):
    Image.fromarray(noise((64, 48), 256).astype(np.uint8)).save(tmp_path / "a.jpg", quality=95)
    dataset = radiograph_dataset(noise((64, 48), 256), bits=8, WindowCenter=128, WindowWidth=256)
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    path = with_frame(tmp_path / "a.dcm", dataset, (tmp_path / "a.jpg").read_bytes())
    torch.testing.assert_close(read_radiograph(path), read_picture(tmp_path / "a.jpg"), atol=1e-6, rtol=0)
