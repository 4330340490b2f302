"""Tables of labels, checked as they are read: CSV, and Excel or Parquet where pandas is installed."""

import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from lightning_fed.errors import DataError
from lightning_fed.radiology.delimited import SEPARATORS, csv_cells
from lightning_fed.radiology.files import shortened
from lightning_fed.radiology.spreadsheets import SPREADSHEETS

_UNNAMED_SITE = "unknown"


def read_cells(root: Path, table: str) -> Iterator[tuple[int, list[str]]]:
    """Read a table row by row, the header too.

    Args:
        root: the data folder.
        table: file name of the table within ``root``: an Excel workbook or a Parquet file if it ends in ``.xlsx``,
            ``.xlsm`` or ``.parquet``, see :mod:`lightning_fed.radiology.spreadsheets`, else CSV, see
            :func:`lightning_fed.radiology.delimited.csv_cells`.

    Returns:
        Number and stripped cells of each row that is not empty.

    Raises:
        DataError: the folder or the file is missing or cannot be read, or the file is damaged.
    """
    path = root / table
    try:
        if not path.parent.is_dir():
            raise DataError(f"the data folder '{path.parent}' does not exist; check root.")
        if not path.is_file():
            raise DataError(
                f"the table of labels '{shortened(table)}' does not exist in the data folder; check root and labels."
            )
        for number, cells in SPREADSHEETS.get(path.suffix.lower(), csv_cells)(path, table):
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                yield number, stripped
    except OSError as error:
        raise DataError(
            f"the table of labels '{shortened(table)}' cannot be read: {error.strerror}; check root, labels and the "
            "rights of this user."
        ) from error


def read_table(root: Path, table: str, required: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Read a table with a header.

    Args:
        root: the data folder.
        table: file name of the table within ``root``.
        required: names of columns, as :func:`folded` writes them.

    Returns:
        Row number and cells by folded column of each row, at least one. Columns without a name are left out.

    Raises:
        DataError: the file cannot be read, names a column twice or lacks one, has no rows, or a row's length is not the
            header's.
    """
    lines = read_cells(root, table)
    header_number, header = next(lines, (0, []))
    columns = [folded(name) for name in header]
    _check_columns(header, columns, required, f"row {header_number} of '{table}'", table)
    rows = []
    for number, cells in lines:
        if len(cells) != len(columns):
            raise DataError(
                f"row {number} of '{table}' has {len(cells)} cells and the header {len(columns)}; quote cells "
                "that hold the separator."
            )
        rows.append((number, {name: cell for name, cell in zip(columns, cells, strict=True) if name}))
    if not rows:
        raise DataError(f"the table of labels '{table}' has no rows; add one row for each radiograph.")
    return rows


def _check_columns(
    header: Sequence[str], columns: Sequence[str], required: Sequence[str], where: str, table: str
) -> None:
    for place, name in enumerate(columns):
        first = columns.index(name)
        if name and first != place:
            raise DataError(
                f"{where} names the column {shown(header[first])} twice: in place {first + 1} and, as "
                f"{shown(header[place])}, in place {place + 1}. Names are compared without case; remove or rename one."
            )
    if missing := [name for name in required if name not in columns]:
        raise DataError(lacks_columns(table, missing, columns))


def lacks_columns(table: str, missing: Sequence[str], columns: Iterable[str]) -> str:
    """Return the error for a table without some of its columns.

    Args:
        table: its file name.
        missing: the columns that it lacks.
        columns: those that it has.
    """
    there = list(columns)
    one = f" Cells may be separated by {', '.join(SEPARATORS.values())}." if len(there) == 1 else ""
    return (
        f"the table of labels '{table}' lacks the columns {', '.join(missing)}; "
        f"found: {shortened(', '.join(there), 500) or 'none'}. Rename or add them.{one}"
    )


def folded(name: str) -> str:
    """Return how names of columns and sites are compared: without case, and composed (NFC)."""
    return unicodedata.normalize("NFC", name.lower())


def shown(cell: str) -> str:
    """Return a cell as an error message shows it: quoted, special characters visible, not too long."""
    return repr(shortened(cell))


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
        raise DataError(f"{where}: {name} = {shown(cell)} is unknown; allowed are 0 and 1{also}.")
    return int(cell[0])


def patient_of(cell: str, where: str) -> str:
    """Return a cell that names a patient, as :func:`pseudonym` writes it.

    Raises:
        DataError: it is empty.
    """
    patient = pseudonym(cell)
    if not patient:
        raise DataError(f"{where}: patient_id is empty; splits are by patient, so give every row a pseudonym.")
    return patient


def pseudonym(cell: str) -> str:
    """Return one spelling of a patient's pseudonym: two that look the same must not become two patients.

    Characters are composed (NFC), invisible ones (zero-width spaces, text direction marks) left out, and white space
    is one space. Upper and lower case stay different.
    """
    visible = "".join(character for character in cell if unicodedata.category(character) != "Cf")
    return unicodedata.normalize("NFC", " ".join(visible.split()))


def file_name(cell: str, name: str, where: str) -> str:
    """Return a cell that names a file without a folder.

    Raises:
        DataError: it is empty or a path.
    """
    if not cell or "/" in cell or "\\" in cell:
        raise DataError(f"{where}: {name} = {shown(cell)} is not the name of a file without its folder; correct it.")
    return cell


def site_of(row: Mapping[str, str], site_by: str | None) -> str | None:
    """Return the site that a row's column names, see :func:`site_name`; None without a column."""
    return None if site_by is None else site_name(row[folded(site_by)])


def site_name(cell: str) -> str:
    """Return a site's name, folded; an empty cell is the site ``unknown``."""
    return folded(cell) or _UNNAMED_SITE


def site_columns(site_by: str | None) -> tuple[str, ...]:
    """Return the columns that :func:`site_of` needs."""
    return () if site_by is None else (folded(site_by),)
