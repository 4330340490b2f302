"""What a check has found, and how findings are shown."""

import dataclasses
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lightning_fed.errors import FederationError, printable

State = Literal["ok", "warning", "failed", "not checked", "told"]

_MARKS: dict[State, tuple[str, str]] = {
    "ok": ("✓", "green"),
    "warning": ("!", "yellow"),
    "failed": ("✗", "bold red"),
    "not checked": ("-", "dim"),
    "told": ("·", "dim"),
}

_FILE_WIDTH = 120
"""Columns of a table that goes into a file."""


@dataclass(frozen=True)
class Finding:
    """One line of the table.

    Attributes:
        check: what was looked at; the same word in every version, for scripts.
        state: ``not checked`` is neither good nor bad, and says why; ``told`` is what is asked for, for the reader to
            judge.
        found: what was found.
        cure: what to do; empty where nothing is to be done, or where ``found`` ends with it, as errors do.
    """

    check: str
    state: State
    found: str
    cure: str = ""


class Findings:
    """Findings in the order in which they were made."""

    def __init__(self) -> None:
        self._all: list[Finding] = []

    def __iter__(self) -> Iterator[Finding]:
        return iter(self._all)

    def ok(self, check: str, found: str) -> None:
        """It is as it should be."""
        self._all.append(Finding(check, "ok", found))

    def warn(self, check: str, found: str, cure: str = "") -> None:
        """It works, and somebody should know."""
        self._all.append(Finding(check, "warning", found, cure))

    def fail(self, check: str, found: str, cure: str = "") -> None:
        """It does not work."""
        self._all.append(Finding(check, "failed", found, cure))

    def skip(self, check: str, why: str, cure: str = "") -> None:
        """It was not looked at, or cannot be told; ``cure`` says how it can be."""
        self._all.append(Finding(check, "not checked", why, cure))

    def tell(self, check: str, what: str) -> None:
        """It is so, and whether that is good is the reader's to say."""
        self._all.append(Finding(check, "told", what))

    def of(self, check: str) -> "_Crosses":
        """Make a cross of this package's errors within the block, whose text ends with what to do."""
        return _Crosses(self, check)

    @property
    def failed(self) -> bool:
        """Whether there is a cross."""
        return any(finding.state == "failed" for finding in self)


class _Crosses:
    def __init__(self, findings: Findings, check: str) -> None:
        self._findings = findings
        self._check = check

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if not isinstance(error, FederationError):
            return False
        self._findings.fail(self._check, str(error))
        return True


def show(findings: Iterable[Finding], title: str) -> None:
    """Print the table."""
    findings = list(findings)
    console = Console()
    if not console.is_terminal:
        console.width = _FILE_WIDTH
    table = Table(title=title, title_justify="left", show_lines=False, box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    table.add_column("check", no_wrap=True)
    table.add_column("found", overflow="fold")
    for finding in findings:
        mark, style = _MARKS[finding.state]
        # Text and not str: brackets in a path are no markup.
        text = Text(_printable(finding.found))
        if finding.cure:
            text.append(f"\n→ {_printable(finding.cure)}", style="bold")
        table.add_row(Text(mark, style), Text(finding.check), text)
    if console.is_terminal:
        console.print(table)
    else:
        with console.capture() as captured:
            console.print(table)
        print("\n".join(line.rstrip() for line in captured.get().splitlines()))
    counts = {state: sum(finding.state == state for finding in findings) for state in _MARKS}
    console.print(", ".join(f"{count} {state}" for state, count in counts.items() if count), highlight=False)


def show_json(findings: Iterable[Finding]) -> None:
    """Print one JSON object: ``ok`` is false if there is a cross."""
    listed = [dataclasses.asdict(finding) for finding in findings]
    print(json.dumps({"ok": all(each["state"] != "failed" for each in listed), "findings": listed}, indent=1))


def _printable(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))
