"""A site's privacy ledger during a fit: what each round is charged with, and when."""

import math
from pathlib import Path

from lightning_fed.errors import LedgerError
from lightning_fed.plan import FederationPlan
from lightning_fed.policy import SitePolicy
from lightning_fed.privacy.accounting import DpSgd
from lightning_fed.privacy.ledger import Budget, Ledger, Owner
from lightning_fed.privacy.ledger_lines import Release
from lightning_fed.privacy.units import Unit
from lightning_fed.protocol.exchange import Exchange


class SiteLedger:
    """Writes each release down before it happens.

    Example level: an update is charged with the DP-SGD steps behind it, once, however often it is offered; all after
    the noise is post-processing. Site level: every attempt at a round is charged, since each may open a sum of its own;
    and where no DP-SGD is behind the update, each example of the site pays as well.

    Args:
        ledger: the open ledger.
        plan: the accepted plan.
        run: the coordinator's run.
        exchange: what the plan makes of an update.
    """

    def __init__(self, ledger: Ledger, plan: FederationPlan, run: str, exchange: Exchange) -> None:
        self._ledger = ledger
        self._units: tuple[Unit, ...] = ("example", "site")
        self._plan = plan
        self._run = run
        self._exchange = exchange

    @classmethod
    def for_plan(
        cls, path: Path, owner: Owner, plan: FederationPlan, run: str, policy: SitePolicy, exchange: Exchange
    ) -> "SiteLedger | None":
        """The ledger of a plan that promises privacy; None for one that does not.

        Raises:
            LedgerError: the file is in use, cannot be opened, was edited, belongs to another site or data set, or is
                not signed by the owner.
            PlanError: a budget is impossible.
        """
        budgets = _budgets(plan, policy)
        return cls(Ledger.open(path, owner, plan.name, budgets), plan, run, exchange) if budgets else None

    def require_newest(self, head: bytes) -> None:
        """Refuse to go on from an older copy of the ledger.

        Args:
            head: hash of the line that this run's coordinator was told last; empty before the first.

        Raises:
            LedgerError: the ledger has no such line.
        """
        if head and not self._ledger.holds(head.hex()):
            raise LedgerError(
                f"the site's privacy ledger has no line with the hash {head.hex()}, and in this run it ended with it "
                "before: it is an older copy, or another file. Put the newest one back, or name the one that this run "
                "began with (FederatedStrategy(ledger=...)); what was spent since would not count."
            )

    def pay_for_training(self, round: int, mechanism: DpSgd | None) -> None:
        """Charge the steps behind a round's update.

        Raises:
            BudgetExhaustedError: the site's maximum would be passed; nothing was written.
            LedgerError: the charge could not be written.
        """
        if mechanism is not None:
            self._ledger.charge(Release(self._run, self._plan.hash, round, 1, mechanism))

    def pay_for_update(self, round: int, attempt: int, max_norm: float) -> bytes:
        """Charge the sum that an update is about to become part of.

        Returns:
            Hash of the ledger's last line, 32 bytes, to be noted by the coordinator.

        Raises:
            BudgetExhaustedError: the site's maximum would be passed; nothing was written.
            LedgerError: the charge could not be written.
        """
        if self._plan.privacy.site is not None:
            mechanism = self._exchange.private_code(max_norm).release
            # Whatever is made of DP-SGD's output says no more of an example than DP-SGD has paid for.
            units: tuple[Unit, ...] = ("site",) if self._plan.privacy.example else ("site", "example")
            self._ledger.charge(Release(self._run, self._plan.hash, round, attempt, mechanism, units))
        return bytes.fromhex(self._ledger.history.head)

    def spent(self) -> dict[str, float]:
        """Epsilon so far, by unit, against whoever learns most."""
        return {unit: self._ledger.epsilon(unit) for unit in self._units}

    def close(self) -> None:
        """Close the file."""
        self._ledger.close()


def _budgets(plan: FederationPlan, policy: SitePolicy) -> dict[Unit, Budget]:
    """What may be spent of both units, if the plan promises anything.

    The delta is the site's own: with the plan's, the next plan's delta would decide what the last releases have cost.
    """
    promises = {"example": plan.privacy.example, "site": plan.privacy.site}
    deltas = [promise.delta for promise in promises.values() if promise]
    if not deltas:
        return {}
    limit = math.inf if policy.max_epsilon is None else policy.max_epsilon

    def budget(unit: Unit) -> Budget:
        promise = promises[unit]
        return Budget(policy.max_delta or (promise.delta if promise else min(deltas)), limit)

    return {"example": budget("example"), "site": budget("site")}
