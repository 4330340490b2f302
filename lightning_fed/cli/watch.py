"""``lightning-fed watch`` and ``status``, and the screen of ``coordinate``: a run as its event log tells it."""

import contextlib
import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal

from lightning_fed.cli.parser import NamesNearest
from lightning_fed.coordinator.recorded import read_run
from lightning_fed.simulation.display import Display
from lightning_fed.simulation.progress import EventTail, Progress
from lightning_fed.simulation.tables import live_view

Show = Literal["table", "lines", "json"]
SHOW_HELP = "a table that changes, lines, or the log's own JSON lines; by default a table on a terminal, else lines"

_LOOK_S = 0.2
"""How often the log is looked at."""

_QUIET_S = 3.0
"""A log that has ended and was still for so long has been followed to its end: the last model's metrics come late."""


class Screen:
    """Follows an event log: what is shown is what is in the log, and nothing else.

    Args:
        store: the coordinator's folder; the log in it may come into being later.
        metrics: the plan's metrics.
        show: how; by default a table on a terminal and lines elsewhere.
    """

    def __init__(self, store: Path, metrics: Sequence[str], show: Show | None) -> None:
        self._tail = EventTail(store / "events.jsonl")
        self._json = show == "json"
        self.progress = Progress([])
        self.display = Display(list(metrics), times=True, live=show in (None, "table"))

    def look(self, *, quietly: bool = False) -> bool:
        """Show what is new, and say whether there was anything; ``quietly`` takes it in alone."""
        events = self._tail.new()
        for event in events:
            self.progress.take(event)
        if quietly or not events:
            return bool(events)
        if self._json:
            for event in events:
                print(json.dumps(event), flush=True)
        else:
            self.display.take(events, self.progress)
        return True


class Following:
    """A thread that keeps a screen up to date while this process coordinates; what was before is not shown again.

    Args:
        screen: what to keep up to date.
    """

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="screen", daemon=True)

    def __enter__(self) -> "Following":
        """Begin."""
        self._look(quietly=True)
        self._screen.display.__enter__()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Show the last events, too, and end."""
        self._ended.set()
        self._thread.join()
        self._look()
        self._screen.display.__exit__(kind, error, traceback)

    def _follow(self) -> None:
        while not self._ended.wait(_LOOK_S):
            self._look()

    def _look(self, *, quietly: bool = False) -> None:
        # Where no file can be opened, or the output goes to a full disk, people see less; the coordinator goes on.
        with contextlib.suppress(OSError):
            self._screen.look(quietly=quietly)


def run(arguments: Sequence[str]) -> int:
    """Show a run once, or follow it to its end.

    Returns:
        0, or 1 if the coordinator has given up.

    Raises:
        StoreError: the folder is no store.
    """
    once = arguments[0] == "status"
    config = _parser(arguments[0]).parse_args(list(arguments[1:]))
    metrics = [str(metric) for metric in read_run(config.store)[1].get("metrics", [])]
    screen = Screen(config.store, metrics, None if once else config.show)
    if once:
        screen.look(quietly=True)
        screen.display.console.print(live_view(screen.progress, metrics))
    else:
        with screen.display:
            still_since = time.monotonic()
            while not screen.progress.over or time.monotonic() - still_since < _QUIET_S:
                if screen.look():
                    still_since = time.monotonic()
                time.sleep(_LOOK_S)
    return int(screen.progress.over and not screen.progress.finished)


def _parser(command: str) -> NamesNearest:
    what = {"watch": "Follow a run until it ends.", "status": "Show once how far a run is."}[command]
    parser = NamesNearest(prog=f"lightning-fed {command}", description=what)
    parser.add_argument("store", type=Path, help="the coordinator's store")
    if command == "watch":
        parser.add_argument("--show", type=Show | None, default=None, help=SHOW_HELP)
    return parser
