"""What coordinator and sites bind a masked sum to, and how its metrics become ring words."""

from collections.abc import Mapping

from lightning_fed.masking import Terms
from lightning_fed.plan import FederationPlan
from lightning_fed.protocol.members import Members
from lightning_fed.protocol.terms import terms_of
from lightning_fed.update.metric_sum import MetricSum


def metric_code(plan: FederationPlan, sizes: Mapping[str, int], members: int) -> MetricSum:
    """The code of the plan's metrics, whose states have so many numbers, in a federation of so many sites."""
    return MetricSum(
        {name: sizes.get(name, 0) for name in sorted(plan.metrics)}, terms_of(plan, members).largest_cohort
    )


def counts_binding(counts: Mapping[str, int]) -> bytes:
    """What all sites sign with their masked metrics: which are summed, and how many sites were said to have each.

    A coordinator that named a metric to one site alone would read that site's value out of the sum.
    """
    return ", ".join(f"{name!r} {count}" for name, count in sorted(counts.items())).encode()


def binding_of(
    run: str, model: bytes, members: Members, terms: Terms, detail: tuple[float, ...] | Mapping[str, int]
) -> str:
    """What all sites of a masked sum must have been told alike.

    A coordinator that gave one site another bound, or another model, than the rest could read that site out of the sum;
    a site with another roster would write its numbers for another cohort.

    Args:
        run: the coordinator's run.
        model: hash of the global model.
        members: all sites of the roster by which this attempt goes.
        terms: how many sites the sum needs.
        detail: the bounds of an update's codes, or the sizes of the metrics' states by name.
    """
    if isinstance(detail, tuple):
        last = " ".join(bound.hex() for bound in detail)
    else:
        last = ", ".join(f"{name!r} {size}" for name, size in sorted(detail.items()))
    return (
        f"run {run}, model {model.hex()}, members {members.digest.hex()}, threshold {terms.threshold}, "
        f"minimum {terms.minimum_cohort}, {last}"
    )
