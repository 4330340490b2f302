from dataclasses import FrozenInstanceError

import pytest

from lightning_fed.errors import DataError
from lightning_fed.radiology import read_labels, salter_harris_from_ao


@pytest.fixture
def site(tmp_path):
    """Write a table and the files it may name, then return the folder."""

    def write(text, files=("a.dcm", "b.dcm", "sub/c.dcm"), encoding="utf-8"):
        for file in files:
            path = tmp_path / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        (tmp_path / "labels.csv").write_text(text, encoding=encoding)
        return tmp_path

    return write


def test_full_table_is_read_in_its_order(site):
    root = site(
        "file,patient_id,fracture,salter_harris,split,name\n"
        "b.dcm,p1,1,II,train,ignored\n"
        "a.dcm,p2,0,none,val,\n"
        "sub/c.dcm,p3,1,,test,\n"
    )
    first, second, third = read_labels(root)
    assert first.path == root / "b.dcm"
    assert (first.patient_id, first.fracture, first.salter_harris, first.split) == ("p1", 1, 2, "train")
    assert (second.fracture, second.salter_harris, second.split) == (0, 0, "val")
    assert (third.path, third.salter_harris, third.split) == (root / "sub" / "c.dcm", 0, "test")
    with pytest.raises(FrozenInstanceError):
        first.fracture = 0


@pytest.mark.parametrize(
    ("cell", "number"), [("", 0), ("None", 0), ("I", 1), ("ii", 2), ("III", 3), ("IV", 4), ("V", 5)]
)
def test_salter_harris_numerals_become_numbers(site, cell, number):
    root = site(f"file,patient_id,fracture,salter_harris\na.dcm,p,1,{cell}\n")
    assert read_labels(root)[0].salter_harris == number


@pytest.mark.parametrize(
    ("codes", "number"),
    [
        ("", 0),
        ("23r-E/1", 1),
        ("23r-E/2.1", 2),
        ("23u-E/3.2", 3),
        ("23r-e/4.1", 4),
        ("23r-M/3.1", 0),
        ("23-M/2.1;23r-E/2.1", 2),
        ("23r-E/2.1; 23u-E/1.1", 2),
        ("22r-D/2.1;23u-E/7", 0),
        ("23r-E/9.1", 0),
        # Slips as GRAZPEDWRI-DX has them, and their epiphyseal kin.
        ("23u-E7", 0),
        ("23u/E/7", 0),
        ("23r-M3.1", 0),
        ("23u-M/2.", 0),
        ("72B.(b)", 0),
        ("77.5.1A", 0),
        ("23r-E/2.1, 23u-E/7", 2),
        ("23u-E/7, 23r-E/3", 3),
        ("23r-E2.1", 2),
        ("23r/E/2.1", 2),
        ("23r-E/2.", 2),
        ("23rE/2.1", 2),
        ("23E/2.1", 2),
        ("23r - E / 2.1", 2),
        ("23r_E-2.1", 2),
        ("23r\N{EN DASH}E/4.1", 4),
        ("23r-E/2.1-23u-E/7", 2),
        ("23r-M/3.1/23u-E/1", 1),
        ("23r-E/2.1 23u-E/4", 4),
        ("23r-E/2,1", 2),
        ("23r-E/12", 0),
    ],
)
def test_ao_codes_become_salter_harris_types(codes, number):
    assert salter_harris_from_ao(codes) == number


def test_ao_column_fills_empty_salter_harris_cells_of_visible_fractures_only(site):
    root = site(
        "file,patient_id,fracture,salter_harris,ao_classification\n"
        "a.dcm,p,1,,23r-E/2.1;23u-M/2.1\n"
        "b.dcm,p,1,IV,23r-E/2.1\n"
        "sub/c.dcm,p,0,,23r-E/2.1\n"
    )
    assert [row.salter_harris for row in read_labels(root)] == [2, 4, 0]


def test_semicolons_byte_order_mark_and_windows_paths_are_understood(site):
    root = site("File;Patient_ID;Fracture\r\nsub\\c.dcm;p;1\r\n", encoding="utf-8-sig")
    assert read_labels(root)[0].path == root / "sub" / "c.dcm"


def test_missing_columns_are_named_with_those_found(site):
    with pytest.raises(DataError, match="lacks the columns fracture; found: file, label"):
        read_labels(site("file,label\na.dcm,1\n"))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("a.dcm,p,2,,", r"row 3 .*fracture = '2' is unknown; allowed are 0 and 1"),
        ("a.dcm,p,,,", r"row 3 .*fracture = ''"),
        ("a.dcm,p,1,VI,", r"row 3 .*salter_harris = 'VI' is unknown; allowed are empty, none, I, II"),
        ("a.dcm,p,0,II,", r"row 3 .*contradicts fracture = 0"),
        ("a.dcm,p,1,,dev", r"row 3 .*split = 'dev' is unknown; allowed are train, val, test"),
        ("a.dcm,,1,,", r"row 3 .*patient_id is empty"),
        ("a.dcm,p,1", r"row 3 .*3 cells and the header 5"),
        (",p,1,,", r"row 3 .*not a path inside"),
    ],
)
def test_unknown_values_are_refused_with_row_column_and_allowed_values(site, row, reason):
    with pytest.raises(DataError, match=reason):
        read_labels(site(f"file,patient_id,fracture,salter_harris,split\nb.dcm,q,0,,\n{row}\n"))


@pytest.mark.parametrize(
    "file", ["../a.dcm", "sub/../../a.dcm", "/etc/hostname", "C:\\a.dcm", "..\\a.dcm", "\\\\pacs\\a"]
)
def test_paths_that_leave_the_folder_are_refused(site, file):
    with pytest.raises(DataError, match="not a path inside the data folder"):
        read_labels(site(f"file,patient_id,fracture\n{file},p,1\n"))


def test_missing_files_are_counted_and_the_first_ones_named(site):
    rows = "".join(f"gone{number}.dcm,p,1\n" for number in range(9))
    with pytest.raises(DataError, match=r"9 of 10 files.*first in row 3 .*gone0\.dcm.*gone4\.dcm, \.\.\."):
        read_labels(site(f"file,patient_id,fracture\na.dcm,p,1\n{rows}"))


def test_file_named_twice_is_refused_even_when_spelled_differently(site):
    with pytest.raises(DataError, match=r"row 3 .* names the file 'c\.dcm' that row 2 .* names, too"):
        read_labels(site("file,patient_id,fracture\nsub/c.dcm,p,1\n./sub/c.dcm,q,1\n"))


def test_patient_on_two_sides_is_refused(site):
    with pytest.raises(DataError, match=r"row 3 .* puts patient 'p' into test and row 2 .* into train"):
        read_labels(site("file,patient_id,fracture,split\na.dcm,p,1,train\nb.dcm,p,1,test\n"))


def test_split_column_filled_in_some_rows_only_is_refused(site):
    with pytest.raises(DataError, match=r"leaves split empty in 1 rows, the first is row 3"):
        read_labels(site("file,patient_id,fracture,split\na.dcm,p,1,train\nb.dcm,q,1,\n"))


@pytest.mark.parametrize("text", ["file,patient_id,fracture\n", "file,patient_id,fracture\n\n,,\n"])
def test_table_without_rows_is_refused(site, text):
    with pytest.raises(DataError, match="no rows"):
        read_labels(site(text))


def test_empty_file_is_refused_for_its_missing_columns(site):
    with pytest.raises(DataError, match="found: none"):
        read_labels(site(""))


def test_table_that_is_not_utf8_is_refused(site):
    with pytest.raises(DataError, match="not UTF-8"):
        read_labels(site("file,patient_id,fracture\nä.dcm,p,1\n", encoding="latin-1"))


def test_missing_table_is_refused_without_naming_the_folder(tmp_path):
    with pytest.raises(DataError, match=r"labels\.csv") as refusal:
        read_labels(tmp_path)
    assert str(tmp_path) not in str(refusal.value)
