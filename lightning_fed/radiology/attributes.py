"""DICOM attributes as columns of a table: what the files' headers say needs no column of its own."""

from collections.abc import Sequence
from pathlib import Path

import pydicom
from pydicom.datadict import DicomDictionary, dictionary_VR, keyword_for_tag
from pydicom.multival import MultiValue

from lightning_fed.errors import DataError
from lightning_fed.radiology.tables import folded

_NO_TEXT = {"SQ", "OB", "OD", "OF", "OL", "OV", "OW", "UN"}
_KEYWORDS = {
    keyword_for_tag(tag).lower(): keyword_for_tag(tag)
    for tag in DicomDictionary
    if keyword_for_tag(tag) and not _NO_TEXT.intersection(dictionary_VR(tag).split(" or "))
}


def keyword_of(column: str) -> str | None:
    """Return the DICOM keyword that a column's name stands for, None if it stands for none.

    Args:
        column: a keyword such as ``ViewPosition``, without regard to case; ``patient_id`` is ``PatientID``.
    """
    name = folded(column)
    return _KEYWORDS.get("patientid" if name == "patient_id" else name)


def read_header(path: Path, keywords: Sequence[str]) -> dict[str, str]:
    """Read attributes of one DICOM file without its pixels.

    Args:
        path: the file; a missing preamble is tolerated, as in
            :func:`lightning_fed.radiology.dicom.read_radiograph`.
        keywords: DICOM keywords of attributes that hold text or numbers.

    Returns:
        The stripped value by keyword; several values are joined with a backslash, an absent attribute is empty.

    Raises:
        DataError: the file cannot be read or is not a DICOM image.

    Source: DICOM PS3.5 6.2 (several values), PS3.6 (keywords).
    """
    tags = [*keywords, "SOPClassUID", "Rows", "SpecificCharacterSet"]
    try:
        dataset = pydicom.dcmread(path, force=True, stop_before_pixels=True, specific_tags=tags)
        values = {keyword: dataset.get(keyword) for keyword in keywords}
        is_image = "SOPClassUID" in dataset or "Rows" in dataset
    # Damaged values raise as many kinds of errors as there are value representations.
    except Exception as error:
        raise DataError(
            f"the header of '{path.name}' cannot be read as DICOM: {error or type(error).__name__}. Copy the file "
            "again from the archive, or take it out of the table."
        ) from error
    if not is_image:
        raise DataError(f"'{path.name}' is not a DICOM image. Give DICOM images, or take it out of the table.")
    return {keyword: _text(value) for keyword, value in values.items()}


def _text(value: object) -> str:
    values = value if isinstance(value, MultiValue) else [value]
    return "\\".join("" if item is None else str(item).strip() for item in values).strip("\0 ")
