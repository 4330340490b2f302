"""Numbers of a DICOM header, read one by one, so that a refusal names the attribute and shows what stands in it.

Archives hold ``2048,5``, ``NaN`` and empty values where the standard wants a decimal string. pydicom converts all
values of an attribute together and says nothing about which one is wrong.
"""

import math
from collections.abc import MutableSequence
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

_TEXT = {"DS", "IS", "CS", "LO", "SH", "LT", "ST", "UN"}


def values(dataset: Dataset, keyword: str) -> list[Any]:
    """The values of one attribute, not yet converted to numbers.

    Args:
        dataset: a data set.
        keyword: the attribute's keyword, such as ``WindowCenter``.

    Returns:
        One entry a value, in their order: text without its padding where the file holds text, otherwise whatever
        pydicom makes of it. Empty if the attribute is missing or empty.
    """
    if keyword not in dataset:
        return []
    element = dataset.get_item(keyword)
    if isinstance(element, RawDataElement) and isinstance(element.value, bytes):
        declared = dictionary_VR(int(tag_for_keyword(keyword) or 0))
        if (element.VR or declared) in _TEXT and declared in _TEXT:
            text = element.value.decode("ascii", errors="replace").rstrip("\0 ")
            return [part.strip(" \0") for part in text.split("\\")] if text else []
    value = dataset[keyword].value
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, MutableSequence | tuple) else [value]


def finite(value: Any, keyword: str) -> float:
    """Convert one value.

    Args:
        value: as :func:`values` gives it.
        keyword: where it stands, for the refusal.

    Raises:
        ValueError: it is no number, or not a finite one.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{keyword} is {value!r}, which is no number") from None
    if not math.isfinite(number):
        raise ValueError(f"{keyword} is {value}, which is not finite")
    return number


def number(dataset: Dataset, keyword: str) -> float | None:
    """The first value of an attribute; None if it is missing or empty.

    Raises:
        ValueError: the value is no finite number.
    """
    found = values(dataset, keyword)
    return finite(found[0], keyword) if found and found[0] not in ("", None) else None


def whole_number(dataset: Dataset, keyword: str) -> int | None:
    """The first value of an attribute as an integer; None if it is missing or empty.

    Raises:
        ValueError: the value is no whole number.
    """
    found = number(dataset, keyword)
    if found is not None and found != int(found):
        raise ValueError(f"{keyword} is {found:g}, which is no whole number")
    return None if found is None else int(found)
