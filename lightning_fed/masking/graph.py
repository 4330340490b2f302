"""Who masks with whom: everybody in small cohorts, neighbours on a random ring in large ones.

The sparse graph is a Harary graph on a random ring. Each site's neighbours are the w sites before and the w sites
after it. The ring's order is a hash of all advertised keys, so no party chooses it. Every set of sites that takes part
in a step must have at least s members in each of the n windows of w consecutive places. If no window holds s colluding
sites, that gives

- connection: each window has an honest member, so successive honest members are neighbours and form one closed chain;
- secrecy of shares: at most 2 (s - 1) colluding neighbours, below the share threshold of 2 s;
- recovery: at least 2 s neighbours of every site are left to reveal their shares.

Because every site checks the rule on the actual set, a coordinator that picks the drop-outs after seeing the graph
gains nothing. What is left to chance is the order: that s colluding sites share a window (security), or that
drop-outs leave fewer than s in one (recovery). Both are hypergeometric tails, computed in exact integers so that all
sites find the same graph.

Source: Bell et al. 2020, doi 10.1145/3372297.3417885, section 3 (Harary graph on a random order; union
bound over windows).
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from math import comb

from lightning_fed.errors import ProtocolError, QuorumLostError
from lightning_fed.masking.terms import Terms, canonical

SECURITY_BITS = 80
"""A coordinator may try 2^40 cohorts in search of a ring it likes, and still succeeds with at most 2^-40."""

RECOVERY_BITS = 40
"""Random drop-outs, as many as the threshold allows, break a round with at most 2^-40. Nobody chooses these."""


@dataclass(frozen=True)
class Graph:
    """The neighbour graph of one cohort.

    Args:
        ring: all sites of the cohort, in ring order.
        reach: w, how many sites in each direction are neighbours; 0 for the full graph.
        window_minimum: s, fewest members in each window of w places; 0 for the full graph.
        share_threshold: shares needed to recover a site's secret from its holders.
    """

    ring: tuple[str, ...]
    reach: int
    window_minimum: int
    share_threshold: int

    def neighbours(self, site: str) -> tuple[str, ...]:
        """The sites that ``site`` masks with and shares to, in ring order from its own place on.

        Raises:
            ProtocolError: the site is not in the cohort.
        """
        return self.holders(site)[1:]

    def holders(self, site: str) -> tuple[str, ...]:
        """Who holds shares of the secrets of ``site``: itself, then its neighbours. The place gives the share's number.

        Raises:
            ProtocolError: the site is not in the cohort.
        """
        if site not in self.ring:
            raise ProtocolError(f"site {site!r} is not in this cohort.")
        place = self.ring.index(site)
        turned = self.ring[place:] + self.ring[:place]
        return turned if not self.reach else turned[: self.reach + 1] + turned[-self.reach :]

    def check_members(self, members: Collection[str]) -> None:
        """Accept the sites that took part in a step, or raise.

        Raises:
            QuorumLostError: a window of the ring has too few of them, so that a part of the sum could be told apart.
        """
        if not self.reach:
            return
        present = [site in members for site in self.ring]
        sums = list(accumulate(present + present[: self.reach], initial=0))
        fewest = min(sums[i + self.reach] - sums[i] for i in range(len(self.ring)))
        if fewest < self.window_minimum:
            raise QuorumLostError(
                f"masking: {fewest} of {self.reach} neighbouring sites are left somewhere on the ring, "
                f"{self.window_minimum} are needed. Try the round again with fresh keys."
            )


def neighbour_graph(sites: Collection[str], terms: Terms, seed: bytes) -> Graph:
    """The graph of a cohort.

    Args:
        sites: names of all sites that advertised keys.
        terms: threshold, number of colluding sites, and the size up to which the graph is full.
        seed: public bytes that no party controls: the hash of all advertisements.
    """
    ring = tuple(sorted(sites, key=lambda site: hashlib.sha256(canonical("ring", seed, site)).digest()))
    n = len(ring)
    found = sparse_reach(n, terms.colluding, n - terms.threshold) if n > terms.sparse_above else None
    if found is None:
        return Graph(ring, 0, 0, terms.threshold)
    reach, minimum = found
    return Graph(ring, reach, minimum, 2 * minimum)


@lru_cache(maxsize=64)
def sparse_reach(n: int, colluding: int, dropped: int) -> tuple[int, int] | None:
    """The smallest reach w and its window minimum s that keep both bounds, for a degree 2 w of at most (n - 1) / 2.

    Args:
        n: sites in the cohort.
        colluding: sites that collude, chosen before the ring is known.
        dropped: sites that drop out at random.

    Returns:
        ``(w, s)``, or None when the full graph must be used.
    """
    largest = (n - 1) // 4
    if largest < 1 or _window_minimum(n, colluding, dropped, largest) is None:
        return None
    low, high = 1, largest
    while low < high:
        middle = (low + high) // 2
        if _window_minimum(n, colluding, dropped, middle) is None:
            low = middle + 1
        else:
            high = middle
    minimum = _window_minimum(n, colluding, dropped, high)
    return None if minimum is None else (high, minimum)


def _window_minimum(n: int, colluding: int, dropped: int, reach: int) -> int | None:
    minimum = rare_count(n, colluding, reach, SECURITY_BITS)
    return minimum if reach - minimum + 1 >= rare_count(n, dropped, reach, RECOVERY_BITS) else None


def rare_count(n: int, marked: int, reach: int, bits: int) -> int:
    """The smallest count that no window of ``reach`` places reaches in marked sites, but with chance 2^-bits at most.

    The union bound over n windows of the hypergeometric tail (n sites, ``marked`` of them marked, ``reach`` drawn).
    """
    whole = comb(n, reach)
    tail = 0
    for count in range(min(marked, reach), 0, -1):
        tail += comb(marked, count) * comb(n - marked, reach - count)
        if (n * tail) << bits > whole:
            return count + 1
    return 1
