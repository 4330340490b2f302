"""Where a global model comes from, as data: what an export says of it in all its files."""

import platform
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any, Literal

import msgspec

from lightning_fed.cli.checks import StoredModel, model_at, wrong_in
from lightning_fed.cli.chronicle import Chronicle
from lightning_fed.cli.spent import LedgerAccount, read_ledgers
from lightning_fed.coordinator.recorded import read_best
from lightning_fed.errors import StoreError
from lightning_fed.transport.card import PublicCard

Version = int | Literal["best", "last"]


class Round(msgspec.Struct):
    """One round up to the exported model."""

    round: int
    outcome: str
    sites: int
    participants: list[str] | None
    metrics: dict[str, float]


class Spent(msgspec.Struct):
    """What one ledger has spent on one promise; ``ledger`` names its owner, if sites are named."""

    ledger: str | None
    unit: str
    epsilon: float
    epsilon_for_a_member: float
    delta: float
    releases: int
    limit: float | None
    head: str


class Provenance(msgspec.Struct):
    """What an export says of a global model.

    Attributes:
        federation: the plan's name.
        run: the run's identifier.
        version: number of rounds behind the model.
        rounds_planned: the plan's.
        finished: whether the federation had ended when the export was made.
        plan: all settings.
        plan_hash: SHA-256 of the plan's canonical JSON.
        sites: number of sites that are in any round up to this model.
        participants: their names; None where sites are not named.
        metrics: of this model, mean over the sites.
        measured_at: at how many sites.
        best: what ``plan.best`` names as the best model, None where it names none.
        rounds: each round up to this model.
        privacy: what ledgers say.
        first_event: of the run's log, in UTC.
        last_event: likewise.
        coordinator: its name, fingerprint and Ed25519 public key (hexadecimal).
        stored_sha256: of the model's file in the coordinator's store.
        software: versions that the coordinator trained with, by package; empty if its log does not say.
        exported_with: versions that made the export.
        exported_at: when, in UTC.
        license: of the model; empty if none was named.
        replaced_layers: whether layers were replaced, as DP-SGD cannot train all.
        personal: tensors that stayed at the sites and are not in the model.
        tied: further names of tensors, by the one under which each is stored.
    """

    federation: str
    run: str
    version: int
    rounds_planned: int
    finished: bool
    plan: Mapping[str, Any]
    plan_hash: str
    sites: int
    participants: list[str] | None
    metrics: dict[str, float]
    measured_at: int
    best: dict[str, Any] | None
    rounds: list[Round]
    privacy: list[Spent]
    first_event: str
    last_event: str
    coordinator: dict[str, str]
    stored_sha256: str
    software: dict[str, str]
    exported_with: dict[str, str]
    exported_at: str
    license: str
    replaced_layers: bool
    personal: list[str]
    tied: dict[str, list[str]]

    def as_metadata(self) -> dict[str, str]:
        """The same for the header of a safetensors file, whose values are texts; without the list of all rounds."""
        values = {name: value for name, value in msgspec.to_builtins(self).items() if name != "rounds"}
        texts = {
            name: value if isinstance(value, str) else msgspec.json.encode(value).decode()
            for name, value in values.items()
        }
        return {"format": "pt"} | texts


class _Names(msgspec.Struct):
    personal: list[str] = []
    tied: list[tuple[str, str]] = []


class _Laid(msgspec.Struct):
    layout: _Names | None = None


def chosen(run: Chronicle, version: Version) -> StoredModel:
    """The model that is meant.

    Raises:
        StoreError: the store does not have it.
    """
    there = run.versions
    if not there:
        raise StoreError(f"{run.folder} has no global model yet. Ask again when a site has joined.")
    if version == "best":
        version = read_best(run.folder)[1].version
    elif version == "last":
        version = there[-1]
    if version not in there:
        raise StoreError(
            f"global model {version} is not in {run.folder}: it was removed, or has never been. The versions that are "
            f"there: {', '.join(map(str, there))}."
        )
    return model_at(run, version, "exported")


def provenance_of(
    run: Chronicle, model: StoredModel, card: PublicCard, ledgers: Iterable[Path], *, license: str, name_sites: bool
) -> Provenance:
    """Put together what the store tells of one of its models.

    Args:
        run: the store's run.
        model: one of its models.
        card: the coordinator's, who signs.
        ledgers: privacy ledgers that sites have handed over.
        license: of the model; may be empty.
        name_sites: whether sites are named; otherwise they are counted.

    Raises:
        StoreError: the model's header belongs to another run or plan.
        LedgerError: a ledger cannot be read, or was edited.
    """
    if wrong := wrong_in(run, model):
        raise StoreError(
            f"{model.path} is of another {', '.join(wrong)} than this store. Restore the store from a backup."
        )
    # Of a run that was extended later the model has the plan of its time.
    plan_hash = model.metadata["plan_hash"]
    rounds_planned = run.plans[plan_hash]
    behind = [each for each in run.stored_rounds if each.number <= model.version]
    own = next((each for each in behind if each.number == model.version), None)
    participants = sorted({site for each in behind for site in each.participants})
    names = _names(run.folder)
    tied: dict[str, list[str]] = {}
    for further, first in names.tied:
        tied.setdefault(first, []).append(further)
    example = run.plan.privacy.example

    def named(sites: list[str]) -> list[str] | None:
        return sites if name_sites else None

    return Provenance(
        federation=run.plan.name,
        run=run.run,
        version=model.version,
        rounds_planned=rounds_planned,
        finished=run.finished,
        plan={**run.settings, "rounds": rounds_planned},
        plan_hash=plan_hash,
        sites=len(participants),
        participants=named(participants),
        metrics=own.metrics if own else run.initial,
        measured_at=own.measured_at if own else 0,
        best={"metric": run.plan.best.metric, "version": run.best.version, "value": run.best.value}
        if run.best and run.plan.best
        else None,
        rounds=[
            Round(each.number, each.outcome, len(each.participants), named(each.participants), each.metrics)
            for each in behind
        ],
        privacy=_spent(read_ledgers(run, ledgers), name_sites=name_sites),
        first_event=_utc(run.times[0]) if run.times else "",
        last_event=_utc(run.times[1]) if run.times else "",
        coordinator={"name": card.name, "fingerprint": card.fingerprint, "signing_key": card.signing_public.hex()},
        stored_sha256=model.sha256,
        software=run.software,
        exported_with={"lightning_fed": version_of("lightning_fed"), "python": platform.python_version()},
        exported_at=_utc(datetime.now(UTC).timestamp()),
        license=license,
        replaced_layers=bool(example and example.replace_layers),
        personal=names.personal,
        tied=tied,
    )


def _spent(accounts: Iterable[LedgerAccount], *, name_sites: bool) -> list[Spent]:
    return [
        Spent(
            spending.owner if name_sites else None,
            spending.unit,
            spending.epsilon,
            spending.rows[-1].member_epsilon,
            spending.rows[-1].delta,
            len(spending.rows),
            spending.target,
            account.head,
        )
        for account in accounts
        for spending in account.spendings
    ]


def _names(folder: Path) -> _Names:
    laid = msgspec.json.decode((folder / "run.json").read_bytes(), type=_Laid)
    return laid.layout or _Names()


def _utc(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="seconds")
