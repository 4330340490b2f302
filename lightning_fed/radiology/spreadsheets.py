"""Excel workbooks and Parquet files to cells, read with pandas where it is installed."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lightning_fed.errors import DataError

Rows = Iterator[tuple[int, list[str]]]


def excel_cells(path: Path, table: str) -> Rows:
    """Read the first sheet of an Excel workbook row by row, the header too.

    Args:
        path: an ``.xlsx`` or ``.xlsm`` file.
        table: its name, for errors.

    Returns:
        For each row the number that Excel shows beside it, and its cells: texts as they are, whole numbers without a
        point, true and false as 1 and 0.

    Raises:
        DataError: pandas or openpyxl is not installed, the file is damaged or has a password, or a cell holds an error.
    """
    frame = _frame(
        table,
        lambda pandas: pandas.read_excel(path, header=None, dtype=object, na_filter=False, engine="openpyxl"),
    )
    for number, values in enumerate(frame.itertuples(index=False, name=None), start=1):
        for column, value in enumerate(values, start=1):
            # pandas reads an empty cell as a text without characters and only an error, such as #N/A, as NaN.
            if _is_missing(value):
                raise DataError(
                    f"row {number} of '{table}' holds an error such as #N/A in column {column}; mend its formula or "
                    "delete the column."
                )
        yield number, [_text(value) for value in values]


def parquet_cells(path: Path, table: str) -> Rows:
    """Read a Parquet file row by row, its columns' names first; an index with a name is a column, too.

    Args:
        path: a ``.parquet`` file.
        table: its name, for errors.

    Returns:
        For each row its number, from 1 (the names of the columns have number 0), and its cells, as of
        :func:`excel_cells`; a missing value is empty.

    Raises:
        DataError: pandas or pyarrow is not installed, or the file is damaged.
    """
    # With Arrow's own types an empty cell does not turn its column's whole numbers into floats.
    frame = _frame(table, lambda pandas: pandas.read_parquet(path, engine="pyarrow", dtype_backend="pyarrow"))
    if any(name is not None for name in frame.index.names):
        frame = frame.reset_index()
    yield 0, [str(name) for name in frame.columns]
    for number, values in enumerate(frame.itertuples(index=False, name=None), start=1):
        yield number, ["" if _is_missing(value) else _text(value) for value in values]


SPREADSHEETS: dict[str, Callable[[Path, str], Rows]] = {
    ".xlsx": excel_cells,
    ".xlsm": excel_cells,
    ".parquet": parquet_cells,
}
"""Readers by the suffix of a table's name."""


def _frame(table: str, read: Callable[[Any], Any]) -> Any:
    try:
        import pandas

        return read(pandas)
    except ImportError as error:
        raise DataError(
            f"the table of labels '{table}' needs pandas with openpyxl (Excel) or pyarrow (Parquet): {error} Run "
            "pip install 'lightning_fed[tables]', or save the table as CSV UTF-8."
        ) from error
    # Zip, XML and Arrow readers raise whatever they like about a damaged file.
    except Exception as error:
        raise DataError(
            f"the table of labels '{table}' cannot be read: {error or type(error).__name__}. Remove its password if it "
            "has one, or save it as CSV UTF-8."
        ) from error


def _is_missing(value: Any) -> bool:
    # pandas.isna would look into a list.
    nan = isinstance(value, float) and math.isnan(value)
    return value is None or nan or type(value).__name__ in ("NAType", "NaTType")


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        return str(int(value))
    return str(value)
