"""The messages of the masked sum: typed, bounded, encoded with MessagePack; the masked vectors travel as raw bytes.

Each carries its round, attempt and purpose, so that a stray message is named as such. That is a convenience: what
protects is that all signatures and keys are bound to the context.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from lightning_fed.errors import ProtocolError
from lightning_fed.masking.terms import Context
from lightning_fed.wire import decoded, encoded

MAX_SITES = 4096
"""Largest cohort a message has room for."""

Name = Annotated[str, Meta(min_length=1, max_length=128)]
Names = Annotated[tuple[Name, ...], Meta(max_length=MAX_SITES)]
Key = Annotated[bytes, Meta(min_length=32, max_length=32)]
Signature = Annotated[bytes, Meta(min_length=64, max_length=64)]
Share = Annotated[bytes, Meta(max_length=64)]
Seed = Annotated[bytes, Meta(min_length=16, max_length=16)]
Sealed = Annotated[bytes, Meta(max_length=256)]
Count = Annotated[int, Meta(ge=0, le=1 << 32)]


class MaskingMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True):
    """Base of all masking messages: the sum they belong to."""

    round: Count
    attempt: Count
    purpose: Name


class Advertise(MaskingMessage, frozen=True):
    """Site, phase 1: its fresh keys and the commitment to its self-mask seed, signed with its roster identity."""

    site: Name
    sharing_key: Key
    mask_key: Key
    commitment: Key
    signature: Signature


class Cohort(MaskingMessage, frozen=True):
    """Coordinator, ends phase 1: all advertisements, in ascending order of the sites' names."""

    advertisements: Annotated[tuple[Advertise, ...], Meta(max_length=MAX_SITES)]


class Shares(MaskingMessage, frozen=True):
    """Site, phase 2: by neighbour, the two shares it is to hold, sealed for it."""

    sealed: Annotated[dict[Name, Sealed], Meta(max_length=MAX_SITES)]


class Bundles(MaskingMessage, frozen=True):
    """Coordinator, ends phase 2: who has shared (ascending), and by neighbour what it sealed for this site."""

    sharers: Names
    sealed: Annotated[dict[Name, Sealed], Meta(max_length=MAX_SITES)]


class Masked(MaskingMessage, frozen=True):
    """Site, phase 3: its masked vector is coming; the signature says among which sharers it was masked."""

    signature: Signature


class Survivors(MaskingMessage, frozen=True):
    """Coordinator, ends phase 3: by site in the sum, the signature of its ``Masked``."""

    signatures: Annotated[dict[Name, Signature], Meta(max_length=MAX_SITES)]


class Signed(MaskingMessage, frozen=True):
    """Site, phase 4: its signature of the survivor set."""

    signature: Signature


class Signatures(MaskingMessage, frozen=True):
    """Coordinator, ends phase 4: by site, its signature of the survivor set."""

    signatures: Annotated[dict[Name, Signature], Meta(max_length=MAX_SITES)]


class Reveal(MaskingMessage, frozen=True):
    """Site, phase 5: its own self-mask seed, and of each other site one share.

    By other survivor a share of its self-mask seed, by dropped-out site a share of its mask key's seed.
    """

    own_seed: Seed
    self_shares: Annotated[dict[Name, Share], Meta(max_length=MAX_SITES)]
    key_shares: Annotated[dict[Name, Share], Meta(max_length=MAX_SITES)]

    def __repr__(self) -> str:
        # Seeds and shares are opened to the coordinator alone; a log that prints messages must not widen that circle.
        return f"Reveal(self_shares of {len(self.self_shares)} sites, key_shares of {len(self.key_shares)} sites)"


FromSite = Advertise | Shares | Masked | Signed | Reveal
FromCoordinator = Cohort | Bundles | Survivors | Signatures

_from_site: "msgspec.msgpack.Decoder[FromSite]" = msgspec.msgpack.Decoder(FromSite)
_from_coordinator: "msgspec.msgpack.Decoder[FromCoordinator]" = msgspec.msgpack.Decoder(FromCoordinator)


def check_context(message: MaskingMessage, context: Context) -> None:
    """Accept a message of this sum, or raise.

    Raises:
        ProtocolError: it belongs to another round, attempt or purpose.
    """
    if (message.round, message.attempt, message.purpose) != (context.round, context.attempt, context.purpose):
        raise ProtocolError(
            f"a {type(message).__name__} message of round {message.round}, attempt {message.attempt}, "
            f"{message.purpose} arrived in {context}. It is late or replayed, and was refused."
        )


def encode(message: MaskingMessage) -> bytes:
    """MessagePack bytes of a message.

    Raises:
        ProtocolError: the message is larger than any receiver accepts.
    """
    return encoded(message, "The cohort is too large; draw fewer sites a round.")


def decode_from_site(data: bytes) -> FromSite:
    """The masking message a site sent.

    Raises:
        ProtocolError: the bytes are too many, or not such a message.
    """
    return decoded(_from_site, data, "a masking message")


def decode_from_coordinator(data: bytes) -> FromCoordinator:
    """The masking message a coordinator sent.

    Raises:
        ProtocolError: the bytes are too many, or not such a message.
    """
    return decoded(_from_coordinator, data, "a masking message")
