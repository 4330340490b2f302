"""What acts on a validation's metrics: once for each validation, and never on the value of one before."""

import sys
from typing import Any

from lightning_fed.errors import ConfigError
from lightning_fed.lightning_api import EarlyStopping, ModelCheckpoint, Trainer
from lightning_fed.plan import LocalTraining

_NEVER = sys.maxsize


class MetricFollowers:
    """Where validation follows rounds: has ReduceLROnPlateau follow it, and refuses what follows every epoch.

    A metric that training logs is new in every epoch, and whatever follows it stays as the user set it.

    Args:
        trainer: with its schedulers.
        local: what a round is.
    """

    def __init__(self, trainer: Trainer, local: LocalTraining) -> None:
        self._trainer = trainer
        self._local = local
        self._of_validation: set[str] = set()
        self._of_training: set[str] = set()
        self._validations = 0
        self._first_epoch: int | None = None
        self._new = False
        for config in trainer.lr_scheduler_configs:
            # Lightning's documentation recommends to set it to trainer.check_val_every_n_epoch, which may be None now.
            config.frequency = config.frequency or 1
        self._plateaus = [
            (config, config.frequency, config.strict)
            for config in trainer.lr_scheduler_configs
            if config.reduce_on_plateau and config.interval == "epoch"
        ]

    def validated(self) -> None:
        """A validation has ended, be it the sanity check; its metrics are still there."""
        loop = self._trainer.fit_loop.epoch_loop
        self._of_validation |= _logged(loop.val_loop._results)
        self._of_training |= _logged(loop._results)
        if self._trainer.sanity_checking:
            return
        self._new = True
        self._validations += 1
        if self._local.steps:
            # Right after it, since Lightning would wait for the end of an epoch, which may hold many rounds.
            for config, frequency in self._following_validation():
                config.interval = "step"
                config.frequency = 1 if self._validations % frequency == 0 else _NEVER

    def batch_begins(self) -> None:
        """What was due after a validation has happened."""
        if self._first_epoch is None:
            # Of a round, as a resumed fit may have epochs of half a round behind it.
            self._first_epoch = self._trainer.current_epoch % (self._local.epochs or 1)
        if self._local.steps:
            self._nothing_is_due()

    def epoch_ends(self) -> None:
        """Lightning is about to act on the metrics that there are.

        Raises:
            ConfigError: a callback follows a metric of validation at the end of every epoch.
        """
        trainer = self._trainer
        self._of_training |= _logged(trainer.fit_loop.epoch_loop._results)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            self._refuse_stale(callback)
        for config, _, strict in self._plateaus:
            # Before the first validation nobody knows whether the metric is one of its; Lightning waits for it then.
            config.strict = strict and bool(self._validations or config.monitor in trainer.callback_metrics)
        if self._local.steps:
            self._nothing_is_due()
            return
        epochs = trainer.current_epoch + 1 - (self._first_epoch or 0)
        for config, frequency in self._following_validation():
            config.frequency = 1 if self._new and epochs % frequency == 0 else _NEVER
        self._new = False

    def _nothing_is_due(self) -> None:
        for config, _ in self._following_validation():
            config.interval, config.frequency = "step", _NEVER

    def _following_validation(self) -> list[tuple[Any, int]]:
        names = self._of_validation - self._of_training
        return [(config, frequency) for config, frequency, _ in self._plateaus if config.monitor in names]

    def _refuse_stale(self, callback: Any) -> None:
        if isinstance(callback, EarlyStopping):
            setting, every = "check_on_train_epoch_end", callback._check_on_train_epoch_end
        elif isinstance(callback, ModelCheckpoint):
            setting, every = "save_on_train_epoch_end", callback._save_on_train_epoch_end
        else:
            return
        if every and callback.monitor in self._of_validation - self._of_training:
            local = self._local
            length = f"{local.epochs} epochs" if local.epochs else f"{local.steps} steps"
            raise ConfigError(
                f"{type(callback).__name__}(monitor={callback.monitor!r}, {setting}=True) acts at the end of every "
                f"epoch, and this federation validates after each round, of {length}: in between it would act on the "
                f"value of an older model. Leave {setting} out, and it acts after each validation; or choose when to "
                "validate, with Trainer(val_check_interval=...) or Trainer(check_val_every_n_epoch=...)."
            )


def undecided(trainer: Trainer) -> list[EarlyStopping]:
    """Those that leave it to Lightning whether they follow validations or epochs.

    They decide in the first fit or evaluation of a Trainer, which need not be the federation's fit, and for good.
    """
    return [
        callback
        for callback in trainer.callbacks  # type: ignore[attr-defined]
        if isinstance(callback, EarlyStopping) and callback._check_on_train_epoch_end is None
    ]


def _logged(results: Any) -> set[str]:
    """Every name under which a loop's metrics are known, without computing them."""
    return {
        name
        for metric in results.result_metrics
        for on_step in (False, True)
        for name in results._forked_name(metric, on_step)
    }
