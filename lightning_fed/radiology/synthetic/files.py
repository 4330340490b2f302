"""One exposure as a DICOM file: what a radiography room would have written into it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
    generate_uid,
)

from lightning_fed.radiology.synthetic.anatomy import View
from lightning_fed.radiology.synthetic.fractures import Plane
from lightning_fed.radiology.synthetic.style import SiteStyle

_SYNTAXES: dict[str, UID] = {
    "explicit": ExplicitVRLittleEndian,
    "implicit": ImplicitVRLittleEndian,
    "rle": RLELossless,
    "jpeg2000": JPEG2000Lossless,
}


@dataclass(frozen=True)
class Header:
    """What one file says about its patient and exposure; all of it is made up.

    Attributes:
        patient: pseudonym, also the patient's name.
        image: number of the image within its study, from 1.
        age_years: at the time of the exposure.
        female: the patient's sex.
        left: the side.
        view: ``AP`` or ``LL``.
        spacing_mm: distance of two pixels.
        seed: of the study; equal seeds give equal unique identifiers.
    """

    patient: str
    image: int
    age_years: float
    female: bool
    left: bool
    view: View
    spacing_mm: float
    seed: int

    def uid(self, style: SiteStyle, *level: object) -> UID:
        """Return the identifier of this patient's study or of something in it; it is the same in every run."""
        return generate_uid(entropy_srcs=[f"{self.seed}/{style.name}/{self.patient}/{level}"])


def write_file(path: Path, grey: Plane, style: SiteStyle, header: Header) -> None:
    """Write one DICOM file.

    Args:
        path: the new file.
        grey: float32 ``(rows, columns)`` in [0, 1], bone bright.
        style: decides the encoding, the grey scale and the scanner.
        header: patient and exposure.

    Source: DICOM PS3.3 A.2 (computed radiography) and A.26 (digital X-ray) with C.7.6.3, C.8.1, C.8.11, C.11.1, C.11.2.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = (
        DigitalXRayImageStorageForPresentation if style.rescale is None else ComputedRadiographyImageStorage
    )
    meta.MediaStorageSOPInstanceUID = header.uid(style, "image", header.image)
    # Compressed files start uncompressed and are encoded at the end.
    target = _SYNTAXES[style.transfer_syntax]
    meta.TransferSyntaxUID = target if target == ImplicitVRLittleEndian else ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    _describe_patient(dataset, style, header)
    _describe_exposure(dataset, style, header)
    _describe_grey_scale(dataset, style)
    dataset.Rows, dataset.Columns = grey.shape
    stored = _stored(grey, style)
    dataset.PixelData = stored.tobytes()
    dataset["PixelData"].VR = "OB" if dataset.BitsAllocated == 8 else "OW"
    if target not in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        dataset.compress(target, stored, encoding_plugin="pylibjpeg", generate_instance_uid=False)
    dataset.save_as(path, enforce_file_format=True)


def _describe_patient(dataset: Dataset, style: SiteStyle, header: Header) -> None:
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName = f"Synthetic^{header.patient}"
    dataset.PatientID = header.patient
    dataset.PatientBirthDate = ""
    dataset.PatientSex = "F" if header.female else "M"
    dataset.PatientAge = f"{int(header.age_years):03d}Y"
    dataset.StudyInstanceUID = header.uid(style, "study")
    dataset.SeriesInstanceUID = header.uid(style, "series", header.image)
    dataset.StudyID = "1"
    dataset.SeriesNumber = dataset.InstanceNumber = header.image
    dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = dataset.AcquisitionDate = "20200101"
    dataset.StudyTime = dataset.SeriesTime = dataset.ContentTime = dataset.AcquisitionTime = "120000"
    dataset.AccessionNumber = dataset.ReferringPhysicianName = ""
    dataset.InstitutionName = f"{style.name.capitalize()} Hospital (synthetic)"
    dataset.Manufacturer = style.manufacturer
    dataset.ManufacturerModelName = "Synthetic wrist"
    dataset.StudyDescription = "Synthetic paediatric wrist, no real patient"


def _describe_exposure(dataset: Dataset, style: SiteStyle, header: Header) -> None:
    side = "L" if header.left else "R"
    dataset.Laterality = dataset.ImageLaterality = side
    dataset.BodyPartExamined = "WRIST"
    dataset.ViewPosition = header.view
    dataset.PatientOrientation = [side, "H"]
    region = Dataset()
    region.CodeValue, region.CodingSchemeDesignator, region.CodeMeaning = "8205005", "SCT", "Wrist"
    dataset.AnatomicRegionSequence = [region]
    dataset.ImageType = ["ORIGINAL", "PRIMARY", ""]
    dataset.PixelSpacing = dataset.ImagerPixelSpacing = [f"{header.spacing_mm:.5f}"] * 2
    dataset.BurnedInAnnotation = "NO" if style.marker == "none" else "YES"
    dataset.LossyImageCompression = "00"
    dataset.AcquisitionContextSequence = []
    if style.rescale is None:
        dataset.Modality = "DX"
        dataset.PresentationIntentType = "FOR PRESENTATION"
        dataset.DetectorType = "DIRECT"
        dataset.PixelIntensityRelationship = "LOG"
        dataset.PixelIntensityRelationshipSign = -1 if style.photometric == "MONOCHROME1" else 1
    else:
        dataset.Modality = "CR"


def _describe_grey_scale(dataset: Dataset, style: SiteStyle) -> None:
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = style.photometric
    dataset.PresentationLUTShape = "INVERSE" if style.photometric == "MONOCHROME1" else "IDENTITY"
    dataset.BitsAllocated = 8 if style.bits == 8 else 16
    dataset.BitsStored, dataset.HighBit = style.bits, style.bits - 1
    dataset.PixelRepresentation = int(style.signed)
    slope, intercept = style.rescale or (1.0, 0.0)
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = slope, intercept, "US"
    full = 2**style.bits - 1
    low, width = style.window[0] - style.window[1] / 2, style.window[1]
    if style.photometric == "MONOCHROME1":
        low = 1.0 - low - width
    if style.voi in ("window", "sigmoid"):
        first = low * full - (2 ** (style.bits - 1) if style.signed else 0)
        dataset.WindowCenter = f"{slope * (first + width * full / 2) + intercept:.2f}"
        dataset.WindowWidth = f"{slope * width * full:.2f}"
        dataset.VOILUTFunction = "SIGMOID" if style.voi == "sigmoid" else "LINEAR"
    if style.voi == "lut":
        step = np.linspace(0.0, 1.0, full + 1)
        shown = np.clip((step - low) / width, 0.0, 1.0)
        table = Dataset()
        table.LUTDescriptor = [full + 1, 0, 16]
        # A gentle S, as film had.
        table.LUTData = np.rint(65535 * (0.5 - 0.5 * np.cos(np.pi * shown))).astype("<u2").tobytes()
        table["LUTData"].VR = "OW"
        table.LUTExplanation = "FILM"
        dataset.VOILUTSequence = [table]


def _stored(grey: Plane, style: SiteStyle) -> NDArray[np.integer]:
    full = 2**style.bits - 1
    share = 1.0 - grey if style.photometric == "MONOCHROME1" else grey
    values = np.rint(share * full).astype(np.int32)
    if style.signed:
        values -= 2 ** (style.bits - 1)
    kind = f"{'i' if style.signed else 'u'}{1 if style.bits == 8 else 2}"
    return np.asarray(values, dtype=f"<{kind}")
