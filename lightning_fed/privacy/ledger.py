"""A site's privacy budget: every release is written to disk before it happens, and refused if it costs too much."""

import hashlib
import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lightning_fed.errors import BudgetExhaustedError, LedgerError, PlanError
from lightning_fed.privacy.accounting import require_delta
from lightning_fed.privacy.history import History, parse_history
from lightning_fed.privacy.ledger_file import LedgerFile
from lightning_fed.privacy.ledger_lines import (
    FORMAT,
    Adopted,
    Charged,
    Entry,
    Release,
    Torn,
    line_of,
    public_of,
)
from lightning_fed.privacy.spending import READERS, Cost, Reader, Spent, dearest
from lightning_fed.privacy.units import Unit


@dataclass(frozen=True)
class Budget:
    """How much a site may spend on one unit, and the delta at which epsilon is read.

    Args:
        delta: chance with which the promise may fail altogether. All releases that the ledger holds are read at this
            one, whatever the delta of the plan that each was made under.
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


@dataclass(frozen=True)
class Owner:
    """Whose a ledger is.

    Args:
        site: the site's name.
        key: the site's Ed25519 key, which signs each line.
        data_set: name of the data that the ledger is about, as the site calls it; any when empty.
    """

    site: str
    key: Ed25519PrivateKey = field(repr=False)
    data_set: str = ""


class Ledger:
    """An open ledger; only one process may have it open at a time. Made by ``Ledger.open``.

    A ledger is about a data set, and counts every federation that is trained on it. A charge is on the disk when
    ``charge`` returns, and the release may follow only then: a crash at any instant can count a release that did not
    happen, and never the other way round. Bytes that a crash tore are kept and counted as the dearest release known;
    the next charge vouches for them with their hash.
    """

    def __init__(
        self,
        file: LedgerFile,
        owner: Owner,
        federation: str,
        budgets: Mapping[Unit, Budget],
        history: History,
    ) -> None:
        self._file = file
        self._owner = owner
        self._federation = federation
        self._budgets = dict(budgets)
        self._history = history
        self._spent = Spent(history.written)

    @classmethod
    def open(cls, path: str | Path, owner: Owner, federation: str, budgets: Mapping[Unit, Budget]) -> Self:
        """Open a ledger, or start a new one, and lock it until it is closed.

        Args:
            path: the file, one for each data set of a site, kept from run to run and from federation to federation.
            owner: whose it is.
            federation: name of the federation that the releases are for.
            budgets: what may be spent, by unit (``example``, ``site``).

        Raises:
            LedgerError: the file is in use, cannot be opened, was edited, belongs to another site or data set, or is
                not signed by the owner.
        """
        file, history = _read(path, owner.site, owner.data_set)
        ledger = cls(file, owner, federation, budgets, history)
        if history.entries and history.signer != public_of(owner.key):
            ledger.close()
            how = f"signed by the key {history.signer}" if history.signer else "not signed"
            raise LedgerError(
                f"the privacy ledger {file.name} is {how}, and not signed by the present key of {owner.site!r}: "
                "an older version or an older key wrote it, or somebody else did. Compare it with the site's backup; "
                f"if it is the newest, vouch for it: lightning-fed ledger sign {path} --identity KEYFILE"
            )
        return ledger

    @property
    def history(self) -> History:
        """What the ledger holds now; its ``head`` is worth noting elsewhere."""
        return self._history

    def epsilon(self, unit: Unit, reader: Reader | None = None) -> float:
        """Epsilon spent so far on a unit, at the budget's delta, against a reader or against whoever learns most.

        Raises:
            PlanError: no budget was given for this unit.
        """
        torn = dearest(self._history.written) if self._history.torn else []
        return self._spent.with_costs(torn).epsilon(unit, self._budget(unit).delta, reader)

    def charge(self, release: Release) -> float:
        """Pay for a release that has not happened yet; it may happen once this returns.

        Returns:
            Epsilon of the mechanism's own unit, this release included, at the budget's delta, against whoever learns
            most.

        Raises:
            BudgetExhaustedError: the release would pass the site's maximum. Nothing was written.
            LedgerError: the charge could not be written to the disk, so the release must not happen.
            PlanError: no budget was given for a unit that pays.
        """
        history = self._history
        torn = dearest([*history.written, *release.costs]) if history.torn else []
        after = self._spent.with_costs([*torn, *release.costs])
        for unit, _ in release.costs:
            self._require_within(unit, after, release)
        own = release.mechanism.unit
        paying = [unit for unit, _ in release.costs]
        totals = {u: {r: after.bound(u, self._budget(u).delta, r) for r in READERS} for u in paying}
        charged = Charged(
            self._federation,
            self._owner.site,
            release,
            self._budget(own).delta,
            after.epsilon(own, self._budget(own).delta),
            {unit: {reader: bound.epsilon for reader, bound in of.items()} for unit, of in totals.items()},
            self._owner.data_set,
            "+".join(sorted({bound.accountant for of in totals.values() for bound in of.values()})),
            FORMAT,
            _salt(),
        )
        self._append([charged], torn)
        self._spent = after
        return charged.epsilon

    def take_back(self) -> None:
        """Undo a charge that could not be written, if the last one could not, so that it can be tried again.

        For whoever knows that the release has not happened and will be charged before it does.

        Raises:
            LedgerError: this could not be done; it may be tried again.
        """
        self._file.take_back()

    def holds(self, head: str) -> bool:
        """Whether one of the ledger's lines has this hash: a ledger that once ended with it has not been put back."""
        return head in self._history.hashes

    def adopt(self) -> None:
        """Vouch for all lines that there are, with the owner's key.

        Raises:
            LedgerError: this could not be written.
        """
        torn = dearest(self._history.written) if self._history.torn else []
        self._append([Adopted(self._owner.site, FORMAT, _salt())], torn)
        self._spent.add(torn)

    def close(self) -> None:
        """Close the file and give the lock back; a closed ledger cannot be charged."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _budget(self, unit: Unit) -> Budget:
        if unit not in self._budgets:
            raise PlanError(
                f"the plan releases under {unit}-level privacy, but no {unit}-level budget (delta, max_epsilon) is "
                "given. Add it to the site policy."
            )
        return self._budgets[unit]

    def _require_within(self, unit: Unit, spent: Spent, release: Release) -> None:
        budget = self._budget(unit)
        after = spent.epsilon(unit, budget.delta)
        if math.isfinite(after) and after <= budget.max_epsilon:
            return
        outside = spent.epsilon(unit, budget.delta, "outsider")
        against = " against a site that takes part, and knows its own share of the noise," if after > outside else ""
        own = release.mechanism.unit
        also = "" if unit == own else f" What is released about a {own} is released about each {unit} of it, too."
        raise BudgetExhaustedError(
            f"site {self._owner.site!r} stopped before round {release.round}: its release would bring the {unit}-level "
            f"epsilon{against} to {after:.4g} at delta {budget.delta:g}, above this site's maximum of "
            f"{budget.max_epsilon:g} (policy, max_epsilon).{also} Nothing was released. End the run here or ask the "
            "site's privacy officer."
        )

    def _append(self, entries: Sequence[Entry], counted: Sequence[Cost]) -> None:
        """Write entries to the disk, behind one that vouches for torn bytes and counts these costs in their place."""
        history = self._history
        separator = b"" if history.ended else b"\n"
        if history.torn:
            digest = hashlib.sha256(history.torn + b"\0\n").hexdigest()
            mechanisms, units = tuple(one.mechanism for one in counted), tuple(one.unit for one in counted)
            vouching = Torn(self._federation, self._owner.site, digest, mechanisms, units, FORMAT, _salt())
            separator, entries = b"\0\n", [vouching, *entries]
        data, hashes = separator, list(history.hashes)
        head = history.head
        for entry in entries:
            line, head = line_of(entry, head, self._owner.key)
            data += line
            hashes.append(head)
        self._file.append(data)
        signer = public_of(self._owner.key)
        self._history = History((*history.entries, *entries), tuple(hashes), signer=signer)


def sign_ledger(path: str | Path, key: Ed25519PrivateKey) -> History:
    """Vouch for a ledger that an older version, or its owner under an older key, has written.

    Args:
        path: the file.
        key: the owner's present key.

    Returns:
        What it holds.

    Raises:
        LedgerError: the file is not there, holds nothing, is in use, cannot be opened or was edited.
    """
    if not Path(path).exists():
        raise LedgerError(f"there is no privacy ledger {path} to sign.")
    file, history = _read(path)
    if not history.entries:
        file.close()
        raise LedgerError(
            f"the privacy ledger {file.name} holds no line to sign. A site starts an empty one by itself."
        )
    with Ledger(file, Owner(history.entries[-1].site, key), "", {}, history) as ledger:
        ledger.adopt()
        return ledger.history


def _read(path: str | Path, site: str | None = None, data_set: str = "") -> tuple[LedgerFile, History]:
    file = LedgerFile(Path(path))
    try:
        return file, parse_history(file.content, file.name, site, data_set)
    except LedgerError:
        file.close()
        raise


def _salt() -> str:
    return secrets.token_hex(16)
