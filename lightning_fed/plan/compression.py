"""How many of an update's values are sent, and which."""

from dataclasses import dataclass
from typing import Any, Literal

from lightning_fed.aggregation.contracts import Spans
from lightning_fed.errors import PlanError
from lightning_fed.foreign import foreign_block, is_foreign, read_foreign
from lightning_fed.plan.checks import at_least, one_of
from lightning_fed.plan.value_codec import ValueCodec


@dataclass(frozen=True)
class Compression:
    """Sends a part of the coordinates; what is not sent is made up for in later rounds.

    Args:
        method: ``none`` sends all; ``topk`` each site's own largest (only without masks, which would not cancel);
            ``randomk`` the same random ones at all sites; ``vote`` those blocks that most sites, under the masks, name
            among their largest.
        share: share of the coordinates that is sent.
        values: how a value is written where updates are not masked (under masks, ``masking.bits`` says it):
            ``float32``, ``bf16``, ``int8``, ``int4``, or ``class_path`` and ``init_args`` of a ``ValueCodec`` of
            another package, which every site's policy must allow.
        block: coordinates of a block in a vote.
        listed: share of the blocks that a ballot lists, drawn anew in each round.
        feedback: what makes up for the coordinates that are not sent. ``residual``: they stay at the site and are
            added to its next update. ``ef21``: the coordinator goes on with what it last knew of them, and a site sends
            the difference to that. Each site then counts alike, whatever the number of its examples.

    Source: Stich, Cordonnier and Jaggi 2018, Sparsified SGD with Memory (arXiv 1809.07599); Richtárik, Sokolov and
    Fatkhullin 2021, EF21 (arXiv 2106.05203).
    """

    method: Literal["none", "topk", "randomk", "vote"] = "none"
    share: float = 0.01
    values: Literal["float32", "bf16", "int8", "int4"] | dict[str, Any] = "int8"
    block: int = 32
    listed: float = 1.0
    feedback: Literal["residual", "ef21"] = "residual"

    def __post_init__(self) -> None:
        one_of("compression.method", self.method, ("none", "topk", "randomk", "vote"))
        if is_foreign(self.values):
            object.__setattr__(self, "values", foreign_block(self.codec, "compression.values"))
        else:
            one_of("compression.values", self.values, ("float32", "bf16", "int8", "int4"))
        one_of("compression.feedback", self.feedback, ("residual", "ef21"))
        at_least("compression.block", self.block, 1)
        for name in ("share", "listed"):
            if not 0 < getattr(self, name) <= 1:
                raise PlanError(f"plan.compression.{name} = {getattr(self, name)} must be above 0 and at most 1.")
            object.__setattr__(self, name, float(getattr(self, name)))
        if self.listed < self.share:
            raise PlanError(
                f"plan.compression.listed = {self.listed} lists fewer blocks than share = {self.share} sends. Raise it."
            )

    def check_statistics(self, statistics: Spans) -> None:
        """Check that a model exchanges no running statistics where old differences are added again.

        Raises:
            PlanError: it does. A variance could fall below 0.
        """
        if statistics and self.method != "none" and self.feedback == "ef21":
            raise PlanError(
                "plan.compression.feedback = 'ef21' goes on with old differences until new ones are sent, and the "
                "model exchanges running statistics (BatchNorm's), whose variance could fall below 0 in that. Keep "
                "them at each site with plan.personal: [statistics] (SiloBN) or [normalisation] (FedBN), train a "
                "model with GroupNorm, or choose feedback: residual."
            )

    @property
    def codec(self) -> ValueCodec | None:
        """The codec of another package; None for the formats that this package has.

        Raises:
            PlanError: it cannot be found here, or has another version or other settings.
        """
        if not isinstance(self.values, dict):
            return None
        return read_foreign(self.values, ValueCodec, "compression.values")  # type: ignore[type-abstract]
