"""A federation in one process: real sites and a real coordinator, every message through its bytes."""

from functools import cache

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lightning_fed.masking import Context, Terms
from lightning_fed.masking import messages as m
from lightning_fed.masking.coordinator import MaskingCoordinator
from lightning_fed.masking.site import MaskingSite
from lightning_fed.masking.streams import word_dtype

CONTEXT = Context(federation="thorax", plan_hash="ab" * 32, round=7, attempt=0)


@cache
def identity(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


def roster_of(names) -> dict[str, bytes]:
    return {name: identity(name).public_key().public_bytes_raw() for name in names}


def names_of(count: int) -> list[str]:
    return [f"site-{i:03d}" for i in range(count)]


def copy_of(message, **changes):
    """The message as a hostile relay would change it."""
    return type(message)(**{f: changes.get(f, getattr(message, f)) for f in message.__struct_fields__})


class Federation:
    """Drives one masked sum phase by phase; each phase is run by the sites named, all that are left if none are."""

    def __init__(self, names, terms: Terms, context: Context = CONTEXT, size: int = 5, bits: int = 32) -> None:
        self.roster = roster_of(names)
        self.context, self.terms, self.bits, self.size = context, terms, bits, size
        self.sites = {name: MaskingSite(name, identity(name), self.roster, context, terms) for name in names}
        self.coordinator = MaskingCoordinator(context, terms, self.roster, size, bits)
        self.vectors: dict[str, np.ndarray] = {}
        self.uploads: dict[str, np.ndarray] = {}
        self.wire: list[bytes] = []

    def to_coordinator(self, message):
        self.wire.append(m.encode(message))
        return m.decode_from_site(self.wire[-1])

    def to_site(self, message):
        self.wire.append(m.encode(message))
        return m.decode_from_coordinator(self.wire[-1])

    def advertise(self, names=None):
        for name in names if names is not None else self.sites:
            self.coordinator.receive(name, self.to_coordinator(self.sites[name].advertise()))
        self.cohort = self.coordinator.close()
        return self.cohort

    def share(self, names=None):
        for name in names if names is not None else self.cohort:
            self.coordinator.receive(
                name, self.to_coordinator(self.sites[name].receive_keys(self.to_site(self.cohort[name])))
            )
        self.bundles = self.coordinator.close()
        return self.bundles

    def upload(self, names=None, rng=None):
        rng = rng or np.random.default_rng(0)
        for name in names if names is not None else self.bundles:
            self.sites[name].receive_shares(self.to_site(self.bundles[name]))
            vector = rng.integers(0, 1 << self.bits, self.size).astype(word_dtype(self.bits))
            self.vectors[name] = vector.copy()
            masked = self.to_coordinator(self.sites[name].mask(vector, self.bits))
            self.uploads[name] = vector.copy()
            self.coordinator.add(name, masked, vector)
        self.survivors = self.coordinator.close()
        return self.survivors

    def sign(self, names=None):
        for name in names if names is not None else self.survivors:
            self.coordinator.receive(
                name, self.to_coordinator(self.sites[name].sign_survivors(self.to_site(self.survivors[name])))
            )
        self.signatures = self.coordinator.close()
        return self.signatures

    def reveal(self, names=None):
        for name in names if names is not None else self.signatures:
            self.coordinator.receive(
                name, self.to_coordinator(self.sites[name].reveal(self.to_site(self.signatures[name])))
            )
        return self.coordinator.unmask()

    def expected(self) -> np.ndarray:
        """The sum of the survivors in Python integers, mod 2^bits."""
        columns = zip(*(self.vectors[name].tolist() for name in self.coordinator.survivors), strict=True)
        return np.array([sum(column) % (1 << self.bits) for column in columns])


def until_masked(count: int, terms: Terms, **kwargs) -> Federation:
    federation = Federation(names_of(count), terms, **kwargs)
    federation.advertise()
    federation.share()
    federation.upload()
    return federation
