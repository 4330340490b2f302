"""DICOM attributes as columns: a folder and a table of two columns are enough."""

import unicodedata

import numpy as np
import pytest
from public_layouts import write_csv, write_image

from lightning_fed.errors import DataError
from lightning_fed.radiology import RadiographDataModule, read_labels
from lightning_fed.radiology.attributes import keyword_of, read_header

PIXELS = np.arange(24 * 20).reshape(24, 20)


@pytest.fixture
def folder(tmp_path, write_radiograph):
    """Twelve patients with two views each, two manufacturers, and a table that names nothing but files and labels."""
    rows = []
    for patient in range(12):
        for image, view in enumerate(("PA", "LL")):
            name = f"p{patient}_{image}.dcm"
            attributes = {
                "PatientID": f"PAT-{patient} " if image else f"PAT-{patient}",
                "Manufacturer": "Siemens" if patient < 8 else "AGFA",
                "Modality": "DX",
                "BodyPartExamined": "WRIST",
                "ViewPosition": view,
            }
            write_radiograph(PIXELS, name, bits=12, **attributes)
            rows.append([name, patient % 2])
    write_csv(tmp_path / "labels.csv", ["file", "fracture"], *rows)
    return tmp_path


def test_table_of_two_columns_takes_patients_from_the_headers_and_splits_by_them(folder):
    rows = read_labels(folder)
    assert [row.patient_id for row in rows[:4]] == ["PAT-0", "PAT-0", "PAT-1", "PAT-1"]
    data = RadiographDataModule(str(folder), image_size=16)
    members = [{row.patient_id for row in data.dataset(side).radiographs} for side in ("train", "val", "test")]
    assert [len(side) for side in members] == [8, 2, 2]
    assert len(set.union(*members)) == 12


@pytest.mark.parametrize(
    ("site_by", "sites"),
    [
        ("Manufacturer", {"siemens": 16, "agfa": 8}),
        ("manufacturer", {"siemens": 16, "agfa": 8}),
        ("ViewPosition", {"pa": 12, "ll": 12}),
        ("BodyPartExamined", {"wrist": 24}),
        ("StationName", {"unknown": 24}),
    ],
)
def test_site_may_be_any_attribute_of_the_headers(folder, site_by, sites):
    rows = read_labels(folder, site_by=site_by)
    assert {site: sum(row.site == site for row in rows) for site in {row.site for row in rows}} == sites


def test_column_of_the_table_wins_over_the_header(folder):
    write_csv(
        folder / "own.csv",
        ["file", "fracture", "patient_id", "Manufacturer", "ViewPosition"],
        ["p0_0.dcm", 1, "mine", "Philips", "Oblique"],
    )
    (row,) = read_labels(folder, "own.csv", "manufacturer")
    assert (row.patient_id, row.site, row.view) == ("mine", "philips", "oblique")


def test_header_without_a_patient_is_refused_by_row_and_file(folder, write_radiograph):
    write_radiograph(PIXELS, "nobody.dcm", PatientID=" ")
    write_csv(folder / "labels.csv", ["file", "fracture"], ["p0_0.dcm", 1], ["nobody.dcm", 0])
    with pytest.raises(DataError, match=r"row 3 of 'labels\.csv': 'nobody\.dcm' has no PatientID"):
        read_labels(folder)


def test_picture_has_no_header_and_needs_the_column(folder):
    write_image(folder / "picture.png")
    write_csv(folder / "labels.csv", ["file", "fracture"], ["picture.png", 1])
    with pytest.raises(DataError, match=r"row 2 .*'picture\.png' has no DICOM header to take patient_id and manufact"):
        read_labels(folder, site_by="Manufacturer")


def test_site_by_that_is_neither_column_nor_keyword_is_refused(folder):
    with pytest.raises(DataError, match="lacks the columns manufactorer; found: file, fracture"):
        read_labels(folder, site_by="manufactorer")


@pytest.mark.parametrize("content", [b"no image at all" * 50, b"", b"\0" * 132 + b"DICM" + b"\xff" * 40])
def test_file_without_a_readable_header_is_skipped_and_listed_by_the_data_set(folder, content):
    (folder / "p3_1.dcm").write_bytes(content)
    data = RadiographDataModule(str(folder), image_size=16, val_fraction=0, test_fraction=0)
    with pytest.warns(UserWarning, match=r"1 radiographs cannot be read.*\n.*p3_1\.dcm"):
        data.setup("fit")
    assert len(data.dataset("train")) == 23


def test_patients_of_headers_in_two_unicode_forms_are_one(folder, write_radiograph):
    name = unicodedata.normalize("NFC", "Müller^1")
    for file, form in (("a.dcm", "NFC"), ("b.dcm", "NFD")):
        identifier = unicodedata.normalize(form, name)
        write_radiograph(PIXELS, file, SpecificCharacterSet="ISO_IR 192", PatientID=identifier)
    write_csv(folder / "labels.csv", ["file", "fracture"], ["a.dcm", 1], ["b.dcm", 0])
    assert {row.patient_id for row in read_labels(folder)} == {name}


def test_header_gives_text_of_one_several_and_no_values(write_radiograph):
    path = write_radiograph(PIXELS, PixelSpacing=[0.1, 0.2], BodyPartExamined="")
    keywords = ["PixelSpacing", "BodyPartExamined", "Modality", "BitsStored"]
    assert read_header(path, keywords) == {
        "PixelSpacing": "0.1\\0.2", "BodyPartExamined": "", "Modality": "", "BitsStored": "16",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("column", "keyword"),
    [("patient_id", "PatientID"), ("PATIENTID", "PatientID"), ("viewposition", "ViewPosition"), ("PixelData", None),
     ("ReferencedImageSequence", None), ("hospital", None), ("", None)],
)  # fmt: skip
def test_keywords_are_known_without_case_and_only_those_of_text_and_numbers(column, keyword):
    assert keyword_of(column) == keyword
