"""How a data set lies on disk: one reader a layout, each from a folder to the rows of its tables."""

from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name

from lightning_fed.errors import DataError, did_you_mean
from lightning_fed.radiology.labels import Radiograph
from lightning_fed.radiology.layouts.fracatlas import read_fracatlas
from lightning_fed.radiology.layouts.grazpedwri import read_grazpedwri
from lightning_fed.radiology.layouts.mura import read_mura

LayoutReader = Callable[[str | Path, str | None], list[Radiograph]]
"""Reads the tables of a folder: ``reader(root, site_by)``, where ``site_by`` names what divides it into sites."""

PUBLIC_LAYOUTS: dict[str, LayoutReader] = {
    "grazpedwri": read_grazpedwri,
    "fracatlas": read_fracatlas,
    "mura": read_mura,
}
"""Readers by the name of the layout."""


def layout_reader(layout: str) -> LayoutReader:
    """The reader of a layout.

    Args:
        layout: the name of a public data set, or the import path of a function of another package, such as
            ``my_package.read_cohort``.

    Raises:
        DataError: there is no such name, or nothing that can be called under the path.
    """
    if layout in PUBLIC_LAYOUTS:
        return PUBLIC_LAYOUTS[layout]
    if "." not in layout:
        raise DataError(
            f"layout = {layout!r} is unknown; allowed are table, {', '.join(PUBLIC_LAYOUTS)}, and the import path of a "
            f"function such as my_package.read_cohort.{did_you_mean(layout, ['table', *PUBLIC_LAYOUTS])}"
        )
    try:
        reader = resolve_name(layout)
    except (Exception, SystemExit) as error:  # an import runs code of others, which may raise anything
        raise DataError(
            f"layout = {layout!r} cannot be imported: {error}. Install its package here, or correct the path."
        ) from error
    if not callable(reader):
        raise DataError(f"layout = {layout!r} is no function of (root, site_by); name the one that reads the tables.")
    found: LayoutReader = reader
    return found


__all__ = ["PUBLIC_LAYOUTS", "LayoutReader", "layout_reader", "read_fracatlas", "read_grazpedwri", "read_mura"]
