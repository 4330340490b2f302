"""What both sides compute from the advertised keys alone: the checks, the graph, and the bytes that are signed.

The cohort's hash goes into every key and signature made after phase 1. So two sites that were shown different cohorts
can neither open each other's shares nor count each other's signatures.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from itertools import pairwise

from lightning_fed.errors import IdentityError, ProtocolError, QuorumLostError
from lightning_fed.masking import keys
from lightning_fed.masking.graph import neighbour_graph
from lightning_fed.masking.messages import Advertise, check_context
from lightning_fed.masking.terms import Context, Terms, canonical


def advertisement_bytes(context: Context, site: str, sharing_key: bytes, mask_key: bytes, commitment: bytes) -> bytes:
    """What a site signs in phase 1."""
    return canonical("advertise", context.to_bytes(), site, sharing_key, mask_key, commitment)


def check_advertisement(message: Advertise, context: Context, roster: Mapping[str, bytes]) -> None:
    """Accept one site's keys, or raise.

    Raises:
        ProtocolError: of another sum, or a key that is malformed.
        IdentityError: the site is not in the roster, or did not sign these keys for this sum.
    """
    check_context(message, context)
    signed = advertisement_bytes(context, message.site, message.sharing_key, message.mask_key, message.commitment)
    if not keys.is_signed(keys.roster_key(roster, message.site), message.signature, signed):
        raise IdentityError(
            f"the keys advertised for site {message.site!r} in {context} are not signed by its identity in the "
            "roster, for this federation, plan, round and attempt: they were substituted or replayed. Leave the "
            "round and tell that site."
        )
    keys.check_public_key(message.sharing_key, message.site)
    keys.check_public_key(message.mask_key, message.site)


def check_size(sites: Collection[str], terms: Terms, what: str) -> None:
    """Accept a set of sites as large enough, or raise.

    Raises:
        QuorumLostError: fewer than the minimum cohort or the threshold.
    """
    if len(sites) < terms.smallest_cohort:
        raise QuorumLostError(
            f"masking: {len(sites)} sites {what}; at least {terms.smallest_cohort} are needed (the larger of "
            f"minimum_cohort = {terms.minimum_cohort} and threshold = {terms.threshold}). Try the round again when "
            "more sites are there."
        )


def check_ascending(names: Iterable[str], what: str) -> None:
    """Accept names in strictly ascending order, so that each is there once and there is one way to write the set.

    Raises:
        ProtocolError: out of order or doubled.
    """
    ordered = list(names)
    if any(a >= b for a, b in pairwise(ordered)):
        raise ProtocolError(f"the list of {what} is out of order or names a site twice.")


class KeyedCohort:
    """A checked cohort: all sites that advertised keys for one sum, and the graph between them.

    Args:
        advertisements: in ascending order of the names.
        context: the sum.
        terms: sizes and threshold.
        roster: site -> Ed25519 public key, 32 bytes.

    Attributes:
        by_site: site -> its advertisement, in ascending order.
        hash: SHA-256 of the context and all advertised keys.
        graph: who masks with whom.

    Raises:
        ProtocolError, IdentityError, QuorumLostError: the cohort must not be used; the message says why.
    """

    def __init__(
        self, advertisements: tuple[Advertise, ...], context: Context, terms: Terms, roster: Mapping[str, bytes]
    ) -> None:
        check_ascending((a.site for a in advertisements), "advertised keys")
        self.context = context
        self.terms = terms
        self.roster = roster
        self.by_site = {a.site: a for a in advertisements}
        check_size(self.by_site, terms, "advertised keys")
        if len(self.by_site) > terms.largest_cohort:
            raise ProtocolError(
                f"masking: a cohort of {len(self.by_site)} sites is too large for threshold = {terms.threshold} and "
                f"colluding = {terms.colluding}: at most {terms.largest_cohort} (2 t > n + c). Raise the threshold "
                "in the plan."
            )
        owners: dict[bytes, str] = {}
        for advertisement in advertisements:
            check_advertisement(advertisement, context, roster)
            for key in (advertisement.sharing_key, advertisement.mask_key):
                if key in owners:
                    raise ProtocolError(
                        f"sites {owners[key]!r} and {advertisement.site!r} advertise the same X25519 key. One has "
                        "copied it and cannot know its secret. Leave the round and have both sites checked."
                    )
                owners[key] = advertisement.site
        fields = (f for a in advertisements for f in (a.site, a.sharing_key, a.mask_key, a.commitment))
        self.hash = hashlib.sha256(canonical("cohort", context.to_bytes(), *fields)).digest()
        self.graph = neighbour_graph(self.by_site, terms, self.hash)

    def check_members(self, members: Collection[str], what: str) -> None:
        """Accept the sites that took part in a step, or raise.

        Raises:
            ProtocolError: one is not of this cohort.
            QuorumLostError: too few, or spread so that a part of the sum could be told apart.
        """
        for site in members:
            if site not in self.by_site:
                raise ProtocolError(f"site {site!r} {what} but is not in this cohort.")
        check_size(members, self.terms, what)
        self.graph.check_members(members)

    def masked_bytes(self, sharers: Iterable[str], about: bytes) -> bytes:
        """What a site signs in phase 3: among whom it has masked, and what its numbers are about."""
        return canonical("masked", self.hash, about, *sorted(sharers))

    def survivors_bytes(self, sharers: Iterable[str], survivors: Iterable[str]) -> bytes:
        """What a site signs in phase 4: the survivor set, and the sharers before it."""
        return canonical("survivors", self.hash, canonical("sharers", *sorted(sharers)), *sorted(survivors))

    def has_signed(self, site: str, signature: bytes, message: bytes) -> bool:
        """Whether the roster's key of ``site`` verifies the signature.

        Raises:
            IdentityError: the site is not in the roster.
        """
        return keys.is_signed(keys.roster_key(self.roster, site), signature, message)

    def channel_key(self, secret: bytes, sender: str, receiver: str) -> bytes:
        """Key of the bundle from ``sender`` to ``receiver``, from their sharing keys' X25519 secret."""
        return keys.derive(secret, "bundle", self.hash, sender, receiver, length=keys.KEY_BYTES)
