"""CSV files of labels, checked as they are read."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from lightning_fed.errors import DataError

_UNNAMED_SITE = "unknown"


def read_cells(root: Path, table: str) -> Iterator[tuple[int, list[str]]]:
    """Read a CSV file line by line, the header too; the separator may be a comma or a semicolon.

    Args:
        root: the data folder.
        table: file name of the CSV within ``root``.

    Returns:
        Number and stripped cells of each line that is not empty.

    Raises:
        DataError: the folder or the file is missing, or the file is not UTF-8.
    """
    path = root / table
    if not path.parent.is_dir():
        raise DataError(f"the data folder '{path.parent}' does not exist; check root.")
    if not path.is_file():
        raise DataError(f"the table of labels '{table}' does not exist in the data folder; check root and labels.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"the table of labels '{table}' is not UTF-8 text; save it as CSV UTF-8.") from error
    lines = text.splitlines(keepends=True)
    first = lines[0] if lines else ""
    reader = csv.reader(lines, delimiter=";" if first.count(";") > first.count(",") else ",")
    for cells in reader:
        stripped = [cell.strip() for cell in cells]
        if any(stripped):
            yield reader.line_num, stripped


def read_table(root: Path, table: str, required: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Read a CSV file with a header.

    Args:
        root: the data folder.
        table: file name of the CSV within ``root``.
        required: names of columns, lower case.

    Returns:
        Line number and cells by lower-case column of each row, at least one.

    Raises:
        DataError: the file cannot be read, lacks a column or has no rows, or a row's length is not the header's.
    """
    lines = read_cells(root, table)
    columns = [name.lower() for name in next(lines, (0, []))[1]]
    missing = [name for name in required if name not in columns]
    if missing:
        raise DataError(
            f"the table of labels '{table}' lacks the columns {', '.join(missing)}; "
            f"found: {', '.join(columns) or 'none'}. Rename or add them."
        )
    rows = []
    for number, cells in lines:
        if len(cells) != len(columns):
            raise DataError(
                f"row {number} of '{table}' has {len(cells)} cells and the header {len(columns)}; quote cells "
                "that hold the separator."
            )
        rows.append((number, dict(zip(columns, cells, strict=True))))
    if not rows:
        raise DataError(f"the table of labels '{table}' has no rows; add one row for each radiograph.")
    return rows


def flag(cell: str, name: str, where: str, *, empty: int | None = None) -> int:
    """Read a cell that says yes or no.

    Args:
        cell: ``0`` or ``1``; also ``0.0`` and ``1.0``, which pandas makes of a column with empty cells.
        name: the column, for the error.
        where: row and table, for the error.
        empty: what an empty cell means; None if it must not be empty.

    Raises:
        DataError: the cell holds something else.
    """
    if not cell and empty is not None:
        return empty
    if cell not in ("0", "1", "0.0", "1.0"):
        also = "" if empty is None else f", empty for {empty}"
        raise DataError(f"{where}: {name} = {cell!r} is unknown; allowed are 0 and 1{also}.")
    return int(cell[0])


def patient_of(row: dict[str, str], where: str) -> str:
    """Return a row's ``patient_id``.

    Raises:
        DataError: it is empty.
    """
    if not row["patient_id"]:
        raise DataError(f"{where}: patient_id is empty; splits are by patient, so give every row a pseudonym.")
    return row["patient_id"]


def file_name(cell: str, name: str, where: str) -> str:
    """Return a cell that names a file without a folder.

    Raises:
        DataError: it is empty or a path.
    """
    if not cell or "/" in cell or "\\" in cell:
        raise DataError(f"{where}: {name} = {cell!r} is not the name of a file without its folder; correct it.")
    return cell


def site_of(row: dict[str, str], site_by: str | None) -> str | None:
    """Return the site that a row's column names, lower case, ``unknown`` for an empty cell; None without a column."""
    return None if site_by is None else row[site_by.lower()].lower() or _UNNAMED_SITE


def site_columns(site_by: str | None) -> tuple[str, ...]:
    """Return the columns that :func:`site_of` needs."""
    return () if site_by is None else (site_by.lower(),)
