"""Tables of labels as hospitals write them: what each row means, and what is refused with its row."""

import csv
import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_fed.errors import DataError
from lightning_fed.radiology import RadiographDataModule, files, read_labels, split_radiographs
from lightning_fed.radiology.delimited import csv_cells
from lightning_fed.radiology.tables import read_table

COMPOSED = unicodedata.normalize("NFC", "Müller-é")
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)
CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n"), max_size=12)


@pytest.fixture
def site(tmp_path):
    """Write a table, as text or bytes, and the files it may name; return the folder."""

    def write(table, files=("a.dcm", "b.dcm", "c.dcm", "d.dcm", "e.dcm")):
        for file in files:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).touch()
        (tmp_path / "labels.csv").write_bytes(table if isinstance(table, bytes) else table.encode())
        return tmp_path

    return write


def names(rows):
    return [row.path.name for row in rows]


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (
            'file,patient_id,fracture,comment\na.dcm,p,1,"swollen\nb.dcm,q,0,\nc.dcm,r,0,\nd.dcm,s,0,\ne.dcm,t,1,\n',
            r"row 2 of 'labels\.csv' opens a quotation mark that is never closed and takes in the 4 lines after it",
        ),
        ('file,patient_id,fracture,comment\na.dcm,p,1,"swollen', r"row 2 .* never closed; close it"),
        (
            'file,patient_id,fracture,comment\na.dcm,p,1,"swollen\nb.dcm,q,0,\nc.dcm,r,0,"well"\n',
            r"row 2 .* cannot be divided into cells",
        ),
        (
            'file,patient_id,fracture,comment\na.dcm,p,1,"swollen\nb.dcm,q,0,x\nc.dcm,r,0,painful"\nd.dcm,s,0,\n',
            r"row 2 .* goes on to line 4 and seems to have swallowed rows",
        ),
        (f"file,patient_id,fracture\na.dcm,p,1\nb.dcm,{'q' * 140_000},0\n", r"row 3 .* more than 131,072 characters"),
        (
            "file,patient_id,Fracture,fracture\na.dcm,p,1,0\n",
            r"row 1 .* 'Fracture' twice: in place 3 and, as 'fracture'",
        ),
        (
            f"file,patient_id,fracture,{COMPOSED},{DECOMPOSED}\na.dcm,p,1,0,0\n",
            r"row 1 .* twice: in place 4 .* in place 5",
        ),
        ("file:patient_id:fracture\na.dcm:p:1\n", "separated by comma, semicolon, tab, pipe"),
        ("sep=\nfile,patient_id,fracture\na.dcm,p,1\n", r"line 1 .* without a separator"),
        ("file\tpatient_id\tfracture\na.dcm\tp\t1\n".encode("utf-16"), r"line 1 of 'labels\.csv' is not UTF-8"),
        ("file\tpatient_id\tfracture\na.dcm\tp\t1\n".encode("utf-16-le"), r"line 1 .* NUL and is not UTF-8"),
        ("file,patient_id,fracture\na.dcm,p,1\nb.dcm,Jürgen,1\n".encode("cp1252"), r"line 3 .* is not UTF-8"),
        ("file,patient_id,fracture\na.dcm,p,1\nb\0.dcm,q,1\n", r"line 3 .* NUL"),
    ],
)
def test_malformed_table_is_refused_with_its_name_the_row_and_the_cure(site, table, reason):
    with pytest.raises(DataError, match=reason):
        read_labels(site(table))


@pytest.mark.parametrize("name", ["n" * 256 + ".dcm", "n" * 100_000, "folder/" * 700 + "a.dcm"])
def test_name_too_long_for_a_disk_does_not_exist_and_is_not_printed_whole(site, name):
    with pytest.raises(
        DataError, match=r"1 of 2 files .* do not exist, the first in row 3 of 'labels\.csv'"
    ) as refusal:
        read_labels(site(f"file,patient_id,fracture\na.dcm,p,1\n{name},q,0\n"))
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize(
    ("row", "reason"),
    [("b.dcm,q,{}", "fracture"), ("../{},q,1", "file"), ("b.dcm,q,1,{}", "salter_harris"), ("b.dcm,q,1,,{}", "split")],
)
def test_refusal_of_a_long_cell_stays_short(site, row, reason):
    row = row.format("x" * 5000)
    row += "," * (4 - row.count(","))
    with pytest.raises(DataError, match=rf"row 2 .*{reason} = '") as refusal:
        read_labels(site(f"file,patient_id,fracture,salter_harris,split\n{row}\n"))
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x0b", "\x0c", "\x85", "\x1c", "\x1d", "\x1e"])
def test_what_only_unicode_calls_a_line_break_stays_in_its_cell(site, character):
    root = site(f"file,patient_id,fracture,comment\na.dcm,p,1,two{character}lines\nb.dcm,q,0,\n")
    assert names(read_labels(root)) == ["a.dcm", "b.dcm"]
    assert read_table(root, "labels.csv", ("file",))[0][1]["comment"] == f"two{character}lines"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("first", ["", "sep={0}", '"sep={0}"', "SEP={0}", "\ufeffsep={0}"])
def test_every_usual_separator_is_understood_with_and_without_excels_line(site, separator, first, end):
    first = first.format(separator)
    lines = [*([first] if first else []), "file,patient_id,fracture", "a.dcm,p,1", "b.dcm,,1"]
    table = end.join([lines[0], *(line.replace(",", separator) for line in lines[1:])])
    if not first:
        table = table.replace(",", separator)
    with pytest.raises(DataError, match=rf"row {len(lines)} of 'labels\.csv': patient_id is empty"):
        read_labels(site(table))


def test_line_of_excel_decides_against_the_more_frequent_separator(site):
    root = site("sep=;\nfile;patient_id;fracture;a,b,c,d,e,f\na.dcm;p;1;\n")
    assert names(read_labels(root)) == ["a.dcm"]


def test_text_of_several_lines_in_a_quoted_cell_is_no_fault_and_rows_are_named_by_their_first_line(site):
    table = (
        'file,patient_id,fracture,report\na.dcm,p,1,"Distal radius, Salter-Harris II,\nno ""step"", no gap, cast\n\n'
        'control in a week"\nb.dcm,q,2,\n'
    )
    with pytest.raises(DataError, match=r"row 6 of 'labels\.csv': fracture = '2'"):
        read_labels(site(table))
    root = site(table.replace("q,2", "q,0"))
    assert names(read_labels(root)) == ["a.dcm", "b.dcm"]


def test_columns_without_a_name_are_left_out(site):
    assert names(read_labels(site("file;patient_id;fracture;;\na.dcm;p;1;;\n"))) == ["a.dcm"]


@pytest.mark.parametrize(("on_disk", "in_table"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_name_is_found_on_disk_in_either_unicode_form_of_folder_and_file(site, on_disk, in_table):
    root = site(f"file,patient_id,fracture\n{in_table}/{in_table}.dcm,p,1\n", [f"{on_disk}/{on_disk}.dcm"])
    (row,) = read_labels(root)
    assert row.path.is_file()
    assert row.path.relative_to(root).parts == (on_disk, f"{on_disk}.dcm")


def test_file_named_in_both_forms_is_named_twice(site):
    with pytest.raises(DataError, match=r"row 3 .* that row 2 .* names, too"):
        read_labels(site(f"file,patient_id,fracture\n{COMPOSED},p,1\n{DECOMPOSED},q,1\n", [DECOMPOSED]))


def test_two_files_whose_names_differ_in_form_only_are_two_files(site):
    root = site(f"file,patient_id,fracture\n{COMPOSED},p,1\n{DECOMPOSED},q,1\n", [COMPOSED, DECOMPOSED])
    assert names(read_labels(root)) == [COMPOSED, DECOMPOSED]


@pytest.mark.parametrize(
    ("one", "other"),
    [(COMPOSED, DECOMPOSED), ("p 1", "p\u00a0 1"), ("p1", "p\u200b1"), ("p1", "\u200ep1"), ("p1", "\u3000p1")],
)
def test_one_patient_written_in_two_ways_is_one_patient_on_one_side(site, one, other):
    files = [f"{number}.dcm" for number in range(40)]
    rows = "".join(f"{file},{one if number < 2 else other}{number // 4},1\n" for number, file in enumerate(files))
    # Patients 1 to 9 are written in the one way only, patient 0 in both.
    radiographs = read_labels(site(f"file,patient_id,fracture\n{rows}", files))
    assert len({row.patient_id for row in radiographs}) == 10
    sides = split_radiographs(radiographs, val_fraction=0.3, test_fraction=0.3)
    members = [{row.patient_id for row in rows} for rows in sides.values()]
    assert sum(map(len, members)) == 10


def test_patients_that_differ_in_case_or_in_leading_zeros_are_different(site):
    rows = read_labels(site("file,patient_id,fracture\na.dcm,p1,1\nb.dcm,P1,1\nc.dcm,01,1\nd.dcm,1,1\n"))
    assert len({row.patient_id for row in rows}) == 4


def test_sites_and_their_column_are_compared_in_either_form_and_without_case(site):
    root = site(
        f"file,patient_id,fracture,{DECOMPOSED}\na.dcm,p,1,K{DECOMPOSED}\nb.dcm,q,0,k{COMPOSED.upper()}\n"
        "c.dcm,r,0,other\n"
    )
    data = RadiographDataModule(str(root), site_by=COMPOSED.upper(), site=f"K{COMPOSED}")
    rows = [row for side in data._divided().values() for row in side]
    assert sorted(row.path.name for row in rows) == ["a.dcm", "b.dcm"]


def test_table_whose_name_no_disk_takes_is_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be read: File name too long"):
        read_labels(tmp_path, "t" * 300)


def test_folder_that_may_not_be_looked_into_is_refused(site, monkeypatch):
    def closed(path):
        raise PermissionError(13, "Permission denied")

    root = site("file,patient_id,fracture\nclosed/a.dcm,p,1\n", ["closed/a.dcm"])
    # Not by the folder's mode: tests may run as a user who may look into every folder.
    monkeypatch.setattr(files, "_is_file", closed)
    with pytest.raises(DataError, match=r"'closed/a\.dcm' cannot be looked up .*: Permission denied"):
        read_labels(root)


@given(st.lists(st.lists(CELLS, min_size=2, max_size=4), min_size=1, max_size=6), st.sampled_from(",;\t|"))
def test_what_a_csv_writer_writes_behind_a_line_of_excel_is_read_back(tmp_path_factory, rows, separator):
    path = tmp_path_factory.getbasetemp() / "written.csv"
    text = io.StringIO(newline="")
    text.write(f"sep={separator}\r\n")
    csv.writer(text, delimiter=separator, quoting=csv.QUOTE_ALL).writerows(rows)
    path.write_bytes(text.getvalue().encode())
    assert [cells for _, cells in csv_cells(path, "written.csv")] == rows


@given(st.one_of(st.binary(max_size=200), st.text('file,;"\n\r|\tsep=', max_size=80).map(str.encode)))
def test_any_bytes_are_cells_or_a_refusal(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(data)
    try:
        rows = list(csv_cells(path, "any.csv"))
    except DataError as error:
        assert "'any.csv'" in str(error)
    else:
        assert [number for number, _ in rows] == sorted({number for number, _ in rows})
