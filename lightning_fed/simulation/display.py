"""What a person sees while a simulation runs: a live table in a terminal, lines anywhere else."""

import sys
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from lightning_fed.errors import printable
from lightning_fed.simulation.processes import Running, how_it_ended
from lightning_fed.simulation.progress import Event, Progress, clock_of, line_of
from lightning_fed.simulation.tables import live_view


def plain_console(width: int | None) -> Console:
    """A console that prints what it is given: brackets and colons in a site's words are no mark-up.

    Args:
        width: columns; those of the terminal when None.
    """
    return Console(width=width, highlight=False, markup=False, emoji=False)


class Display:
    """Shows events, the state of the sites, and the last words of processes that failed.

    Args:
        console: where to; standard output when not given.
        metrics: the plan's metrics.
        times: whether a line begins with the time at which the log was written.
        live: whether a terminal shows a table that changes, and not lines.
    """

    def __init__(
        self, metrics: list[str], console: Console | None = None, *, times: bool = False, live: bool = True
    ) -> None:
        # A file or a pipe has no width to fit tables and logs into.
        self.console = console or plain_console(None if sys.stdout.isatty() else 120)
        self._metrics = metrics
        self._times, self._wants_live = times, live
        self._live: Live | None = None

    def __enter__(self) -> "Display":
        """Begin the live table, in a terminal."""
        if self.console.is_terminal and self._wants_live:
            self._live = Live(console=self.console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Take the live table away."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, line: str) -> None:
        """Print a line."""
        self.console.print(Text(line), soft_wrap=True)

    def take(self, events: list[Event], progress: Progress) -> None:
        """Show new events and the state they lead to."""
        if self._live is not None:
            self._live.update(live_view(progress, self._metrics))
            return
        for event in events:
            line = line_of(event)
            if line is not None:
                self.say(f"{clock_of(event)} {line}" if self._times else line)

    def failed(self, child: Running) -> None:
        """Show how a process ended and the end of its log."""
        title = Text(f"{child.name} {how_it_ended(child.exit_code or 0)}")
        tail = "\n".join(map(printable, child.tail().split("\n")))
        self.console.print(Panel(Text(tail), title=title, subtitle=Text(str(child.log))))
