"""What came of a round."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

DEADLINE = "deadline"
"""The timer of a round."""

VALUES_S = 60.0
"""How long the values after a vote may take beyond the round's deadline."""


@dataclass(frozen=True)
class RoundResult:
    """The result of a round.

    Attributes:
        mean: the mean update, flat float32, shape ``(parts * P,)``.
        next_bounds: bounds of the next round's codes, or its clipping norm; None to keep those that were.
        facts: what the event log says of the round besides.
        sums: what was summed beside the updates, by name; empty where single updates were compared.
        trained: by site, the round that its update is of; None where all are of this one.
    """

    mean: Tensor
    next_bounds: tuple[float, ...] | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    sums: Mapping[str, float] = field(default_factory=dict)
    trained: Mapping[str, int] | None = None
