"""How a data set lies on disk: one reader a layout, each from a folder to the rows of its tables."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from lightning_fed.radiology.labels import Radiograph
from lightning_fed.radiology.layouts.fracatlas import read_fracatlas
from lightning_fed.radiology.layouts.grazpedwri import read_grazpedwri
from lightning_fed.radiology.layouts.mura import read_mura

Layout = Literal["table", "grazpedwri", "fracatlas", "mura"]

PUBLIC_LAYOUTS: dict[str, Callable[[str | Path, str | None], list[Radiograph]]] = {
    "grazpedwri": read_grazpedwri,
    "fracatlas": read_fracatlas,
    "mura": read_mura,
}
"""Readers of ``(root, site_by)`` by the name of the layout."""

__all__ = ["PUBLIC_LAYOUTS", "Layout", "read_fracatlas", "read_grazpedwri", "read_mura"]
