"""A study of several synthetic hospitals on disk: folders of DICOM files, each with a table of labels."""

import csv
import dataclasses
import hashlib
import json
import math
import shutil
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from lightning_fed.errors import DataError
from lightning_fed.radiology.labels import read_labels
from lightning_fed.radiology.synthetic.anatomy import View, Wrist, random_wrist
from lightning_fed.radiology.synthetic.exposure import exposed, pixel_spacing_mm
from lightning_fed.radiology.synthetic.files import Header, write_file
from lightning_fed.radiology.synthetic.fractures import AO_CODES, Fracture, FractureKind, random_fracture
from lightning_fed.radiology.synthetic.style import SiteStyle, default_sites

MARKER = "study.json"
# Part of what names a study: raise it whenever the same arguments would give other files.
_FORMAT = 2

_COLUMNS = (
    "file", "patient_id", "fracture", "salter_harris", "ao_classification", "age", "gender", "laterality", "projection",
    "cast",
)  # fmt: skip
# Ages in years at which a fracture of that kind is seen: a growth plate has to be there and open, bones that buckle are
# young. None is a wrist without a fracture.
_AGES: dict[FractureKind | None, tuple[float, float]] = {
    None: (2.0, 17.5),
    "I": (4.0, 14.5),
    "II": (5.0, 15.0),
    "III": (7.0, 15.5),
    "IV": (7.0, 15.5),
    "torus": (2.0, 13.0),
    "metaphyseal": (3.0, 16.0),
}


@dataclass(frozen=True)
class Patient:
    """One patient of a synthetic hospital.

    Attributes:
        pseudonym: unique within the site.
        wrist: the injured or examined wrist.
        left: which side it is.
        cast: whether it is in a cast.
        fracture: of the radius, or None.
        views: one for each of the patient's images.
    """

    pseudonym: str
    wrist: Wrist
    left: bool
    cast: bool
    fracture: Fracture | None
    views: tuple[View, ...]


def write_study(
    root: str | Path,
    sites: Sequence[SiteStyle] | None = None,
    images_per_site: int = 300,
    seed: int = 0,
    processes: int = 1,
) -> bool:
    """Write a study, unless it is there already.

    Each site becomes a folder ``<root>/<site>`` with ``images/*.dcm`` and ``labels.csv`` as
    :func:`lightning_fed.radiology.read_labels` reads it. Equal arguments give equal bytes. Everything is written beside
    ``root`` and moved there at the end, so an interrupted run leaves no ``root`` that could pass for a study.

    Args:
        root: the study's folder; its parent is created if need be.
        sites: the hospitals, by default the four of :func:`default_sites`.
        images_per_site: images in each, at least 1; a patient has one to three.
        seed: another seed gives other patients.
        processes: how many sites are written at a time; above 1 in processes of their own, which import the calling
            program's main module.

    Returns:
        True if the study was written, False if ``root`` held exactly this study already.

    Raises:
        DataError: an argument is out of range, two sites share a name, or ``root`` holds something else or a study of
            which files are missing.
    """
    root = Path(root)
    styles = default_sites() if sites is None else tuple(sites)
    names = [style.name for style in styles]
    if not names or len(set(names)) != len(names):
        raise DataError(f"sites = {names} must be at least one and have different names; they become folders.")
    if images_per_site < 1 or seed < 0:
        raise DataError(f"images_per_site = {images_per_site} must be at least 1 and seed = {seed} at least 0.")
    description = _description(styles, images_per_site, seed)
    if _is_there(root, description, styles):
        return False
    unfinished = root.parent / f".{root.name}.unfinished"
    if unfinished.exists():
        shutil.rmtree(unfinished)
    unfinished.mkdir(parents=True)
    if processes > 1:
        # Fresh processes: numpy's threads do not survive a fork.
        with ProcessPoolExecutor(min(processes, len(styles)), get_context("spawn")) as pool:
            written = [pool.submit(_write_site, unfinished / one.name, one, images_per_site, seed) for one in styles]
            for each in written:
                each.result()
    else:
        for style in styles:
            _write_site(unfinished / style.name, style, images_per_site, seed)
    (unfinished / MARKER).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    if root.exists():
        root.rmdir()
    unfinished.rename(root)
    return True


def patients(style: SiteStyle, images: int, seed: int = 0) -> Iterator[Patient]:
    """Yield a site's patients, whose images add up to a given number.

    Args:
        style: the hospital.
        images: how many images in all.
        seed: of the study.
    """
    left_to_take, number = images, 0
    while left_to_take:
        patient = _patient(style, number, seed, left_to_take)
        left_to_take -= len(patient.views)
        number += 1
        yield patient


def _patient(style: SiteStyle, number: int, seed: int, most_images: int) -> Patient:
    random = _random(style, seed, number)
    kind: FractureKind | None = None
    if random.random() < style.prevalence:
        weights = np.array(list(style.fractures.values()), dtype=float)
        kind = list(style.fractures)[int(random.choice(len(weights), p=weights / weights.sum()))]
    low, high = _AGES[kind]
    age = float(np.clip(random.normal(style.age_mean, style.age_sd), low, high))
    female = bool(random.random() < 0.45)
    if kind in ("I", "II", "III", "IV") and female:
        # Girls' growth plates are closed two years earlier.
        age = min(age, 13.5)
    count = min(most_images, int(random.choice((1, 2, 3), p=(0.5, 0.35, 0.15))))
    return Patient(
        pseudonym=f"{style.name}-{number:05d}",
        wrist=random_wrist(age, female, random),
        left=bool(random.random() < 0.5),
        cast=bool(random.random() < (style.cast_normal if kind is None else style.cast_fractured)),
        fracture=None if kind is None else random_fracture(kind, random),
        views=tuple("AP" if random.random() < style.ap_share else "LL" for _ in range(count)),
    )


def _write_site(folder: Path, style: SiteStyle, images: int, seed: int) -> None:
    (folder / "images").mkdir(parents=True)
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, _COLUMNS)
        table.writeheader()
        for number, patient in enumerate(patients(style, images, seed)):
            for index, view in enumerate(patient.views, start=1):
                name = f"images/{patient.pseudonym}_{index}.dcm"
                _write_image(folder / name, style, patient, view, index, seed, number)
                table.writerow(_row(name, patient, view))


def _write_image(
    path: Path, style: SiteStyle, patient: Patient, view: View, index: int, seed: int, number: int
) -> None:
    grey = exposed(
        style,
        patient.wrist,
        view,
        left=patient.left,
        cast=patient.cast,
        fracture=patient.fracture,
        random=_random(style, seed, number, index),
    )
    header = Header(
        patient=patient.pseudonym,
        image=index,
        age_years=patient.wrist.age_years,
        female=patient.wrist.female,
        left=patient.left,
        view=view,
        spacing_mm=pixel_spacing_mm(style, patient.wrist),
        seed=seed,
    )
    write_file(path, grey, style, header)


def _row(name: str, patient: Patient, view: View) -> dict[str, object]:
    fracture = patient.fracture
    return {
        "file": name,
        "patient_id": patient.pseudonym,
        "fracture": int(fracture is not None),
        "salter_harris": fracture.salter_harris if fracture else "",
        "ao_classification": AO_CODES[fracture.kind] if fracture else "",
        # Cut off like an age in years, so that it agrees with the file's.
        "age": math.floor(patient.wrist.age_years * 10) / 10,
        "gender": "F" if patient.wrist.female else "M",
        "laterality": "L" if patient.left else "R",
        "projection": 1 if view == "AP" else 2,
        "cast": int(patient.cast),
    }


def _random(style: SiteStyle, seed: int, *stream: int) -> np.random.Generator:
    # By name, not by position: a site keeps its images when others are added.
    return np.random.default_rng([seed, zlib.crc32(style.name.encode()), *stream])


def _description(styles: Sequence[SiteStyle], images_per_site: int, seed: int) -> dict[str, object]:
    exact = json.dumps([dataclasses.asdict(style) for style in styles], sort_keys=True)
    return {
        "format": _FORMAT,
        "seed": seed,
        "images_per_site": images_per_site,
        "sites": [style.name for style in styles],
        "styles_sha256": hashlib.sha256(exact.encode()).hexdigest(),
    }


def _is_there(root: Path, description: dict[str, object], styles: Sequence[SiteStyle]) -> bool:
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    marker = root / MARKER
    if not marker.is_file():
        raise DataError(f"'{root}' holds something that is no synthetic study; name another or an empty folder.")
    try:
        found = json.loads(marker.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"'{marker}' is damaged; remove the study's folder and write it again.") from error
    if found != description:
        raise DataError(
            f"'{root}' holds a study written with other arguments ({found}); name another folder or remove that one."
        )
    for style in styles:
        # Files that somebody has removed since are an error there.
        read_labels(root / style.name)
    return True
