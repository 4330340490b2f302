"""GRAZPEDWRI-DX: children's wrists from Graz as 16-bit PNG files and one table."""

from pathlib import Path

from lightning_fed.radiology.labels import Radiograph, check_files, pixel_spacing_of, salter_harris_from_ao
from lightning_fed.radiology.tables import file_name, flag, patient_of, read_table, site_columns, site_of

_TABLE = "dataset.csv"
_VIEWS = {"1": "ap", "2": "lateral"}
_REQUIRED = ("filestem", "patient_id", "ao_classification", "fracture_visible")


def read_grazpedwri(root: str | Path, site_by: str | None = None) -> list[Radiograph]:
    """Read the table of GRAZPEDWRI-DX.

    ``root`` holds ``dataset.csv`` and the PNG files, either beside it or in folders whose names begin with ``images``
    (``images``, or the unpacked ``images_part1`` to ``images_part4``). An image counts as a fracture if
    ``fracture_visible`` is 1; an empty cell is 0. The Salter-Harris type comes from ``ao_classification``, for images
    with a visible fracture only, because the code belongs to the injury and not to the view. The distance of the pixels
    is ``pixel_spacing``, in mm, if that column is there.

    Args:
        root: the data set's folder.
        site_by: column that divides the data set into sites, for example ``device_manufacturer``.

    Returns:
        The rows in the table's order.

    Raises:
        DataError: the table, a column or an image is missing, or a cell is not understood.

    Source: Nagy et al. 2022, A pediatric wrist trauma X-ray dataset (GRAZPEDWRI-DX) for machine learning.
    """
    root = Path(root)
    rows = read_table(root, _TABLE, (*_REQUIRED, *site_columns(site_by)))
    folders = [root, *sorted(folder for folder in root.glob("images*") if folder.is_dir())]
    images = {path.stem: path for folder in folders for path in folder.glob("*.png")}
    radiographs = []
    for number, row in rows:
        where = f"row {number} of '{_TABLE}'"
        stem = file_name(row["filestem"], "filestem", where)
        fracture = flag(row["fracture_visible"], "fracture_visible", where, empty=0)
        radiographs.append(
            Radiograph(
                path=images.get(stem, root / "images" / f"{stem}.png"),
                patient_id=patient_of(row["patient_id"], where),
                fracture=fracture,
                salter_harris=salter_harris_from_ao(row["ao_classification"]) if fracture else 0,
                split=None,
                site=site_of(row, site_by),
                view=_VIEWS.get(row.get("projection", ""), ""),
                where=where,
                pixel_spacing_mm=pixel_spacing_of(row, "pixel_spacing", where),
                row=row,
            )
        )
    return check_files(radiographs, root, _TABLE)
