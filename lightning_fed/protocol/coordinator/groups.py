"""Sites by what holds of them, so that a question about a few of them walks over nobody else.

A roster may name ten thousand sites of which a round has a hundred. Each change of one site is filed when it happens;
what is asked in every round is then a set that is there already.
"""

from collections.abc import Set
from dataclasses import dataclass, field


@dataclass
class Groups:
    """Which sites are what; a site may be in several groups.

    Attributes:
        ready: they have joined and are there.
        members: they have joined this run and have not left: they are there, or may come back.
        drawable: a cohort can be drawn from them.
        outdated: they are there and go by another roster.
        missing: they may still come, and would be drawn.
        left: they have gone, and will not come back by themselves.
        out: they are left out for now.
    """

    ready: set[str] = field(default_factory=set)
    members: set[str] = field(default_factory=set)
    drawable: set[str] = field(default_factory=set)
    outdated: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    left: set[str] = field(default_factory=set)
    out: set[str] = field(default_factory=set)

    def file(self, site: str, groups: Set[str]) -> None:
        """A site belongs into these groups, by name, and into no other."""
        for name, group in vars(self).items():
            if name in groups:
                group.add(site)
            else:
                group.discard(site)
