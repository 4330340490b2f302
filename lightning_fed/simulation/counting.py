"""A federation that counts, in one process: to try a plan of statistics before anybody is asked."""

import logging
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lightning_fed.coordinator.statistics import table_of_mean
from lightning_fed.coordinator.statistics_table import Table
from lightning_fed.errors import ConfigError, FederationError
from lightning_fed.evaluation.evidence import Evidence
from lightning_fed.participant.own_roster import OwnRoster
from lightning_fed.participant.statistics import StatisticsSite
from lightning_fed.plan import FederationPlan
from lightning_fed.policy import SitePolicy
from lightning_fed.protocol.members import Members
from lightning_fed.simulation.config import COORDINATOR
from lightning_fed.simulation.memory import MemoryConnection, Switchboard
from lightning_fed.simulation.stage import Stage
from lightning_fed.transport.identity import new_identity
from lightning_fed.transport.roster import Roster
from lightning_fed.update.tally import sum_of

_log = logging.getLogger(__name__)


def count_in_process(plan: FederationPlan, rows: Mapping[str, Iterable[Mapping[str, str]]]) -> Table:
    """Count the rows of virtual sites as real ones do, masks and noise included, but for sockets and policies.

    Args:
        plan: a plan with ``statistics``.
        rows: of each site, by its name: cells by column, as text.

    Returns:
        The table that ``lightning-fed statistics`` would show.

    Raises:
        ConfigError: the plan counts nothing, or there are fewer sites than its quorum.
        FederationError: one of its other kinds, for what the message says.
    """
    if plan.statistics is None:
        raise ConfigError(f"the plan {plan.name!r} has no statistics, so there is nothing to count. Add some.")
    policy = SitePolicy(statistics=list(plan.statistics.columns), foreign_classes=plan.foreign_classes)
    mean, sites, run = _summed(plan, rows, policy)
    return table_of_mean(plan.statistics, plan.privacy.example, mean, sites, plan.name, run)


def evaluate_in_process(plan: FederationPlan, rows: Mapping[str, Iterable[Mapping[str, str]]]) -> Evidence:
    """Measure models on the rows of virtual sites as real ones do, masks included, but for sockets and policies.

    Args:
        plan: a plan with ``evaluation``.
        rows: of each site, by its name: cells by column, as text.

    Returns:
        What ``lightning-fed evaluate`` would show.

    Raises:
        ConfigError: the plan measures nothing, or there are fewer sites than its quorum.
        FederationError: one of its other kinds, for what the message says.
    """
    if plan.evaluation is None:
        raise ConfigError(f"the plan {plan.name!r} has no evaluation, so there is nothing to measure. Add one.")
    # scipy takes a while, and nothing else of a simulation needs it.
    from lightning_fed.evaluation.summed import evidence_of_sum

    columns = [plan.evaluation.label, *plan.evaluation.subgroups]
    policy = SitePolicy(statistics=columns, evaluation="each_site", foreign_classes=plan.foreign_classes)
    mean, sites, _ = _summed(plan, rows, policy)
    return evidence_of_sum(plan.evaluation, sum_of(mean, len(sites)), sites, plan.name)


def _summed(
    plan: FederationPlan, rows: Mapping[str, Iterable[Mapping[str, str]]], policy: SitePolicy
) -> tuple[NDArray[np.float32], list[str], str]:
    """The mean of what the sites have sent, the sites, and the run."""
    if len(rows) < plan.quorum:
        raise ConfigError(f"the sites {list(rows)} must be at least the quorum of {plan.quorum}.")
    identities = {name: new_identity(name) for name in rows}
    roster = Roster.of(new_identity(COORDINATOR).card, [identity.card for identity in identities.values()])

    with tempfile.TemporaryDirectory() as folder:

        def part(name: str) -> None:
            own = OwnRoster(roster, identities[name], policy)
            site = StatisticsSite(own, policy, lambda _: rows[name], Path(folder) / f"{name}.jsonl", _log.warning)
            site.take_part(MemoryConnection(switchboard, name, site.session()))

        stage = Stage(list(rows), 0, part)
        members = Members({name: identity.card.signing_public for name, identity in identities.items()})
        switchboard = Switchboard(plan, members, stage, 0)
        stage.play(list(rows))
    model, outcome = switchboard.coordinator.model, switchboard.coordinator.outcome
    if isinstance(outcome, FederationError):
        raise outcome
    summed = [record.data for record in switchboard.records if record.event == "round_finished"]
    assert model is not None and summed
    return model.vector.numpy(), list(summed[-1]["participants"]), switchboard.coordinator.run
