"""What goes wrong in one run of ``make chaos``, when and to whom: drawn from a seed, and the same for it each time."""

import random
from dataclasses import dataclass

COORDINATOR = -1
"""Stands for the coordinator where sites are numbered."""

_EVERYWHERE = {"kill": 4, "stop": 4, "clock": 2, "memory": 1, "descriptors": 1, "file size": 1}
_ON_LINES = {"cut": 4, "delay": 2, "black hole": 2, "refuse": 2}
_KINDS = {
    **{(kind, "site"): weight for kind, weight in {**_EVERYWHERE, **_ON_LINES}.items()},
    **{(kind, "coordinator"): weight for kind, weight in {**_EVERYWHERE, "full disk": 2}.items()},
}
"""Kinds of fault and how often each comes, for one of the sites and for the coordinator."""

_LASTS_S = {
    "kill": (0.0, 2.0),
    "stop": (0.1, 3.0),
    "delay": (0.5, 3.0),
    "refuse": (0.5, 3.0),
    "memory": (0.5, 2.0),
    "descriptors": (0.5, 3.0),
    "file size": (0.5, 2.0),
    "full disk": (0.5, 2.0),
}


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        kind: what.
        site: number of the site that it happens to, or ``COORDINATOR``.
        after_s: seconds since the fault before.
        lasts_s: seconds until it is over; until a killed process is started again, say.
        much: between 0 and 1; how long a delay is, how far a clock jumps.
    """

    kind: str
    site: int
    after_s: float
    lasts_s: float
    much: float

    def __str__(self) -> str:
        whom = "coordinator" if self.site == COORDINATOR else f"site-{self.site}"
        return f"{self.kind} at {whom} for {self.lasts_s:.1f} s"


def schedule(seed: int, count: int, sites: int, every_s: float, without: frozenset[str] = frozenset()) -> list[Fault]:
    """Faults in their order.

    Args:
        seed: the draw.
        count: how many.
        sites: number of sites.
        every_s: mean seconds between two.
        without: kinds that are left out.
    """
    draw = random.Random(seed)
    kinds = {key: weight for key, weight in _KINDS.items() if key[0] not in without}
    faults = []
    for _ in range(count):
        kind, where = draw.choices([*kinds], [*kinds.values()])[0]
        site = COORDINATOR if where == "coordinator" else draw.randrange(sites)
        shortest, longest = _LASTS_S.get(kind, (0.0, 0.0))
        faults.append(Fault(kind, site, draw.expovariate(1 / every_s), draw.uniform(shortest, longest), draw.random()))
    return faults
