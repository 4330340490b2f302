"""The site's side of one masked sum, as a state machine without I/O and without a clock.

Theory of operation. There is one object per sum, attempt and site, with keys of its own. The methods are called in the
order in which they stand here, each once. Every message from the coordinator is checked in full before anything
changes, so a refused message leaves the object as it was. Phases 1 and 2 (until ``receive_shares``) need no vector
and run during local training.

Three rules protect the site, whatever the coordinator sends:

1. It signs one survivor set, and reveals only when the threshold of sites has signed the very same.
2. It reveals once, and of each site one kind of secret: of the self-mask if it survived, else of the mask key. Its own
   self-mask it reveals outright, since a site that reveals is among the survivors.
3. It masks once. Another attempt is another object with fresh keys.
"""

import secrets
from collections.abc import Callable, Mapping
from enum import IntEnum

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lightning_fed.errors import IdentityError, ProtocolError, QuorumLostError
from lightning_fed.masking import keys, masks, shares, streams
from lightning_fed.masking import messages as m
from lightning_fed.masking.cohort import KeyedCohort, advertisement_bytes
from lightning_fed.masking.terms import Context, Terms


class Phase(IntEnum):
    """What the site has done last."""

    CREATED = 0
    ADVERTISED = 1
    SHARED = 2
    READY = 3
    MASKED = 4
    SIGNED = 5
    REVEALED = 6


class MaskingSite:
    """State of one site in one masked sum.

    Args:
        site: this site's name.
        identity: its long-term Ed25519 key.
        roster: site -> Ed25519 public key (32 bytes) of everybody in the federation, this site included.
        context: the sum.
        terms: sizes and threshold, from the plan the site has accepted.

    Attributes:
        phase: what was done last.

    Raises:
        IdentityError: the identity is not the one the roster has for this site.
    """

    def __init__(
        self, site: str, identity: Ed25519PrivateKey, roster: Mapping[str, bytes], context: Context, terms: Terms
    ) -> None:
        if keys.roster_key(roster, site) != identity.public_key().public_bytes_raw():
            raise IdentityError(
                f"the identity of site {site!r} is not the one in its roster. Use the site's own key, or mend the "
                "roster."
            )
        self.site = site
        self.context = context
        self.terms = terms
        self.phase = Phase.CREATED
        self._identity = identity
        self._roster = dict(roster)
        self._sharing = keys.private_key(secrets.token_bytes(keys.KEY_BYTES))
        self._self_seed = secrets.token_bytes(keys.SEED_BYTES)
        self._mask_seed = secrets.token_bytes(keys.SEED_BYTES)
        self._mask = keys.mask_key(self._mask_seed, context.to_bytes(), site)
        self._advertisement: m.Advertise | None = None
        self._cohort: KeyedCohort | None = None
        self._channels: dict[str, bytes] = {}
        self._pairs: dict[str, bytes] = {}
        self._held: dict[str, tuple[bytes, bytes]] = {}
        self._sharers: tuple[str, ...] = ()
        self._survivors: tuple[str, ...] = ()
        self._about = b""

    def advertise(self) -> m.Advertise:
        """Phase 1: the signed public keys.

        Raises:
            ProtocolError: called before.
        """
        self._expect(Phase.CREATED, "advertise")
        sharing_key = self._sharing.public_key().public_bytes_raw()
        mask_key = self._mask.public_key().public_bytes_raw()
        commitment = keys.seed_commitment(self._self_seed, self.context.to_bytes(), self.site)
        signed = advertisement_bytes(self.context, self.site, sharing_key, mask_key, commitment)
        self._advertisement = m.Advertise(
            *self._header(), self.site, sharing_key, mask_key, commitment, keys.sign(self._identity, signed)
        )
        self.phase = Phase.ADVERTISED
        return self._advertisement

    def receive_keys(self, cohort: m.Cohort) -> m.Shares:
        """Phase 2: check everybody's keys, and share this site's two secrets among its neighbours.

        Raises:
            IdentityError: keys that a site did not sign for this sum, this site's own among them.
            QuorumLostError: fewer sites than the minimum cohort or the threshold.
            ProtocolError: out of turn, of another sum, too many sites for the threshold, a doubled or low-order key.
        """
        self._expect(Phase.ADVERTISED, "receive keys")
        m.check_context(cohort, self.context)
        keyed = KeyedCohort(cohort.advertisements, self.context, self.terms, self._roster)
        if keyed.by_site.get(self.site) != self._advertisement:
            raise IdentityError(
                f"the coordinator does not show site {self.site!r} its own keys: they are missing or substituted. "
                "Leave the round and tell the other sites."
            )
        channels: dict[str, bytes] = {}
        pairs: dict[str, bytes] = {}
        for peer in keyed.graph.neighbours(self.site):
            theirs = keyed.by_site[peer]
            channels[peer] = keys.agree(self._sharing, theirs.sharing_key, peer)
            secret = keys.agree(self._mask, theirs.mask_key, peer)
            pairs[peer] = masks.pair_stream(secret, keyed.hash, self.site, peer)
        holders = keyed.graph.holders(self.site)
        self_shares = shares.split(self._self_seed, keyed.graph.share_threshold, len(holders))
        mask_shares = shares.split(self._mask_seed, keyed.graph.share_threshold, len(holders))
        bundles = dict(zip(holders, zip(self_shares, mask_shares, strict=True), strict=True))
        del bundles[
            self.site
        ]  # of no use: what this share could help to open, the site opens itself or is not there to
        sealed = {
            peer: keys.seal(keyed.channel_key(channels[peer], self.site, peer), b"".join(bundle))
            for peer, bundle in bundles.items()
        }
        self._cohort, self._channels, self._pairs = keyed, channels, pairs
        self.phase = Phase.SHARED
        return m.Shares(*self._header(), sealed)

    def receive_shares(self, bundles: m.Bundles) -> None:
        """End of phase 2: open the neighbours' shares; from now on the site can mask.

        Raises:
            QuorumLostError: too few sites have shared.
            ProtocolError: out of turn, of another sum, a bundle missing, too many, truncated or changed.
        """
        self._expect(Phase.SHARED, "receive shares")
        m.check_context(bundles, self.context)
        cohort = self._keyed()
        if self.site not in bundles.sharers or len(set(bundles.sharers)) != len(bundles.sharers):
            raise ProtocolError(f"the list of sites that shared lacks site {self.site!r} or names a site twice.")
        cohort.check_members(bundles.sharers, "shared their secrets")
        expected = set(cohort.graph.neighbours(self.site)).intersection(bundles.sharers)
        if bundles.sealed.keys() != expected:
            odd = sorted(bundles.sealed.keys() ^ expected)
            raise ProtocolError(
                f"sealed shares of {odd} are missing or not for site {self.site!r}. Leave this attempt."
            )
        opened: dict[str, tuple[bytes, bytes]] = {}
        for peer, sealed in bundles.sealed.items():
            key = cohort.channel_key(self._channels[peer], peer, self.site)
            pair = keys.unseal(key, sealed, 2 * shares.SHARE_BYTES, peer)
            opened[peer] = (pair[: shares.SHARE_BYTES], pair[shares.SHARE_BYTES :])
        self._held.update(opened)
        self._channels.clear()
        self._sharers = tuple(sorted(bundles.sharers))
        self.phase = Phase.READY

    def mask(self, vector: streams.RingVector, bits: int, about: bytes = b"") -> m.Masked:
        """Phase 3: add all masks to ``vector`` in place, mod 2^bits; afterwards it may be sent and says nothing.

        Args:
            vector: shape ``(P,)``, dtype ``streams.word_dtype(bits)``; numbers above 2^bits count mod 2^bits.
            bits: width of the ring, from the plan.
            about: what all sites must have been told alike since keys were agreed on, because a difference would show
                in the sum: the coordinates that the numbers are about, say. It is signed, and each site checks that the
                others signed the same.

        Returns:
            The message that goes with the vector.

        Raises:
            ProtocolError: out of turn, masked before, or a vector that is not of the ring's word.
        """
        self._expect(Phase.READY, "mask a vector")
        streams.check_ring_vector(vector, bits)
        cohort = self._keyed()
        self.phase = Phase.MASKED
        self._about = about
        pairs = {peer: seed for peer, seed in self._pairs.items() if peer in self._sharers}
        own = masks.self_stream(self._self_seed, cohort.hash, self.site)
        plus = [own] + [seed for peer, seed in pairs.items() if masks.adds(self.site, peer)]
        minus = [seed for peer, seed in pairs.items() if not masks.adds(self.site, peer)]
        streams.apply_streams(vector, plus, minus)
        streams.reduce_ring(vector, bits)
        self._pairs.clear()
        return m.Masked(*self._header(), keys.sign(self._identity, cohort.masked_bytes(self._sharers, about)))

    def sign_survivors(
        self, survivors: m.Survivors, allow: Callable[[tuple[str, ...]], None] = lambda _: None
    ) -> m.Signed:
        """Phase 4: sign the set of sites that are in the sum.

        Args:
            survivors: the set, with what each of its sites signed.
            allow: called with the set, in ascending order, once nothing is wrong with it and before it is signed; by
                raising it keeps the set unsigned, and the object as it was.

        Raises:
            QuorumLostError: the set is too small.
            ProtocolError: out of turn, a second set, a set without this site, with a site that never shared, or with
                one that did not sign that it masked among the same sharers.
        """
        self._expect(Phase.MASKED, "sign a survivor set")
        m.check_context(survivors, self.context)
        cohort = self._keyed()
        if self.site not in survivors.signatures:
            raise ProtocolError(
                f"the survivor set lacks site {self.site!r}, which has sent its vector. Leave this attempt."
            )
        unshared = sorted(survivors.signatures.keys() - set(self._sharers))
        if unshared:
            raise ProtocolError(
                f"the survivor set names {unshared}, who did not share their secrets. Leave this attempt."
            )
        cohort.check_members(survivors.signatures, "are in the survivor set")
        statement = cohort.masked_bytes(self._sharers, self._about)
        for peer, signature in survivors.signatures.items():
            if not cohort.has_signed(peer, signature, statement):
                raise ProtocolError(
                    f"site {peer!r} did not sign that it masked the same among the same sites as site {self.site!r}: "
                    "the coordinator told them different sharers or coordinates, or the site is not in the sum. Leave "
                    "this attempt."
                )
        named = tuple(sorted(survivors.signatures))
        allow(named)
        self._survivors = named
        self.phase = Phase.SIGNED
        signed = cohort.survivors_bytes(self._sharers, self._survivors)
        return m.Signed(*self._header(), keys.sign(self._identity, signed))

    def reveal(self, signatures: m.Signatures) -> m.Reveal:
        """Phase 5: its own self-mask seed, and of each site it holds shares of one kind. Then all secrets are dropped.

        The seed is shown only behind the threshold of signatures of one survivor set that holds this site: no other set
        can get as many, so its mask key stays hidden for good, and the others' shares would have given the seed anyway.

        Raises:
            QuorumLostError: fewer signatures than the threshold.
            ProtocolError: out of turn, asked again, a signer who is not a survivor, or who signed another survivor set.
        """
        self._expect(Phase.SIGNED, "reveal shares")
        m.check_context(signatures, self.context)
        cohort = self._keyed()
        signed = cohort.survivors_bytes(self._sharers, self._survivors)
        for peer, signature in signatures.signatures.items():
            if peer not in self._survivors:
                raise ProtocolError(f"site {peer!r} signed the survivor set but is not in it. Leave this attempt.")
            if not cohort.has_signed(peer, signature, signed):
                raise ProtocolError(
                    f"site {peer!r} did not sign the survivor set that site {self.site!r} has signed: the "
                    "coordinator told them different sets. Nothing was revealed. Leave this attempt and tell the "
                    "other sites."
                )
        if len(signatures.signatures) < self.terms.threshold:
            raise QuorumLostError(
                f"masking: {len(signatures.signatures)} sites signed the survivor set, {self.terms.threshold} are "
                "needed (threshold). Nothing was revealed."
            )
        survived = {owner: pair[0] for owner, pair in self._held.items() if owner in self._survivors}
        dropped = {owner: pair[1] for owner, pair in self._held.items() if owner not in self._survivors}
        own = self._self_seed
        self._forget()
        return m.Reveal(*self._header(), own, survived, dropped)

    def _header(self) -> tuple[int, int, str]:
        return self.context.round, self.context.attempt, self.context.purpose

    def _expect(self, phase: Phase, action: str) -> None:
        if self.phase is not phase:
            raise ProtocolError(
                f"site {self.site!r} was asked to {action} in {self.context}, out of turn: its last step was "
                f"{self.phase.name}, and each step is done once and in order. The request was refused."
            )

    def _keyed(self) -> KeyedCohort:
        if self._cohort is None:
            raise ProtocolError(f"site {self.site!r} has no keys of the other sites yet in {self.context}.")
        return self._cohort

    def _forget(self) -> None:
        self.phase = Phase.REVEALED
        self._self_seed = self._mask_seed = b""
        self._held = {}
        self._channels.clear()
        self._pairs.clear()
        self._mask = self._sharing = keys.private_key(secrets.token_bytes(keys.KEY_BYTES))
