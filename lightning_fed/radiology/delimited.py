"""CSV files to cells: what a row means is either plain or refused with the line it begins on."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from lightning_fed.errors import DataError

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}
"""The separators that are recognised, in the order in which they are preferred, and their names."""

_SEP_LINE = re.compile(r'"?sep=(.?)"?\s*', re.IGNORECASE)


def csv_cells(path: Path, table: str) -> Iterator[tuple[int, list[str]]]:
    """Read a CSV file row by row, the header too.

    The separator is the one of ``SEPARATORS`` that gives the first row most cells, or the one that a line such as
    ``sep=;`` before it names, as Excel writes it. Only CR, LF and CRLF end a line: other characters that Unicode counts
    as line breaks belong to their cell. A quoted cell may hold line breaks.

    Args:
        path: the file.
        table: its name, for errors.

    Returns:
        For each row the number of the line it begins on, and its cells.

    Raises:
        DataError: the file is not UTF-8 text, a quotation mark is not closed or stands where none may, a cell is too
            large, or a quoted cell seems to have swallowed the rows after it.
        OSError: the file cannot be read.

    Source: RFC 4180.
    """
    lines = list(io.StringIO(_text(path, table), newline=""))
    skipped, separator = _separator(lines, table)
    lines = lines[skipped:]
    reader = csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=True)
    width = 0
    while True:
        begin = reader.line_num
        where = f"row {skipped + begin + 1} of '{table}'"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(_broken(str(error), where, len(lines) - begin - 1)) from error
        width = width or len(cells)
        if _has_swallowed(cells, lines[begin + 1 : reader.line_num], separator, width):
            raise DataError(
                f"{where} holds a quoted cell that goes on to line {skipped + reader.line_num} and seems to have "
                "swallowed rows; close the quotation mark, or take the line breaks out of the cell."
            )
        yield skipped + begin + 1, cells


def _text(path: Path, table: str) -> str:
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"line {line} of '{table}' is not UTF-8 text; save the table as CSV UTF-8.") from error
    if "\0" in text:
        # UTF-16 without a byte order mark, and most binary files, pass as UTF-8.
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"line {line} of '{table}' holds a NUL and is not UTF-8 text; save the table as CSV UTF-8.")
    return text


def _separator(lines: Sequence[str], table: str) -> tuple[int, str]:
    """How many lines stand before the first row, and what separates cells."""
    if lines and (named := _SEP_LINE.fullmatch(lines[0])):
        if not named[1] or (named[1].isspace() and named[1] != "\t"):
            raise DataError(f"line 1 of '{table}' is 'sep=' without a separator; write sep=; or remove the line.")
        return 1, named[1]
    return 0, max(SEPARATORS, key=lambda separator: _cells_of_first(lines, separator))


def _cells_of_first(lines: Sequence[str], separator: str) -> int:
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True)
    try:
        return len(next((cells for cells in reader if cells), []))
    except csv.Error:
        return 0


def _broken(reason: str, where: str, lines_after: int) -> str:
    if "end of data" in reason:
        swallowed = f" and takes in the {lines_after} lines after it" if lines_after else ""
        return f'{where} opens a quotation mark that is never closed{swallowed}; close it, or write it twice ("").'
    if "field limit" in reason:
        return (
            f"{where} holds a cell of more than {csv.field_size_limit():,} characters; close its quotation mark if it "
            "should have ended before, or shorten the cell."
        )
    return f'{where} cannot be divided into cells ({reason}); write a quotation mark inside a quoted cell twice ("").'


def _has_swallowed(cells: Sequence[str], lines_after: Sequence[str], separator: str, width: int) -> bool:
    """Whether a line within a quoted cell looks like a row: as many cells, and single words before the quoted one.

    A quotation mark that was forgotten can be closed by the next one, several rows further down. Text of several lines,
    such as a report, has cells of several words if it happens to hold as many separators.
    """
    if not lines_after:
        return False
    quoted = next(column for column, cell in enumerate(cells) if "\n" in cell or "\r" in cell)
    for line in lines_after:
        parts = next(csv.reader([line], delimiter=separator), [])
        if quoted and len(parts) == width and all(len(part.split()) == 1 for part in parts[:quoted]):
            return True
    return False
