"""The coordinator's side of one masked sum, as a state machine without I/O and without a clock.

Theory of operation. ``receive()`` takes each site's message of the stage, ``add()`` each masked vector. ``close()``
ends the stage with whoever has answered and returns what to send to whom. After the last ``close()`` come the
reveals, then ``unmask()``. When to close is the caller's decision: when ``waiting_for()`` is empty, or at a deadline.

Memory: one accumulator of the vector's size and two pieces of keystream, however many sites take part.

A message that does not fit raises and changes nothing; the sum goes on without its sender. Only ``add_in_pieces`` sees
a vector's size last, so its caller must have made sure of that.
"""

import secrets
from collections.abc import Iterable, Mapping
from enum import IntEnum

import numpy as np

from lightning_fed.errors import IdentityError, ProtocolError, QuorumLostError
from lightning_fed.masking import keys, masks, shares, streams
from lightning_fed.masking import messages as m
from lightning_fed.masking.cohort import KeyedCohort, check_advertisement
from lightning_fed.masking.recovery import Recovery
from lightning_fed.masking.terms import Context, Terms


class Stage(IntEnum):
    """What the coordinator is collecting."""

    KEYS = 1
    SHARES = 2
    VECTORS = 3
    SIGNATURES = 4
    REVEALS = 5
    DONE = 6


class MaskingCoordinator:
    """State of the coordinator in one masked sum.

    Args:
        context: the sum.
        terms: sizes and threshold, from the plan.
        roster: site -> Ed25519 public key (32 bytes) of the sites drawn for the round.
        size: numbers P in each vector.
        bits: width b of the ring, 8 to 32.

    Attributes:
        stage: what is being collected.
        about: what the vectors are about, as the sites sign it; see ``MaskingSite.mask``.
    """

    def __init__(self, context: Context, terms: Terms, roster: Mapping[str, bytes], size: int, bits: int) -> None:
        self.context = context
        self.terms = terms
        self.stage = Stage.KEYS
        self.about = b""
        self._roster = dict(roster)
        self._bits = bits
        self._sum: streams.RingVector = np.zeros(size, dtype=streams.word_dtype(bits))
        self._advertised: dict[str, m.Advertise] = {}
        self._keys: set[bytes] = set()
        self._cohort: KeyedCohort | None = None
        self._sealed: dict[str, dict[str, bytes]] = {}
        self._masked: dict[str, bytes] = {}
        self._signed: dict[str, bytes] = {}
        self._probe = keys.private_key(secrets.token_bytes(keys.KEY_BYTES))
        self._recovery: Recovery | None = None

    @property
    def survivors(self) -> tuple[str, ...]:
        """The sites whose vectors are in the sum, ascending."""
        return tuple(sorted(self._masked))

    def waiting_for(self) -> set[str]:
        """Sites that have not answered in this stage; for keys, those of the roster."""
        match self.stage:
            case Stage.KEYS:
                return set(self._roster) - self._advertised.keys()
            case Stage.SHARES:
                return self._advertised.keys() - self._sealed.keys()
            case Stage.VECTORS:
                return self._sealed.keys() - self._masked.keys()
            case Stage.SIGNATURES:
                return self._masked.keys() - self._signed.keys()
            case Stage.REVEALS:
                return self._signed.keys() - (self._recovery.sites if self._recovery else set())
            case Stage.DONE:
                return set()

    def receive(self, site: str, message: m.Advertise | m.Shares | m.Signed | m.Reveal) -> None:
        """Take a site's message; the transport vouches for ``site``.

        Raises:
            ProtocolError: of another sum or stage, doubled, from a site that is not asked, or malformed.
            IdentityError: keys that are not signed by the site.
        """
        stages = {m.Advertise: Stage.KEYS, m.Shares: Stage.SHARES, m.Signed: Stage.SIGNATURES, m.Reveal: Stage.REVEALS}
        m.check_context(message, self.context)
        self._expect(site, stages[type(message)], type(message).__name__)
        match message:
            case m.Advertise():
                self._receive_keys(site, message)
            case m.Shares():
                self._receive_shares(site, message)
            case m.Signed():
                signed = self._keyed().survivors_bytes(self._sealed, self._masked)
                if not self._keyed().has_signed(site, message.signature, signed):
                    raise ProtocolError(
                        f"site {site!r} did not sign the survivor set it was sent. It goes without its signature."
                    )
                self._signed[site] = message.signature
            case m.Reveal():
                self._recovering().add(site, message)

    def add(self, site: str, message: m.Masked, vector: streams.RingVector) -> None:
        """Add a complete masked vector to the accumulator, in place.

        Args:
            site: the sender.
            message: what came with the vector.
            vector: shape ``(P,)``, dtype ``streams.word_dtype(bits)``; not kept.

        Raises:
            ProtocolError: as ``add_in_pieces``, or a wrong size or dtype.
        """
        streams.check_ring_vector(vector, self._bits, self._sum.size)
        self.add_in_pieces(site, message, [vector])

    def add_in_pieces(self, site: str, message: m.Masked, pieces: Iterable[streams.RingVector]) -> None:
        """Add a complete masked vector that need not be in memory as a whole.

        Args:
            site: the sender.
            message: what came with the vector.
            pieces: together shape ``(P,)``, in order, dtype ``streams.word_dtype(bits)``; none is taken before the
                message is known to fit, and none is kept.

        Raises:
            ProtocolError: of another sum or stage, doubled, not asked, or masked among other sharers; or pieces of a
                wrong size or dtype, which may leave the sum spoilt.
        """
        m.check_context(message, self.context)
        self._expect(site, Stage.VECTORS, "Masked")
        if not self._keyed().has_signed(site, message.signature, self._keyed().masked_bytes(self._sealed, self.about)):
            raise ProtocolError(f"site {site!r} did not mask among the sites that shared. The sum goes on without it.")
        at = 0
        for piece in pieces:
            streams.check_ring_vector(piece, self._bits, min(piece.size, self._sum.size - at))
            total = self._sum[at : at + piece.size]
            np.add(total, piece, out=total)
            at += piece.size
        if at != self._sum.size:
            raise ProtocolError(f"a ring vector of {at} numbers arrived where {self._sum.size} were agreed.")
        self._masked[site] = message.signature

    def close(self) -> dict[str, m.FromCoordinator]:
        """End the stage with the sites that have answered; what to send to whom.

        Raises:
            QuorumLostError: too few sites have answered. The stage stays open.
            ProtocolError: there is no stage to close.
        """
        header = (self.context.round, self.context.attempt, self.context.purpose)
        match self.stage:
            case Stage.KEYS:
                ordered = tuple(self._advertised[site] for site in sorted(self._advertised))
                self._cohort = KeyedCohort(ordered, self.context, self.terms, self._roster)
                self.stage = Stage.SHARES
                return dict.fromkeys(self._advertised, m.Cohort(*header, ordered))
            case Stage.SHARES:
                cohort = self._keyed()
                cohort.check_members(self._sealed, "shared their secrets")
                sharers = tuple(sorted(self._sealed))
                self.stage = Stage.VECTORS
                return {site: m.Bundles(*header, sharers, self._bundles_for(site)) for site in sharers}
            case Stage.VECTORS:
                self._keyed().check_members(self._masked, "sent a masked vector")
                self.stage = Stage.SIGNATURES
                return dict.fromkeys(self._masked, m.Survivors(*header, dict(self._masked)))
            case Stage.SIGNATURES:
                if len(self._signed) < self.terms.threshold:
                    raise QuorumLostError(
                        f"masking: {len(self._signed)} sites signed the survivor set, {self.terms.threshold} are "
                        "needed (threshold). Wait for more sites, or try the round again with fresh keys."
                    )
                self._recovery = Recovery(self._keyed(), set(self._sealed), set(self._masked))
                self.stage = Stage.REVEALS
                return dict.fromkeys(self._signed, m.Signatures(*header, dict(self._signed)))
            case Stage.REVEALS | Stage.DONE:
                raise ProtocolError(f"masking: nothing is left to close in {self.context}; unmask the sum.")

    def unmask(self) -> streams.RingVector:
        """The exact sum of the survivors' vectors mod 2^b; shape ``(P,)``, the accumulator itself, which is given away.

        Raises:
            QuorumLostError: too few reveals to recover a secret; more may still be received.
            ProtocolError: called too early, or shares that do not give the secret their owner has signed.
        """
        if self.stage is not Stage.REVEALS:
            raise ProtocolError(
                f"masking: the sum of {self.context} cannot be unmasked while collecting {self.stage.name}."
            )
        cohort = self._keyed()
        recovery = self._recovering()
        # All secrets before the first stream: a lost quorum must leave the accumulator as it was.
        self_seeds = {site: recovery.self_seed(site) for site in self._masked}
        mask_keys = {site: recovery.mask_key(site) for site in self._sealed.keys() - self._masked.keys()}
        self.stage = Stage.DONE
        selfs = [masks.self_stream(seed, cohort.hash, site) for site, seed in self_seeds.items()]
        streams.apply_streams(self._sum, [], selfs)
        for site, private in mask_keys.items():
            plus: list[bytes] = []
            minus: list[bytes] = []
            for peer in cohort.graph.neighbours(site):
                if peer in self._masked:
                    secret = keys.agree(private, cohort.by_site[peer].mask_key, peer)
                    undo = minus if masks.adds(peer, site) else plus
                    undo.append(masks.pair_stream(secret, cohort.hash, site, peer))
            streams.apply_streams(self._sum, plus, minus)
        streams.reduce_ring(self._sum, self._bits)
        opened, self._sum = self._sum, self._sum[:0].copy()
        return opened

    def _receive_keys(self, site: str, message: m.Advertise) -> None:
        if message.site != site:
            raise IdentityError(f"site {site!r} advertised keys in the name of {message.site!r}. They were refused.")
        if len(self._advertised) >= min(self.terms.largest_cohort, m.MAX_SITES):
            raise ProtocolError(
                f"masking: the cohort of {self.context} is full with {len(self._advertised)} sites, the most that "
                f"threshold = {self.terms.threshold} protects. Site {site!r} can take part in the next round."
            )
        check_advertisement(message, self.context, self._roster)
        for key in (message.sharing_key, message.mask_key):
            keys.agree(self._probe, key, site)  # refuses low-order points before any site has to
        pair = {message.sharing_key, message.mask_key}
        if len(pair) < 2 or self._keys & pair:
            raise ProtocolError(
                f"site {site!r} advertised a key twice or one that another site has. They were refused."
            )
        self._advertised[site] = message
        self._keys |= pair

    def _receive_shares(self, site: str, message: m.Shares) -> None:
        if message.sealed.keys() != set(self._keyed().graph.neighbours(site)):
            raise ProtocolError(f"site {site!r} did not share with exactly its neighbours. The sum goes on without it.")
        expected = keys.NONCE_BYTES + 2 * shares.SHARE_BYTES + keys.TAG_BYTES
        if any(len(sealed) != expected for sealed in message.sealed.values()):
            raise ProtocolError(
                f"site {site!r} sent sealed shares of a wrong length, not {expected} bytes. It is left out."
            )
        self._sealed[site] = message.sealed

    def _bundles_for(self, site: str) -> dict[str, bytes]:
        neighbours = self._keyed().graph.neighbours(site)
        return {peer: self._sealed[peer][site] for peer in neighbours if peer in self._sealed}

    def _expect(self, site: str, stage: Stage, what: str) -> None:
        if self.stage is not stage:
            raise ProtocolError(
                f"a {what} message of site {site!r} arrived in {self.context} while collecting {self.stage.name}. "
                "It is late or early, and was refused."
            )
        if site not in self.waiting_for():
            raise ProtocolError(
                f"a {what} message of site {site!r} in {self.context} was not asked for, or came before."
            )

    def _keyed(self) -> KeyedCohort:
        if self._cohort is None:
            raise ProtocolError(f"masking: the cohort of {self.context} is not closed yet.")
        return self._cohort

    def _recovering(self) -> Recovery:
        if self._recovery is None:
            raise ProtocolError(f"masking: the survivor set of {self.context} is not signed yet.")
        return self._recovery
