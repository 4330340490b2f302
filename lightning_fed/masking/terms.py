"""What all sites of one masked sum agree upon before it starts, and the one canonical way to write it down as bytes."""

from dataclasses import dataclass

from lightning_fed.errors import PlanError

DOMAIN = "lightning_fed/masking/1"
"""Starts everything that is signed or derived here, so that no signature or key means anything anywhere else."""


def canonical(label: str, *fields: bytes | str | int) -> bytes:
    """Unambiguous bytes of a labelled record: the domain, the label and each field behind its length.

    Integers become 8 bytes, big-endian. Two records are equal only if label and all fields are.
    """
    parts = [DOMAIN.encode(), label.encode()]
    for field in fields:
        if isinstance(field, int):
            parts.append(field.to_bytes(8, "big"))
        else:
            parts.append(field.encode() if isinstance(field, str) else field)
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


@dataclass(frozen=True)
class Context:
    """Names one masked sum; keys and signatures made for one are worthless in any other.

    Args:
        federation: name of the federation.
        plan_hash: hash of the plan the site has accepted.
        round: the round, from 1 on.
        attempt: how often the round was tried before.
        purpose: what is summed. A round that opens several sums (votes, update, metrics) needs fresh masks for each.
    """

    federation: str
    plan_hash: str
    round: int
    attempt: int
    purpose: str = "update"

    def __str__(self) -> str:
        return f"round {self.round}, attempt {self.attempt}, {self.purpose}"

    def to_bytes(self) -> bytes:
        """Canonical bytes."""
        return canonical("context", self.federation, self.plan_hash, self.round, self.attempt, self.purpose)


@dataclass(frozen=True)
class Terms:
    """How many sites a masked sum needs, and against how many it protects.

    With n sites that advertised keys and c that collude with the coordinator, ``2 * threshold > n + c`` must hold.
    Any two sets of ``threshold`` signers then share an honest site, which signs only one survivor set: so there is
    only one.

    Args:
        minimum_cohort: fewest sites whose sum may be opened.
        threshold: signatures and shares needed to open it (t).
        colluding: sites that may collude with a coordinator that breaks the protocol (c). In the full graph, one that
            keeps to the protocol learns nothing even with ``threshold - 1`` colluding sites.
        sparse_above: cohorts up to this size use the full graph; above, the sparse one where it saves at least half.

    Raises:
        PlanError: no cohort could satisfy the terms.

    Source: Bonawitz et al. 2017, doi 10.1145/3133956.3133982, section 6.2 (active adversaries).
    """

    minimum_cohort: int
    threshold: int
    colluding: int = 0
    sparse_above: int = 100

    def __post_init__(self) -> None:
        if self.colluding < 0:
            raise PlanError(f"masking: colluding = {self.colluding} must be at least 0. Change it in the plan.")
        if self.threshold < 2:
            raise PlanError(
                f"masking: threshold = {self.threshold} must be at least 2: with 1, each share is the secret itself. "
                "Raise it in the plan."
            )
        if self.minimum_cohort < self.colluding + 2:
            raise PlanError(
                f"masking: minimum_cohort = {self.minimum_cohort} must be at least colluding + 2 = "
                f"{self.colluding + 2}: in a smaller sum the colluding sites could subtract themselves and see one "
                "site. Raise it in the plan."
            )
        if self.largest_cohort < self.smallest_cohort:
            raise PlanError(
                f"masking: threshold = {self.threshold} is safe for cohorts of at most {self.largest_cohort} sites "
                f"(2 t > n + colluding), fewer than the {self.smallest_cohort} that a sum needs. Raise the threshold."
            )

    @property
    def smallest_cohort(self) -> int:
        """Fewest sites whose sum can be opened; every later set of sites must be as large."""
        return max(self.minimum_cohort, self.threshold)

    @property
    def largest_cohort(self) -> int:
        """Most sites that may advertise keys: the largest n with 2 t > n + c."""
        return 2 * self.threshold - self.colluding - 1
