import shutil

import pytest
from public_layouts import (
    GRAZ_COLUMNS,
    graz,
    graz_row,
    write_csv,
    write_fracatlas,
    write_graz,
    write_image,
    write_mura,
)

from lightning_fed.errors import DataError
from lightning_fed.radiology import read_fracatlas, read_grazpedwri, read_labels, read_mura

READERS = [(read_grazpedwri, graz), (read_fracatlas, write_fracatlas), (read_mura, write_mura)]


def test_grazpedwri_rows_carry_label_type_patient_and_manufacturer(tmp_path):
    root = write_graz(
        tmp_path,
        [
            graz_row(1, "Siemens", "1.0", "23r-E/2.1; 23u-M/2.1"),
            graz_row(1, "Siemens", "", "23r-E/2.1; 23u-M/2.1", view=2),
            graz_row(2, "Agfa", "0", ""),
            graz_row(3, "", "1", "23r-M/3.1"),
        ],
    )
    rows = read_grazpedwri(root, "device_manufacturer")
    assert [(row.patient_id, row.fracture, row.salter_harris, row.site, row.split) for row in rows] == [
        ("1", 1, 2, "siemens", None),
        ("1", 0, 0, "siemens", None),
        ("2", 0, 0, "agfa", None),
        ("3", 1, 0, "unknown", None),
    ]
    assert rows[0].path == root / "images" / "0001_0000000001_01_WRI-L1_F010.png"
    assert {row.site for row in read_grazpedwri(root)} == {None}


@pytest.mark.parametrize("folder", [".", "images", "images_part3"])
def test_grazpedwri_images_are_found_beside_the_table_and_in_unmerged_parts(tmp_path, folder):
    root = write_graz(tmp_path, [graz_row(1)], folder=folder)
    (root / "images_part4.zip").touch()
    assert read_grazpedwri(root)[0].path.is_file()


def test_fracatlas_rows_lie_in_the_folder_of_their_label_and_are_each_a_patient(tmp_path):
    rows = read_fracatlas(write_fracatlas(tmp_path), "region")
    assert [(row.path.parent.name, row.fracture, row.site) for row in rows[:4]] == [
        ("Fractured", 1, "hand"),
        ("Non_fractured", 0, "leg"),
        ("Non_fractured", 0, "hip"),
        ("Fractured", 1, "shoulder"),
    ]
    assert len({row.patient_id for row in rows}) == len(rows) == 48
    assert {row.site for row in read_fracatlas(tmp_path, "hardware")} == {"0"}


def test_mura_images_have_their_studys_label_and_the_part_valid_is_the_test_side(tmp_path):
    rows = read_mura(write_mura(tmp_path), "body_part")
    wrist = [row for row in rows if row.site == "xr_wrist"]
    assert len(wrist) == 80 and len(rows) == 88
    assert all(row.fracture == int(row.patient_id[-5:]) % 2 for row in rows)
    assert {row.patient_id for row in rows if row.split == "test"} == {f"patient{n:05d}" for n in range(30, 41)}
    assert {row.split for row in rows} == {None, "test"}
    assert wrist[0].path == tmp_path / "train/XR_WRIST/patient00001/study1_positive/image1.png"


def test_table_of_a_folder_may_name_sites_too(tmp_path):
    write_image(tmp_path / "a.png")
    write_csv(tmp_path / "labels.csv", ["file", "patient_id", "fracture", "Scanner"], ["a.png", "p", 0, "GE Medical"])
    assert read_labels(tmp_path, site_by="scanner")[0].site == "ge medical"
    assert read_labels(tmp_path)[0].site is None


@pytest.mark.parametrize(("read", "write"), READERS)
def test_missing_table_is_named(tmp_path, read, write):
    root = write(tmp_path / "data")
    for table in sorted(root.glob("*.csv")):
        content = table.read_text(encoding="utf-8")
        table.unlink()
        with pytest.raises(DataError, match=f"'{table.name}' does not exist in the data folder"):
            read(root)
        table.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"data folder .* does not exist"):
        read(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("read", "site_by", "missing"),
    [
        (read_grazpedwri, None, "patient_id, ao_classification, fracture_visible"),
        (read_grazpedwri, "device_manufacturer", "device_manufacturer"),
        (read_fracatlas, None, "image_id, fractured"),
        (read_fracatlas, "region", "hand, leg, hip, shoulder, mixed"),
    ],
)
def test_missing_columns_are_named_with_those_that_are_there(tmp_path, read, site_by, missing):
    write_csv(tmp_path / "dataset.csv", ["filestem", "Age"], ["x", 3])
    with pytest.raises(DataError, match=rf"lacks the columns .*{missing}.*found: filestem, age"):
        read(tmp_path, site_by)


@pytest.mark.parametrize(("read", "write"), READERS)
def test_missing_images_are_counted_and_the_first_are_named(tmp_path, read, write):
    root = write(tmp_path)
    gone = [row.path for row in read(root)][:7]
    for path in gone:
        path.unlink()
    with pytest.raises(DataError) as caught:
        read(root)
    text = str(caught.value)
    assert text.startswith("7 of ") and text.count(str(gone[4].relative_to(root))) == 1
    assert str(gone[5].relative_to(root)) not in text and ", ..." in text


def test_grazpedwri_is_read_as_it_was_published(tmp_path):
    rows = [
        graz_row(1, "Siemens", "1.0", "23r-E/2.1, 23u-E/7"),
        graz_row(2, "Agfa", "1.0", "23u/E/7"),
        graz_row(3, "Siemens", "1.0", "23r-M3.1"),
        graz_row(4, "Siemens", "", "23r-E/2.1"),
    ]
    root = write_graz(tmp_path, rows)
    table = root / "dataset.csv"
    # The table begins with a byte order mark.
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes())
    radiographs = read_grazpedwri(root, "device_manufacturer")
    assert [row.site for row in radiographs] == ["siemens", "agfa", "siemens", "siemens"]
    assert [row.salter_harris for row in radiographs] == [2, 0, 0, 0]
    assert [row.fracture for row in radiographs] == [1, 1, 1, 0]


def test_labels_that_are_not_understood_name_row_column_and_value(tmp_path):
    root = write_graz(tmp_path / "graz", [graz_row(1), graz_row(2, fracture="maybe")])
    with pytest.raises(DataError, match=r"row 3 of 'dataset\.csv': fracture_visible = 'maybe'.*empty for 0"):
        read_grazpedwri(root)
    root = write_fracatlas(tmp_path / "frac")
    table = root / "dataset.csv"
    table.write_text(table.read_text(encoding="utf-8").replace("0,0,1,1,1,0,0", "0,0,yes,1,1,0,0", 1), encoding="utf-8")
    with pytest.raises(DataError, match=r"row 2 of 'dataset\.csv': fractured = 'yes'"):
        read_fracatlas(root)
    root = write_mura(tmp_path / "mura")
    table = root / "train_labeled_studies.csv"
    table.write_text(table.read_text(encoding="utf-8").replace("/,1", "/,2", 1), encoding="utf-8")
    with pytest.raises(DataError, match=r"row 1 of 'train_labeled_studies\.csv': label = '2'"):
        read_mura(root)


def test_grazpedwri_row_without_a_patient_is_refused(tmp_path):
    row = graz_row(1)
    row[GRAZ_COLUMNS.index("patient_id")] = ""
    with pytest.raises(DataError, match="patient_id is empty"):
        read_grazpedwri(write_graz(tmp_path, [row]))


@pytest.mark.parametrize("name", ["", "../outside", "folder\\image"])
def test_names_of_files_stay_inside_the_data_folder(tmp_path, name):
    write_csv(tmp_path / "dataset.csv", GRAZ_COLUMNS, [name, *graz_row(1)[1:]])
    with pytest.raises(DataError, match=r"filestem = .* is not the name of a file"):
        read_grazpedwri(tmp_path)


@pytest.mark.parametrize(
    "path",
    [
        "MURA-v1.1/train/XR_WRIST/patient00001/study1_positive/../../../../../secret.png",
        "MURA-v1.1/train/XR_WRIST/image1.png",
        "train/XR_WRIST/patient00001/study1_positive/image1.png",
    ],
)
def test_mura_path_of_another_form_is_refused(tmp_path, path):
    root = write_mura(tmp_path)
    write_csv(root / "train_image_paths.csv", [path])
    with pytest.raises(DataError, match=r"row 1 of 'train_image_paths\.csv': .* is no path like"):
        read_mura(root)


def test_mura_study_without_a_label_is_refused(tmp_path):
    root = write_mura(tmp_path)
    write_csv(root / "train_labeled_studies.csv", ["MURA-v1.1/train/XR_WRIST/patient00002/study1_negative/", 0])
    with pytest.raises(DataError, match="no label for train/XR_WRIST/patient00001/study1_positive"):
        read_mura(root)


def test_mura_study_with_two_labels_is_refused(tmp_path):
    root = write_mura(tmp_path)
    study = "MURA-v1.1/train/XR_WRIST/patient00001/study1_positive/"
    write_csv(root / "train_labeled_studies.csv", [study, 1], [study, 0])
    with pytest.raises(DataError, match=r"row 2 of 'train_labeled_studies\.csv': .* had label 1 in a row before"):
        read_mura(root)


def test_mura_patient_in_both_parts_is_refused(tmp_path):
    root = write_mura(tmp_path)
    for table in ("valid_labeled_studies.csv", "valid_image_paths.csv"):
        text = (root / table).read_text(encoding="utf-8")
        (root / table).write_text(text.replace("patient00031", "patient00001"), encoding="utf-8")
    shutil.copytree(root / "valid/XR_WRIST/patient00031", root / "valid/XR_WRIST/patient00001")
    with pytest.raises(
        DataError, match=r"row 4 of 'valid.*puts patient 'patient00001' into test and row 1 of 'train.*into no side"
    ):
        read_mura(root)


def test_mura_is_divided_by_body_part_only(tmp_path):
    with pytest.raises(DataError, match=r"site_by = 'hospital'.*body_part"):
        read_mura(write_mura(tmp_path), "hospital")
