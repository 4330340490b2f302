"""FracAtlas: hands, legs, hips and shoulders as JPEG files and one table."""

from pathlib import Path

from lightning_fed.radiology.labels import Radiograph, check_files
from lightning_fed.radiology.tables import file_name, flag, read_table, site_columns, site_of

_TABLE = "dataset.csv"
_REGIONS = ("hand", "leg", "hip", "shoulder", "mixed")
_VIEWS = ("frontal", "lateral", "oblique")
_FOLDERS = ("Non_fractured", "Fractured")


def read_fracatlas(root: str | Path, site_by: str | None = None) -> list[Radiograph]:
    """Read the table of FracAtlas.

    ``root`` holds ``dataset.csv``, ``images/Fractured`` and ``images/Non_fractured``; the column ``fractured`` is the
    label and says in which of the two an image lies. The data set names no patients, so every image counts as one of
    its own: whether two images of one patient are on two sides of a split cannot be known.

    Args:
        root: the data set's folder.
        site_by: what divides the data set into sites: a column, or ``region`` for the names of the columns among
            ``hand``, ``leg``, ``hip``, ``shoulder`` and ``mixed`` that are 1, joined with ``+``.

    Returns:
        The rows in the table's order.

    Raises:
        DataError: the table, a column or an image is missing, or a cell is not understood.

    Source: Abedeen et al. 2023, FracAtlas: A Dataset for Fracture Classification, Localization and Segmentation of
    Musculoskeletal Radiographs.
    """
    root = Path(root)
    by_region = site_by == "region"
    columns = _REGIONS if by_region else site_columns(site_by)
    radiographs = []
    for number, row in read_table(root, _TABLE, ("image_id", "fractured", *columns)):
        where = f"row {number} of '{_TABLE}'"
        name = file_name(row["image_id"], "image_id", where)
        fracture = flag(row["fractured"], "fractured", where)
        radiographs.append(
            Radiograph(
                path=root / "images" / _FOLDERS[fracture] / name,
                patient_id=name,
                fracture=fracture,
                salter_harris=0,
                split=None,
                site=_region(row, where) if by_region else site_of(row, site_by),
                view="+".join(name for name in _VIEWS if row.get(name) == "1"),
                where=where,
            )
        )
    return check_files(radiographs, root, _TABLE)


def _region(row: dict[str, str], where: str) -> str:
    return "+".join(name for name in _REGIONS if flag(row[name], name, where)) or "unknown"
