"""The two plain ways to average: by examples, and each site alike."""

from collections.abc import Mapping

from torch import Tensor

from lightning_fed.aggregation.contracts import SiteReport
from lightning_fed.aggregation.total import Total, divided
from lightning_fed.errors import UpdateRefusedError


def quotient(total: Tensor | Total, divisor: float, what: str, *, over: bool = False) -> Tensor:
    """``total / divisor`` as float32, shape ``(P,)``; see ``divided``. A ``Total`` is used up.

    Raises:
        UpdateRefusedError: the divisor, a sum called ``what``, is not positive; a NaN is not either.
    """
    if not divisor > 0.0:
        raise UpdateRefusedError(
            f"the sum of the sites' {what} is {divisor}; a mean needs it above 0. Repeat the round without empty sites."
        )
    return total.divided(divisor) if isinstance(total, Total) else divided(total, divisor, over=over)


def check_between(name: str, total: float, least: float, most: float, sites: int, why: str) -> None:
    """Accept a summed number between what the sites can give at least and at most.

    Raises:
        UpdateRefusedError: outside, or a NaN.
    """
    if not least <= total <= most:
        raise UpdateRefusedError(
            f"{sites} sites cannot have {name} = {total:.6g} together, only {least:.6g} to {most:.6g} ({why}): one of "
            "them gave a number that no honest site gives."
        )


class ByExamples:
    """Mean weighted by each site's number of examples.

    Summed: examples x update, and ``examples``.

    Source: McMahan et al. 2017, Communication-Efficient Learning of Deep Networks from Decentralized Data, algorithm 1.
    """

    sums: tuple[str, ...] = ("examples",)

    def contribution(self, update: Tensor, report: SiteReport) -> tuple[Tensor, dict[str, float]]:
        """See ``Weighting.contribution``."""
        factor, sums = self.factor(report)
        return update * factor, sums

    def factor(self, report: SiteReport) -> tuple[float, dict[str, float]]:
        """What a contribution is the update times, and the numbers beside it.

        Raises:
            UpdateRefusedError: a site without examples.
        """
        if report.examples < 1:
            raise UpdateRefusedError(
                f"the site reports {report.examples} examples; it must be at least 1. "
                "A site without data takes no part."
            )
        return float(report.examples), {"examples": float(report.examples)}

    def check_sums(self, sums: Mapping[str, float], sites: int, max_examples: int) -> None:
        """See ``ChecksSums.check_sums``."""
        check_between("examples", sums["examples"], sites, sites * max_examples, sites, "plan.max_examples each")
        if not sums["examples"].is_integer():
            raise UpdateRefusedError(f"{sites} sites cannot have {sums['examples']} examples: it is no whole number.")

    def mean_update(self, total: Tensor | Total, sums: Mapping[str, float]) -> Tensor:
        """See ``Weighting.mean_update``; a ``Total`` is used up."""
        return quotient(total, sums["examples"], "examples", over=True)


class Uniform:
    """Mean in which each site counts alike.

    Summed: the update, and ``sites``.
    """

    sums: tuple[str, ...] = ("sites",)

    def contribution(self, update: Tensor, report: SiteReport) -> tuple[Tensor, dict[str, float]]:
        """See ``Weighting.contribution``; nothing in the report matters."""
        return update.clone(), self.factor(report)[1]

    def factor(self, report: SiteReport) -> tuple[float, dict[str, float]]:
        """What a contribution is the update times, and the numbers beside it."""
        return 1.0, {"sites": 1.0}

    def check_sums(self, sums: Mapping[str, float], sites: int, max_examples: int) -> None:
        """See ``ChecksSums.check_sums``."""
        check_between("sites", sums["sites"], sites, sites, sites, "1 each")

    def mean_update(self, total: Tensor | Total, sums: Mapping[str, float]) -> Tensor:
        """See ``Weighting.mean_update``; a ``Total`` is used up."""
        return quotient(total, sums["sites"], "number", over=True)
