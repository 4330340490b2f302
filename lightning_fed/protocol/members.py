"""The sites of one version of the roster, as masked sums need them."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Members:
    """Who may take part, and by which keys the others know them.

    Args:
        keys: signing keys (32 bytes) of all sites by name.
        version: of the signed roster; 0 of one that nobody has signed, which no other can follow.
        document: the roster's file, to be handed to those who have another; empty where there is none.
    """

    keys: Mapping[str, bytes]
    version: int = 0
    document: bytes = b""

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of names and keys: sites that name the same one know each other alike, whoever has signed it."""
        lines = (f"{len(name)} {name} {key.hex()}\n" for name, key in sorted(self.keys.items()))
        return hashlib.sha256("".join(lines).encode()).digest()

    @cached_property
    def document_hash(self) -> bytes:
        """SHA-256 of the roster's file; empty where there is none."""
        return hashlib.sha256(self.document).digest() if self.document else b""
