"""``lightning-fed data check``: a site looks at its own data."""

import csv
import socket

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def folder(tmp_path):
    """Ten patients with a picture each, one of which is damaged."""
    root = tmp_path / "scans"
    root.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (10, 20, 20), dtype=np.uint8)
    with (root / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file, delimiter=";")
        table.writerow(["file", "patient_id", "fracture", "view", "clinic"])
        for number in range(10):
            Image.fromarray(pixels[number]).save(root / f"{number}.png")
            table.writerow([f"{number}.png", number, number % 2, "PA", "east" if number < 8 else "west"])
    (root / "3.png").write_bytes(b"damaged")
    return root


def test_a_folder_is_shown_and_nothing_is_sent(lightning_fed, folder, tmp_path, monkeypatch):
    def no_network(*arguments):
        raise AssertionError("data check opened a socket")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    code, out, err = lightning_fed("data", "check", folder, "--image_size", "16")
    assert (code, err) == (0, "")
    for part in ("fracture", "pa", "files that cannot be read: 1", "scans/3.png", "PNG L", "Nothing was sent"):
        assert part in out
    assert Image.open(tmp_path / "contact-sheet.png").info["Software"] == "lightning-fed data check"


def test_options_are_those_of_the_data_module(lightning_fed, folder, tmp_path):
    options = ("--site_by", "clinic", "--site", "west", "--val_fraction", "0", "--test_fraction", "0")
    code, out, _ = lightning_fed("data", "check", folder, *options, "--sheet", tmp_path / "west.png")
    assert code == 0
    assert "│ images   │             │     2 │   0 │    0 │   2 │" in out
    assert (tmp_path / "west.png").exists()


def test_data_that_a_data_module_refuses_is_shown_with_exit_code_1(lightning_fed, folder):
    options = ("--site_by", "clinic", "--site", "west", "--share", "[9,9]")
    code, out, _ = lightning_fed("data", "check", folder, *options)
    assert code == 1
    assert "A data module refuses this: the train side holds no radiographs" in out


def test_malformed_table_is_one_line_and_exit_code_1(lightning_fed, folder, tmp_path):
    (folder / "labels.csv").write_text('file,patient_id,fracture\n1.png,p,"1\n2.png,q,0\n')
    code, out, err = lightning_fed("data", "check", folder)
    assert (code, out) == (1, "")
    assert err.startswith("lightning-fed data: row 2 of 'labels.csv' opens a quotation mark that is never closed")
    assert len(err.splitlines()) == 1


def test_a_file_of_the_data_is_never_overwritten(lightning_fed, folder):
    before = (folder / "1.png").read_bytes()
    code, _, err = lightning_fed("data", "check", folder, "--sheet", folder / "1.png")
    assert code == 1
    assert "exists and is no contact sheet" in err
    assert (folder / "1.png").read_bytes() == before


def test_a_misspelt_option_is_answered_with_the_nearest_one(lightning_fed, folder):
    code, _, err = lightning_fed("data", "check", folder, "--lables", "x.csv")
    assert code == 2
    assert "Did you mean '--labels'?" in err
