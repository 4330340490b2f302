"""Ranges of a flat vector that hold running statistics rather than parameters."""

from lightning_fed.aggregation.contracts import Spans
from lightning_fed.errors import ModelMismatchError


def parameter_spans(size: int, statistics: Spans) -> Spans:
    """The ranges of ``[0, size)`` that ``statistics`` leaves over, ascending; empty ranges are left out.

    Raises:
        ModelMismatchError: the ranges overlap, are out of order or reach beyond the vector.
    """
    gaps: list[tuple[int, int]] = []
    position = 0
    for start, stop in (*statistics, (size, size)):
        if not position <= start <= stop <= size:
            raise ModelMismatchError(
                f"the range [{start}, {stop}) of running statistics overlaps another one, is out of order or reaches "
                f"beyond the model's {size} values. Derive the ranges from the layout of this model."
            )
        if start > position:
            gaps.append((position, start))
        position = stop
    return tuple(gaps)
