"""Sites that may be summed in one company only until there is another model, and whom to draw in view of them.

A site that was started again after it had signed a survivor set for the present global model may sign that set once
more and no other, whatever the round's number: see ``protocol.site.signed_sums``. With anybody else beside it each
attempt fails, and if there are many such sites so does each round. It says so itself, with the sets: after a restart
the coordinator knows nothing of them.
"""

from collections.abc import Iterable, Set
from typing import NamedTuple


class Pool(NamedTuple):
    """Sites that a cohort can be drawn from.

    Attributes:
        sites: in ascending order.
        whole: they may be summed all together only.
        apart: sites that are there and cannot be drawn with these.
    """

    sites: list[str]
    whole: bool = False
    apart: tuple[str, ...] = ()


class BoundSites:
    """What sites have said of the survivor sets that they may sign for the present model.

    Args:
        most: the largest cohort; None for any. A larger set, whatever a site says, is none.
    """

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._sets: dict[str, set[frozenset[str]]] = {}

    def take(self, site: str, sets: Iterable[Iterable[str]]) -> None:
        """A site says which sets it may sign; none, if it can be in no sum of this model at all.

        A set without the site itself is dropped, as no sum of it could be.
        """
        self._sets[site] = {frozenset(each) for each in sets if site in each}

    def clear(self) -> None:
        """There is another model: everybody trains anew."""
        self._sets.clear()

    def pool(self, drawable: Iterable[str], coming: Set[str], fewest: int) -> Pool:
        """The largest pool that a round can be completed with.

        Args:
            drawable: sites that are there and not left out.
            coming: sites that may still come.
            fewest: sites that a round needs.

        Returns:
            Those that are not bound, or the largest set that all its sites may sign and for which all are there, if
            that has more. A pool with less than ``fewest`` is to be waited with: a set would do once all its sites are
            there. If none would ever do, all that are there, whose rounds fail until the coordinator gives up.
        """
        if not self._sets:
            return Pool(sorted(drawable))
        there = frozenset(drawable)
        bound = {site: sets for site, sets in self._sets.items() if site in there}
        free = there - bound.keys()
        if not bound:
            return Pool(sorted(free))
        most = len(there | coming) if self._most is None else self._most
        sets = {each for sets in bound.values() for each in sets if fewest <= len(each) <= most}
        agreed = [each for each in sets if all(each in bound[site] for site in each & bound.keys())]
        complete = [each for each in agreed if each <= there]
        whole = max(complete, key=lambda each: (len(each), sorted(each)), default=frozenset[str]())
        if len(whole) > min(len(free), most):
            return Pool(sorted(whole), True, tuple(sorted(there - whole)))
        if len(free) >= fewest or any(each <= there | coming for each in agreed):
            return Pool(sorted(free), False, tuple(sorted(bound)))
        return Pool(sorted(there))
