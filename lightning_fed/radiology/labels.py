"""A hospital's table of labels: one row a radiograph."""

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Literal, get_args

from lightning_fed.errors import DataError

Split = Literal["train", "val", "test"]

SPLITS: tuple[Split, ...] = get_args(Split)
_REQUIRED = ("file", "patient_id", "fracture")
_FRACTURE = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}
_SALTER_HARRIS = {"": 0, "none": 0, "i": 1, "ii": 2, "iii": 3, "iv": 4, "v": 5}
# Bone and segment first, for example 23r; E is the epiphysis, the digit after it the child code.
_EPIPHYSEAL = re.compile(r"\d[a-z]*[-/]E/?([1-4])(?!\d)", re.IGNORECASE)


@dataclass(frozen=True)
class Radiograph:
    """One row of a table of labels.

    Attributes:
        path: the image file.
        patient_id: the hospital's own pseudonym; images of one patient never fall on two sides of a split.
        fracture: 1 if a fracture is visible, else 0.
        salter_harris: 0 for no growth plate injury, 1 to 5 for the types I to V.
        split: the side the table assigns, or None if the table has no ``split`` column.
    """

    path: Path
    patient_id: str
    fracture: int
    salter_harris: int
    split: Split | None


def read_labels(root: str | Path, table: str = "labels.csv") -> list[Radiograph]:
    """Read and check a table of labels.

    Required columns: ``file`` (path relative to ``root``), ``patient_id``, ``fracture`` (0 or 1). Optional:
    ``salter_harris`` (empty, none, I to V), ``ao_classification`` (AO paediatric codes separated by semicolons) and
    ``split`` (train, val, test; in every row or in none). Other columns are ignored. A filled ``salter_harris`` cell
    wins over the AO codes. Column names are compared without case; the separator may be a comma or a semicolon.

    Args:
        root: the site's folder.
        table: file name of the CSV within ``root``.

    Returns:
        The rows in the table's order, at least one.

    Raises:
        DataError: the table or a file in it is missing, a column is missing, a value is unknown, a path leaves
            ``root``, a file is named twice, or a patient is on two sides of the split.
    """
    root = Path(root)
    rows = _table_rows(root / table, table)
    radiographs = [_radiograph(root, row, number, table) for number, row in rows]
    _check_files(radiographs, table)
    _check_splits(radiographs, table)
    return radiographs


def salter_harris_from_ao(codes: str) -> int:
    """Find the Salter-Harris type in AO paediatric codes.

    Args:
        codes: for example ``23r-E/2.1`` or ``23r-E/2.1; 23u-M/3.1``. Codes of the shaft or metaphysis, and the other
            epiphyseal codes (E/5 to E/9, avulsions among them), count as none. Type V has no code of its own.

    Returns:
        0 for none, 1 to 4; of several injuries the highest type, the one that decides the treatment.

    Source: Slongo & Audigé 2007, AO Pediatric Comprehensive Classification of long-bone fractures.
    """
    return max((int(digit) for code in codes.split(";") for digit in _EPIPHYSEAL.findall(code)), default=0)


def _table_rows(path: Path, table: str) -> list[tuple[int, dict[str, str]]]:
    if not path.parent.is_dir():
        raise DataError(f"the data folder '{path.parent}' does not exist; check root.")
    if not path.is_file():
        raise DataError(f"the table of labels '{table}' does not exist in the data folder; check root and labels.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"the table of labels '{table}' is not UTF-8 text; save it as CSV UTF-8.") from error
    lines = text.splitlines(keepends=True)
    header = lines[0] if lines else ""
    reader = csv.reader(lines, delimiter=";" if header.count(";") > header.count(",") else ",")
    columns = [name.strip().lower() for name in next(reader, [])]
    missing = [name for name in _REQUIRED if name not in columns]
    if missing:
        raise DataError(
            f"the table of labels '{table}' lacks the columns {', '.join(missing)}; "
            f"found: {', '.join(columns) or 'none'}. Rename or add them."
        )
    rows = []
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(columns):
            raise DataError(
                f"row {reader.line_num} of '{table}' has {len(cells)} cells and the header {len(columns)}; quote cells "
                "that hold the separator."
            )
        rows.append((reader.line_num, dict(zip(columns, (cell.strip() for cell in cells), strict=True))))
    if not rows:
        raise DataError(f"the table of labels '{table}' has no rows; add one row for each radiograph.")
    return rows


def _radiograph(root: Path, row: Mapping[str, str], number: int, table: str) -> Radiograph:
    where = f"row {number} of '{table}'"
    if not row["patient_id"]:
        raise DataError(f"{where}: patient_id is empty; splits are by patient, so give every row a pseudonym.")
    fracture = _FRACTURE.get(row["fracture"])
    if fracture is None:
        raise DataError(f"{where}: fracture = {row['fracture']!r} is unknown; allowed are 0 and 1.")
    cell = row.get("salter_harris", "").lower()
    if cell not in _SALTER_HARRIS:
        raise DataError(
            f"{where}: salter_harris = {row['salter_harris']!r} is unknown; allowed are empty, none, I, II, III, IV, V."
        )
    salter_harris = _SALTER_HARRIS[cell]
    if salter_harris and not fracture:
        raise DataError(f"{where}: salter_harris = {row['salter_harris']!r} contradicts fracture = 0; correct one.")
    if not cell and fracture:
        # Only with a visible fracture: an AO code names the injury, which a later control image no longer shows.
        salter_harris = salter_harris_from_ao(row.get("ao_classification", ""))
    split = row.get("split", "").lower()
    if split and split not in SPLITS:
        raise DataError(f"{where}: split = {row['split']!r} is unknown; allowed are {', '.join(SPLITS)}.")
    return Radiograph(
        path=root / _relative(row["file"], where),
        patient_id=row["patient_id"],
        fracture=fracture,
        salter_harris=salter_harris,
        split=split or None,
    )


def _relative(file: str, where: str) -> PurePosixPath:
    # Tables are often written on Windows; its absolute paths must not pass as relative ones here.
    windows, relative = PureWindowsPath(file), PurePosixPath(file.replace("\\", "/"))
    if not file or windows.drive or windows.root or relative.is_absolute() or ".." in relative.parts:
        raise DataError(f"{where}: file = {file!r} is not a path inside the data folder; give it relative to root.")
    return relative


def _check_files(radiographs: list[Radiograph], table: str) -> None:
    seen: set[Path] = set()
    for radiograph in radiographs:
        if radiograph.path in seen:
            raise DataError(f"'{table}' names the file '{radiograph.path.name}' twice; remove one of the rows.")
        seen.add(radiograph.path)
    missing = [radiograph.path.name for radiograph in radiographs if not radiograph.path.is_file()]
    if missing:
        more = ", ..." if len(missing) > 5 else ""
        raise DataError(
            f"{len(missing)} of {len(radiographs)} files named in '{table}' do not exist: "
            f"{', '.join(missing[:5])}{more}. Paths are relative to root."
        )


def _check_splits(radiographs: list[Radiograph], table: str) -> None:
    unassigned = sum(radiograph.split is None for radiograph in radiographs)
    if 0 < unassigned < len(radiographs):
        raise DataError(f"'{table}' leaves split empty in {unassigned} rows; fill the column in every row or in none.")
    sides: dict[str, Split | None] = {}
    for radiograph in radiographs:
        side = sides.setdefault(radiograph.patient_id, radiograph.split)
        if side != radiograph.split:
            raise DataError(
                f"'{table}' puts patient {radiograph.patient_id!r} into {side} and {radiograph.split}; one patient's "
                "images belong on one side."
            )
