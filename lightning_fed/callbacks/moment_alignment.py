"""Feature alignment: the sites' features are pulled towards their common mean and covariance."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_fed.callbacks.exchanged_parameters import refuse_private
from lightning_fed.callbacks.round_callback import RoundCallback
from lightning_fed.errors import ConfigError
from lightning_fed.lightning_api import LightningModule, Trainer

MOMENTS = "feature_moments"
"""Name under which the module holds its ``FeatureMoments``."""


class FeatureMoments(nn.Module):
    """Mean and second moments of features, as buffers that travel with the model.

    They are averaged over the sites like running statistics: under the masks, and weighted by examples. As the second
    moments are not centred, the averages are exactly those of all sites' images together.

    Args:
        features: number d of features.

    Attributes:
        mean: float32, shape ``(d,)``.
        second: mean of the outer products, float32, shape ``(d, d)``.
        known: float32 scalar, 0 until a round has filled the moments.
    """

    averaged_buffers = ("mean", "second", "known")

    mean: Tensor
    second: Tensor
    known: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("second", torch.zeros(features, features))
        self.register_buffer("known", torch.zeros(()))


class MomentAlignment(RoundCallback):
    """Adds ``weight * (|m - M|^2 / d + |C - K|^2 / (4 d^2))`` to the loss of each batch.

    m and C are the batch's mean and covariance of one layer's output (its mean over all positions, if it is a map), M
    and K those of all sites' training images in the round before. So no site sees another's features, and the
    coordinator sees only what the masks leave: sums. The term's gradient is added to the layer's output in the
    backward pass; the loss that is logged stays the module's own. It begins in the second round, and small batches make
    it noisy. In a fit without rounds it does nothing.

    The moments are part of the module's state, as ``feature_moments``. A module may hold ``FeatureMoments(features)``
    under that name itself, and must if the coordinator makes the first model; otherwise it is added here. Compression
    would send the moments in parts: leave it out of the plan.

    Args:
        layer: name of the layer whose output is aligned, shape ``(B, d, ...)``.
        features: d.
        weight: strength of the pull.

    Raises:
        ConfigError: ``features`` is below 1, or ``weight`` negative or not finite.

    Source: Sun and Saenko 2016, Deep CORAL: Correlation Alignment for Deep Domain Adaptation, arXiv 1607.01719, eq. 1
    for the covariances; a distance of the means is added, since scanners shift those first.
    """

    def __init__(self, layer: str, features: int, weight: float = 1.0) -> None:
        if features < 1 or not (math.isfinite(weight) and weight >= 0):
            raise ConfigError(
                f"MomentAlignment(features={features}, weight={weight}) is not possible: at least one feature and a "
                "weight of at least 0 are needed."
            )
        self.layer, self.features, self.weight = layer, features, weight
        self._hook: RemovableHandle | None = None
        self._reference: tuple[Tensor, Tensor] | None = None
        self._sums: tuple[Tensor, Tensor] | None = None
        self._count = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Add the buffers, before what is exchanged is decided.

        Raises:
            ConfigError: there is no such layer.
        """
        names = [name for name, _ in pl_module.named_modules() if name]
        if self.layer not in names:
            raise ConfigError(f"the module has no layer {self.layer!r} for MomentAlignment; it has {names[:10]}.")
        if not isinstance(getattr(pl_module, MOMENTS, None), FeatureMoments):
            pl_module.add_module(MOMENTS, FeatureMoments(self.features))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen to the layer.

        Raises:
            ConfigError: the fit uses float16 with scaled gradients.
        """
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            raise ConfigError("MomentAlignment does not know the scale of gradients in '16-mixed'. Use 'bf16-mixed'.")
        accumulated, ours = trainer.accumulate_grad_batches, pl_module.get_submodule(self.layer)

        def listen(layer: nn.Module, arguments: Any, output: Tensor) -> None:
            # A copy of the module, such as Ditto's, has the hook, too.
            if layer is ours and layer.training and torch.is_grad_enabled() and self._sums is not None:
                self._heard(output, accumulated)

        self._hook = ours.register_forward_hook(listen)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what this cannot be combined with.

        Raises:
            ConfigError: the fit uses DP-SGD.
        """
        refuse_private(
            trainer,
            "MomentAlignment's term joins the examples of a batch and its moments have no noise, so DP-SGD cannot "
            "bound what one example does. Remove one of the two.",
        )

    def on_round_start(self, trainer: Trainer, pl_module: LightningModule, round: int) -> None:
        """Take the sites' common moments as the reference, and begin to gather new ones."""
        moments = pl_module.get_submodule(MOMENTS)
        assert isinstance(moments, FeatureMoments)
        mean = moments.mean.detach().float().clone()
        covariance = moments.second.detach().float() - torch.outer(mean, mean)
        self._reference = (mean, covariance) if float(moments.known) > 0.5 else None
        self._sums = torch.zeros_like(mean), torch.zeros_like(covariance)
        self._count = 0

    def on_round_end(self, trainer: Trainer, pl_module: LightningModule, round: int) -> None:
        """Put this site's moments of the round where the exchange finds them."""
        moments = pl_module.get_submodule(MOMENTS)
        assert isinstance(moments, FeatureMoments)
        if self._sums is None:
            return
        own = (*self._sums, torch.tensor(float(self._count), device=moments.mean.device))
        first, second, count = (trainer.strategy.reduce(one, reduce_op="sum") for one in own)
        if count:
            moments.mean.copy_(first / count)
            moments.second.copy_(second / count)
            moments.known.fill_(1.0)
        self._sums = None

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stop listening."""
        if self._hook is not None:
            self._hook.remove()
        self._hook = self._reference = self._sums = None

    def _heard(self, output: Tensor, accumulated: int) -> None:
        assert self._sums is not None
        rows = _rows(output.detach())
        if rows.shape[1] != self.features:
            raise ConfigError(
                f"layer {self.layer!r} gives {rows.shape[1]} features, and MomentAlignment was told {self.features}."
            )
        self._sums[0].add_(rows.sum(0))
        self._sums[1].addmm_(rows.T, rows)
        self._count += len(rows)
        if self._reference is None or not self.weight or not output.requires_grad or len(rows) < 2:
            return
        apart = output.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self.weight / accumulated * distance(_rows(apart), *self._reference), apart)
        output.register_hook(lambda other: other + gradient)  # type: ignore[no-untyped-call]


def distance(features: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """How far a batch's moments are from a reference.

    Args:
        features: float32, shape ``(B, d)``, B at least 2.
        mean: of the reference, shape ``(d,)``.
        covariance: of the reference, shape ``(d, d)``.

    Returns:
        Squared distance of the means over d, plus that of the covariances over 4 d^2; a scalar.
    """
    size = features.shape[1]
    own = features.mean(0)
    centred = features - own
    apart = centred.T @ centred / len(features) - covariance
    return (own - mean).square().sum() / size + apart.square().sum() / (4 * size**2)


def _rows(output: Tensor) -> Tensor:
    return output.flatten(2).mean(2).float() if output.dim() > 2 else output.float()
