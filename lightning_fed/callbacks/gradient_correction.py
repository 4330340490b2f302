"""Adding to the gradients just before an optimiser uses them."""

from abc import abstractmethod
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lightning_fed.callbacks.round_callback import RoundCallback
from lightning_fed.errors import ConfigError
from lightning_fed.lightning_api import LightningModule, Trainer


class GradientCorrection(RoundCallback):
    """Base of the algorithms that add a term to each local gradient.

    The term is added where Lightning calls ``on_before_optimizer_step``: gradients are accumulated and unscaled by
    then, and the Trainer's gradient clipping, which comes after, sees the sum. It works with any number of optimisers.

    Under DP-SGD (an Opacus ``DPOptimizer``) the gradients are still those of single examples at that moment. There the
    term is added by a pre-hook of the optimiser inside, which runs after clipping, noise and scaling. The privacy
    guarantee is untouched as long as the term depends on the site's examples only through weights and updates that
    have had their noise: it is post-processing.
    """

    def __init__(self) -> None:
        self._inside: dict[Optimizer, RemovableHandle] = {}

    @abstractmethod
    def correction(self, parameter: nn.Parameter) -> Tensor | None:
        """What to add to the gradient of ``parameter``, same shape; None for nothing."""

    def corrected(self, optimizer: Optimizer) -> None:
        """Called once a step, after the corrections of all parameters with a gradient."""

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Add the term, or see to it that it is added after the noise.

        Raises:
            ConfigError: the optimiser unscales 16-bit gradients itself, so nothing can be added at their true scale.
        """
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            raise ConfigError(
                f"{type(self).__name__} adds to the gradients before a step, and a fused {type(optimizer).__name__} "
                "under 16-bit precision gets them scaled. Make it with fused=False, or use precision='bf16-mixed'."
            )
        inside = getattr(optimizer, "original_optimizer", None)
        if inside is None:
            self._correct(optimizer)
        elif inside not in self._inside:
            self._inside[inside] = inside.register_step_pre_hook(lambda used, args, kwargs: self._correct(used))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the hooks off the optimisers."""
        while self._inside:
            self._inside.popitem()[1].remove()

    def _correct(self, optimizer: Any) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                # Without a gradient the optimiser leaves the parameter as it is, and so do we.
                if parameter.grad is None:
                    continue
                term = self.correction(parameter)
                if term is not None:
                    parameter.grad.add_(term)
        self.corrected(optimizer)
