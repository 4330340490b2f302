import csv
import hashlib

import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from lightning_fed.errors import DataError
from lightning_fed.radiology import RadiographDataModule, read_labels, read_radiograph, salter_harris_from_ao
from lightning_fed.radiology.synthetic import SiteStyle, default_sites, patients, write_study
from lightning_fed.radiology.synthetic import study as study_module
from lightning_fed.radiology.synthetic.__main__ import main

IMAGES = 14


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    root = tmp_path_factory.mktemp("synthetic") / "study"
    assert write_study(root, default_sites(8), images_per_site=IMAGES, seed=3)
    return root


def table(site):
    with (site / "labels.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def digests(root):
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


def test_every_file_of_every_site_is_read_as_an_image_with_contrast(study):
    for style in default_sites(8):
        rows = read_labels(study / style.name)
        assert len(rows) == IMAGES
        for row in rows:
            image = read_radiograph(row.path)
            assert image.shape == (1, style.rows, style.columns)
            assert image.std() > 0.05


def test_bone_is_bright_whatever_the_photometric_interpretation(study):
    for style in default_sites(8):
        for row in read_labels(study / style.name):
            image = read_radiograph(row.path)[0]
            rows, columns = image.shape
            inside = image[rows // 2 : 3 * rows // 4, columns // 3 : 2 * columns // 3].mean()
            corners = image[-rows // 5 :, [2, 3, -4, -3]].mean()
            assert inside > corners + 0.05


def test_every_site_feeds_the_data_module(study):
    for style in default_sites(8):
        module = RadiographDataModule(
            str(study / style.name), image_size=48, batch_size=4, unreadable="error", val_fraction=0.2
        )
        module.setup("fit")
        batch = next(iter(module.train_dataloader()))
        assert batch["image"].shape == (4, 1, 48, 48)


def test_equal_arguments_give_equal_bytes_and_another_seed_other_images(tmp_path):
    sites = default_sites(4)
    for name, seed in (("one", 5), ("two", 5), ("three", 6)):
        write_study(tmp_path / name, sites, images_per_site=3, seed=seed)
    one, two, three = (digests(tmp_path / name) for name in ("one", "two", "three"))
    assert one == two
    assert not set(one.values()) & {digest for name, digest in three.items() if name.endswith(".dcm")}


def test_a_site_keeps_its_images_when_others_are_added(tmp_path):
    write_study(tmp_path / "two", default_sites(2), images_per_site=3)
    write_study(tmp_path / "three", default_sites(3)[1:], images_per_site=3)
    assert digests(tmp_path / "two" / "east") == digests(tmp_path / "three" / "east")


def test_several_processes_write_the_same_bytes_as_one(tmp_path):
    for name, processes in (("one", 1), ("three", 3)):
        write_study(tmp_path / name, default_sites(3), images_per_site=3, processes=processes)
    assert digests(tmp_path / "one") == digests(tmp_path / "three")


def test_labels_agree_with_each_other_and_with_the_files(study):
    for style in default_sites(8):
        for row, radiograph in zip(table(study / style.name), read_labels(study / style.name), strict=True):
            assert radiograph.fracture == int(bool(row["ao_classification"]))
            assert radiograph.salter_harris == salter_harris_from_ao(row["ao_classification"])
            header = pydicom.dcmread(radiograph.path, stop_before_pixels=True)
            assert header.PatientID == row["patient_id"]
            assert (header.PatientSex, header.Laterality) == (row["gender"], row["laterality"])
            assert header.ViewPosition == {"1": "AP", "2": "LL"}[row["projection"]]
            assert int(header.PatientAge[:3]) == int(float(row["age"]))


def test_patients_with_several_images_have_one_study_and_one_label(study):
    seen = {}
    for row in table(study / "north"):
        header = pydicom.dcmread(study / "north" / row["file"], stop_before_pixels=True)
        seen.setdefault(row["patient_id"], []).append((header.StudyInstanceUID, row["ao_classification"]))
    assert max(len(images) for images in seen.values()) > 1
    assert all(len(set(images)) == 1 for images in seen.values())
    assert len({images[0][0] for images in seen.values()}) == len(seen)


def test_sites_differ_in_encoding_and_grey_scale(study):
    headers = {
        style.name: pydicom.dcmread(next((study / style.name / "images").iterdir())) for style in default_sites(8)
    }
    syntaxes = {header.file_meta.TransferSyntaxUID for header in headers.values()}
    assert syntaxes == {ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless, JPEG2000Lossless}
    assert {header.PhotometricInterpretation for header in headers.values()} == {"MONOCHROME1", "MONOCHROME2"}
    assert {header.BitsStored for header in headers.values()} == {8, 10, 12, 14, 16}
    assert "VOILUTSequence" in headers["west"]
    assert "WindowCenter" not in headers["lake"] and "VOILUTSequence" not in headers["lake"]


def test_no_default_site_sees_all_salter_harris_types_but_together_they_do():
    kinds = [{p.fracture.kind for p in patients(style, 200) if p.fracture} for style in default_sites(4)]
    growth_plate = {"I", "II", "III", "IV"}
    assert not any(growth_plate <= seen for seen in kinds)
    assert set.union(*kinds) == growth_plate | {"torus", "metaphyseal"}


def test_growth_plate_injuries_occur_in_open_growth_plates_only():
    for style in default_sites(8):
        for patient in patients(style, 200, seed=1):
            if patient.fracture and patient.fracture.salter_harris:
                assert patient.wrist.closure < 0.5


def test_complete_study_is_left_alone(study):
    before = {path: path.stat().st_mtime_ns for path in study.rglob("*")}
    assert not write_study(study, default_sites(8), images_per_site=IMAGES, seed=3)
    assert {path: path.stat().st_mtime_ns for path in study.rglob("*")} == before


@pytest.mark.parametrize("changed", [{"images_per_site": IMAGES + 1}, {"seed": 4}, {"sites": default_sites(7)}])
def test_study_written_with_other_arguments_is_refused(study, changed):
    arguments = {"sites": default_sites(8), "images_per_site": IMAGES, "seed": 3, **changed}
    with pytest.raises(DataError, match="other arguments"):
        write_study(study, **arguments)


def test_interrupted_run_leaves_no_study_and_the_next_one_completes(tmp_path, monkeypatch):
    root, written = tmp_path / "study", []
    original = study_module.write_file

    def stop_at_the_third(*arguments):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(arguments)
        original(*arguments)

    monkeypatch.setattr(study_module, "write_file", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        write_study(root, default_sites(1), images_per_site=4)
    assert not root.exists()
    monkeypatch.undo()
    assert write_study(root, default_sites(1), images_per_site=4)
    assert [path.name for path in tmp_path.iterdir()] == ["study"]


def test_study_of_which_a_file_was_removed_is_an_error(tmp_path):
    write_study(tmp_path / "study", default_sites(1), images_per_site=2)
    next((tmp_path / "study" / "north" / "images").iterdir()).unlink()
    with pytest.raises(DataError, match="1 of 2 files"):
        write_study(tmp_path / "study", default_sites(1), images_per_site=2)


def test_folder_with_anything_else_in_it_is_not_touched(tmp_path):
    (tmp_path / "scans.txt").write_text("mine")
    with pytest.raises(DataError, match="no synthetic study"):
        write_study(tmp_path, images_per_site=1)
    assert (tmp_path / "scans.txt").read_text() == "mine"


@pytest.mark.parametrize("options", [{"images_per_site": 0}, {"seed": -1}, {"sites": []}])
def test_impossible_arguments_are_refused(tmp_path, options):
    with pytest.raises(DataError):
        write_study(tmp_path / "study", **options)
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("options", [{"prevalence": 1.5}, {"bits": 7}, {"fractures": {"V": 1.0}}, {"fractures": {}}])
def test_impossible_styles_are_refused(options):
    with pytest.raises(DataError, match="'nowhere'"):
        SiteStyle(name="nowhere", manufacturer="None", **options)


def test_command_writes_once_and_says_so(tmp_path, capsys):
    arguments = [str(tmp_path / "study"), "--images-per-site", "2", "--sites", "2"]
    assert main(arguments) == 0
    assert main(arguments) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "study").iterdir()) == ["east", "north", "study.json"]
    assert main([*arguments, "--seed", "1"]) == 1
