"""Ditto: a model of the site's own beside the global one."""

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_fed.callbacks.exchanged_parameters import exchanged_parameters, refuse_private
from lightning_fed.callbacks.round_callback import RoundCallback
from lightning_fed.errors import ConfigError
from lightning_fed.lightning_api import LightningModule, Trainer, is_param_in_hook_signature

_PRIVATE = (
    "Ditto takes a plain step on each batch, and those of DP-SGD may hold nobody, or be a part of a step. Use "
    "personal layers, whose gradients have the noise of the others."
)


class Ditto(RoundCallback):
    """Trains a personal model on the same batches, pulled towards the round's global model.

    The personal model is a copy of the LightningModule with optimisers of its own, which follow the learning rates of
    the fit's. Each batch it takes a step along its own gradient plus ``lam * (v - w_global)``; ``lam = 0`` is local
    training without a federation. It starts from the first global model, never leaves the site, is part of Lightning's
    checkpoints, and does not change what the fit trains: not even by the random numbers it draws. It costs as much time
    and memory as the fit itself. What it logs is not recorded; to see how good it is::

        with ditto.personal_weights(model):
            trainer.validate(model, datamodule)

    Args:
        lam: strength of the pull (lambda); the paper tries 0.05 to 2.

    Attributes:
        personal: the personal model, None before the first fit.

    Raises:
        ConfigError: ``lam`` is negative or not finite.

    Source: Li, Hu, Beirami and Smith 2021, Ditto: Fair and Robust Federated Learning Through Personalization, ICML,
    arXiv 2012.04221, algorithm 1 with one personal step for each local step.
    """

    def __init__(self, lam: float) -> None:
        if not (math.isfinite(lam) and lam >= 0):
            raise ConfigError(f"Ditto(lam={lam}) is not possible: it must be at least 0. The paper tries 0.05 to 2.")
        self.lam = lam
        self.personal: LightningModule | None = None
        self._optimizers: list[Optimizer] = []
        self._global: list[tuple[nn.Parameter, Tensor]] = []
        self._restored: Mapping[str, Any] | None = None
        self._begun = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Copy the module and its optimisers, or go on with those of a checkpoint.

        Raises:
            ConfigError: the fit steps its optimisers by hand, uses DP-SGD or float16 with scaled gradients.
        """
        if not pl_module.automatic_optimization:
            raise ConfigError(
                f"Ditto repeats training_step on its own model, and {type(pl_module).__name__} steps the fit's "
                "optimisers in there by hand. Use automatic optimization."
            )
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            raise ConfigError("Ditto does not scale gradients as precision='16-mixed' needs. Use 'bf16-mixed' or 32.")
        # Before copying: Opacus' class cannot be copied.
        refuse_private(trainer, _PRIVATE)
        # One memo, so that the copied optimisers hold the copied parameters.
        memo: dict[int, Any] = {}
        self.personal = copy.deepcopy(pl_module, memo)
        self._optimizers = [copy.deepcopy(optimizer, memo) for optimizer in trainer.optimizers]
        self.personal.trainer = trainer
        # Otherwise its losses would be mixed into the fit's.
        for name in ("log", "log_dict"):
            setattr(self.personal, name, lambda *args, **kwargs: None)
        self._global, self._begun = [], self._restored is not None
        if self._restored is not None:
            self.personal.load_state_dict(self._restored["personal"])
            for optimizer, state in zip(self._optimizers, self._restored["optimizers"], strict=True):
                optimizer.load_state_dict(state)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what this cannot be combined with.

        Raises:
            ConfigError: the fit uses DP-SGD.
        """
        refuse_private(trainer, _PRIVATE)

    def on_round_start(self, trainer: Trainer, pl_module: LightningModule, round: int) -> None:
        """Remember the global model to be pulled to, and start from the first one."""
        assert self.personal is not None
        if not self._begun:
            self.personal.load_state_dict(pl_module.state_dict())
            self._begun = True
        own = dict(self.personal.named_parameters(remove_duplicate=False))
        exchanged = exchanged_parameters(trainer, pl_module)
        self._global = [(own[name], parameter.detach().clone()) for name, parameter in exchanged.items()]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Train the personal model on the batch that the fit is about to train on."""
        assert self.personal is not None
        for own, live in zip(self.personal.modules(), pl_module.modules(), strict=True):
            own.training = live.training
        device = pl_module.device
        # The fit then draws the numbers it would have drawn.
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            with trainer.precision_plugin.train_step_context():
                indexed = is_param_in_hook_signature(self.personal.training_step, "batch_idx", min_args=2)
                output = self.personal.training_step(*((batch, batch_idx) if indexed else (batch,)))
            loss = output["loss"] if isinstance(output, Mapping) else output
            if loss is not None:
                (loss / trainer.accumulate_grad_batches).backward()
        if trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self._step(trainer)

    def _step(self, trainer: Trainer) -> None:
        assert self.personal is not None
        self._over_all_devices(trainer)
        if self.lam:
            for parameter, start in self._global:
                if parameter.grad is not None:
                    parameter.grad.add_(parameter.detach() - start, alpha=self.lam)
        for optimizer, live in zip(self._optimizers, trainer.optimizers, strict=True):
            for group, live_group in zip(optimizer.param_groups, live.param_groups, strict=True):
                group.update({key: value for key, value in live_group.items() if key != "params"})
            self.personal.configure_gradient_clipping(
                optimizer, trainer.gradient_clip_val, trainer.gradient_clip_algorithm
            )
            optimizer.step()
            optimizer.zero_grad()

    def _over_all_devices(self, trainer: Trainer) -> None:
        """Average the gradients, as DDP does with the fit's own."""
        if trainer.world_size == 1:
            return
        assert self.personal is not None
        parameters = [parameter for parameter in self.personal.parameters() if parameter.requires_grad]
        used = torch.tensor([p.grad is not None for p in parameters], device=trainer.strategy.root_device)
        for parameter, by in zip(parameters, trainer.strategy.reduce(used.float(), reduce_op="sum"), strict=True):
            if by:
                own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = trainer.strategy.reduce(own, reduce_op="mean")

    def on_round_end(self, trainer: Trainer, pl_module: LightningModule, round: int) -> None:
        """Have all devices hold the personal model of the first, whose running statistics are its own batches'."""
        assert self.personal is not None
        if trainer.world_size > 1:
            for buffer in self.personal.buffers():
                buffer.copy_(trainer.strategy.broadcast(buffer))

    @contextmanager
    def personal_weights(self, pl_module: LightningModule) -> Iterator[None]:
        """Lend the personal model's state to ``pl_module`` while the context lasts.

        Raises:
            ConfigError: there is none, because nothing was trained and no checkpoint loaded.
        """
        state = self.state_dict().get("personal")
        if state is None:
            raise ConfigError("Ditto has no personal model yet. Fit first, or load a checkpoint of a fit with Ditto.")
        before = {name: tensor.detach().clone() for name, tensor in pl_module.state_dict().items()}
        pl_module.load_state_dict(state)
        try:
            yield
        finally:
            pl_module.load_state_dict(before)

    def state_dict(self) -> dict[str, Any]:
        """The personal model's and its optimisers' state; empty before the first fit."""
        if self.personal is None:
            return dict(self._restored or {})
        return {
            "personal": self.personal.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep a checkpoint's personal model for the next fit or evaluation."""
        self._restored = state_dict or None
        self.personal = None
