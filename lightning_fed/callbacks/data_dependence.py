"""What must not be decided by a site's own data, where privacy is promised.

A promise covers what leaves with noise. How long a site trains, at which rates, and whether it is still there are seen
by everybody as well: rounds that it takes part in, times, and the updates that a schedule shapes. So such a decision
may follow

* the plan, the Trainer's settings, counted steps and epochs, and the clock;
* the global model, which has the noise that the ledger paid for (and, under DP-SGD, the site's own weights),

and nothing else. Above all it may not follow a loss or a metric: those are exact numbers about the images that they
were measured on, training or validation, whether they stay at the site or the plan publishes them. That the others know
a metric already does not pay for it. A model that is kept at the site (``ModelCheckpoint``) is no such decision.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lightning_fed.errors import ConfigError
from lightning_fed.lightning_api import (
    BatchSizeFinder,
    Callback,
    EarlyStopping,
    LearningRateFinder,
    SpikeDetection,
    Trainer,
)

_FOLLOWING: tuple[tuple[type[Callback], str], ...] = (
    (EarlyStopping, "ends the fit by a metric that it compares exactly; let max_epochs or the plan's rounds end it"),
    (SpikeDetection, "ends the fit, or leaves batches out, by single losses; leave it out"),
    (LearningRateFinder, "chooses the learning rate by losses; set it, found on public data if need be"),
    (BatchSizeFinder, "chooses the batch size by what the site's images need of memory; set it"),
)


def refuse_data_dependent(trainer: Trainer, promise: str) -> None:
    """Refuse what makes the course of a fit follow its data beside the noise.

    Only Lightning's own means are known here; what a module or a callback of the user's decides by itself
    (``trainer.should_stop = True``) is the author's word.

    Args:
        trainer: with its callbacks and, from ``on_fit_start`` on, its schedulers.
        promise: what promises privacy, for the message.

    Raises:
        ConfigError: names all that is refused and what to use instead.
    """
    reasons = [*_callbacks(trainer), *_schedulers(trainer)]
    if torch.is_anomaly_enabled() or trainer._detect_anomaly:
        reasons.append("detect_anomaly ends the fit when a gradient is NaN; leave it out")
    if reasons:
        raise ConfigError(
            f"{promise} promises privacy, and parts of this fit act on exact losses, metrics or images, which others "
            f"can tell from how it goes: {'; '.join(reasons)}."
        )


def _callbacks(trainer: Trainer) -> Iterator[str]:
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        for kind, reason in _FOLLOWING:
            if isinstance(callback, kind):
                monitored = f"(monitor={callback.monitor!r})" if isinstance(callback, EarlyStopping) else ""
                yield f"{type(callback).__name__}{monitored} {reason}"


def _schedulers(trainer: Trainer) -> Iterator[str]:
    for config in trainer.lr_scheduler_configs:
        if config.reduce_on_plateau or any(isinstance(one, ReduceLROnPlateau) for one in _parts(config.scheduler)):
            monitored = f"(monitor={config.monitor!r})" if config.monitor else ""
            yield (
                f"{type(config.scheduler).__name__}{monitored} lowers the learning rate by a metric; choose one that "
                "follows epochs or steps, such as CosineAnnealingLR"
            )


def _parts(scheduler: Any) -> Iterator[Any]:
    """A scheduler, and those that it is made of."""
    yield scheduler
    for part in getattr(scheduler, "_schedulers", ()):
        yield from _parts(part)
