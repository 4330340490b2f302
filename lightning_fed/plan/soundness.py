"""Which parts of a plan go together: each rule is a reason why two of them do not."""

from typing import TYPE_CHECKING

from lightning_fed.errors import PlanError

if TYPE_CHECKING:
    from lightning_fed.plan.federation import FederationPlan

PLAIN_MEANS = ("fedavg", "fedavgm", "fedadagrad", "fedadam", "fedyogi")
"""Algorithms that need of the sites nothing but the mean of their updates."""


def check_composition(plan: "FederationPlan") -> None:
    """Refuse a plan whose parts do not go together.

    Raises:
        PlanError: says which two parts, why, and what to change.
    """
    algorithm, compression, privacy = plan.aggregation, plan.compression.method, plan.privacy
    masked = plan.masking.mode == "required"
    if algorithm.needs_single_updates and masked:
        raise PlanError(
            f"plan.algorithm = {algorithm.name!r} compares single updates with one another, and plan.masking hides "
            "them: the coordinator learns only their sum. Choose masking: {mode: off}, if the sites may let the "
            "coordinator see each update, or an algorithm that works on sums; site_norm_bounding bounds each update "
            "at its own site."
        )
    if compression == "topk" and masked:
        raise PlanError(
            "plan.compression.method = 'topk' sends other coordinates from each site, and then masks do not cancel. "
            "Choose 'vote', which finds common coordinates under the masks, or 'randomk'."
        )
    if compression != "none" and algorithm.name not in PLAIN_MEANS:
        raise PlanError(
            f"plan.algorithm = {algorithm.name!r} needs whole updates, and plan.compression sends parts of them. "
            f"Choose one of {', '.join(PLAIN_MEANS)}, or compression: {{method: none}}."
        )
    if (privacy.site or privacy.example) and algorithm.name in ("fednova", "qfedavg"):
        raise PlanError(
            f"plan.algorithm = {algorithm.name!r} sums numbers that depend on the data (steps, losses, examples) "
            f"beside the updates, and plan.privacy has no noise for them. Choose one of {', '.join(PLAIN_MEANS)}."
        )
    if privacy.site:
        _check_site_level(plan)


def _check_site_level(plan: "FederationPlan") -> None:
    site, algorithm = plan.privacy.site, plan.aggregation
    assert site is not None
    if algorithm.needs_single_updates or algorithm.name in ("scaffold", "feddyn"):
        raise PlanError(
            f"plan.algorithm = {algorithm.name!r} does not work on one sum of clipped updates, and plan.privacy.site "
            "adds its noise to just that. Choose one of "
            f"{', '.join(PLAIN_MEANS)}."
        )
    if plan.compression.method == "vote":
        raise PlanError(
            "plan.compression.method = 'vote' opens votes, which depend on a site's data and carry no noise, so "
            "plan.privacy.site would promise too much. Choose 'randomk', whose coordinates depend on nothing."
        )
    if site.mechanism == "distributed" and plan.masking.mode == "off":
        raise PlanError(
            "plan.privacy.site.mechanism = 'distributed' gives each site a share of the noise that protects only sums, "
            "and with masking: {mode: off} the coordinator sees single updates. Choose mode: required, or 'central'."
        )
    if plan.metrics:
        raise PlanError(
            f"plan.metrics = {plan.metrics} publishes what the sites measure without noise, and plan.privacy.site "
            "promises to hide whole sites. Remove them; each site still sees its own metrics in its loggers."
        )
    shares = plan.quorum - plan.masking.colluding
    if site.mechanism == "distributed" and shares < 1:
        raise PlanError(
            f"plan.quorum = {plan.quorum} less masking.colluding = {plan.masking.colluding} leaves no honest share of "
            "noise. Raise the quorum."
        )
