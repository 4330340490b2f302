from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import apply_modality_lut, apply_windowing
from pydicom.sequence import Sequence
from pydicom.uid import RLELossless

from lightning_fed.errors import DataError
from lightning_fed.radiology import read_radiograph


def shipped(name):
    return Path(get_testdata_file(name, download=False))


def stored(scene, bits):
    return np.rint(scene * (2**bits - 1)).astype(np.int64)


def table(entries, first, bits):
    item = Dataset()
    item.LUTDescriptor = [len(entries), first, bits]
    item.add_new("LUTData", "US", [int(entry) for entry in entries])
    return Sequence([item])


@pytest.mark.parametrize("shape", [None, "INVERSE"])
def test_monochrome1_and_monochrome2_of_one_scene_give_the_same_tensor(write_radiograph, scene, shape):
    bright_is_high = stored(scene, 12)
    attributes = {} if shape is None else {"PresentationLUTShape": shape}
    one = write_radiograph(4095 - bright_is_high, "one.dcm", bits=12, photometric="MONOCHROME1", **attributes)
    two = write_radiograph(bright_is_high, "two.dcm", bits=12)
    torch.testing.assert_close(read_radiograph(one), read_radiograph(two), atol=1e-6, rtol=0)


def test_monochrome1_is_inverted_after_its_window(write_radiograph, scene):
    bright_is_high = stored(scene, 12)
    window = {"WindowWidth": 2000, "VOILUTFunction": "LINEAR_EXACT"}
    one = write_radiograph(
        4095 - bright_is_high, "one.dcm", bits=12, photometric="MONOCHROME1", WindowCenter=2595, **window
    )
    two = write_radiograph(bright_is_high, "two.dcm", bits=12, WindowCenter=1500, **window)
    torch.testing.assert_close(read_radiograph(one), read_radiograph(two), atol=1e-6, rtol=0)


def test_inverse_presentation_shape_inverts_monochrome2(write_radiograph, scene):
    plain = read_radiograph(write_radiograph(stored(scene, 12), "a.dcm", bits=12))
    inverse = read_radiograph(write_radiograph(stored(scene, 12), "b.dcm", bits=12, PresentationLUTShape="INVERSE"))
    torch.testing.assert_close(inverse, 1 - plain)


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_bit_depth_changes_the_tensor_by_rounding_only(write_radiograph, scene, bits):
    window = {"WindowCenter": 2 ** (bits - 1), "WindowWidth": 2**bits}
    image = read_radiograph(write_radiograph(stored(scene, bits), bits=bits, **window))
    assert image.dtype == torch.float32
    np.testing.assert_allclose(image[0].numpy(), scene, atol=0.51 / (2**bits - 1) + 1e-6)


def test_bits_outside_the_stored_ones_are_ignored(write_radiograph, scene):
    clean = stored(scene, 12)
    overlay = (np.indices(clean.shape).sum(0) % 16) << 12
    expected = read_radiograph(write_radiograph(clean, "clean.dcm", bits=12))
    assert torch.equal(read_radiograph(write_radiograph(clean + overlay, "overlay.dcm", bits=12)), expected)


def test_high_bit_above_the_stored_bits_is_shifted_down(write_radiograph, scene):
    clean = stored(scene, 12)
    expected = read_radiograph(write_radiograph(clean, "clean.dcm", bits=12))
    shifted = write_radiograph((clean << 4) + 9, "shifted.dcm", bits=12, HighBit=15)
    assert torch.equal(read_radiograph(shifted), expected)


def test_signed_twelve_bit_values_keep_their_order(write_radiograph, scene):
    values = stored(scene, 12) - 2048
    # Written as 12 bits only, the sign is bit 11 and not bit 15.
    path = write_radiograph(values & 0x0FFF, bits=12, PixelRepresentation=1, WindowCenter=0, WindowWidth=4096)
    np.testing.assert_allclose(read_radiograph(path)[0].numpy(), scene, atol=2e-4)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_window_agrees_with_pydicom(write_radiograph, scene, function):
    path = write_radiograph(
        stored(scene, 12),
        bits=12,
        WindowCenter=[900, 10],
        WindowWidth=[1400, 10],
        VOILUTFunction=function,
        RescaleSlope=2,
        RescaleIntercept=-500,
    )
    dataset = pydicom.dcmread(path)
    reference = apply_windowing(apply_modality_lut(dataset.pixel_array, dataset), dataset)
    expected = (reference - -500) / (4095 * 2)
    np.testing.assert_allclose(read_radiograph(path)[0].numpy(), expected, atol=1e-6)


def test_window_is_applied_after_the_rescale(write_radiograph):
    path = write_radiograph(
        [[0, 100, 200, 300]],
        bits=12,
        RescaleSlope=10,
        RescaleIntercept=-1000,
        WindowCenter=500,
        WindowWidth=2000,
        VOILUTFunction="LINEAR_EXACT",
    )
    assert read_radiograph(path)[0, 0].tolist() == pytest.approx([0.0, 0.25, 0.75, 1.0])


def test_negative_rescale_slope_inverts_the_windowed_image(write_radiograph):
    path = write_radiograph(
        [[0, 25, 75, 100]],
        bits=12,
        RescaleSlope=-1,
        RescaleIntercept=100,
        WindowCenter=50,
        WindowWidth=100,
        VOILUTFunction="LINEAR_EXACT",
    )
    assert read_radiograph(path)[0, 0].tolist() == pytest.approx([1.0, 0.75, 0.25, 0.0])


def test_voi_table_with_8_bit_entries_and_12_bit_indices_does_not_wrap_around(write_radiograph, scene):
    values = stored(scene, 12)
    entries = np.arange(4096) // 16
    path = write_radiograph(values, bits=12, VOILUTSequence=table(entries, 0, 8))
    np.testing.assert_allclose(read_radiograph(path)[0].numpy(), entries[values] / 255, atol=1e-6)


def test_voi_table_wins_over_the_window_and_clamps_outside_its_range(write_radiograph):
    entries = [0, 10, 40, 100]
    path = write_radiograph(
        [[5, 100, 101, 102, 103, 900]],
        bits=12,
        VOILUTSequence=table(entries, 100, 16),
        WindowCenter=5,
        WindowWidth=2,
    )
    assert read_radiograph(path)[0, 0].tolist() == pytest.approx([0, 0, 0.1, 0.4, 1, 1])


def test_modality_table_is_applied_before_the_window(write_radiograph):
    sequence = table([0, 1000, 500, 250], 0, 16)
    sequence[0].ModalityLUTType = "US"
    path = write_radiograph(
        [[0, 1, 2, 3]],
        bits=8,
        ModalityLUTSequence=sequence,
        WindowCenter=500,
        WindowWidth=1000,
        VOILUTFunction="LINEAR_EXACT",
    )
    assert read_radiograph(path)[0, 0].tolist() == pytest.approx([0, 1, 0.5, 0.25])


def test_table_shorter_than_its_descriptor_is_refused(write_radiograph):
    sequence = table([1, 2, 3], 0, 16)
    sequence[0].LUTDescriptor = [300, 0, 16]
    path = write_radiograph([[0, 1], [2, 3]], bits=12, VOILUTSequence=sequence)
    with pytest.raises(DataError, match=r"image\.dcm.*holds 3 entries, its descriptor says 300"):
        read_radiograph(path)


def test_without_a_window_one_hot_pixel_does_not_set_the_contrast(write_radiograph, scene):
    values = stored(scene, 10)
    values[0, 0] = 65535
    image = read_radiograph(write_radiograph(values))
    assert image.mean() > 0.9 * scene.mean()


def test_padding_is_black_and_has_no_part_in_the_contrast(write_radiograph, scene):
    values = stored(scene, 10) + 1000
    padded = np.full((60, 60), 60000)
    padded[10:50, 14:46] = values
    expected = read_radiograph(write_radiograph(values, "plain.dcm"))
    for photometric in ("MONOCHROME2", "MONOCHROME1"):
        options = {"PixelPaddingValue": 59000, "PixelPaddingRangeLimit": 61000, "photometric": photometric}
        image = read_radiograph(write_radiograph(padded, f"{photometric}.dcm", **options))
        content = image[:, 10:50, 14:46]
        torch.testing.assert_close(content, expected if photometric == "MONOCHROME2" else 1 - expected)
        image[:, 10:50, 14:46] = 0
        assert image.max() == 0


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"WindowCenter": 10, "WindowWidth": 0}, "WindowWidth 0 is too small"),
        ({"WindowCenter": 10, "WindowWidth": 9, "VOILUTFunction": "CUBIC"}, "CUBIC"),
        ({"WindowCenter": 50000, "WindowWidth": 10}, "single grey value"),
        ({"RescaleSlope": 0, "RescaleIntercept": 1}, "RescaleSlope is 0"),
        ({"NumberOfFrames": 2}, "2 frames"),
        ({"photometric": "PALETTE COLOR"}, "PALETTE COLOR"),
        ({"BitsStored": 17}, "BitsStored is 17"),
    ],
)
def test_invalid_attributes_are_refused_with_file_name_and_reason(write_radiograph, scene, options, reason):
    with pytest.raises(DataError, match=rf"image\.dcm.*{reason}"):
        read_radiograph(write_radiograph(stored(scene, 12), **options))


def test_one_grey_value_is_refused(write_radiograph):
    with pytest.raises(DataError, match="single grey value"):
        read_radiograph(write_radiograph(np.full((8, 8), 77)))


def test_colour_capture_of_a_grey_image_is_that_grey_image(write_radiograph, scene):
    grey = stored(scene, 8)
    colour = write_radiograph(np.stack([grey] * 3, axis=-1), bits=8, photometric="RGB")
    np.testing.assert_allclose(read_radiograph(colour)[0].numpy(), grey / 255, atol=1e-6)


def test_rle_gives_the_same_tensor_as_uncompressed(write_radiograph, scene, tmp_path):
    plain = write_radiograph(stored(scene, 12), bits=12)
    dataset = pydicom.dcmread(plain)
    dataset.compress(RLELossless)
    dataset.save_as(tmp_path / "rle.dcm")
    assert torch.equal(read_radiograph(tmp_path / "rle.dcm"), read_radiograph(plain))


@pytest.mark.parametrize(
    "name",
    [
        "MR_small_RLE.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_implicit.dcm",
        "MR_small_padded.dcm",
    ],
)
def test_one_real_image_in_every_lossless_syntax_is_one_tensor(name):
    assert torch.equal(read_radiograph(shipped(name)), read_radiograph(shipped("MR_small.dcm")))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("JPEG2000.dcm", (1, 1024, 256)),
        ("693_J2KI.dcm", (1, 512, 512)),
        ("JPEGLSNearLossless_16.dcm", (1, 50, 10)),
        ("image_dfl.dcm", (1, 512, 512)),
        ("SC_rgb_jpeg_dcmtk.dcm", (1, 100, 100)),
    ],
)
def test_real_compressed_files_are_decoded_to_the_full_range(name, shape):
    image = read_radiograph(shipped(name))
    assert image.shape == shape
    assert image.min() == 0
    assert image.max() > 0.99


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("rtstruct.dcm", "no pixel data.*RT Structure Set"),
        ("MR_truncated.dcm", "less than expected"),
        ("examples_ybr_color.dcm", "30 frames"),
        ("liver_1frame.dcm", "BitsAllocated is 1"),
        ("README.txt", "not a DICOM image"),
        # Lossy JPEG of 12 bits: the only plug-in that pydicom trusts with it is under the GPL.
        ("JPGExtended.dcm", "12-bit precision"),
    ],
)
def test_real_unusable_files_are_refused_with_file_name_and_reason(name, reason):
    with pytest.raises(DataError, match=rf"(?s){name}.*{reason}"):
        read_radiograph(Path(pydicom.__file__).parent / "data" / "test_files" / name)


@pytest.mark.parametrize(
    "name", ["JPEG2000.dcm", "MR_small_jpeg_ls_lossless.dcm", "JPGExtended.dcm", "MR_small_RLE.dcm"]
)
def test_truncated_frame_inside_a_whole_file_is_refused(name, tmp_path):
    dataset = pydicom.dcmread(shipped(name))
    frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    dataset.PixelData = encapsulate([frame[: len(frame) * 3 // 4]])
    dataset.save_as(tmp_path / "cut.dcm")
    with pytest.raises(DataError, match=r"cut\.dcm"):
        read_radiograph(tmp_path / "cut.dcm")


@pytest.mark.parametrize("name", ["JPEG2000.dcm", "693_J2KI.dcm", "CT_small.dcm", "MR_small_RLE.dcm"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.8, 0.95])
def test_file_cut_off_anywhere_is_refused(name, share, tmp_path):
    whole = shipped(name).read_bytes()
    (tmp_path / "cut.dcm").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DataError, match=r"cut\.dcm"):
        read_radiograph(tmp_path / "cut.dcm")


def test_missing_preamble_and_file_meta_are_tolerated(write_radiograph, scene, tmp_path):
    path = write_radiograph(stored(scene, 12), bits=12)
    dataset = pydicom.dcmread(path)
    expected = read_radiograph(path)
    del dataset.file_meta
    dataset.preamble = None
    bare = tmp_path / "bare.dcm"
    pydicom.dcmwrite(bare, dataset, implicit_vr=True, little_endian=True, enforce_file_format=False)
    assert bare.read_bytes()[128:132] != b"DICM"
    assert torch.equal(read_radiograph(bare), expected)


@pytest.mark.parametrize(
    "content", [b"", b"file,patient_id,fracture\n" * 20, b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 9]
)
def test_files_that_are_not_dicom_are_refused(content, tmp_path):
    (tmp_path / "other.dcm").write_bytes(content)
    with pytest.raises(DataError, match=r"other\.dcm"):
        read_radiograph(tmp_path / "other.dcm")


def test_refusal_of_a_missing_file_names_the_file_and_not_its_folder(tmp_path):
    with pytest.raises(DataError, match=r"gone\.dcm") as refusal:
        read_radiograph(tmp_path / "gone.dcm")
    assert str(tmp_path) not in str(refusal.value)


def test_size_keeps_the_aspect_ratio_and_fills_with_black(write_radiograph):
    image = read_radiograph(write_radiograph(np.tile([[0, 4000]], (80, 20)), bits=12), size=(32, 32))
    assert image.shape == (1, 32, 32)
    assert (image[0].sum(0) > 0).sum() == 16
    assert image[:, :, :8].sum() == 0
    assert image[:, :, 24:].sum() == 0


@pytest.mark.parametrize("size", [(0, 32), (32, -1)])
def test_size_that_is_not_positive_is_refused(write_radiograph, scene, size):
    with pytest.raises(DataError, match="not positive"):
        read_radiograph(write_radiograph(stored(scene, 12), bits=12), size=size)
