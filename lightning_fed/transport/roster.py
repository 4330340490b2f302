"""The roster: who takes part in a federation, with the keys that each is known by.

It can be signed by the consortium, an identity that takes part in nothing and whose key is kept offline. Then it has a
version, and a newer one of the same consortium may take its place while a federation runs.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from lightning_fed.errors import IdentityError
from lightning_fed.files import write_whole
from lightning_fed.protocol.members import Members
from lightning_fed.transport.card import CardFile, PublicCard, card_file, card_of
from lightning_fed.transport.identity import Identity
from lightning_fed.transport.yaml_files import parse, read

_DOMAIN = b"lightning_fed/roster/1"
"""Starts what a consortium signs, so that its signature means nothing anywhere else."""

_NEWEST = "Get the newest one from the coordinator."
_RESIGN = "Ask those who keep the consortium's key which roster holds."


class _RosterFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    coordinator: CardFile
    sites: list[CardFile]
    version: int = 0
    consortium: CardFile | None = None
    signature: str = ""


@dataclass(frozen=True)
class Roster:
    """The federation's members.

    Attributes:
        coordinator: the coordinator's card.
        sites: the sites' cards by name.
        version: counts from 1; 0 of a roster that is not signed.
        consortium: whose key has signed it; None of one that is not signed.
        signature: Ed25519 signature, 64 bytes, which holds; empty if there is none.
    """

    coordinator: PublicCard
    sites: Mapping[str, PublicCard]
    _by_key: Mapping[bytes, str] = field(repr=False, compare=False)
    version: int = 0
    consortium: PublicCard | None = None
    signature: bytes = b""

    @classmethod
    def of(cls, coordinator: PublicCard, sites: Iterable[PublicCard]) -> "Roster":
        """Put cards together.

        Raises:
            IdentityError: no site, or a name or key that occurs twice.
        """
        sites = list(sites)
        if not sites:
            raise IdentityError("a roster needs at least one site. Name the sites' .pub files.")
        everybody = [coordinator, *sites]
        identifiers: tuple[tuple[str, list[str | bytes]], ...] = (
            ("name", [card.name for card in everybody]),
            ("CURVE key", [card.curve_public for card in everybody]),
            ("signing key", [card.signing_public for card in everybody]),
        )
        for what, values in identifiers:
            counts = Counter(values)
            doubled = next(
                (card.name for card, value in zip(everybody, values, strict=True) if counts[value] > 1), None
            )
            if doubled is not None:
                raise IdentityError(
                    f"two cards of the roster have the same {what}, one is {doubled!r}. Give each its own."
                )
        return cls(coordinator, {card.name: card for card in sites}, {card.curve_public: card.name for card in sites})

    @classmethod
    def load(cls, path: str | Path) -> "Roster":
        """Read a roster file.

        Raises:
            IdentityError: the file is missing, is no roster, names somebody twice, or was changed after it was signed.
        """
        return cls._of_file(read(Path(path), _RosterFile, "roster", _NEWEST), str(path))

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> "Roster":
        """The roster that ``to_bytes`` gave; ``where`` it comes from is for messages.

        Raises:
            IdentityError: as ``load``.
        """
        return cls._of_file(parse(data, _RosterFile, "roster", where, _NEWEST), where)

    @classmethod
    def _of_file(cls, content: _RosterFile, where: str) -> "Roster":
        roster = cls.of(card_of(content.coordinator), [card_of(site) for site in content.sites])
        if content.consortium is None:
            if content.signature or content.version:
                raise IdentityError(f"the roster {where} has a signature and does not say whose. {_NEWEST}")
            return roster
        consortium = card_of(content.consortium)
        roster._check_apart(consortium)
        try:
            signature = bytes.fromhex(content.signature)
            signed = replace(roster, version=content.version, consortium=consortium, signature=signature)
            Ed25519PublicKey.from_public_bytes(consortium.signing_public).verify(signature, signed._signed_bytes)
        except (ValueError, OverflowError, InvalidSignature) as error:
            raise IdentityError(
                f"the signature of the roster {where} does not hold: it was changed after the consortium had signed "
                f"it. {_NEWEST}"
            ) from error
        return signed

    def to_bytes(self) -> bytes:
        """The roster as YAML."""
        consortium = card_file(self.consortium) if self.consortium else None
        cards = [card_file(card) for card in self.sites.values()]
        return msgspec.yaml.encode(
            _RosterFile(card_file(self.coordinator), cards, self.version, consortium, self.signature.hex())
        )

    def write(self, path: str | Path) -> None:
        """Write the roster as YAML, replacing an older one.

        Raises:
            StoreError: it cannot be written; an older one stays.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, self.to_bytes())

    # Versions

    def signed_by(self, consortium: Identity, version: int) -> "Roster":
        """The same members in a roster that the consortium has signed.

        Raises:
            IdentityError: the consortium's key is a member's, who could then change the roster alone.
        """
        self._check_apart(consortium.card)
        unsigned = replace(self, version=version, consortium=consortium.card, signature=b"")
        return replace(unsigned, signature=consortium.signing_key.sign(unsigned._signed_bytes))

    @property
    def _signed_bytes(self) -> bytes:
        """What the consortium signs: every field behind its length, so that no two rosters have the same bytes."""
        assert self.consortium is not None
        fields = [_DOMAIN, self.version.to_bytes(8, "big")]
        for card in (self.consortium, self.coordinator, *(self.sites[name] for name in sorted(self.sites))):
            fields += [card.name.encode(), card.curve_public, card.signing_public]
        return b"".join(len(each).to_bytes(8, "big") + each for each in fields)

    def _check_apart(self, consortium: PublicCard) -> None:
        for card in (self.coordinator, *self.sites.values()):
            if consortium.signing_public == card.signing_public:
                raise IdentityError(
                    f"the consortium's key is that of member {card.name!r}, who could then change the roster alone. "
                    "Make the consortium a key of its own, and keep it offline: lightning-fed keys new consortium"
                )

    def check_successor(self, newer: "Roster", where: str) -> None:
        """Refuse a roster that may not take the place of this one; it may be the same again.

        Args:
            newer: a roster whose signature holds.
            where: what is said of it in messages, such as ``the coordinator's roster``.

        Raises:
            IdentityError: nobody, or another consortium, has signed it; it is an older one; or another of this version.
        """
        if self.consortium is None:
            raise IdentityError(
                f"the roster here is not signed, so {where} cannot be known to be the consortium's. Put the newest "
                "roster here in its place, once its fingerprints were compared by phone."
            )
        if newer.consortium is None:
            raise IdentityError(f"{where} is not signed, and the one here is (version {self.version}). {_RESIGN}")
        if newer.consortium.signing_public != self.consortium.signing_public:
            raise IdentityError(
                f"{where} is signed by another consortium, of fingerprint {newer.consortium.fingerprint}; the one "
                f"here is signed by {self.consortium.fingerprint}. {_RESIGN}"
            )
        if newer.version < self.version:
            raise IdentityError(
                f"{where} is version {newer.version}, and version {self.version} was accepted here before: what was "
                "removed since must not come back with an old roster. Put the newest one in its place."
            )
        if newer.version == self.version and newer._signed_bytes != self._signed_bytes:
            raise IdentityError(
                f"{where} is version {newer.version} as the one here, and names other members: the consortium has "
                f"signed two of them. {_RESIGN}"
            )

    def changes(self, newer: "Roster") -> dict[str, list[str]]:
        """Names that were ``added``, ``removed``, or have other keys (``rotated``) in a newer roster."""
        before, after = (
            {card.name: card for card in (each.coordinator, *each.sites.values())} for each in (self, newer)
        )
        return {
            "added": sorted(after.keys() - before.keys()),
            "removed": sorted(before.keys() - after.keys()),
            "rotated": sorted(name for name in before.keys() & after.keys() if before[name] != after[name]),
        }

    @cached_property
    def members(self) -> Members:
        """The sites, as masked sums need them."""
        keys = {name: card.signing_public for name, card in self.sites.items()}
        return Members(keys, self.version, self.to_bytes())

    def check_own(self, own: PublicCard, path: Path) -> None:
        """Refuse a roster, read from ``path``, in which its reader is not, or has other keys.

        Raises:
            IdentityError: names what is there instead.
        """
        everybody = {card.name: card for card in (self.coordinator, *self.sites.values())}
        cure = f"Send {own.name}.pub to whoever makes the roster, and put the new roster here."
        if own.name not in everybody:
            raise IdentityError(
                f"{own.name!r} is not in its own roster {path}, which names {sorted(everybody)}: nobody could take "
                f"part in a federation so. {cure}"
            )
        if everybody[own.name] != own:
            raise IdentityError(
                f"the roster {path} has other keys for {own.name!r}, of fingerprint {everybody[own.name].fingerprint}, "
                f"than its key file, {own.fingerprint}. {cure}"
            )

    @cached_property
    def fingerprints(self) -> Mapping[str, str]:
        """Fingerprints of everybody, the coordinator first, by name."""
        return {card.name: card.fingerprint for card in (self.coordinator, *self.sites.values())}

    def site_of(self, curve_public: bytes) -> str | None:
        """The site that a CURVE public key (Z85) belongs to, None for an unknown key."""
        return self._by_key.get(curve_public)
