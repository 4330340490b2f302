"""MURA: upper limbs from Stanford as PNG files in a folder for each study, and four tables without headers."""

import re
from pathlib import Path

from lightning_fed.errors import DataError
from lightning_fed.radiology.labels import Radiograph, Split, check_files, check_sides
from lightning_fed.radiology.tables import flag, read_cells, shown

# For example MURA-v1.1/train/XR_WRIST/patient00006/study1_positive/image1.png; the first folder is root itself.
_IMAGE = re.compile(r"[^/]+/((?:train|valid)/(XR_[A-Z]+)/(patient\d+)/study\d+_[a-z]+)/([^/]+\.png)")
_STUDY = re.compile(r"[^/]+/((?:train|valid)/XR_[A-Z]+/patient\d+/study\d+_[a-z]+)/?")
# What the authors call valid is the only other part that they publish; as the test it stays out of every training.
_PARTS: tuple[tuple[str, Split | None], ...] = (("train", None), ("valid", "test"))


def read_mura(root: str | Path, site_by: str | None = None) -> list[Radiograph]:
    """Read the tables of MURA v1.1.

    ``root`` is the folder ``MURA-v1.1`` with ``train_image_paths.csv``, ``train_labeled_studies.csv`` and the same two
    of ``valid``. An image has its study's label: 1 is abnormal, which is often and not always a fracture. The part
    ``valid`` becomes the test side.

    Args:
        root: the data set's folder.
        site_by: None, or ``body_part`` for sites like ``xr_wrist``.

    Returns:
        Training images first, each part in its table's order.

    Raises:
        DataError: a table or an image is missing, a path or a label is not understood, an image's study has no label,
            or a patient is in both parts.

    Source: Rajpurkar et al. 2018, MURA: Large Dataset for Abnormality Detection in Musculoskeletal Radiographs.
    """
    root = Path(root)
    if site_by not in (None, "body_part"):
        raise DataError(f"site_by = {site_by!r} is not known of MURA, which has no columns; give body_part or nothing.")
    radiographs = [row for part, split in _PARTS for row in _part(root, part, split, site_by is not None)]
    table = "train_image_paths.csv and valid_image_paths.csv"
    if not radiographs:
        raise DataError(f"{table} name no images; copy them again.")
    radiographs = check_files(radiographs, root, table)
    check_sides(radiographs)
    return radiographs


def _part(root: Path, part: str, split: Split | None, divided: bool) -> list[Radiograph]:
    labels = _labels(root, f"{part}_labeled_studies.csv")
    table = f"{part}_image_paths.csv"
    radiographs = []
    for number, cells in read_cells(root, table):
        where = f"row {number} of '{table}'"
        found = _IMAGE.fullmatch(cells[0])
        if found is None:
            raise DataError(
                f"{where}: {shown(cells[0])} is no path like "
                "MURA-v1.1/train/XR_WRIST/patient00006/study1_positive/image1.png; copy the file again."
            )
        study, body_part, patient, name = found.groups()
        if study not in labels:
            raise DataError(f"{where}: '{part}_labeled_studies.csv' has no label for {study}; copy both files again.")
        radiographs.append(
            Radiograph(
                path=root / study / name,
                patient_id=patient,
                fracture=labels[study],
                salter_harris=0,
                split=split,
                site=body_part.lower() if divided else None,
                where=where,
            )
        )
    return radiographs


def _labels(root: Path, table: str) -> dict[str, int]:
    labels: dict[str, int] = {}
    for number, cells in read_cells(root, table):
        where = f"row {number} of '{table}'"
        found = _STUDY.fullmatch(cells[0])
        if found is None or len(cells) != 2:
            raise DataError(
                f"{where}: {shown(','.join(cells))} is no study and label like "
                "MURA-v1.1/train/XR_WRIST/patient00006/study1_positive/,1; copy the file again."
            )
        label = flag(cells[1], "label", where)
        if labels.setdefault(found[1], label) != label:
            raise DataError(f"{where}: {found[1]} had label {1 - label} in a row before; copy the file again.")
    return labels
