"""From reveals to secrets, each checked against what its owner signed: a wrong reveal makes no wrong sum.

A survivor that reveals shows its own self-mask seed. Shares are combined only for survivors that were lost before they
revealed and for sites that dropped out, because the library's Shamir takes about a tenth of a second a secret.
"""

from collections.abc import Callable
from itertools import combinations, islice

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from lightning_fed.errors import PeerError, ProtocolError, QuorumLostError
from lightning_fed.masking import keys, shares
from lightning_fed.masking.cohort import KeyedCohort
from lightning_fed.masking.messages import Reveal

_CHOICES = 20
"""How many sets of shares are tried, at up to a tenth of a second each: a wrong one matters less the more there are."""


class Recovery:
    """The reveals of one sum.

    Args:
        cohort: the checked cohort.
        sharers: the sites that shared their secrets.
        survivors: those of them that are in the sum.
    """

    def __init__(self, cohort: KeyedCohort, sharers: set[str], survivors: set[str]) -> None:
        self._cohort = cohort
        self._survivors = survivors
        self._dropped = sharers - survivors
        self._reveals: dict[str, Reveal] = {}

    @property
    def sites(self) -> set[str]:
        """The sites that have revealed."""
        return set(self._reveals)

    def add(self, site: str, message: Reveal) -> None:
        """Take one survivor's seed and shares.

        Raises:
            ProtocolError: not one share of each site it holds shares of, the wrong kind, a wrong length, or a seed that
                the site has not committed to.
        """
        held = set(self._cohort.graph.neighbours(site))
        if message.self_shares.keys() != held & self._survivors or message.key_shares.keys() != held & self._dropped:
            raise ProtocolError(
                f"site {site!r} did not reveal one share of each site it holds shares of: it is left out."
            )
        for share in (*message.self_shares.values(), *message.key_shares.values()):
            if len(share) != shares.SHARE_BYTES:
                raise ProtocolError(
                    f"site {site!r} revealed a share of {len(share)} bytes instead of {shares.SHARE_BYTES}. It is "
                    "left out."
                )
        if not self._is_committed(site, message.own_seed):
            raise ProtocolError(
                f"site {site!r} did not reveal the self-mask seed it has committed to: it is left out, and its mask is "
                "recovered from the others' shares."
            )
        self._reveals[site] = message

    def self_seed(self, site: str) -> bytes:
        """The self-mask seed of a survivor, 16 bytes: its own word, or from the others' shares.

        Raises:
            QuorumLostError: it has not revealed, and too few others have.
            PeerError: no shares give the seed the site has committed to.
        """
        if site in self._reveals:
            return self._reveals[site].own_seed
        revealed = {peer: reveal.self_shares for peer, reveal in self._reveals.items()}
        return self._combine(site, revealed, lambda seed: self._is_committed(site, seed))

    def mask_key(self, site: str) -> X25519PrivateKey:
        """The mask key of a site that dropped out.

        Raises:
            QuorumLostError: too few shares.
            PeerError: no shares give the key the site has advertised.
        """

        def is_signed(seed: bytes) -> bool:
            public = keys.mask_key(seed, self._cohort.context.to_bytes(), site).public_key()
            return public.public_bytes_raw() == self._cohort.by_site[site].mask_key

        revealed = {peer: reveal.key_shares for peer, reveal in self._reveals.items()}
        return keys.mask_key(self._combine(site, revealed, is_signed), self._cohort.context.to_bytes(), site)

    def _combine(self, site: str, revealed: dict[str, dict[str, bytes]], is_signed: Callable[[bytes], bool]) -> bytes:
        graph = self._cohort.graph
        holders = enumerate(graph.holders(site), start=1)
        numbered = {number: revealed[holder][site] for number, holder in holders if holder in revealed}
        if len(numbered) < graph.share_threshold:
            raise QuorumLostError(
                f"masking: {len(numbered)} shares of site {site!r} were revealed, {graph.share_threshold} are needed. "
                "Wait for more sites, or go on with the next round."
            )
        for chosen in islice(combinations(numbered, graph.share_threshold), _CHOICES):
            secret = shares.combine({number: numbered[number] for number in chosen}, graph.share_threshold)
            if is_signed(secret):
                return secret
        raise PeerError(
            site,
            f"masking: the shares revealed of site {site!r} do not give the secret it has signed: a site made or "
            "revealed wrong shares. The sum cannot be opened; go on with the next round.",
        )

    def _is_committed(self, site: str, seed: bytes) -> bool:
        commitment = keys.seed_commitment(seed, self._cohort.context.to_bytes(), site)
        return commitment == self._cohort.by_site[site].commitment
