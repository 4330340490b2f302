"""Key agreement, key derivation, signatures and sealed bundles, all from pyca/cryptography.

Every secret is 128 bits strong: X25519 is, and seeds are 16 random bytes, the block of the secret sharing. A seed is
    never used as it is but goes through HKDF together with the sum and the site it belongs to, so that guesses cannot
    be shared between targets.
"""

import secrets
from collections.abc import Mapping

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from lightning_fed.errors import IdentityError, PeerError, ProtocolError
from lightning_fed.masking.terms import DOMAIN, canonical

SEED_BYTES = 16
KEY_BYTES = 32
SIGNATURE_BYTES = 64
NONCE_BYTES = 12
TAG_BYTES = 16

_FIELD_PRIME = 2**255 - 19


def hkdf(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """HKDF-SHA256 (RFC 5869), ``length`` bytes."""
    return HKDF(algorithm=hashes.SHA256(), length=length, salt=salt, info=info).derive(secret)


def derive(secret: bytes, label: str, *context: bytes | str, length: int) -> bytes:
    """``length`` bytes for one use: the label and the context say which."""
    return hkdf(secret, DOMAIN.encode(), canonical(label, *context), length)


def private_key(secret: bytes) -> X25519PrivateKey:
    """The X25519 private key of 32 secret bytes."""
    return X25519PrivateKey.from_private_bytes(secret)


def mask_key(seed: bytes, context: bytes, site: str) -> X25519PrivateKey:
    """The mask key that a site's 16-byte seed stands for; the seed is what is shared."""
    return private_key(derive(seed, "mask key", context, site, length=KEY_BYTES))


def seed_commitment(seed: bytes, context: bytes, site: str) -> bytes:
    """32 public bytes that say which self-mask seed a site has, without showing it."""
    return derive(seed, "self-mask commitment", context, site, length=KEY_BYTES)


def agree(private: X25519PrivateKey, public: bytes, site: str) -> bytes:
    """The X25519 secret (RFC 7748) shared with ``site``, 32 bytes.

    Raises:
        ProtocolError: the public key is a point of low order, with which the secret would be known to everybody.
    """
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise ProtocolError(
            f"the X25519 key of site {site!r} is a low-order point or not {KEY_BYTES} bytes: no secret can be agreed "
            "with it. Leave the round, and have that site's installation checked."
        ) from error


def check_public_key(public: bytes, site: str) -> None:
    """Accept the form of an advertised X25519 public key or raise; whether a secret can be agreed, ``agree`` finds out.

    RFC 7748 lets a receiver accept numbers above the field's prime. No sender here makes them, and refusing them keeps
    one key from being advertised twice under two spellings.

    Raises:
        ProtocolError: a wrong length, or not the canonical form.
    """
    if len(public) != KEY_BYTES or int.from_bytes(public, "little") >= _FIELD_PRIME:
        raise ProtocolError(
            f"the X25519 key of site {site!r} is not {KEY_BYTES} bytes in canonical form. "
            "Leave the round, and have that site's installation checked."
        )


def sign(identity: Ed25519PrivateKey, message: bytes) -> bytes:
    """Ed25519 signature (RFC 8032), 64 bytes."""
    return identity.sign(message)


def is_signed(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether the Ed25519 ``signature`` of ``message`` was made with the private half of ``public`` (32 bytes)."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def roster_key(roster: Mapping[str, bytes], site: str) -> bytes:
    """The Ed25519 public key of a site, 32 bytes.

    Raises:
        IdentityError: the roster does not have the site, or not a key for it.
    """
    key = roster.get(site)
    if key is None:
        raise IdentityError(f"site {site!r} is not in this federation's roster. Add it there, or leave the round.")
    if len(key) != KEY_BYTES:
        raise IdentityError(
            f"the roster's Ed25519 key of site {site!r} has {len(key)} bytes instead of {KEY_BYTES}. Mend the roster."
        )
    return key


def seal(key: bytes, plaintext: bytes) -> bytes:
    """AES-256-GCM: nonce, ciphertext and tag. ``key`` (32 bytes) is for one sender, one receiver and one sum.

    Each key seals once, so a fixed nonce would do; a random one costs 12 bytes and holds if a machine is rolled back.
    """
    nonce = secrets.token_bytes(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plaintext, None)


def unseal(key: bytes, sealed: bytes, length: int, sender: str) -> bytes:
    """The ``length`` bytes that ``sender`` sealed.

    Raises:
        PeerError: truncated or too long, changed on the way, or sealed for another sum, cohort, sender or receiver.
    """
    expected = NONCE_BYTES + length + TAG_BYTES
    if len(sealed) != expected:
        raise PeerError(
            sender,
            f"the sealed shares of site {sender!r} have {len(sealed)} bytes instead of {expected}. "
            "Leave this attempt; the round can be tried again with fresh keys.",
        )
    try:
        return AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], None)
    except InvalidTag as error:
        raise PeerError(
            sender,
            f"the sealed shares of site {sender!r} do not open: changed on their way, or made for another cohort. "
            "Leave this attempt; the round can be tried again with fresh keys.",
        ) from error
