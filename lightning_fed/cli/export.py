"""``lightning-fed export``: a global model as a folder to give away, with where it comes from, signed."""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from jsonargparse import Namespace

from lightning_fed.audit.checks import check
from lightning_fed.cli.chronicle import read_chronicle
from lightning_fed.cli.model_card import card_of
from lightning_fed.cli.parser import NamesNearest
from lightning_fed.cli.passphrases import FILE_HELP, asking
from lightning_fed.cli.provenance import Version, chosen, provenance_of
from lightning_fed.cli.sealed import check_seal, seal
from lightning_fed.cli.tensor_file import copy_with_metadata, metadata_of
from lightning_fed.errors import ConfigError, IdentityError, StoreError, printable
from lightning_fed.files import remedy
from lightning_fed.transport.card import load_card
from lightning_fed.transport.identity import Identity, load_identity
from lightning_fed.transport.roster import Roster

MODEL, CARD, FACTS = "model.safetensors", "README.md", "provenance.json"


def run(arguments: Sequence[str]) -> int:
    """Write an export, or verify one.

    Raises:
        FederationError: the store, a key or a ledger cannot be used, the target is not empty or cannot be written; or
            what is verified was changed, or signed by somebody else.
    """
    config = _parser().parse_args(list(arguments[1:]))
    if config.verify:
        _verify(config)
    else:
        _export(config)
    return 0


def _verify(config: Namespace) -> None:
    if config.store or config.out:
        raise ConfigError("--verify looks at a folder that is there, and takes no store and no --out. Leave them out.")
    signer = load_card(config.card) if config.card else Roster.load(config.roster).coordinator
    files = check_seal(config.verify, signer)
    said = metadata_of(config.verify / MODEL) if MODEL in files else {}
    what = f"global model {said.get('version')} of run {said.get('run')}, federation {said.get('federation')!r}"
    print(printable(f"{config.verify}: {what}"))
    print(f"signed by {signer.name!r}, and as it was then: {', '.join(files)}")
    print(f"fingerprint {signer.fingerprint}")


def _export(config: Namespace) -> None:
    if not config.store or not config.out:
        raise ConfigError("an export needs a store and a folder to write: lightning-fed export STORE --out FOLDER")
    identity = _coordinator(config)
    notes = _notes(config.notes)
    with _whole_folder(config.out) as folder:
        model = write_export(
            folder,
            config.store,
            config.version,
            identity,
            ledgers=config.ledgers or [],
            license=config.license,
            notes=notes,
            name_sites=config.name_sites,
        )
        # Whoever gets it does the same.
        check_seal(folder, identity.card)
    print(f"{config.out}\tglobal model {model}, signed by {identity.name!r}")


def write_export(
    folder: Path,
    store: Path,
    version: Version,
    identity: Identity,
    *,
    ledgers: Sequence[Path] = (),
    license: str = "",
    notes: str = "",
    name_sites: bool = False,
) -> int:
    """Write an export's files into an empty folder.

    Args:
        folder: where; there, and empty.
        store: the coordinator's store.
        version: which global model.
        identity: the coordinator's.
        ledgers: privacy ledgers that sites have handed over.
        license: of the model.
        notes: Markdown of whoever publishes it.
        name_sites: whether the sites are named.

    Returns:
        The model's version.

    Raises:
        FederationError: see ``run``.
    """
    chronicle = read_chronicle(store)
    log = store / "events.jsonl"
    if fault := check(log.read_bytes()).fault:
        raise StoreError(
            f"line {fault.line} of {log} does not hold: it {printable(fault.why)}. Papers of a model are not made, and "
            f"not signed, from a log that was changed. Look closer: lightning-fed audit verify {store}"
        )
    model = chosen(chronicle, version)
    provenance = provenance_of(
        chronicle, model, identity.card, ledgers, license=printable(license), name_sites=name_sites
    )
    copy_with_metadata(model.path, folder / MODEL, provenance.as_metadata())
    (folder / FACTS).write_bytes(msgspec.json.format(msgspec.json.encode(provenance)) + b"\n")
    (folder / CARD).write_text(card_of(provenance, notes, chronicle.values), encoding="utf-8")
    seal(folder, identity)
    return model.version


def _coordinator(config: Namespace) -> Identity:
    roster = Roster.load(config.roster)
    identity = load_identity(config.identity, asking(config.passphrase_file), "--identity")
    if identity.card != roster.coordinator:
        raise IdentityError(
            f"{config.identity} is not the key of the coordinator that {config.roster} names, so nobody could verify "
            "what it signs. Name the coordinator's key file (--identity) and its roster (--roster)."
        )
    return identity


def _notes(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the notes {path} cannot be read: {error}. Name a Markdown file in UTF-8.") from error


@contextlib.contextmanager
def _whole_folder(target: Path) -> Iterator[Path]:
    """A folder that takes the target's place once everything is in it and on the disk; nothing is left otherwise."""
    try:
        if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
            raise StoreError(f"{target} is there and not an empty folder. Nothing is overwritten: name another one.")
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
        temporary.mkdir()
    except OSError as error:
        raise _cannot_be_written(target, error) from error
    try:
        yield temporary
        for path in (*temporary.iterdir(), temporary):
            _flush(path)
        temporary.rename(target)
        _flush(target.parent)
    except OSError as error:
        raise _cannot_be_written(target, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cannot_be_written(target: Path, error: OSError) -> StoreError:
    return StoreError(f"{target} cannot be written: {error.strerror}. {remedy(error)}, then try again.")


def _parser() -> NamesNearest:
    parser = NamesNearest(
        prog="lightning-fed export",
        description="Write a global model with its papers into a folder, signed by the coordinator; or verify one.",
    )
    parser.add_argument("store", type=Path | None, nargs="?", default=None, help="the coordinator's store")
    parser.add_argument("--out", type=Path | None, default=None, help="folder to write; must be empty or not be there")
    parser.add_argument("--version", type=Version, default="last", help="which global model: a number, best or last")
    parser.add_argument("--license", type=str, default="", help="of the model, as an SPDX identifier or in words")
    parser.add_argument(
        "--notes", type=Path | None, default=None, help="Markdown file on intended use and limits, for the model card"
    )
    parser.add_argument(
        "--ledgers", type=Path, nargs="*", default=None, help="privacy ledgers that sites have handed over"
    )
    parser.add_argument(
        "--name_sites", "--name-sites", action="store_true", help="name the sites; otherwise they are only counted"
    )
    parser.add_argument("--identity", type=Path, default=Path("keys/coordinator.key"), help="the coordinator's key")
    parser.add_argument(
        "--passphrase_file", "--passphrase-file", type=Path | None, default=None, help=f"of the key file: {FILE_HELP}"
    )
    parser.add_argument("--roster", type=Path, default=Path("keys/roster.yaml"), help="which names the coordinator")
    parser.add_argument(
        "--verify", type=Path | None, default=None, metavar="FOLDER", help="verify an export, by roster or card"
    )
    parser.add_argument(
        "--card", type=Path | None, default=None, help="the coordinator's .pub file, for --verify without a roster"
    )
    return parser
