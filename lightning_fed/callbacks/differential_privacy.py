"""Example-level privacy for any LightningModule: DP-SGD as a callback.

Lightning's loop stays as it is; four things around it change, for the time of a fit:

* the training loader, by Poisson sampling (``PoissonLoader``), as soon as Lightning asks the strategy to process it;
* ``strategy.training_step``, which runs the module's step on parts of at most ``physical_batch_size`` examples, each
  with its backward pass, and not at all on a batch that holds nobody;
* ``on_after_backward``, where the gradients of the examples just seen are clipped and added up;
* the optimizer's step, which adds noise to that sum first (``PrivateOptimizer``).

So a Lightning step is one release of the mechanism, whatever its batches: learning rate schedules, ``global_step``,
``max_steps`` and rounds count what they always counted.

Ghost clipping is not offered: Opacus' needs the loss of each example, and a ``training_step`` returns their mean.
``physical_batch_size`` bounds the memory instead.
"""

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from lightning_fed.callbacks.data_dependence import refuse_data_dependent
from lightning_fed.callbacks.one_package import refuse_mixed
from lightning_fed.errors import BudgetExhaustedError, ConfigError
from lightning_fed.lightning_api import (
    Callback,
    GradientAccumulationScheduler,
    LightningModule,
    MixedPrecision,
    RunningStage,
    SingleDeviceStrategy,
    Trainer,
    is_param_in_hook_signature,
    rank_zero_info,
)
from lightning_fed.privacy.accounting import (
    DpSgd,
    dp_sgd_noise_multiplier,
    require_delta,
    require_delta_for,
)
from lightning_fed.privacy.discrete import require_noise
from lightning_fed.privacy.layers import SavedStatistics, check_layers, replace_layers, watch_signal
from lightning_fed.privacy.poisson import PoissonLoader, rows
from lightning_fed.privacy.steps import Steps

if TYPE_CHECKING:
    from lightning_fed.privacy.private_optimizer import ExampleGradients, PrivateOptimizer


class DifferentialPrivacy(Callback):
    """Trains with DP-SGD: each example's gradient is clipped, and noise is added to their sum in every step.

    The loss that ``training_step`` returns has to be a mean over the examples of its batch, in which each example's
    term depends on that example alone. Batches are drawn at random, so that their size varies about the loader's
    ``batch_size``; ``seed_everything`` makes neither the draws nor the noise reproducible, on purpose. Logs
    ``epsilon``, as spent so far.

    Args:
        epsilon: target for the whole training, from which the noise follows; or
        noise_multiplier: standard deviation of the noise, in clipping norms.
        clipping_norm: largest L2 norm C of one example's gradient.
        delta: chance with which the promise may fail; below one over the number of training examples.
        replace_layers: replace BatchNorm by GroupNorm, and other layers that cannot be trained this way, when the fit
            begins. The module keeps the new layers.
        physical_batch_size: most examples that are trained at once, to bound memory; a whole batch when not given.

    Attributes:
        planned_steps: optimiser steps of the whole training, those before a resumed checkpoint included; when None,
            what the Trainer's ``max_epochs`` and ``max_steps`` amount to. Set it before ``on_train_start``.

    Raises:
        ConfigError: an argument is out of range, or, from the fit, before its first step: a layer, the loader, the
            optimizer or a setting of the Trainer cannot be combined with DP-SGD.
        PlanError: delta does not fit the number of examples, or no noise meets the target.
        BudgetExhaustedError: a step would bring epsilon above the target.

    Source: Abadi et al. 2016, Deep Learning with Differential Privacy (arXiv 1607.00133).
    """

    def __init__(
        self,
        epsilon: float | None = None,
        noise_multiplier: float | None = None,
        clipping_norm: float = 1.0,
        delta: float = 1e-5,
        replace_layers: bool = False,
        physical_batch_size: int | None = None,
    ) -> None:
        if (epsilon is None) == (noise_multiplier is None):
            raise ConfigError(
                f"DifferentialPrivacy was given epsilon = {epsilon} and noise_multiplier = {noise_multiplier}. Give "
                "exactly one of the two."
            )
        if noise_multiplier is not None:
            require_noise("DifferentialPrivacy: noise_multiplier", noise_multiplier)
        for name, value in (("epsilon", epsilon), ("clipping_norm", clipping_norm)):
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"DifferentialPrivacy: {name} = {value} must be a finite number above 0.")
        if physical_batch_size is not None and physical_batch_size < 1:
            raise ConfigError(f"DifferentialPrivacy: physical_batch_size = {physical_batch_size} must be at least 1.")
        require_delta(delta)
        self.epsilon = epsilon
        self.noise_multiplier = noise_multiplier
        self.clipping_norm = clipping_norm
        self.delta = delta
        self.replace_layers = replace_layers
        self.physical_batch_size = physical_batch_size
        self.planned_steps: int | None = None
        self._steps = Steps()
        self._loader: PoissonLoader | None = None
        self._gradients: ExampleGradients | None = None
        self._optimizer: PrivateOptimizer | None = None
        self._statistics: SavedStatistics | None = None
        self._setting: tuple[float, float] = (0.0, 0.0)
        self._total = 0
        self._step: object = None
        self._rows = 0
        self._watches: list[RemovableHandle] = []

    # What was spent

    @property
    def epsilon_so_far(self) -> float:
        """Epsilon of all steps taken, those before a resumed checkpoint included."""
        return self._steps.epsilon(self.delta)

    def spent(self) -> DpSgd | None:
        """The mechanism of the steps taken since this was last called; None if there were none.

        Should their settings differ (steps of an interrupted fit that went on with another batch size), all count at
        the highest sampling rate and the lowest noise among them.
        """
        return self._steps.tell()

    def state_dict(self) -> dict[str, Any]:
        """The steps taken, with their sampling rates and noise multipliers."""
        return self._steps.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting where a checkpoint stopped."""
        self._steps.load_state_dict(state_dict)

    # Before training

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Replace layers before a checkpoint is restored, and stand between Lightning and the strategy."""
        if self.replace_layers:
            replaced = replace_layers(pl_module)
            if replaced:
                listed = ", ".join(f"{name} by {layer}" for name, layer in replaced.items())
                rank_zero_info(f"replaced for example-level privacy: {listed}.")
            self._watches += watch_signal(replaced)
        if stage != "fit":
            return
        refuse_mixed(trainer)
        _check_trainer(trainer, pl_module)
        refuse_data_dependent(trainer, "DifferentialPrivacy")
        check_layers(pl_module)
        strategy = trainer.strategy
        # Both are undone in ``_detach``. Here, as schedulers may ask for the loader's length when they are made.
        strategy.process_dataloader = functools.partial(self._process, trainer, strategy.process_dataloader)  # type: ignore[method-assign]
        strategy.training_step = functools.partial(self._training_step, trainer, strategy.training_step)  # type: ignore[method-assign]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check what there was not at ``setup``: layers of ``configure_model``, the optimizer and its schedule."""
        check_layers(pl_module)
        refuse_data_dependent(trainer, "DifferentialPrivacy")
        if len(trainer.optimizers) != 1 or isinstance(trainer.optimizers[0], torch.optim.LBFGS):
            raise ConfigError(
                "example-level privacy needs one optimizer that takes one gradient a step; configure_optimizers gave "
                f"{[type(optimizer).__name__ for optimizer in trainer.optimizers]}."
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Work out the noise, now that the data, the steps and a resumed count are known, and make training private."""
        # Here and not above: Opacus takes longer to import than all of this package.
        from lightning_fed.privacy.private_optimizer import ExampleGradients, PrivateOptimizer

        loader = trainer.train_dataloader
        if not isinstance(loader, PoissonLoader):
            raise ConfigError(
                "example-level privacy needs one training loader, a torch DataLoader; given was "
                f"{type(loader).__name__}."
            )
        self._setting = (loader.sample_rate, self._noise_for(trainer, loader.sample_rate))
        optimizer = trainer.optimizers[0]
        self._statistics = SavedStatistics(pl_module)
        self._gradients = ExampleGradients(pl_module)
        self._optimizer = PrivateOptimizer(
            optimizer,
            pl_module,
            self._gradients,
            self._setting[1],
            self.clipping_norm,
            loader.step_size,
            self._before_release,
        )
        trainer.strategy.optimizers = [self._optimizer]
        rank_zero_info(
            f"example-level privacy: noise multiplier {self._setting[1]:.4g}, clipping norm {self.clipping_norm:g}, "
            f"each of {loader.examples} examples in a step with a chance of {self._setting[0]:.4g}; epsilon "
            f"{self.epsilon_so_far:.3f} at delta {self.delta:g} spent so far."
        )

    # Training

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Clip the gradients of the examples just seen, and add them up."""
        if self._optimizer is not None:
            self._optimizer.accumulate(self._rows)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log epsilon."""
        # A batch size, as Lightning would look for one in the batch, which may hold nobody.
        pl_module.log("epsilon", self.epsilon_so_far, prog_bar=True, batch_size=1, rank_zero_only=True)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the Trainer and the module back as they were."""
        self._detach(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the Trainer and the module back as they were."""
        self._detach(trainer)

    # Inside

    def _process(self, trainer: Trainer, process: Callable[[Any], Any], dataloader: Any) -> Any:
        dataloader = process(dataloader)
        if trainer.state.stage != RunningStage.TRAINING or not isinstance(dataloader, torch.utils.data.DataLoader):
            return dataloader
        loader = PoissonLoader(dataloader, trainer.accumulate_grad_batches)
        require_delta_for(self.delta, loader.examples, "example")
        if self._optimizer is not None and loader.sample_rate != self._setting[0]:
            raise ConfigError(
                f"the training data changed during the fit: {loader.examples} examples in steps of {loader.step_size} "
                f"mean a sampling rate of {loader.sample_rate}, and the noise is for {self._setting[0]}. End the fit "
                "and resume from its checkpoint instead."
            )
        self._loader = loader
        return loader

    def _training_step(self, trainer: Trainer, step: Callable[..., Any], batch: Any, *rest: Any) -> Any:
        """The module's training step, on each part of the batch; Lightning itself goes on with the last part's loss."""
        assert self._loader is not None and self._optimizer is not None
        if self._loader.step is not self._step:
            # Batches of a step that was cut off, by a resumed checkpoint or an epoch's end, must not add to another.
            self._optimizer.discard()
            self._step = self._loader.step
        examples = self._loader.drawn
        if not examples:
            self._rows = 0
            return torch.zeros((), device=trainer.strategy.root_device, requires_grad=True)
        parts = -(-examples // (self.physical_batch_size or examples))
        ends = [examples * part // parts for part in range(parts + 1)]
        for start, stop in itertools.pairwise(ends[:-1]):
            loss = _loss_of(step(rows(batch, examples, start, stop), *rest))
            self._rows = stop - start
            if loss is not None:
                trainer.strategy.backward(loss, self._optimizer)
        output = step(batch if parts == 1 else rows(batch, examples, ends[-2], examples), *rest)
        self._rows = examples - ends[-2]
        # Lightning divides by this, and what it divides would then be clipped too late.
        return _scaled(output, trainer.accumulate_grad_batches)

    def _before_release(self) -> None:
        assert self._statistics is not None
        self._statistics.check()
        if self.epsilon is not None and self._steps.count >= self._total:
            after = self._steps.epsilon(self.delta, DpSgd(*self._setting, 1))
            if after > self.epsilon:
                raise BudgetExhaustedError(
                    f"training was to take {self._total} steps and has taken {self._steps.count}; one more would bring "
                    f"epsilon to {after:.4g} at delta {self.delta:g}, above the target of {self.epsilon:g}. Nothing "
                    "was released. Plan for more steps, or raise epsilon."
                )
        # Counted before the noise is drawn: an error later on may count a step that was not released, never lose one.
        self._steps.add(*self._setting)

    def _noise_for(self, trainer: Trainer, sample_rate: float) -> float:
        if self.noise_multiplier is not None:
            return self.noise_multiplier
        assert self.epsilon is not None
        taken, noise = self._steps.count, self._steps.last_noise
        self._total = taken + _steps_left(trainer) if self.planned_steps is None else self.planned_steps
        left = max(1, self._total - taken)
        if noise is None:
            return dp_sgd_noise_multiplier(self.epsilon, self.delta, sample_rate, left)
        after = self._steps.epsilon(self.delta, DpSgd(sample_rate, noise, left))
        if after > self.epsilon and self._total > taken:
            raise ConfigError(
                f"{taken} steps were taken with noise multiplier {noise:.4g}, and {left} more would bring epsilon to "
                f"{after:.4g} at delta {self.delta:g}, above the target of {self.epsilon:g}. Train as long as was "
                "planned at first, or raise epsilon."
            )
        return noise

    def _detach(self, trainer: Trainer) -> None:
        if self._optimizer is not None:
            trainer.strategy.optimizers = [self._optimizer.original_optimizer]
        if self._gradients is not None:
            self._gradients.forget()
            self._gradients.cleanup()
        for watch in self._watches:
            watch.remove()
        self._watches = []
        for name in ("process_dataloader", "training_step"):
            trainer.strategy.__dict__.pop(name, None)
        self._loader = self._statistics = self._gradients = self._optimizer = self._step = None


def _check_trainer(trainer: Trainer, pl_module: LightningModule) -> None:
    reason = None
    precision = trainer.precision_plugin
    if not pl_module.automatic_optimization:
        reason = "the module optimises by hand (automatic_optimization = False), so its steps cannot be counted"
    elif is_param_in_hook_signature(pl_module.training_step, "dataloader_iter", explicit=True):
        reason = "training_step(dataloader_iter) draws batches itself; let it take a batch"
    elif not isinstance(trainer.strategy, SingleDeviceStrategy) or trainer.world_size > 1:
        reason = (
            f"it runs on {trainer.world_size} devices ({type(trainer.strategy).__name__}), each of which would draw "
            "its examples and add its noise by itself, and the accounting is for one; set devices=1"
        )
    elif trainer.gradient_clip_val:
        reason = (
            f"Trainer(gradient_clip_val={trainer.gradient_clip_val}) would clip what is thrown away: clipping_norm "
            "clips each example's gradient, and the step is made from those"
        )
    elif isinstance(precision, MixedPrecision) and precision.scaler is not None:
        reason = (
            "precision='16-mixed' scales the loss, and skips steps by what the data's gradients were; use 'bf16-mixed'"
        )
    elif any(isinstance(callback, GradientAccumulationScheduler) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        reason = "GradientAccumulationScheduler changes the sampling rate; use Trainer(accumulate_grad_batches=...)"
    if reason:
        raise ConfigError(f"this fit cannot have example-level privacy: {reason}.")


def _steps_left(trainer: Trainer) -> int:
    estimated = trainer.estimated_stepping_batches
    if estimated == float("inf"):
        raise ConfigError(
            "the noise for a target epsilon follows from the number of steps, and the Trainer has no limit. Set "
            "max_epochs or max_steps, or give noise_multiplier instead of epsilon."
        )
    return int(estimated) - trainer.global_step


def _loss_of(output: Any) -> Tensor | None:
    loss: Tensor | None = output.get("loss") if isinstance(output, Mapping) else output
    return loss


def _scaled(output: Any, factor: int) -> Any:
    if output is None or factor == 1:
        return output
    return {**output, "loss": output["loss"] * factor} if isinstance(output, Mapping) else output * factor
