"""What makes a hospital's radiographs its own: scanner, processing, habits and patients."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from lightning_fed.errors import DataError
from lightning_fed.radiology.synthetic.fractures import FRACTURE_KINDS, FractureKind


@dataclass(frozen=True)
class SiteStyle:
    """One synthetic hospital.

    Attributes:
        name: folder name and, capitalised, the institution in the files.
        manufacturer: in the files.
        rows: image height in pixels.
        columns: image width in pixels.
        field_mm: height in mm of the part of a grown-up wrist that the image shows; children are framed tighter.
        photometric: ``MONOCHROME2`` or its negative.
        bits: bits stored, 8 to 16.
        signed: stored values are two's complement around 0.
        rescale: slope and intercept of the modality transformation. Only computed radiography may have one, so a site
            with one writes CR files and a site without DX files.
        voi: how the files say which grey values to show: ``window``, ``sigmoid``, ``lut`` (a table) or ``none``.
        window: centre and width, as shares of the detector's range; the range of the table for ``lut``.
        gamma: tone curve of the detector's processing; above 1 is darker.
        blur_mm: standard deviation of the detector's blur.
        noise: standard deviation of the quantum noise behind the thinnest part, as a share of the range.
        marker: where the lead letter L or R lies.
        collimation: mean share of the width that the shutters cover on each side.
        ap_share: share of images from the front; the others are lateral.
        age_mean: of the patients, in years.
        age_sd: likewise.
        prevalence: share of patients with a fracture.
        cast_fractured: share of fractured wrists in a cast.
        cast_normal: share of the others in a cast.
        fractures: weight of each kind among the fractures; a kind left out does not occur.
        transfer_syntax: encoding of the files; ``rle`` and ``jpeg2000`` are lossless.

    Raises:
        DataError: a value is out of range.
    """

    name: str
    manufacturer: str
    rows: int = 224
    columns: int = 176
    field_mm: float = 60.0
    photometric: Literal["MONOCHROME1", "MONOCHROME2"] = "MONOCHROME2"
    bits: int = 12
    signed: bool = False
    rescale: tuple[float, float] | None = None
    voi: Literal["window", "sigmoid", "lut", "none"] = "window"
    window: tuple[float, float] = (0.5, 1.0)
    gamma: float = 1.0
    blur_mm: float = 0.25
    noise: float = 0.015
    marker: Literal["none", "upper", "lower"] = "upper"
    collimation: float = 0.0
    ap_share: float = 0.8
    age_mean: float = 10.0
    age_sd: float = 3.0
    prevalence: float = 0.5
    cast_fractured: float = 0.1
    cast_normal: float = 0.1
    fractures: Mapping[FractureKind, float] = field(default_factory=lambda: dict.fromkeys(FRACTURE_KINDS, 1.0))
    transfer_syntax: Literal["explicit", "implicit", "rle", "jpeg2000"] = "explicit"

    def __post_init__(self) -> None:
        shares = {
            key: getattr(self, key)
            for key in ("ap_share", "prevalence", "cast_fractured", "cast_normal", "collimation")
        }
        for key, value in shares.items():
            if not 0 <= value <= 1:
                raise DataError(f"site style '{self.name}': {key} = {value} is not in [0, 1].")
        if not 8 <= self.bits <= 16:
            raise DataError(f"site style '{self.name}': bits = {self.bits} is not in 8 to 16.")
        unknown = set(self.fractures) - set(FRACTURE_KINDS)
        if unknown or sum(self.fractures.values()) <= 0 or min(self.fractures.values()) < 0:
            raise DataError(
                f"site style '{self.name}': fractures = {dict(self.fractures)} needs weights of at least 0, one "
                f"of them positive, for kinds among {', '.join(FRACTURE_KINDS)}."
            )


def default_sites(count: int = 4) -> tuple[SiteStyle, ...]:
    """Return the styles of the first ``count`` of the eight hospitals.

    Args:
        count: 1 to 8. The first four see quite different fractures, so that none of them can learn them all alone.

    Raises:
        DataError: ``count`` is out of range.
    """
    if not 1 <= count <= len(_SITES):
        raise DataError(f"sites = {count} is not in 1 to {len(_SITES)}, the number of styles there are.")
    return _SITES[:count]


_SITES = (
    SiteStyle(
        name="north",
        manufacturer="Aurora Imaging",
        window=(0.45, 0.8),
        blur_mm=0.2,
        noise=0.012,
        age_mean=7.5,
        age_sd=2.5,
        prevalence=0.5,
        cast_fractured=0.12,
        cast_normal=0.04,
        fractures={"torus": 4.0, "metaphyseal": 2.5, "II": 1.5},
    ),
    SiteStyle(
        name="east",
        manufacturer="Borealis Medical",
        rows=240,
        columns=240,
        field_mm=68.0,
        photometric="MONOCHROME1",
        bits=10,
        window=(0.5, 1.3),
        gamma=0.75,
        blur_mm=0.3,
        noise=0.02,
        marker="lower",
        collimation=0.1,
        ap_share=0.75,
        age_mean=12.5,
        age_sd=2.0,
        prevalence=0.4,
        cast_fractured=0.05,
        cast_normal=0.15,
        fractures={"I": 2.0, "II": 4.0, "metaphyseal": 1.5},
        transfer_syntax="rle",
    ),
    SiteStyle(
        name="south",
        manufacturer="Cirrus Röntgen",
        rows=256,
        columns=192,
        field_mm=56.0,
        bits=14,
        rescale=(0.5, -1024.0),
        voi="sigmoid",
        window=(0.42, 0.7),
        gamma=1.3,
        blur_mm=0.3,
        noise=0.015,
        marker="none",
        ap_share=0.9,
        age_mean=13.0,
        age_sd=1.8,
        prevalence=0.6,
        cast_fractured=0.3,
        cast_normal=0.3,
        fractures={"III": 3.0, "IV": 3.0, "II": 1.0, "torus": 1.0},
        transfer_syntax="jpeg2000",
    ),
    SiteStyle(
        name="west",
        manufacturer="Dune Diagnostics",
        rows=200,
        columns=160,
        field_mm=63.0,
        photometric="MONOCHROME1",
        bits=12,
        voi="lut",
        window=(0.4, 0.9),
        gamma=1.0,
        blur_mm=0.45,
        noise=0.02,
        marker="upper",
        collimation=0.06,
        ap_share=0.6,
        age_mean=10.0,
        age_sd=3.5,
        prevalence=0.35,
        cast_fractured=0.2,
        cast_normal=0.05,
        fractures={"I": 2.5, "metaphyseal": 2.5, "torus": 1.5, "IV": 0.5},
        transfer_syntax="implicit",
    ),
    SiteStyle(
        name="hill",
        manufacturer="Aurora Imaging",
        window=(0.5, 0.7),
        noise=0.025,
        age_mean=9.0,
        prevalence=0.45,
        fractures={"torus": 2.0, "II": 3.0},
    ),
    SiteStyle(
        name="lake",
        manufacturer="Cirrus Röntgen",
        bits=8,
        voi="none",
        gamma=1.2,
        blur_mm=0.45,
        marker="lower",
        age_mean=12.0,
        fractures={"III": 2.0, "I": 2.0},
        transfer_syntax="rle",
    ),
    SiteStyle(
        name="harbour",
        manufacturer="Borealis Medical",
        photometric="MONOCHROME1",
        bits=14,
        signed=True,
        window=(0.45, 1.1),
        noise=0.02,
        collimation=0.12,
        ap_share=0.7,
        fractures={"metaphyseal": 3.0, "IV": 2.0},
        transfer_syntax="jpeg2000",
    ),
    SiteStyle(
        name="valley",
        manufacturer="Dune Diagnostics",
        bits=16,
        rescale=(1.0, 0.0),
        gamma=0.85,
        blur_mm=0.35,
        field_mm=66.0,
        marker="none",
        age_mean=11.0,
        cast_normal=0.25,
    ),
)
