"""A site's privacy ledger during a fit: what each round is charged with, and when."""

from pathlib import Path

from lightning_fed.plan import FederationPlan
from lightning_fed.policy import SitePolicy
from lightning_fed.privacy.accounting import DpSgd
from lightning_fed.privacy.history import Release
from lightning_fed.privacy.ledger import Budget, Ledger
from lightning_fed.protocol.exchange import Exchange


class SiteLedger:
    """Writes each release down before it happens.

    Example level: an update is charged with the DP-SGD steps behind it, once, however often it is offered; all after
    the noise is post-processing. Site level: every attempt at a round is charged, since each may open a sum of its own.

    Args:
        ledger: the open ledger.
        plan: the accepted plan.
        run: the coordinator's run.
        exchange: what the plan makes of an update.
    """

    def __init__(self, ledger: Ledger, plan: FederationPlan, run: str, exchange: Exchange) -> None:
        self._ledger = ledger
        self._plan = plan
        self._run = run
        self._exchange = exchange

    @classmethod
    def for_plan(
        cls, path: Path, plan: FederationPlan, run: str, site: str, policy: SitePolicy, exchange: Exchange
    ) -> "SiteLedger | None":
        """The ledger of a plan that promises privacy; None for one that does not.

        Raises:
            LedgerError: the file is in use, cannot be opened, was edited, or belongs to another federation or site.
            PlanError: a budget is impossible.
        """
        budgets = {
            unit: Budget(promise.delta) if policy.max_epsilon is None else Budget(promise.delta, policy.max_epsilon)
            for unit, promise in (("example", plan.privacy.example), ("site", plan.privacy.site))
            if promise is not None
        }
        if not budgets:
            return None
        return cls(Ledger.open(path, plan.name, site, budgets), plan, run, exchange)

    def pay_for_training(self, round: int, mechanism: DpSgd | None) -> None:
        """Charge the steps behind a round's update.

        Raises:
            BudgetExhaustedError: the site's maximum would be passed; nothing was written.
            LedgerError: the charge could not be written.
        """
        if mechanism is not None:
            self._ledger.charge(Release(self._run, self._plan.hash, round, 1, mechanism))

    def pay_for_update(self, round: int, attempt: int, max_norm: float) -> None:
        """Charge the sum that an update is about to become part of.

        Raises:
            BudgetExhaustedError: the site's maximum would be passed; nothing was written.
            LedgerError: the charge could not be written.
        """
        if self._plan.privacy.site is not None:
            mechanism = self._exchange.private_code(max_norm).release
            self._ledger.charge(Release(self._run, self._plan.hash, round, attempt, mechanism))

    def close(self) -> None:
        """Close the file."""
        self._ledger.close()
