"""Deterministic train, validation and test sets in which no patient is on two sides."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from lightning_fed.errors import DataError
from lightning_fed.radiology.labels import SPLITS, Radiograph, Split


def split_patients(
    has_fracture: Mapping[str, bool], *, val_fraction: float, test_fraction: float, seed: int = 0
) -> dict[str, Split]:
    """Assign every patient to one side, with about the same share of fracture patients on each.

    Patients are sorted by fracture and then by a keyed hash of their pseudonym; test and validation patients are picked
    at even distances along that order, so both the number on each side and the share of fractures are as close to
    the fractions as whole patients allow. A side with a positive fraction gets at least one patient when there are
    three. The result depends on the set of patients and the seed, not on their order; a new patient may move others,
    so a study that still grows should write the sides into the table's ``split`` column.

    Args:
        has_fracture: for each patient, whether any of the images shows a fracture.
        val_fraction: share of the patients for validation, in [0, 1).
        test_fraction: share of the patients for the test, in [0, 1).
        seed: another seed, another assignment.

    Returns:
        The side of every patient.

    Raises:
        DataError: a fraction is out of range or nothing is left for training.
    """
    for name, fraction in (("val_fraction", val_fraction), ("test_fraction", test_fraction)):
        if not 0 <= fraction < 1:
            raise DataError(f"{name} = {fraction} is not in [0, 1); give a share of the patients.")
    if val_fraction + test_fraction >= 1:
        raise DataError(
            f"val_fraction + test_fraction = {val_fraction + test_fraction:g} leaves nothing for training; "
            "keep it below 1."
        )
    order = sorted(has_fracture, key=lambda patient: (has_fracture[patient], keyed_hash(patient, seed)))
    test = _evenly_spaced(order, _count(len(order), test_fraction))
    rest = [patient for patient in order if patient not in test]
    # Of the patients without a test set at least one must stay for training.
    val = _evenly_spaced(rest, min(_count(len(order), val_fraction), max(0, len(rest) - 1)))
    return {patient: "test" if patient in test else "val" if patient in val else "train" for patient in order}


def split_radiographs(
    radiographs: Iterable[Radiograph], *, val_fraction: float, test_fraction: float, seed: int = 0
) -> dict[Split, list[Radiograph]]:
    """Divide radiographs by patient: as the table says, or else by :func:`split_patients`.

    A data set that is divided into sites is split for each site on its own, so that every site has its part of each
    side. A patient with images at several sites counts where most of them are and is on one side at all sites: what one
    site trains on, no other tests.

    Args:
        radiographs: rows of a table; a patient's images all have the same ``split``.
        val_fraction: share of the patients for validation; ignored for those whose side is assigned.
        test_fraction: share of the patients for the test; ignored likewise.
        seed: seed of the assignment; ignored likewise.

    Returns:
        The radiographs of each side in the order given; a side may be empty.

    Raises:
        DataError: a fraction is out of range.
    """
    rows = list(radiographs)
    fractured = fracture_patients(rows)
    by_home: dict[str, dict[str, bool]] = defaultdict(dict)
    assigned = {row.patient_id for row in rows if row.split is not None}
    for patient, home in home_sites(rows).items():
        # Sites whose patients are all assigned stay in, so that impossible fractions are refused for them, too.
        by_home[home].update({} if patient in assigned else {patient: fractured[patient]})
    sides: dict[str, Split] = {}
    for has_fracture in by_home.values():
        sides |= split_patients(has_fracture, val_fraction=val_fraction, test_fraction=test_fraction, seed=seed)
    result: dict[Split, list[Radiograph]] = {split: [] for split in SPLITS}
    for row in rows:
        result[row.split or sides[row.patient_id]].append(row)
    return result


def fracture_patients(radiographs: Iterable[Radiograph]) -> dict[str, bool]:
    """Return for each patient whether any of the images shows a fracture."""
    has_fracture: dict[str, bool] = {}
    for row in radiographs:
        has_fracture[row.patient_id] = has_fracture.get(row.patient_id, False) or row.fracture == 1
    return has_fracture


def home_sites(radiographs: Iterable[Radiograph]) -> dict[str, str]:
    """Return for each patient the site with most of the images, of equals the first by name; empty without sites."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in radiographs:
        counts[row.patient_id][row.site or ""] += 1
    return {patient: min(count, key=lambda site: (-count[site], site)) for patient, count in counts.items()}


def keyed_hash(patient: str, seed: int) -> bytes:
    """Return what patients are ordered by: the same in every process, another for another seed."""
    # Not Python's hash(): that one differs from process to process.
    return hashlib.sha256(f"{seed}:{patient}".encode()).digest()


def _count(patients: int, fraction: float) -> int:
    wanted = int(patients * fraction + 0.5)
    return max(1, wanted) if fraction > 0 and patients >= 3 else min(wanted, max(0, patients - 1))


def _evenly_spaced(order: list[str], count: int) -> set[str]:
    return {order[int((position + 0.5) * len(order) / count)] for position in range(count)}
