"""t-of-n secret sharing of 16-byte seeds over pycryptodome's Shamir scheme in GF(2^128).

Limits of the library, kept here: a secret is exactly one 16-byte block; share i is the polynomial's value at i = 1,
    2, ...; shares carry no check of their own, so exactly t of them are combined and the caller compares the result
    with what the owner has signed. A share's number is not sent: it is the holder's place in a list that all sites
    compute, so nobody can swap it.
"""

from collections.abc import Mapping

from Crypto.Protocol.SecretSharing import Shamir

from lightning_fed.errors import ProtocolError

SHARE_BYTES = 16


def split(secret: bytes, threshold: int, holders: int) -> list[bytes]:
    """Shares 1 to ``holders`` of a 16-byte secret, of which any ``threshold`` give it back and fewer say nothing.

    Raises:
        ProtocolError: the threshold is below 2 (a share would be the secret) or above the number of holders.
    """
    if len(secret) != SHARE_BYTES:
        raise ProtocolError(f"a secret of {len(secret)} bytes cannot be shared; it must have {SHARE_BYTES}.")
    if not 2 <= threshold <= holders:
        raise ProtocolError(f"a threshold of {threshold} with {holders} holders is not between 2 and the holders.")
    return [share for _, share in Shamir.split(threshold, holders, secret)]


def combine(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """The secret behind ``shares`` (number from 1 on -> 16 bytes); uses the ``threshold`` lowest-numbered ones.

    Wrong shares give a wrong secret and no error: compare it with what its owner has signed.

    Raises:
        ProtocolError: too few shares, a number below 1, or a share of a wrong length.
    """
    if len(shares) < threshold or threshold < 2:
        raise ProtocolError(f"{len(shares)} shares are not enough: the threshold is {threshold} and at least 2.")
    chosen = sorted(shares.items())[:threshold]
    for number, share in chosen:
        if number < 1 or len(share) != SHARE_BYTES:
            raise ProtocolError(
                f"share number {number} of {len(share)} bytes: it must be 1 or more and {SHARE_BYTES} bytes."
            )
    return Shamir.combine(chosen)
