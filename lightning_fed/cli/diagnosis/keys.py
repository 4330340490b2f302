"""Keys, their file modes, and the roster."""

import stat
from collections.abc import Callable
from pathlib import Path

from lightning_fed.cli.diagnosis.findings import Findings
from lightning_fed.errors import IdentityError
from lightning_fed.transport.identity import Identity, load_identity
from lightning_fed.transport.roster import Roster
from lightning_fed.transport.taken_roster import identity_in, newest_roster


def check_key(
    findings: Findings,
    path: Path,
    passphrase: Callable[[Path], bytes],
    name: str | None = None,
    setting: str = "identity",
) -> Identity | None:
    """Look at a secret key file.

    Args:
        findings: takes what is found.
        path: the file.
        passphrase: see ``load_identity``.
        name: whose it must be; anybody's when not given.
        setting: the one that has named the file, for messages.

    Returns:
        The keys, if they can be used.
    """
    try:
        identity = load_identity(path, passphrase, setting)
    except IdentityError as error:
        findings.fail("key", str(error))
        return None
    if name is not None and identity.name != name:
        findings.fail(
            "key",
            f"{path} is the identity of {identity.name!r}, and the config is that of site {name!r}.",
            "Name the site's own key file (identity), or the other site (site).",
        )
        return None
    findings.ok("key", f"{path} holds the keys of {identity.name!r}, and its owner alone can read it.")
    if is_open_to_others(path.resolve().parent):
        findings.warn(
            "key folder",
            f"others can write to {path.parent}, and so put another key file in this one's place.",
            f"chmod go-w {path.parent}",
        )
    return identity


def check_roster(findings: Findings, path: Path, identity: Identity | None) -> Roster | None:
    """Look at the roster, and for whom the keys are in it."""
    try:
        return _tell_roster(findings, Roster.load(path), path, identity)
    except IdentityError as error:
        findings.fail("roster", str(error))
        return None


def check_own_roster(
    findings: Findings,
    path: Path,
    ledger: Path,
    key_file: Path,
    passphrase: Callable[[Path], bytes],
    identity: Identity | None,
) -> tuple[Roster | None, Identity | None]:
    """Look at the roster that a site goes by: a newer one, if it has taken one, and its next keys, if those are in it.

    Returns:
        The roster, if it can be used, and the keys that it knows the site by.
    """
    try:
        roster, path = newest_roster(path, ledger)
        if identity is not None:
            identity = identity_in(roster, key_file, passphrase)
        return _tell_roster(findings, roster, path, identity), identity
    except IdentityError as error:
        findings.fail("roster", str(error))
        return None, identity


def _tell_roster(findings: Findings, roster: Roster, path: Path, identity: Identity | None) -> Roster:
    if identity is not None:
        roster.check_own(identity.card, path)
    own = "" if identity is None else f", and has the keys of {identity.name!r} as they are here"
    findings.ok(
        "roster", f"{path} names the coordinator {roster.coordinator.name!r} and {len(roster.sites)} sites{own}."
    )
    signer = roster.consortium
    if signer is None:
        findings.skip(
            "signature",
            "the roster is not signed: whoever can change the file can change the members.",
            "Sign it with a key that is kept offline: lightning-fed roster sign",
        )
    else:
        findings.ok(
            "signature",
            f"it is version {roster.version}, and the signature of {signer.name!r} holds, whose fingerprint is "
            f"{signer.fingerprint}.",
        )
    if is_open_to_others(path):
        findings.warn(
            "roster file", f"others can write to {path}, and so put in keys of their own.", f"chmod go-w {path}"
        )
    return roster


def is_open_to_others(path: Path) -> bool:
    """Whether somebody else than its owner can write to a file or folder."""
    return bool(stat.S_IMODE(path.stat().st_mode) & (stat.S_IWGRP | stat.S_IWOTH))
