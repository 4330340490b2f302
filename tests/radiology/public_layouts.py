"""Small data sets of the public layouts as real PNG and JPEG files; a file's name decides its pixels."""

import csv
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

GRAZ_COLUMNS = (
    "filestem", "patient_id", "study_number", "timehash", "gender", "age", "laterality", "projection", "initial_exam",
    "ao_classification", "cast", "diagnosis_uncertain", "osteopenia", "fracture_visible", "metal", "pixel_spacing",
    "device_manufacturer",
)  # fmt: skip
FRACATLAS_COLUMNS = (
    "image_id", "hand", "leg", "hip", "shoulder", "mixed", "hardware", "multiscan", "fractured", "fracture_count",
    "frontal", "lateral", "oblique",
)  # fmt: skip


def write_csv(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def write_image(path, top=255, dtype=np.uint8, bright=False):
    """Noise, and with ``bright`` a bar in the middle that a small network finds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(zlib.crc32(path.name.encode())).integers(0, top // 2, (40, 30))
    if bright:
        pixels[15:25] += top // 2
    Image.fromarray(pixels.astype(dtype)).save(path)
    return path


def graz_row(patient, manufacturer="Siemens", fracture="", ao="", view=1, hash_=1):
    stem = f"{patient:04d}_{hash_:010d}_01_WRI-L{view}_F010"
    return [stem, patient, 1, hash_, "F", 10.2, "L", view, 1, ao, "", "", "", fracture, "", 0.144, manufacturer]


def write_graz(root, rows, folder="images"):
    write_csv(root / "dataset.csv", GRAZ_COLUMNS, *rows)
    for row in rows:
        write_image(root / folder / f"{row[0]}.png", top=4095, dtype=np.uint16, bright=row[13] == "1.0")
    return root


def graz(root, siemens=36, agfa=12, both=4):
    """Two views a patient, every other patient with a type II fracture, and some at both manufacturers."""
    rows = []
    for patient in range(1, siemens + agfa + both + 1):
        makers = (
            ("Siemens", "Siemens")
            if patient <= siemens
            else ("Agfa", "Agfa")
            if patient <= siemens + agfa
            else ("Siemens", "Agfa")
        )
        broken = ("1.0", "23r-E/2.1; 23u-M/2.1") if patient % 2 else ("", "")
        rows += [graz_row(patient, maker, *broken, view=view) for view, maker in enumerate(makers, start=1)]
    return write_graz(root, rows)


def write_fracatlas(root, images=48):
    rows = []
    for number in range(images):
        region = [int(number % 4 == column) for column in range(4)] + [0]
        fractured = int(number % 3 == 0)
        name = f"IMG{number:07d}.jpg"
        rows.append([name, *region, 0, 0, fractured, fractured, 1, 0, 0])
        folder = "Fractured" if fractured else "Non_fractured"
        write_image(root / "images" / folder / name, bright=bool(fractured))
    write_csv(root / "dataset.csv", FRACATLAS_COLUMNS, *rows)
    return root


def write_mura(root, patients=40, first_valid=30):
    """Two views of each patient's wrist, one of the shoulder of every fifth; the last patients are the part valid."""
    for part, numbers in (("train", range(1, first_valid)), ("valid", range(first_valid, patients + 1))):
        paths, studies = [], []
        for number in numbers:
            for body_part in ("XR_WRIST", "XR_SHOULDER") if number % 5 == 0 else ("XR_WRIST",):
                result = "positive" if number % 2 else "negative"
                study = f"{part}/{body_part}/patient{number:05d}/study1_{result}"
                studies.append([f"MURA-v1.1/{study}/", int(number % 2)])
                for image in range(1, 3 if body_part == "XR_WRIST" else 2):
                    write_image(root / study / f"image{image}.png", bright=bool(number % 2))
                    paths.append([f"MURA-v1.1/{study}/image{image}.png"])
        write_csv(root / f"{part}_labeled_studies.csv", *studies)
        write_csv(root / f"{part}_image_paths.csv", *paths)
    return root


if __name__ == "__main__":
    graz(Path("data/grazpedwri"))
    write_fracatlas(Path("data/FracAtlas"))
    write_mura(Path("data/MURA-v1.1"))
