"""Whether a mean over masked sites can be one of honest sites: checks that need no site's own numbers."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_fed.errors import UpdateRefusedError
from lightning_fed.update.contribution import Contribution

LARGEST_EXCESS = 16.0
"""How far a mean may lie above the magnitude that the sites speak for: a mean lies within what it is a mean of, and one
of several local steps' worth (FedNova) or dominated by one large site may lie beyond the others."""

HARMLESS = 2.0**-20
"""A change by so little of a model's largest value does no harm, and what sites have said of rounding errors proves
nothing."""


def reaches(values: Tensor, parts: int) -> list[float]:
    """The largest magnitude of each of the parts that flat values consist of."""
    return [_largest(part) for part in torch.tensor_split(values, parts)]


def check_mean(
    mean: Tensor, summed: Sequence[float], magnitudes: tuple[float, ...], code: Contribution, sites: int, model: Tensor
) -> None:
    """Accept a mean no larger than the updates that it is a mean of, or raise.

    A site that makes the sum of the weights small, with a negative one, makes the mean large; what the sites have said
    of their updates' magnitudes does not grow with it.

    Args:
        mean: flat float32; zeros where nothing was sent.
        summed: of each part, the largest magnitude of the sum that it was made of.
        magnitudes: of each part, see ``Decoded``.
        code: the code of the round.
        sites: number of sites in the sum.
        model: the global model, flat float32.

    Raises:
        UpdateRefusedError: it is larger.
    """
    means = reaches(mean, len(magnitudes))
    for index, (largest, reach, magnitude) in enumerate(zip(means, summed, magnitudes, strict=True)):
        # Where the ring is coarse, rounding alone can be larger than small updates.
        beyond_rounding = largest * max(0.0, 1 - sites * code.code(index).step / reach) if reach else 0.0
        if beyond_rounding > LARGEST_EXCESS * magnitude and beyond_rounding > HARMLESS * _largest(model):
            raise UpdateRefusedError(
                f"the mean update of {sites} sites reaches {largest:.6g}, and their own updates about {magnitude:.6g}: "
                "no mean lies so far beyond what it is a mean of, so a site's weight or values were not honest"
            )


def check_norm(mean: Tensor, largest: float | None, code: Contribution) -> None:
    """Accept a mean no longer than every update in it was to be, or raise.

    Args:
        mean: flat float32, of one part.
        largest: L2 norm that no site's update passes; None where there is none.
        code: the code of the round, whose rounding is allowed for.

    Raises:
        UpdateRefusedError: it is longer.
    """
    if largest is None:
        return
    norm = torch.linalg.vector_norm(mean, dtype=torch.float64).item()
    if norm > largest * (1 + 1e-6) + code.code(0).step * math.sqrt(code.size):
        raise UpdateRefusedError(
            f"the mean update has a norm of {norm:.6g}, and plan.algorithm.max_norm = {largest:.6g} bounds every "
            "site's: one of them was not bounded"
        )


def _largest(values: Tensor) -> float:
    least, most = torch.aminmax(values)
    return max(float(most), -float(least))
