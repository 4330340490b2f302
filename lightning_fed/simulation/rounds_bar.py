"""A bar of the rounds of a federation in one process."""

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lightning_fed.plan import FederationPlan
from lightning_fed.protocol.coordinator.actions import Record


class RoundsBar:
    """Shows how many rounds are done, how many sites have joined, and the plan's metrics.

    Args:
        plan: the plan.
        sites: how many there are.
        shown: whether there is a bar at all.
        console: where to; standard error when not given.
    """

    def __init__(self, plan: FederationPlan, sites: int, *, shown: bool, console: Console | None = None) -> None:
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("rounds"), TimeElapsedColumn(), TimeRemainingColumn())
        words = TextColumn("{task.description}", markup=False)
        console = console or Console(stderr=True)
        self._progress = Progress(*columns, words, console=console, disable=not shown)
        self._sites = sites
        self._joined = 0
        self._metrics = ""
        self._task = self._progress.add_task(self._words, total=plan.rounds)

    def __enter__(self) -> "RoundsBar":
        """Show it."""
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave it as it is now."""
        self._progress.stop()

    def take(self, record: Record) -> None:
        """Move along with an event of the log."""
        match record.event, record.data:
            case "site_joined", _:
                self._joined += 1
            case "round_finished", {"round": round}:
                self._progress.update(self._task, completed=round, description=self._words)
            case "metrics", {"metrics": metrics}:
                self._metrics = "".join(f", {name} {value:.4f}" for name, value in metrics.items())
                self._progress.update(self._task, description=self._words)

    @property
    def _words(self) -> str:
        return f"{self._joined:,} of {self._sites:,} sites have been drawn{self._metrics}"
