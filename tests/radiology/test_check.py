"""What ``data check`` counts and draws is what a data module has."""

import numpy as np
import pytest
import torch
from PIL import Image
from public_layouts import graz, write_csv, write_image
from rich.console import Console

from lightning_fed.errors import DataError
from lightning_fed.radiology import RadiographDataModule
from lightning_fed.radiology.check import report, survey, write_contact_sheet

NOISE = np.random.default_rng(0).integers(0, 4096, (30, 24))


def module(root, **options):
    return RadiographDataModule(str(root), **{"image_size": 16, "cache": False, **options})


def printed(found):
    console = Console(width=160)
    with console.capture() as capture:
        for part in report(found):
            console.print(part)
    return capture.get()


def test_counts_are_those_of_the_data_modules_sides(write_site):
    data = module(write_site(patients=20, damaged=("p1_0.dcm",)))
    found = survey(data)
    for split in ("train", "val", "test"):
        rows = data.dataset(split).radiographs
        assert sum(count for (_, _, side), count in found.images.items() if side == split) == len(rows)
        fractures = sum(row.fracture for row in rows)
        assert found.images["unknown", "fracture, Salter-Harris II", split] == fractures
        assert found.images["unknown", "no fracture", split] == len(rows) - fractures
        assert found.patients(split) == len({row.patient_id for row in rows})
    assert found.refusals == []
    assert sum(found.attributes["BitsStored"].values()) == 39


def test_attributes_views_and_spacings_come_from_the_headers(tmp_path, write_radiograph):
    spacings = [
        {"PixelSpacing": [0.2, 0.2]},
        {"ImagerPixelSpacing": ["0.20", "0.20"]},
        {"NominalScannedPixelSpacing": [1, 1]},
    ]
    rows = []
    for number, attributes in enumerate([*spacings, {}]):
        photometric = "MONOCHROME1" if number == 0 else "MONOCHROME2"
        attributes = {"ViewPosition": "PA" if number < 3 else "", "Modality": "CR", **attributes}
        write_radiograph(NOISE, f"{number}.dcm", bits=12 if number else 14, photometric=photometric, **attributes)
        rows.append([f"{number}.dcm", f"p{number}", number % 2])
    write_csv(tmp_path / "labels.csv", ["file", "patient_id", "fracture"], *rows)
    found = survey(module(tmp_path, val_fraction=0, test_fraction=0))
    assert found.attributes == {
        "Modality": {"CR": 4},
        "BodyPartExamined": {"unknown": 4},
        "Manufacturer": {"unknown": 4},
        "BitsStored": {"14": 1, "12": 3},
        "PhotometricInterpretation": {"MONOCHROME1": 1, "MONOCHROME2": 3},
        "pixel spacing (mm)": {"0.2": 2, "1": 1, "unknown": 1},
    }
    assert found.images == {
        ("pa", "no fracture", "train"): 2, ("pa", "fracture", "train"): 1, ("unknown", "fracture", "train"): 1,
    }  # fmt: skip


def test_many_spacings_become_intervals_and_every_file_is_in_one(tmp_path, write_radiograph):
    rows = []
    for number in range(30):
        spacing = 0.1 + number / 100
        write_radiograph(NOISE, f"{number}.dcm", PixelSpacing=[f"{spacing:.2f}", f"{spacing:.2f}"])
        rows.append([f"{number}.dcm", number, 0])
    write_csv(tmp_path / "labels.csv", ["file", "patient_id", "fracture"], *rows)
    spacings = survey(module(tmp_path)).attributes["pixel spacing (mm)"]
    assert len(spacings) == 12
    assert sum(spacings.values()) == 30
    assert next(iter(spacings)) == "0.100 to 0.124"


def test_public_layout_is_checked_with_its_views_and_pictures_bits(tmp_path):
    found = survey(module(graz(tmp_path), layout="grazpedwri"))
    assert {view for view, _, _ in found.images} == {"ap", "lateral"}
    assert found.attributes["BitsStored"] == {"16": 104}
    assert found.attributes["PhotometricInterpretation"] == {"PNG I;16": 104}


def test_report_shows_counts_reasons_and_brackets_in_names(write_site):
    root = write_site(patients=6, damaged=("p1_0.dcm",))
    (root / "p1_0.dcm").rename(root / "[bold]p1.dcm")
    text = (root / "labels.csv").read_text().replace("p1_0.dcm", "[bold]p1.dcm")
    (root / "labels.csv").write_text(text)
    shown = printed(survey(module(root, val_fraction=0, test_fraction=0)))
    for part in ("files that cannot be read: 1", "'[bold]p1.dcm' is not a DICOM image", "│    11 │   0 │    0 │  11 │"):
        assert part in shown
    assert "refuses" not in shown


def test_what_a_data_module_refuses_is_said(write_site):
    data = module(write_site(patients=4, split=lambda patient: "test"))
    found = survey(data)
    with pytest.raises(DataError) as refused:
        data.setup("fit")
    assert found.refusals == [str(refused.value)]
    assert f"A data module refuses this: {refused.value}" in printed(found)


def test_contact_sheet_shows_the_images_that_the_model_gets(write_site, tmp_path):
    data = module(write_site(patients=10), augment=False, val_fraction=0, test_fraction=0.2)
    datasets = survey(data).datasets
    path = tmp_path / "sheet.png"
    write_contact_sheet(datasets, path)
    assert path.stat().st_mode & 0o777 == 0o600
    sheet = torch.from_numpy(np.asarray(Image.open(path)).copy())[..., 0]
    # Four strips: training and test, each without and with a fracture; images begin behind a border of 2 pixels.
    assert sheet.shape == (4 * (18 + 16 + 4), 160)
    train = datasets["train"]
    first = next(place for place, row in enumerate(train.radiographs) if row.fracture == 0)
    expected = (train[first]["image"][0] * 255).to(torch.uint8)
    assert torch.equal(sheet[20:36, 2:18], expected)


def test_contact_sheet_overwrites_nothing_but_a_contact_sheet(write_site, tmp_path):
    datasets = survey(module(write_site(patients=4))).datasets
    write_contact_sheet(datasets, tmp_path / "sheet.png")
    first = (tmp_path / "sheet.png").read_bytes()
    write_contact_sheet({"val": datasets["val"]}, tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").read_bytes() != first
    radiograph = write_image(tmp_path / "radiograph.png").read_bytes()
    (tmp_path / "notes.png").write_text("not a picture")
    for name in ("radiograph.png", "notes.png"):
        with pytest.raises(DataError, match=rf"{name} exists and is no contact sheet"):
            write_contact_sheet(datasets, tmp_path / name)
    assert (tmp_path / "radiograph.png").read_bytes() == radiograph
    with pytest.raises(DataError, match=r"labels\.csv is a PNG"):
        write_contact_sheet(datasets, tmp_path / "labels.csv")
    with pytest.raises(DataError, match="cannot be written: No such file or directory"):
        write_contact_sheet(datasets, tmp_path / "no folder" / "sheet.png")
