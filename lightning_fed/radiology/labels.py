"""A hospital's table of labels: one row a radiograph."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Literal, get_args

from lightning_fed.errors import DataError
from lightning_fed.radiology.attributes import keyword_of, read_header
from lightning_fed.radiology.files import FilesOnDisk, is_picture, shortened
from lightning_fed.radiology.tables import (
    flag,
    folded,
    lacks_columns,
    patient_of,
    pseudonym,
    read_table,
    shown,
    site_columns,
    site_name,
    site_of,
)

Split = Literal["train", "val", "test"]

SPLITS: tuple[Split, ...] = get_args(Split)
_REQUIRED = ("file", "fracture")
_SALTER_HARRIS = {"": 0, "none": 0, "i": 1, "ii": 2, "iii": 3, "iv": 4, "v": 5}
# Bone and segment first, for example 23r; E is the epiphysis, the digit after it the child code. What stands between
# them is written in many ways (23r-E/2.1, 23r/E/2.1, 23r-E2.1), and so is what stands between two codes.
_EPIPHYSEAL = re.compile(
    r"(?<![\d.])[1-9][1-9]\s*[a-z]?[\s/_\-\u2010-\u2015]*E[\s/.\-\u2010-\u2015]*([1-4])(?!\d)", re.IGNORECASE
)


@dataclass(frozen=True)
class Radiograph:
    """One row of a table of labels.

    Attributes:
        path: the image file.
        patient_id: the hospital's own pseudonym; images of one patient never fall on two sides of a split.
        fracture: 1 if a fracture is visible, else 0.
        salter_harris: 0 for no growth plate injury, 1 to 5 for the types I to V.
        split: the side the table assigns, or None if it assigns none.
        site: where a data set that is divided into sites puts the image, lower case; None if it is not divided.
        view: how the patient was placed, lower case, such as ``pa`` or ``lateral``; empty if the table does not say.
        where: row and table that it comes from, for errors.
        pixel_spacing_mm: distance of two pixels in mm as the table tells it, for pictures, which do not; None if it
            does not.
        row: all cells of the row by lower-case column, for whoever writes a table about the image; empty where it
            comes from no table.
    """

    path: Path
    patient_id: str
    fracture: int
    salter_harris: int
    split: Split | None
    site: str | None = None
    view: str = ""
    where: str = field(default="", compare=False)
    pixel_spacing_mm: float | None = None
    row: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)


def read_labels(root: str | Path, table: str = "labels.csv", site_by: str | None = None) -> list[Radiograph]:
    """Read and check a table of labels: CSV, ``.xlsx`` or ``.parquet``.

    Required columns: ``file`` (path relative to ``root``) and ``fracture`` (0 or 1). Optional: ``salter_harris``
    (empty, none, I to V), ``ao_classification`` (AO paediatric codes separated by semicolons), ``view``, ``split``
    (train, val, test; in every row or in none) and ``pixel_spacing_mm`` (of pictures, which do not tell it). A filled
    ``salter_harris`` cell wins over the AO codes. Other columns are ignored. Column names are compared without case.

    ``patient_id`` is a column or, where the table has none, the attribute ``PatientID`` of each DICOM file; so is the
    column that ``site_by`` names, if it is the keyword of an attribute (``Manufacturer``, ``BodyPartExamined``, ...). A
    file without a readable header becomes a patient of its own: it cannot be used, and the data set says why.

    Args:
        root: the site's folder.
        table: file name of the table within ``root``.
        site_by: a column whose values name the site of each row; None if the folder is one site's.

    Returns:
        The rows in the table's order, at least one.

    Raises:
        DataError: the table or a file in it is missing, a column is missing, a value is unknown, a path leaves
            ``root``, a file is named twice, a patient is on two sides of the split, or a header that is needed names no
            patient.
    """
    root = Path(root)
    rows = read_table(root, table, _REQUIRED)
    columns = rows[0][1].keys()
    absent = [name for name in ("patient_id", *site_columns(site_by)) if name not in columns]
    if unknown := [name for name in absent if keyword_of(name) is None]:
        raise DataError(lacks_columns(table, unknown, columns))
    radiographs = check_files(
        [_radiograph(root, row, f"row {number} of '{table}'", site_by) for number, row in rows], root, table
    )
    if absent:
        radiographs = [_from_header(radiograph, absent) for radiograph in radiographs]
    _check_assignment(radiographs, table)
    check_sides(radiographs)
    return radiographs


def _from_header(radiograph: Radiograph, absent: Sequence[str]) -> Radiograph:
    """The radiograph with patient and site from its file where the table has no column for them."""
    name, where = shortened(radiograph.path.name), radiograph.where
    if is_picture(radiograph.path):
        raise DataError(
            f"{where}: '{name}' has no DICOM header to take {' and '.join(absent)} from; add what is missing as a "
            "column of the table."
        )
    keywords = {column: keyword_of(column) or column for column in absent}
    try:
        header = read_header(radiograph.path, list(keywords.values()))
    except DataError:
        # Left to the data set, which counts, lists and skips it like every other file that cannot be used.
        return replace(
            radiograph,
            patient_id=radiograph.patient_id or f"unreadable: {radiograph.path}",
            site=radiograph.site if absent == ["patient_id"] else site_name(""),
        )
    for column, keyword in keywords.items():
        if column != "patient_id":
            radiograph = replace(radiograph, site=site_name(header[keyword]))
        elif patient := pseudonym(header[keyword]):
            radiograph = replace(radiograph, patient_id=patient)
        else:
            raise DataError(
                f"{where}: '{name}' has no PatientID and the table no column patient_id; splits are by patient, so add "
                "the column."
            )
    return radiograph


def salter_harris_from_ao(codes: str) -> int:
    """Find the Salter-Harris type in AO paediatric codes.

    Args:
        codes: for example ``23r-E/2.1`` or ``23r-E/2.1; 23u-M/3.1``. Codes of the shaft or metaphysis, and the other
            epiphyseal codes (E/5 to E/9, avulsions among them), count as none. Type V has no code of its own. A slash
            or hyphen too many, too few or in the place of the other is understood, and so is any mark between codes.

    Returns:
        0 for none, 1 to 4; of several injuries the highest type, the one that decides the treatment.

    Source: Slongo & Audigé 2007, AO Pediatric Comprehensive Classification of long-bone fractures.
    """
    return max((int(digit) for digit in _EPIPHYSEAL.findall(codes)), default=0)


def _radiograph(root: Path, row: dict[str, str], where: str, site_by: str | None) -> Radiograph:
    fracture = flag(row["fracture"], "fracture", where)
    cell = row.get("salter_harris", "")
    if cell.lower() not in _SALTER_HARRIS:
        raise DataError(
            f"{where}: salter_harris = {shown(cell)} is unknown; allowed are empty, none, I, II, III, IV, V."
        )
    salter_harris = _SALTER_HARRIS[cell.lower()]
    if salter_harris and not fracture:
        raise DataError(f"{where}: salter_harris = {shown(cell)} contradicts fracture = 0; correct one.")
    if not cell and fracture:
        # Only with a visible fracture: an AO code names the injury, which a later control image no longer shows.
        salter_harris = salter_harris_from_ao(row.get("ao_classification", ""))
    split = row.get("split", "").lower()
    if split and split not in SPLITS:
        raise DataError(f"{where}: split = {shown(row['split'])} is unknown; allowed are {', '.join(SPLITS)}.")
    return Radiograph(
        path=root / _relative(row["file"], where),
        patient_id=patient_of(row["patient_id"], where) if "patient_id" in row else "",
        fracture=fracture,
        salter_harris=salter_harris,
        split=split or None,
        site=site_of(row, site_by) if site_by is None or folded(site_by) in row else None,
        view=folded(row.get("view") or row.get("viewposition", "")),
        where=where,
        pixel_spacing_mm=pixel_spacing_of(row, "pixel_spacing_mm", where),
        row=row,
    )


def pixel_spacing_of(row: dict[str, str], column: str, where: str) -> float | None:
    """Return the distance of two pixels that a row tells; None if the column is missing, or the cell empty or 0.

    Args:
        row: cells by lower-case column.
        column: where it stands, in mm; a decimal comma is understood.
        where: row and table, for the error.

    Raises:
        DataError: the cell holds something else.
    """
    cell = row.get(column, "")
    try:
        spacing = float(cell.replace(",", ".") or 0)
    except ValueError:
        spacing = math.nan
    if not 0 <= spacing < math.inf:
        raise DataError(f"{where}: {column} = {cell!r} is no distance; give millimetres, or leave the cell empty.")
    return spacing or None


def _relative(file: str, where: str) -> PurePosixPath:
    # Tables are often written on Windows; its absolute paths must not pass as relative ones here.
    windows, relative = PureWindowsPath(file), PurePosixPath(file.replace("\\", "/"))
    if not file or windows.drive or windows.root or relative.is_absolute() or ".." in relative.parts:
        raise DataError(
            f"{where}: file = {shown(file)} is not a path inside the data folder; give it relative to root."
        )
    return relative


def check_files(radiographs: Sequence[Radiograph], root: Path, table: str) -> list[Radiograph]:
    """Check that every file is there and named once.

    Args:
        radiographs: the rows of a table.
        root: the data folder, in which all of them lie.
        table: its file name, for the error.

    Returns:
        The same rows with each path as it is on disk, see :class:`lightning_fed.radiology.files.FilesOnDisk`.

    Raises:
        DataError: a file is missing or named twice.
    """
    disk = FilesOnDisk(root)
    paths = [disk.find(radiograph.path.relative_to(root)) for radiograph in radiographs]
    missing = [row for row, path in zip(radiographs, paths, strict=True) if path is None]
    if missing:
        names = ", ".join(shortened(str(row.path.relative_to(root))) for row in missing[:5])
        raise DataError(
            f"{len(missing)} of {len(radiographs)} files named in '{table}' do not exist, the first in "
            f"{missing[0].where}: {names}{', ...' if len(missing) > 5 else ''}. Paths are relative to root."
        )
    found = [replace(row, path=path) for row, path in zip(radiographs, paths, strict=True) if path is not None]
    seen: dict[Path, Radiograph] = {}
    for row in found:
        first = seen.setdefault(row.path, row)
        if first is not row:
            raise DataError(
                f"{row.where} names the file '{row.path.name}' that {first.where} names, too; remove one of the rows."
            )
    return found


def check_sides(radiographs: Sequence[Radiograph]) -> None:
    """Check that no patient is on two sides, an assigned one and none among them.

    Args:
        radiographs: the rows of a table.

    Raises:
        DataError: a patient's images are on two sides.
    """
    firsts: dict[str, Radiograph] = {}
    for row in radiographs:
        first = firsts.setdefault(row.patient_id, row)
        if first.split != row.split:
            raise DataError(
                f"{row.where} puts patient {shown(row.patient_id)} into {row.split or 'no side'} and {first.where} "
                f"into {first.split or 'no side'}; one patient's images belong on one side."
            )


def _check_assignment(radiographs: Sequence[Radiograph], table: str) -> None:
    unassigned = [row for row in radiographs if row.split is None]
    if 0 < len(unassigned) < len(radiographs):
        raise DataError(
            f"'{table}' leaves split empty in {len(unassigned)} rows, the first is {unassigned[0].where}; fill the "
            "column in every row or in none."
        )
