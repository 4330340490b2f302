"""Records to count: of a table, and of headers."""

import pydicom
import pytest
from pydicom.data import get_testdata_file

from lightning_fed.errors import DataError
from lightning_fed.radiology.records import header_records, table_records


def test_a_tables_columns_are_found_whatever_their_case(tmp_path):
    (tmp_path / "labels.csv").write_text("Age;View\n3;AP\n;LAT\n")
    found = list(table_records(tmp_path / "labels.csv", ["age", "VIEW"]))
    assert found == [{"age": "3", "VIEW": "AP"}, {"age": "", "VIEW": "LAT"}]


def test_a_column_that_the_table_lacks_is_refused(tmp_path):
    (tmp_path / "labels.csv").write_text("age\n3\n")
    with pytest.raises(DataError, match="lacks the columns sex"):
        list(table_records(tmp_path / "labels.csv", ["age", "sex"]))


def test_headers_are_read_in_all_folders_and_other_files_left_out(tmp_path):
    (tmp_path / "a").mkdir()
    for name, age in (("one.dcm", "045Y"), ("a/two.dcm", "018M"), ("a/three.dcm", "")):
        dataset = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
        dataset.PatientAge = age
        dataset.save_as(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not DICOM")
    found = list(header_records(tmp_path, ["patientage", "Rows", "PixelSpacing", "ViewPosition"]))
    assert sorted(record["patientage"] for record in found) == ["", "1.5", "45"]
    assert {record["Rows"] for record in found} == {"128"}
    assert float(found[0]["PixelSpacing"]) == pytest.approx(0.661468)
    assert found[0]["ViewPosition"] == ""


def test_an_attribute_that_dicom_does_not_know_is_refused(tmp_path):
    with pytest.raises(DataError, match="no attribute 'Age'"):
        list(header_records(tmp_path, ["Age"]))


def test_a_folder_without_dicom_is_refused(tmp_path):
    with pytest.raises(DataError, match="no DICOM file"):
        list(header_records(tmp_path, ["Rows"]))
