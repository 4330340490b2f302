"""What a site counts before it trains: rows of a table, or of the headers of its DICOM files."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.errors import InvalidDicomError

from lightning_fed.errors import DataError
from lightning_fed.radiology.files import shortened
from lightning_fed.radiology.header import values
from lightning_fed.radiology.stored import quiet_libraries
from lightning_fed.radiology.tables import folded, lacks_columns, read_table

_AGE = re.compile(r"(\d{1,3})([DWMY])")
_A_YEAR = {"D": 365.25, "W": 365.25 / 7, "M": 12.0, "Y": 1.0}


def table_records(path: Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """The rows of a table.

    Args:
        path: CSV, or Excel or Parquet where pandas is installed; see :mod:`lightning_fed.radiology.tables`.
        columns: names of columns, in whatever case.

    Raises:
        DataError: the file cannot be read, or lacks one of the columns.
    """
    rows = read_table(path.parent, path.name, [])
    there = rows[0][1]
    if missing := [name for name in columns if folded(name) not in there]:
        raise DataError(lacks_columns(path.name, missing, there))
    for _, row in rows:
        yield {name: row[folded(name)] for name in columns}


def header_records(folder: Path, keywords: Sequence[str]) -> Iterator[dict[str, str]]:
    """One record a DICOM file, of its header alone; pixels are not read.

    Of an attribute of several values, such as ``PixelSpacing``, the first counts. An age (``PatientAge``) is in years.

    Args:
        folder: is searched with all folders in it; files that are not DICOM are left out.
        keywords: of the standard's attributes, such as ``Manufacturer``, in whatever case.

    Raises:
        DataError: the folder holds no DICOM file, a file cannot be read, or the standard knows no such attribute.
    """
    exact = {name: _keyword(name) for name in keywords}
    found = False
    with quiet_libraries():
        for path in sorted(folder.rglob("*")):
            if not path.is_file():
                continue
            try:
                dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(exact.values()))
            except InvalidDicomError:
                continue
            except OSError as error:
                raise DataError(f"{shortened(path.name)} cannot be read: {error.strerror}. Mend it.") from error
            found = True
            record = {}
            for name, keyword in exact.items():
                first = next(iter(values(dataset, keyword)), "")
                record[name] = _text(first)
            yield record
    if not found:
        raise DataError(f"the folder '{shortened(folder.name)}' holds no DICOM file. Check its name.")


def _text(value: object) -> str:
    text = str(value if value is not None else "").strip()
    age = _AGE.fullmatch(text)
    return f"{int(age[1]) / _A_YEAR[age[2]]:g}" if age else text


def _keyword(name: str) -> str:
    for keyword in (name, *_spellings(name)):
        if tag_for_keyword(keyword) is not None:
            return keyword
    raise DataError(f"DICOM knows no attribute {name!r}. Use its keyword, such as PatientAge, in the plan.")


def _spellings(name: str) -> Iterator[str]:
    from pydicom.datadict import keyword_dict

    yield from (keyword for keyword in keyword_dict if keyword.casefold() == name.casefold())
