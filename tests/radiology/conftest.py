"""Real DICOM files and folders of them, written with pydicom."""

import csv

import numpy as np
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid


def radiograph_dataset(pixels, *, bits=None, signed=False, photometric="MONOCHROME2", **attributes):
    """Build a digital radiograph from stored values; ``attributes`` are set by their DICOM keyword."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    pixels = np.asarray(pixels)
    allocated = 8 if (bits or 16) <= 8 else 16
    kind = np.dtype(f"<{'i' if signed else 'u'}{allocated // 8}")
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = photometric
    dataset.BitsAllocated = allocated
    dataset.BitsStored = bits or allocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(signed)
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    dataset.PixelData = pixels.astype(kind).tobytes()
    return dataset


@pytest.fixture
def write_radiograph(tmp_path):
    """Write stored values as a DICOM file and return its path."""

    def write(pixels, name="image.dcm", **options):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        radiograph_dataset(pixels, **options).save_as(path, enforce_file_format=True)
        return path

    return write


@pytest.fixture
def scene():
    """Return a 40 x 32 scene in [0, 1] with every grey value between: a bright shaft before a dark background."""
    rows, columns = np.mgrid[0:40, 0:32]
    return np.clip(np.exp(-(((columns - 14) / 7.0) ** 2)) * (0.6 + 0.4 * np.sin(rows / 5.0)), 0, 1)


@pytest.fixture
def write_site(tmp_path):
    """Write a hospital's folder with two images a patient and return its path."""

    def write(name="site", patients=20, damaged=(), split=None, seed=0):
        root = tmp_path / name
        root.mkdir()
        random = np.random.default_rng(seed)
        with (root / "labels.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["file", "patient_id", "fracture", "salter_harris"] + (["split"] if split else []))
            for patient in range(patients):
                for image in range(2):
                    target = root / f"p{patient}_{image}.dcm"
                    fractured = patient % 2
                    if target.name in damaged:
                        target.write_bytes(b"no image at all" * 50)
                    else:
                        pixels = random.integers(0, 4096, (24, 20))
                        radiograph_dataset(pixels, bits=12).save_as(target, enforce_file_format=True)
                    row = [target.name, f"patient-{patient}", fractured, "II" if fractured else ""]
                    table.writerow(row + ([split(patient)] if split else []))
        return root

    return write
