"""Masked sums: the coordinator learns the sum of the sites' vectors and nothing else.

The four-phase protocol as two state machines without I/O and without a clock, in ``coordinator`` and ``site``.
`docs/masking.md` holds the argument.
"""

from lightning_fed.masking.terms import Context, Terms

__all__ = ["Context", "Terms"]
