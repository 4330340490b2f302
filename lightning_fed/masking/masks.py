"""From secrets to the seeds of mask streams, for the site, which adds them, and the coordinator, which removes them."""

from lightning_fed.masking import keys
from lightning_fed.masking.streams import STREAM_SEED_BYTES


def self_stream(seed: bytes, cohort_hash: bytes, site: str) -> bytes:
    """Stream seed of a site's self-mask."""
    return keys.derive(seed, "self mask", cohort_hash, site, length=STREAM_SEED_BYTES)


def pair_stream(secret: bytes, cohort_hash: bytes, one: str, other: str) -> bytes:
    """Stream seed two sites have in common, from their mask keys' X25519 secret; either order of the names will do."""
    first, second = sorted((one, other))
    return keys.derive(secret, "pair mask", cohort_hash, first, second, length=STREAM_SEED_BYTES)


def adds(site: str, peer: str) -> bool:
    """Whether ``site`` adds the mask it has in common with ``peer``; the other one subtracts it."""
    return site < peer
