"""The two plain ways to average: by examples, and each site alike."""

from collections.abc import Mapping

from torch import Tensor

from lightning_fed.aggregation.contracts import SiteReport
from lightning_fed.aggregation.total import divided
from lightning_fed.errors import UpdateRefusedError


def quotient(total: Tensor, divisor: float, what: str) -> Tensor:
    """``total / divisor`` as float32, shape ``(P,)``.

    Raises:
        UpdateRefusedError: the divisor, a sum called ``what``, is not positive; a NaN is not either.
    """
    if not divisor > 0.0:
        raise UpdateRefusedError(
            f"the sum of the sites' {what} is {divisor}; a mean needs it above 0. Repeat the round without empty sites."
        )
    return divided(total, divisor)


class ByExamples:
    """Mean weighted by each site's number of examples.

    Summed: examples x update, and ``examples``.

    Source: McMahan et al. 2017, Communication-Efficient Learning of Deep Networks from Decentralized Data, algorithm 1.
    """

    sums: tuple[str, ...] = ("examples",)

    def contribution(self, update: Tensor, report: SiteReport) -> tuple[Tensor, dict[str, float]]:
        """See ``Weighting.contribution``."""
        if report.examples < 1:
            raise UpdateRefusedError(
                f"the site reports {report.examples} examples; it must be at least 1. "
                "A site without data takes no part."
            )
        return update * float(report.examples), {"examples": float(report.examples)}

    def mean_update(self, total: Tensor, sums: Mapping[str, float]) -> Tensor:
        """See ``Weighting.mean_update``."""
        return quotient(total, sums["examples"], "examples")


class Uniform:
    """Mean in which each site counts alike.

    Summed: the update, and ``sites``.
    """

    sums: tuple[str, ...] = ("sites",)

    def contribution(self, update: Tensor, report: SiteReport) -> tuple[Tensor, dict[str, float]]:
        """See ``Weighting.contribution``; nothing in the report matters."""
        return update.clone(), {"sites": 1.0}

    def mean_update(self, total: Tensor, sums: Mapping[str, float]) -> Tensor:
        """See ``Weighting.mean_update``."""
        return quotient(total, sums["sites"], "number")
