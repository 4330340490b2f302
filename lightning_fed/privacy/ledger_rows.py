"""A privacy ledger as a report shows it."""

from dataclasses import dataclass

from lightning_fed.privacy.history import History
from lightning_fed.privacy.ledger_lines import Charged, Release
from lightning_fed.privacy.spending import BUDGET_DELTA, Cost, Spent, dearest
from lightning_fed.privacy.units import Unit


@dataclass(frozen=True)
class LedgerRow:
    """One release as one unit pays for it.

    Args:
        run: the run's name; empty for bytes that a crash tore, which count as a release.
        round: round number, 0 for torn bytes.
        attempt: attempt at the round, 0 for torn bytes.
        mechanism: ``dp-sgd``, ``central`` or ``distributed``.
        unit: ``example`` or ``site``.
        delta: the delta at which the epsilons are read: the smallest one charged for the unit.
        release_epsilon: epsilon of this release alone, against an outsider.
        mechanism_epsilon: epsilon of all releases of this mechanism so far, against an outsider.
        unit_epsilon: epsilon of all releases about this unit so far, against an outsider; units are never added.
        member_epsilon: the same against a site that takes part, which knows its own share of distributed noise.
    """

    run: str
    round: int
    attempt: int
    mechanism: str
    unit: Unit
    delta: float
    release_epsilon: float
    mechanism_epsilon: float
    unit_epsilon: float
    member_epsilon: float


def ledger_rows(history: History) -> list[LedgerRow]:
    """Rows of a report, in order, one a release and unit; see ``read_history``, which needs no lock."""
    charges: list[tuple[Release | None, Cost]] = []
    deltas: dict[Unit, float] = {}
    for entry in history.entries:
        costs = history.costs_of(entry)
        if isinstance(entry, Charged):
            deltas.update({unit: min(entry.delta, deltas.get(unit, 1.0)) for unit, _ in costs})
        charges.extend((entry.release if isinstance(entry, Charged) else None, cost) for cost in costs)
    if history.torn:
        charges.extend((None, cost) for cost in dearest(history.written))
    spent, by_mechanism = Spent(), dict[tuple[Unit, str], Spent]()
    rows = []
    for release, cost in charges:
        unit, kind, delta = cost.unit, str(cost.mechanism.__struct_config__.tag), deltas.get(cost.unit, BUDGET_DELTA)
        spent.add([cost])
        of_mechanism = by_mechanism.setdefault((unit, kind), Spent())
        of_mechanism.add([cost])
        alone, mechanism, all_so_far = (
            each.epsilon(unit, delta, "outsider") for each in (Spent([cost]), of_mechanism, spent)
        )
        run, number, attempt = (release.run, release.round, release.attempt) if release else ("", 0, 0)
        member = spent.epsilon(unit, delta, "member")
        rows.append(LedgerRow(run, number, attempt, kind, unit, delta, alone, mechanism, all_so_far, member))
    return rows
