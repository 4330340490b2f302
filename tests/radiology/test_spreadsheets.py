"""Tables of labels in Excel and Parquet mean what the same table in CSV means."""

import datetime
import sys

import openpyxl
import pandas as pd
import pytest

from lightning_fed.errors import DataError
from lightning_fed.radiology import read_labels

HEADER = ["File", "patient_id", "fracture", "salter_harris", "split", "taken"]
DAY = datetime.datetime(2024, 5, 1)
ROWS = [
    ["a.dcm", "0012", 1, "II", "train", DAY],
    ["b.dcm", "12", 0, None, "val", None],
    ["sub/c.dcm", "NA", 1, "none", "test", DAY],
]


@pytest.fixture
def root(tmp_path):
    (tmp_path / "sub").mkdir()
    for file in ("a.dcm", "b.dcm", "sub/c.dcm"):
        (tmp_path / file).touch()
    return tmp_path


def write_excel(path, *rows, sheets=()):
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    for name in sheets:
        book.create_sheet(name).append(["another", "sheet"])
    book.save(path)


def write_parquet(path, header, *rows):
    pd.DataFrame([dict(zip(header, row, strict=True)) for row in rows]).to_parquet(path)


def read(rows):
    return [(row.path.name, row.patient_id, row.fracture, row.salter_harris, row.split) for row in rows]


EXPECTED = [("a.dcm", "0012", 1, 2, "train"), ("b.dcm", "12", 0, 0, "val"), ("c.dcm", "NA", 1, 0, "test")]


@pytest.mark.parametrize("name", ["labels.xlsx", "Labels.XLSX", "labels.xlsm"])
def test_excel_is_read_with_leading_zeros_and_words_that_pandas_takes_for_missing(root, name):
    write_excel(root / name, HEADER, *ROWS, sheets=["notes"])
    assert read(read_labels(root, name)) == EXPECTED


def test_parquet_is_read_with_leading_zeros_and_words_that_pandas_takes_for_missing(root):
    write_parquet(root / "labels.parquet", HEADER, *ROWS)
    assert read(read_labels(root, "labels.parquet")) == EXPECTED


@pytest.mark.parametrize(("fracture", "expected"), [(True, 1), (False, 0), (1, 1), (0, 0), (1.0, 1), ("1", 1)])
@pytest.mark.parametrize("suffix", ["xlsx", "parquet"])
def test_numbers_and_truth_values_are_flags_and_whole_numbers_are_pseudonyms(root, suffix, fracture, expected):
    write = write_excel if suffix == "xlsx" else write_parquet
    write(root / f"labels.{suffix}", ["file", "patient_id", "fracture"], ["a.dcm", 4711, fracture])
    (row,) = read_labels(root, f"labels.{suffix}")
    assert (row.patient_id, row.fracture) == ("4711", expected)


def test_whole_numbers_beside_empty_cells_of_parquet_stay_whole(root):
    frame = pd.DataFrame(
        {
            "file": ["a.dcm", "b.dcm"],
            "patient_id": pd.array([2**53 + 1, 7], dtype="Int64"),
            "fracture": [1.0, 0.0],
            "salter_harris": [None, None],
        }
    )
    frame.to_parquet(root / "labels.parquet")
    assert [row.patient_id for row in read_labels(root, "labels.parquet")] == [str(2**53 + 1), "7"]
    frame["patient_id"] = pd.array([None, 7], dtype="Int64")
    frame.to_parquet(root / "labels.parquet")
    with pytest.raises(DataError, match=r"row 1 of 'labels\.parquet': patient_id is empty"):
        read_labels(root, "labels.parquet")


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA, pd.NaT])
def test_every_way_to_miss_a_value_in_parquet_is_an_empty_cell(root, missing):
    write_parquet(root / "labels.parquet", HEADER[:5], ["a.dcm", "p", 1.0, missing, missing])
    assert read(read_labels(root, "labels.parquet")) == [("a.dcm", "p", 1, 0, None)]


def test_index_of_parquet_with_a_name_is_a_column(root):
    frame = pd.DataFrame({"file": ["a.dcm", "b.dcm"], "patient_id": ["p", "q"], "fracture": [0, 1]})
    frame.set_index("file").to_parquet(root / "labels.parquet")
    assert [row.path.name for row in read_labels(root, "labels.parquet")] == ["a.dcm", "b.dcm"]


def test_rows_of_excel_have_the_numbers_that_excel_shows(root):
    write_excel(root / "labels.xlsx", [], HEADER[:3], ["a.dcm", "p", 1], [], ["b.dcm", "q", 2])
    with pytest.raises(DataError, match=r"row 5 of 'labels\.xlsx': fracture = '2'"):
        read_labels(root, "labels.xlsx")


def test_error_in_a_cell_of_excel_is_refused(root):
    write_excel(root / "labels.xlsx", HEADER[:4], ["a.dcm", "p", 1, "II"], ["b.dcm", "q", 1, "#N/A"])
    with pytest.raises(DataError, match=r"row 3 of 'labels\.xlsx' holds an error such as #N/A in column 4"):
        read_labels(root, "labels.xlsx")


@pytest.mark.parametrize("suffix", ["xlsx", "parquet"])
def test_same_faults_are_refused_as_in_csv(root, suffix):
    write, name = (write_excel if suffix == "xlsx" else write_parquet), f"labels.{suffix}"
    write(root / name, ["file", "patient_id", "fracture", "Fracture"], ["a.dcm", "p", 1, 0])
    with pytest.raises(DataError, match=rf"'labels\.{suffix}' names the column 'fracture' twice"):
        read_labels(root, name)
    write(root / name, ["file", "patient_id", "broken"], ["a.dcm", "p", 1])
    with pytest.raises(DataError, match=r"lacks the columns fracture; found: file, patient_id, broken"):
        read_labels(root, name)
    write(root / name, ["file", "patient_id", "fracture"], ["a.dcm", "p", None])
    with pytest.raises(DataError, match=r"fracture = '' is unknown"):
        read_labels(root, name)


@pytest.mark.parametrize("name", ["labels.xlsx", "labels.parquet"])
@pytest.mark.parametrize("data", [b"", b"file,patient_id,fracture\n", b"PK\x03\x04" + bytes(60)])
def test_damaged_file_is_refused_by_its_name(root, name, data):
    (root / name).write_bytes(data)
    with pytest.raises(DataError, match=rf"'{name}' cannot be read: .*password.*CSV UTF-8"):
        read_labels(root, name)


@pytest.mark.parametrize("name", ["labels.xls", "labels.ods", "labels.csv"])
def test_workbook_under_another_name_is_refused_as_no_text(root, name):
    write_excel(root / "labels.xlsx", HEADER, *ROWS)
    (root / "labels.xlsx").rename(root / name)
    with pytest.raises(DataError, match=rf"'{name}' .*UTF-8"):
        read_labels(root, name)


@pytest.mark.parametrize(
    ("name", "package"), [("t.xlsx", "pandas"), ("t.xlsx", "openpyxl"), ("t.parquet", "pyarrow"), ("t.csv", "pandas")]
)
def test_a_package_that_is_not_installed_is_named_with_the_cure_and_csv_needs_none(root, name, package, monkeypatch):
    (root / name).write_text("file,patient_id,fracture\na.dcm,p,1\n")
    monkeypatch.setitem(sys.modules, package, None)
    if name == "t.csv":
        assert len(read_labels(root, name)) == 1
    else:
        with pytest.raises(DataError, match=rf"needs pandas with .*{package}.*pip install 'lightning_fed\[tables\]'"):
            read_labels(root, name)
