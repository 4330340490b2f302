"""Prints the table of docs/compositions.md: which parts of a plan go together, as the plan's own rules say.

python docs/compositions.py
"""

import itertools
from collections.abc import Iterator
from typing import Any

from lightning_fed.errors import PlanError
from lightning_fed.plan import Compression, ExamplePrivacy, FederationPlan, Masking, Privacy, SitePrivacy

COMPRESSIONS = {
    "none": Compression(),
    "own top-k": Compression("topk", share=0.2),
    "random-k": Compression("randomk", share=0.2),
    "secure vote": Compression("vote", share=0.2, block=4),
    "random-k, ef21": Compression("randomk", share=0.2, feedback="ef21"),
}
MASKINGS = {"required": Masking("required", bits=24, bound=256.0), "off": Masking("off")}
PRIVACIES = {
    "none": Privacy(),
    "example": Privacy(example=ExamplePrivacy(noise_multiplier=1.0, delta=1e-2)),
    "site, central": Privacy(site=SitePrivacy("central")),
    "site, distributed": Privacy(site=SitePrivacy("distributed")),
}
ALGORITHMS = {"FedAvg": {"name": "fedavg"}, "server optimiser": {"name": "fedadam"}}


def cells() -> Iterator[tuple[tuple[str, str, str, str], dict[str, Any]]]:
    """Every combination: the names of its parts, and the plan's settings."""
    for names in itertools.product(COMPRESSIONS, MASKINGS, PRIVACIES, ALGORITHMS):
        compression, masking, privacy, algorithm = names
        yield (
            names,
            {
                "compression": COMPRESSIONS[compression],
                "masking": MASKINGS[masking],
                "privacy": PRIVACIES[privacy],
                "algorithm": ALGORITHMS[algorithm],
            },
        )


def refusal(settings: dict[str, Any]) -> str | None:
    """Why a plan refuses these parts; None if it takes them."""
    try:
        FederationPlan(**settings)
    except PlanError as error:
        return str(error)
    return None


def table() -> str:
    """The table and its reasons, in Markdown."""
    reasons: list[str] = []
    rows: dict[tuple[str, str, str], list[str]] = {}
    for (compression, masking, privacy, algorithm), settings in cells():
        reason = refusal(settings)
        if reason and reason not in reasons:
            reasons.append(reason)
        mark = f"no ({reasons.index(reason) + 1})" if reason else "works"
        row = rows.setdefault((compression, privacy, algorithm), [])
        assert list(MASKINGS)[len(row)] == masking
        row.append(mark)
    lines = [
        "| compression | privacy | algorithm | masking required | masking off |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [f"| {' | '.join(parts)} | {' | '.join(marks)} |" for parts, marks in rows.items()]
    lines += ["", *(f"{number}. {reason}" for number, reason in enumerate(reasons, start=1))]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())  # noqa: T201
