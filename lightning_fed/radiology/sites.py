"""One site's part of a data set that several sites of a simulation share."""

from collections import Counter
from collections.abc import Mapping, Sequence

from lightning_fed.errors import DataError
from lightning_fed.radiology.labels import Radiograph, Split
from lightning_fed.radiology.splits import fracture_patients, home_sites, keyed_hash
from lightning_fed.radiology.tables import folded


def share_of_patients(
    sides: Mapping[Split, Sequence[Radiograph]], share: tuple[int, int], *, seed: int = 0
) -> dict[Split, list[Radiograph]]:
    """Keep the patients of one of several equal shares.

    The patients of each side go round robin, ordered by site, fracture and a keyed hash, so that the shares have about
    as many patients of each site, and about as many with a fracture, on each side. The shares of a number together
    are everything, and no patient is in two.

    Args:
        sides: the data set, split by patient.
        share: which of how many, counted from 1.
        seed: another seed, other shares.

    Returns:
        The same sides with the share's radiographs in their order; a side may be empty.
    """
    which, count = share
    kept: dict[Split, list[Radiograph]] = {}
    for side, rows in sides.items():
        fractured = fracture_patients(rows)
        keys = {
            patient: (home, fractured[patient], keyed_hash(patient, seed)) for patient, home in home_sites(rows).items()
        }
        chosen = set(sorted(keys, key=keys.__getitem__)[which - 1 :: count])
        kept[side] = [row for row in rows if row.patient_id in chosen]
    return kept


def radiographs_at(
    sides: Mapping[Split, Sequence[Radiograph]], site: str, *, all_rows: Sequence[Radiograph]
) -> dict[Split, list[Radiograph]]:
    """Keep one site's radiographs.

    Args:
        sides: the data set or a share of it, split by patient.
        site: the site's name, compared without case.
        all_rows: the data set, which says what sites there are.

    Returns:
        The same sides with the site's radiographs in their order; a side may be empty.

    Raises:
        DataError: no radiograph is of that site.
    """
    counts = Counter(row.site for row in all_rows)
    name = folded(site)
    if name not in counts:
        there = ", ".join(f"{other} ({count} images)" for other, count in counts.most_common(20))
        raise DataError(f"site = {site!r} does not occur in the data set; there are {there}. Name one of them.")
    return {side: [row for row in rows if row.site == name] for side, rows in sides.items()}
