"""A site's privacy budget: every release is written to disk before it happens, and refused if it costs too much."""

import fcntl
import hashlib
import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lightning_fed.errors import BudgetExhaustedError, LedgerError, PlanError
from lightning_fed.privacy.accounting import ORDERS, Mechanism, epsilon_from_rdp, require_delta
from lightning_fed.privacy.history import Charged, History, Release, Torn, dearest, line_of, parse_history


@dataclass(frozen=True)
class Budget:
    """How much a site may spend on one unit, and the delta at which epsilon is read.

    Args:
        delta: chance with which the promise may fail altogether.
        max_epsilon: the site policy's maximum; no limit when not given.

    Raises:
        PlanError: a value is out of range.
    """

    delta: float
    max_epsilon: float = math.inf

    def __post_init__(self) -> None:
        require_delta(self.delta)
        if not self.max_epsilon > 0:
            raise PlanError(f"max_epsilon = {self.max_epsilon} allows no release at all: it must be positive.")


class Ledger:
    """An open ledger; only one process may have it open at a time. Made by ``Ledger.open``.

    A charge is on the disk when ``charge`` returns, and the release may follow only then: a crash at any instant can
    count a release that did not happen, and never the other way round. Bytes that a crash tore are kept and counted as
    the dearest release known; the next charge vouches for them with their hash.
    """

    def __init__(
        self, fd: int, name: str, federation: str, site: str, budgets: Mapping[str, Budget], history: History
    ) -> None:
        self._fd = fd
        self._name = name
        self._federation = federation
        self._site = site
        self._budgets = dict(budgets)
        self._history = history
        self._failed = False

    @classmethod
    def open(cls, path: str | Path, federation: str, site: str, budgets: Mapping[str, Budget]) -> Self:
        """Open a ledger, or start a new one, and lock it until it is closed.

        Args:
            path: the file, one for each site of each federation, kept from run to run.
            federation: the federation's name.
            site: the site's name.
            budgets: what may be spent, by unit (``example``, ``site``).

        Raises:
            LedgerError: the file is in use, cannot be opened, can be written by others, was edited, or belongs to
                another federation or site.
        """
        path = Path(path)
        fd = -1
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _refuse_loose(fd, path)
            _sync_folder(path.parent)
            history = parse_history(os.pread(fd, os.fstat(fd).st_size, 0), path.name, federation, site)
        except BlockingIOError as error:
            os.close(fd)
            raise LedgerError(
                f"the privacy ledger {path.name} is in use by another process. A site trains once at a time: end the "
                "other run, or give this one its own site name and ledger."
            ) from error
        except OSError as error:
            if fd >= 0:
                os.close(fd)
            raise LedgerError(f"the privacy ledger {path.name} cannot be opened: {error.strerror}.") from error
        except LedgerError:
            os.close(fd)
            raise
        return cls(fd, path.name, federation, site, budgets, history)

    @property
    def history(self) -> History:
        """What the ledger holds now; its ``head`` is worth noting elsewhere."""
        return self._history

    def epsilon(self, unit: str) -> float:
        """Epsilon spent so far on a unit, at the budget's delta.

        Raises:
            PlanError: no budget was given for this unit.
        """
        return epsilon_from_rdp(_curve(self._history.released, unit), self._budget(unit).delta)

    def charge(self, release: Release) -> float:
        """Pay for a release that has not happened yet; it may happen once this returns.

        Returns:
            Epsilon of the release's unit, this release included, at the budget's delta.

        Raises:
            BudgetExhaustedError: the release would pass the site's maximum. Nothing was written.
            LedgerError: the charge could not be written to the disk, so the release must not happen.
            PlanError: no budget was given for this unit.
        """
        unit = release.mechanism.unit
        budget = self._budget(unit)
        history = self._history
        counted = dearest([*history.written, release.mechanism]) if history.torn else []
        after = epsilon_from_rdp(_curve([*history.written, *counted, release.mechanism], unit), budget.delta)
        if not (math.isfinite(after) and after <= budget.max_epsilon):
            raise BudgetExhaustedError(
                f"site {self._site!r} stopped before round {release.round}: its release would bring the {unit}-level "
                f"epsilon to {after:.4g} at delta {budget.delta:g}, above this site's maximum of "
                f"{budget.max_epsilon:g} (policy, max_epsilon). Nothing was released. End the run here or ask the "
                "site's privacy officer."
            )
        data, head = b"", history.head
        entries: list[Charged | Torn] = []
        if history.torn:
            torn = history.torn + b"\0\n"
            digest = hashlib.sha256(torn).hexdigest()
            entries.append(Torn(self._federation, self._site, digest, tuple(counted)))
        entries.append(Charged(self._federation, self._site, release, budget.delta, after))
        for entry in entries:
            line, head = line_of(entry, head)
            data += line
        separator = b"\0\n" if history.torn else b"" if history.ended else b"\n"
        self._append(separator + data)
        self._history = History((*history.entries, *entries), head)
        return after

    def close(self) -> None:
        """Close the file and give the lock back; a closed ledger cannot be charged."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _budget(self, unit: str) -> Budget:
        if unit not in self._budgets:
            raise PlanError(
                f"the plan releases under {unit}-level privacy, but no {unit}-level budget (delta, max_epsilon) is "
                "given. Add it to the site policy."
            )
        return self._budgets[unit]

    def _append(self, data: bytes) -> None:
        if self._fd < 0 or self._failed:
            raise LedgerError(
                f"the privacy ledger {self._name} is closed or could not be written before; nothing may be released. "
                "Restart the site."
            )
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]
            os.fsync(self._fd)
        except OSError as error:
            # What is on the disk is not known any more; only reading it again can tell.
            self._failed = True
            raise LedgerError(
                f"the privacy ledger {self._name} could not be written: {error.strerror}. Nothing was released. "
                "Free space on the disk and restart the site."
            ) from error


@dataclass(frozen=True)
class LedgerRow:
    """One release as a report shows it.

    Args:
        run: the run's name; empty for bytes that a crash tore, which count as a release.
        round: round number, 0 for torn bytes.
        attempt: attempt at the round, 0 for torn bytes.
        mechanism: ``dp-sgd``, ``central`` or ``distributed``.
        unit: ``example`` or ``site``.
        delta: the delta at which the epsilons are read: the latest one charged for the unit.
        release_epsilon: epsilon of this release alone.
        mechanism_epsilon: epsilon of all releases of this mechanism so far.
        unit_epsilon: epsilon of all releases about this unit so far; units are never added.
    """

    run: str
    round: int
    attempt: int
    mechanism: str
    unit: str
    delta: float
    release_epsilon: float
    mechanism_epsilon: float
    unit_epsilon: float


def ledger_rows(history: History) -> list[LedgerRow]:
    """Rows of a report, in order, one a release; see ``read_history``, which needs no lock."""
    charges: list[tuple[Release | None, Mechanism]] = []
    deltas: dict[str, float] = {}
    for entry in history.entries:
        if isinstance(entry, Charged):
            charges.append((entry.release, entry.release.mechanism))
            deltas[entry.release.mechanism.unit] = entry.delta
        else:
            charges.extend((None, mechanism) for mechanism in entry.counted)
    if history.torn:
        charges.extend((None, mechanism) for mechanism in dearest(m for _, m in charges))
    spent: dict[str, NDArray[np.float64]] = {}
    rows = []
    for release, mechanism in charges:
        kind, unit, rdp = str(mechanism.__struct_config__.tag), mechanism.unit, mechanism.rdp(ORDERS)
        for key in (kind, unit):
            spent[key] = spent.get(key, np.zeros(len(ORDERS))) + rdp
        epsilons = [epsilon_from_rdp(curve, deltas[unit]) for curve in (rdp, spent[kind], spent[unit])]
        run, number, attempt = (release.run, release.round, release.attempt) if release else ("", 0, 0)
        rows.append(LedgerRow(run, number, attempt, kind, unit, deltas[unit], *epsilons))
    return rows


def _curve(mechanisms: list[Mechanism], unit: str) -> NDArray[np.float64]:
    total = np.zeros(len(ORDERS))
    for mechanism in mechanisms:
        if mechanism.unit == unit:
            total += mechanism.rdp(ORDERS)
    return total


def _refuse_loose(fd: int, path: Path) -> None:
    mode = stat.S_IMODE(os.fstat(fd).st_mode)
    if mode & 0o022:
        raise LedgerError(
            f"others can write to the privacy ledger {path.name} (mode {mode:04o}), so what it says was spent need not "
            f"be true. Compare it with the backup, then run: chmod 600 {path}"
        )


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
