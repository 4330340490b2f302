"""How large a pixel is, and whether it is square."""

from pydicom.dataset import Dataset

from lightning_fed.radiology.header import finite, values

# In the order in which they are to be trusted: calibrated in the patient, then at the detector, then on the film.
_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
_LARGEST_RATIO = 10.0


def spacing_mm(dataset: Dataset) -> tuple[float, float] | None:
    """The distance of neighbouring pixels.

    A distance at the detector is larger than in the patient by the magnification, which few files tell; it is not
    corrected. Scanners that do not know their distance write nothing or zeros, and both count as unknown.

    Args:
        dataset: an image.

    Returns:
        Distance in mm of two rows and of two columns; None if the file tells neither.

    Raises:
        ValueError: a distance is no positive number, or one is more than ten times the other.

    Source: DICOM PS3.3 10.7.1.3 (pixel spacing value order and calibration), C.8.7.5 and C.8.11.4 (imager pixel
    spacing), C.8.6.2 (nominal scanned pixel spacing).
    """
    return next((pair for keyword in _SPACINGS if (pair := _pair(dataset, keyword)) is not None), None)


def pixel_shape(dataset: Dataset) -> tuple[float, float]:
    """Height and width of a pixel, of which only the ratio counts.

    Args:
        dataset: an image.

    Returns:
        The distances in mm if the file tells them, else its ``PixelAspectRatio``, else 1 and 1.

    Raises:
        ValueError: as in :func:`spacing_mm`.

    Source: DICOM PS3.3 C.7.6.3.1.7: the ratio is vertical to horizontal, and given only where no distance is.
    """
    return spacing_mm(dataset) or _pair(dataset, "PixelAspectRatio") or (1.0, 1.0)


def _pair(dataset: Dataset, keyword: str) -> tuple[float, float] | None:
    found = [finite(value, keyword) for value in values(dataset, keyword) if value not in ("", None)]
    if not any(found):
        return None
    if len(found) != 2 or min(found) <= 0:
        raise ValueError(f"{keyword} is {_listed(found)}; needed are two positive numbers")
    if max(found) > _LARGEST_RATIO * min(found):
        raise ValueError(f"{keyword} is {_listed(found)}, a pixel more than {_LARGEST_RATIO:g} times as long as wide")
    return found[0], found[1]


def _listed(numbers: list[float]) -> str:
    return "\\".join(f"{number:g}" for number in numbers)
