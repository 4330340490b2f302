"""A member's public card: its name and public keys, as others may know them."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from zmq.utils import z85

from lightning_fed.errors import IdentityError
from lightning_fed.transport.yaml_files import read

LONGEST_NAME = 64

KEY_BYTES = 32


class CardFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A public card as it stands in a file: keys in Z85 and hexadecimal digits."""

    name: str
    curve: str
    signing: str


@dataclass(frozen=True)
class PublicCard:
    """What others may know of a site or of the coordinator.

    Attributes:
        name: letters, digits, ``-``, ``_`` and ``.``, at most 64.
        curve_public: CURVE public key, Z85 text of 40 bytes as ZeroMQ takes it.
        signing_public: Ed25519 public key, 32 bytes.
    """

    name: str
    curve_public: bytes
    signing_public: bytes

    @property
    def fingerprint(self) -> str:
        """SHA-256 over name and keys, 64 hexadecimal digits in four times four groups, to be compared by phone.

        All of it: keys that give the same 64 bits as another's could be searched for.
        """
        content = b"\0".join((self.name.encode(), z85.decode(self.curve_public), self.signing_public))
        digest = hashlib.sha256(content).hexdigest()
        groups = [digest[start : start + 4] for start in range(0, len(digest), 4)]
        return "  ".join(" ".join(groups[start : start + 4]) for start in range(0, len(groups), 4))


def check_name(name: str) -> None:
    """Accept a member's name or raise.

    Raises:
        IdentityError: it is empty, too long, or has other characters than a file's name may have anywhere.
    """
    if not 0 < len(name) <= LONGEST_NAME or not all((c.isascii() and c.isalnum()) or c in "-_." for c in name):
        raise IdentityError(
            f"the name {name[:LONGEST_NAME]!r} must be 1 to {LONGEST_NAME} letters, digits, '-', '_' and '.'."
        )


def load_card(path: str | Path) -> PublicCard:
    """Read a public card.

    Raises:
        IdentityError: the file is missing or is no card.
    """
    return card_of(read(Path(path), CardFile, "public card", "Name a .pub file made by: lightning-fed keys new NAME"))


def card_of(content: CardFile) -> PublicCard:
    """Read a card of a file.

    Raises:
        IdentityError: the name is not allowed, or the keys are none.
    """
    check_name(content.name)
    try:
        curve, signing = content.curve.encode(), bytes.fromhex(content.signing)
        if len(z85.decode(curve)) != KEY_BYTES:
            raise ValueError("wrong length")
        Ed25519PublicKey.from_public_bytes(signing)
    except (ValueError, KeyError) as error:
        raise IdentityError(f"the card of {content.name!r} holds no valid public keys. Ask for it again.") from error
    return PublicCard(content.name, curve, signing)


def card_file(card: PublicCard) -> CardFile:
    """The card as it stands in a file."""
    return CardFile(card.name, card.curve_public.decode(), card.signing_public.hex())
