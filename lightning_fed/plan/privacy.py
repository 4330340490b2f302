"""What is promised about patients and about whole sites, and the noise that keeps the promise."""

from dataclasses import dataclass
from typing import Literal

from lightning_fed.errors import PlanError
from lightning_fed.plan.checks import above_zero, one_of


def _delta(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise PlanError(f"plan.{name} = {value} must lie between 0 and 1, far below one over the number of patients.")


@dataclass(frozen=True)
class ExamplePrivacy:
    """Example level: what can be learned about any one training example, by DP-SGD at every site.

    Args:
        epsilon: target for the whole run at each site, from which the site works out its noise multiplier; or
        noise_multiplier: standard deviation of the noise, in clipping norms.
        clipping_norm: largest L2 norm of one example's gradient.
        delta: chance with which the promise may fail.
        replace_layers: replace layers that cannot be trained this way (BatchNorm by GroupNorm) before training, at
            every site alike.

    Source: Abadi et al. 2016, Deep Learning with Differential Privacy.
    """

    epsilon: float | None = None
    noise_multiplier: float | None = None
    clipping_norm: float = 1.0
    delta: float = 1e-5
    replace_layers: bool = False

    def __post_init__(self) -> None:
        if (self.epsilon is None) == (self.noise_multiplier is None):
            raise PlanError(
                f"plan.privacy.example names epsilon = {self.epsilon} and noise_multiplier = {self.noise_multiplier}. "
                "Give exactly one of the two."
            )
        for name in ("epsilon", "noise_multiplier", "clipping_norm"):
            if (value := getattr(self, name)) is not None:
                above_zero(f"privacy.example.{name}", value)
                object.__setattr__(self, name, float(value))
        _delta("privacy.example.delta", self.delta)


@dataclass(frozen=True)
class SitePrivacy:
    """Site level: what can be learned about all that one site contributed.

    Args:
        mechanism: ``distributed`` lets each site add its share of the noise under the masks, so that the sum is private
            even from the coordinator; ``central`` has the coordinator, who is trusted for that, add it.
        noise_multiplier: standard deviation of the noise in a sum, in clipping norms.
        clipping_norm: largest L2 norm of what a site sends in a round; the first round's, if ``quantile`` is given.
        delta: chance with which the promise may fail.
        quantile: share of the sites whose update should lie within the clipping norm, which then follows them from
            round to round; a fixed norm when not given.

    Source: McMahan et al. 2018, Learning Differentially Private Recurrent Language Models; of the quantile, Andrew et
    al. 2021 (arXiv 1905.03871).
    """

    mechanism: Literal["distributed", "central"] = "distributed"
    noise_multiplier: float = 1.0
    clipping_norm: float = 1.0
    delta: float = 1e-5
    quantile: float | None = None

    def __post_init__(self) -> None:
        one_of("privacy.site.mechanism", self.mechanism, ("distributed", "central"))
        for name in ("noise_multiplier", "clipping_norm"):
            above_zero(f"privacy.site.{name}", getattr(self, name))
            object.__setattr__(self, name, float(getattr(self, name)))
        _delta("privacy.site.delta", self.delta)
        if self.quantile is not None and not 0 < self.quantile < 1:
            raise PlanError(f"plan.privacy.site.quantile = {self.quantile} must lie between 0 and 1.")


@dataclass(frozen=True)
class Privacy:
    """Both promises; each may be made without the other.

    Args:
        example: about one training example; nothing is promised when not given.
        site: about everything a site sent; nothing is promised when not given.
    """

    example: ExamplePrivacy | None = None
    site: SitePrivacy | None = None
