"""What of a run's files can be checked against each other, as a list of ticks and crosses."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_fed.audit.checks import Checked, check, check_heads, check_held, heads_in
from lightning_fed.cli.chronicle import Chronicle
from lightning_fed.cli.spent import LedgerAccount
from lightning_fed.cli.tensor_file import metadata_of
from lightning_fed.errors import StoreError, printable


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: whether it holds, and in words."""

    holds: bool
    text: str


@dataclass(frozen=True)
class StoredModel:
    """A global model's file: what it is to the run, where it lies, its size, hash, and what its header says."""

    role: str
    version: int
    path: Path
    size: int
    sha256: str
    metadata: dict[str, str]


def model_at(run: Chronicle, version: int, role: str) -> StoredModel:
    """A global model of the store, with its hash.

    Raises:
        StoreError: it is not there, or no safetensors file.
    """
    path = run.folder / "models" / f"{version:06d}.safetensors"
    metadata = metadata_of(path)
    return StoredModel(role, version, path, path.stat().st_size, sha256_of(path), metadata)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal.

    Raises:
        StoreError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}. Mend the permissions or the disk.") from error


def models_of(run: Chronicle) -> list[StoredModel]:
    """The initial, the best and the newest global model, as far as the store has them."""
    versions = run.versions
    best = [(run.best.version, "best")] if run.best else []
    wanted = [(0, "initial"), *best, *((version, "newest") for version in versions[-1:])]
    roles: dict[int, list[str]] = {}
    for version, role in wanted:
        roles.setdefault(version, []).append(role)
    return [model_at(run, version, ", ".join(names)) for version, names in roles.items() if version in versions]


@dataclass(frozen=True)
class SiteLog:
    """A site's own audit log, which it has handed over: the file's name, its content and what was found in it."""

    name: str
    content: bytes
    checked: Checked


def read_site_logs(paths: Iterable[Path]) -> list[SiteLog]:
    """Read and check sites' audit logs.

    Raises:
        StoreError: one cannot be read.
    """
    contents = [(printable(path.name), _content(path)) for path in paths]
    return [SiteLog(name, content, check(content)) for name, content in contents]


def wrong_in(run: Chronicle, model: StoredModel) -> list[str]:
    """What a model's header names that is not the run's; empty if it is the run's."""
    said = model.metadata
    right = {
        "run": said.get("run") == run.run,
        "plan_hash": said.get("plan_hash") in run.plans,
        "version": said.get("version") == str(model.version),
    }
    return [name for name, holds in right.items() if not holds]


def checks_of(
    run: Chronicle, models: Sequence[StoredModel], ledgers: Sequence[LedgerAccount], logs: Sequence[SiteLog] = ()
) -> list[Check]:
    """Everything that can be checked with the store's files, and those that sites have handed over."""
    return [
        *_of_plan(run),
        *_of_logs(run, logs),
        *_of_models(run, models),
        *(each for ledger in ledgers for each in _of_ledger(ledger)),
    ]


def _of_plan(run: Chronicle) -> Iterator[Check]:
    if run.foreign_plans:
        others = ", ".join(printable(other) or "none" for other in sorted(run.foreign_plans))
        yield Check(False, f"the event log names plans of other hashes than that of run.json: {others}")
    elif len(run.plans) > 1:
        rounds = ", ".join(map(str, sorted(run.plans.values())))
        yield Check(
            True, f"each start in the event log names run.json's plan, with {rounds} rounds, one after the other"
        )
    else:
        yield Check(True, "every start in the event log names the hash of the plan in run.json")
    if run.passed_over:
        yield Check(False, f"{run.passed_over} lines of the event log are none that this version can read")


def _of_logs(run: Chronicle, logs: Sequence[SiteLog]) -> Iterator[Check]:
    """What ``lightning-fed audit verify`` looks at."""
    path = run.folder / "events.jsonl"
    content = _content(path) if path.exists() else b""
    events = check(content)
    yield _alone("the event log", content, events)
    for log in logs:
        yield _alone(f"the site's log {log.name}", log.content, log.checked)
        yield _against("the event log", events, f"the site's log {log.name}", log.content)
        yield _against(f"the site's log {log.name}", log.checked, "the event log", content)


def _alone(what: str, content: bytes, checked: Checked) -> Check:
    if fault := checked.fault or check_held(heads_in(content)):
        return Check(False, f"line {fault.line} of {what} does not hold: it {printable(fault.why)}")
    if not checked.chains:
        return Check(False, f"{what} is not chained: a version that did not do so has written it")
    key = printable(checked.chains[-1].start.key)
    signed = f"signed by {key}" if key else "not signed"
    return Check(bool(key), f"{what}: all {checked.lines} lines hold, each follows from the one before; {signed}")


def _against(what: str, checked: Checked, holder: str, content: bytes) -> Check:
    names = {chain.log for chain in checked.chains}
    held = [one for one in heads_in(content) if one.log in names]
    if not held:
        return Check(False, f"{holder} holds no head of {what}, and says nothing about it")
    if fault := check_heads(checked, held, holder):
        return Check(False, f"line {fault.line} of {what} does not hold: it {printable(fault.why)}")
    last = max(one.head.line for one in held)
    return Check(True, f"{what} is as {holder} was told while it was written, {len(held)} times, up to line {last}")


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StoreError(f"the log {path} cannot be read: {error.strerror}. Name another, or mend it.") from error


def _of_models(run: Chronicle, models: Sequence[StoredModel]) -> Iterator[Check]:
    for model in models:
        wrong = wrong_in(run, model)
        yield Check(
            not wrong,
            f"the header of global model {model.version} "
            + (f"names another {', '.join(wrong)}" if wrong else "names this run, plan and version"),
        )


def _of_ledger(ledger: LedgerAccount) -> Iterator[Check]:
    who = f"the privacy ledger {ledger.name} of {', '.join(ledger.owners) or 'nobody'}"
    signed = f"signed by {ledger.signer}" if ledger.signer else "not signed"
    yield Check(bool(ledger.signer), f"{who}: each line follows from the one before; {signed}")
    if ledger.lacking:
        lost = ", ".join(printable(head[:16]) for head in ledger.lacking[:3])
        yield Check(False, f"{who} lacks {len(ledger.lacking)} lines that the coordinator was told of: {lost}, ...")
    elif ledger.told:
        yield Check(True, f"{who} has all {ledger.told} lines that the coordinator was told of")
