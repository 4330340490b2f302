"""What privacy ledgers say of a run's releases, and whether they agree with what the coordinator was told of them."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lightning_fed.cli.chronicle import Chronicle
from lightning_fed.coordinator.recorded import LEDGER
from lightning_fed.errors import printable
from lightning_fed.privacy.history import read_history
from lightning_fed.privacy.ledger_lines import Charged
from lightning_fed.privacy.ledger_rows import LedgerRow, ledger_rows
from lightning_fed.privacy.units import Unit


@dataclass(frozen=True)
class Spending:
    """What one ledger has spent on one promise.

    Attributes:
        owner: the site, or ``federation`` for the coordinator's own ledger.
        unit: whom the promise is about.
        rows: its releases, in order: of all runs that were trained on the data set.
        target: epsilon that the plan promises for the run; None where it promises an amount of noise.
    """

    owner: str
    unit: Unit
    rows: list[LedgerRow]
    target: float | None

    @property
    def epsilon(self) -> float:
        """After all releases, against an outsider."""
        return self.rows[-1].unit_epsilon


@dataclass(frozen=True)
class LedgerAccount:
    """One ledger file.

    Attributes:
        name: of the file.
        owners: the sites that it names; one.
        spendings: what was spent, by promise.
        signer: Ed25519 public key (hexadecimal) that vouches for it; empty if it is not signed.
        head: hash of the last line.
        told: how many of its lines' hashes the coordinator was told.
        lacking: hashes that the coordinator was told of its owner and that are not in it.
    """

    name: str
    owners: list[str]
    spendings: list[Spending]
    signer: str
    head: str
    told: int
    lacking: list[str]


def read_ledgers(run: Chronicle, paths: Iterable[Path]) -> list[LedgerAccount]:
    """Read and verify ledgers: the coordinator's own, if the run has one, and those of sites.

    Raises:
        LedgerError: one cannot be read, or was edited.
    """
    own = [run.folder / LEDGER] if (run.folder / LEDGER).exists() else []
    return [_account(run, path) for path in (*own, *paths)]


def _account(run: Chronicle, path: Path) -> LedgerAccount:
    history = read_history(path)
    owners = sorted({printable(entry.site) for entry in history.entries if isinstance(entry, Charged)})
    owner = ", ".join(owners) or "nobody"
    rows = ledger_rows(history)
    example = run.plan.privacy.example
    targets = {"example": example.epsilon if example else None}
    spendings = [
        Spending(owner, unit, [row for row in rows if row.unit == unit], targets.get(unit))
        for unit in sorted({row.unit for row in rows})
    ]
    told = [head for site in owners for head in run.anchored.get(site, [])]
    lacking = [head for head in told if head not in history.hashes]
    return LedgerAccount(
        printable(path.name), owners, spendings, history.signer, history.head, len(told) - len(lacking), lacking
    )
