"""Lightning's names, as this package uses them: the only place that imports Lightning.

``lightning.pytorch`` and ``pytorch_lightning`` are the same code, installed twice as two trees of classes that do not
know each other. A process is served in one of them, chosen when the first name is asked for:

1. the one that the environment variable ``LIGHTNING_FED_PACKAGE`` names,
2. else the one that the process has imported; of two, the one that it imported first,
3. else ``lightning.pytorch``.
"""

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightning_fed.errors import ConfigError

if TYPE_CHECKING:
    from lightning.pytorch import Callback as Callback
    from lightning.pytorch import LightningDataModule as LightningDataModule
    from lightning.pytorch import LightningModule as LightningModule
    from lightning.pytorch import Trainer as Trainer
    from lightning.pytorch.callbacks import BaseFinetuning as BaseFinetuning
    from lightning.pytorch.callbacks import BasePredictionWriter as BasePredictionWriter
    from lightning.pytorch.callbacks import BatchSizeFinder as BatchSizeFinder
    from lightning.pytorch.callbacks import Checkpoint as Checkpoint
    from lightning.pytorch.callbacks import EarlyStopping as EarlyStopping
    from lightning.pytorch.callbacks import GradientAccumulationScheduler as GradientAccumulationScheduler
    from lightning.pytorch.callbacks import LearningRateFinder as LearningRateFinder
    from lightning.pytorch.callbacks import ModelCheckpoint as ModelCheckpoint
    from lightning.pytorch.callbacks import ModelPruning as ModelPruning
    from lightning.pytorch.callbacks import StochasticWeightAveraging as StochasticWeightAveraging
    from lightning.pytorch.callbacks.spike import SpikeDetection as SpikeDetection
    from lightning.pytorch.cli import ArgsType as ArgsType
    from lightning.pytorch.cli import LightningArgumentParser as LightningArgumentParser
    from lightning.pytorch.cli import LightningCLI as LightningCLI
    from lightning.pytorch.loggers import CSVLogger as CSVLogger
    from lightning.pytorch.loggers import Logger as Logger
    from lightning.pytorch.loops.fetchers import _DataLoaderIterDataFetcher as _DataLoaderIterDataFetcher
    from lightning.pytorch.plugins.precision import MixedPrecision as MixedPrecision
    from lightning.pytorch.strategies import DDPStrategy as DDPStrategy
    from lightning.pytorch.strategies import FSDPStrategy as FSDPStrategy
    from lightning.pytorch.strategies import ParallelStrategy as ParallelStrategy
    from lightning.pytorch.strategies import SingleDeviceStrategy as SingleDeviceStrategy
    from lightning.pytorch.strategies import Strategy as Strategy
    from lightning.pytorch.strategies import StrategyRegistry as StrategyRegistry
    from lightning.pytorch.trainer.states import RunningStage as RunningStage
    from lightning.pytorch.trainer.states import TrainerFn as TrainerFn
    from lightning.pytorch.utilities import CombinedLoader as CombinedLoader
    from lightning.pytorch.utilities import rank_zero_info as rank_zero_info
    from lightning.pytorch.utilities import rank_zero_only as rank_zero_only
    from lightning.pytorch.utilities import rank_zero_warn as rank_zero_warn
    from lightning.pytorch.utilities.exceptions import SIGTERMException as SIGTERMException
    from lightning.pytorch.utilities.model_helpers import is_overridden as is_overridden
    from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature as is_param_in_hook_signature

# The same names for the running program, by the module of Lightning that has them (tests compare the two lists).
_WHERE = {
    "": ("Callback", "LightningDataModule", "LightningModule", "Trainer"),
    ".callbacks": (
        "BaseFinetuning",
        "BasePredictionWriter",
        "BatchSizeFinder",
        "Checkpoint",
        "EarlyStopping",
        "GradientAccumulationScheduler",
        "LearningRateFinder",
        "ModelCheckpoint",
        "ModelPruning",
        "StochasticWeightAveraging",
    ),
    ".callbacks.spike": ("SpikeDetection",),
    ".cli": ("ArgsType", "LightningArgumentParser", "LightningCLI"),
    ".loggers": ("CSVLogger", "Logger"),
    ".loops.fetchers": ("_DataLoaderIterDataFetcher",),
    ".plugins.precision": ("MixedPrecision",),
    ".strategies": (
        "DDPStrategy",
        "FSDPStrategy",
        "ParallelStrategy",
        "SingleDeviceStrategy",
        "Strategy",
        "StrategyRegistry",
    ),
    ".trainer.states": ("RunningStage", "TrainerFn"),
    ".utilities": ("CombinedLoader", "rank_zero_info", "rank_zero_only", "rank_zero_warn"),
    ".utilities.exceptions": ("SIGTERMException",),
    ".utilities.model_helpers": ("is_overridden",),
    ".utilities.signature_utils": ("is_param_in_hook_signature",),
}
_MODULES = {name: module for module, names in _WHERE.items() for name in names}

PACKAGES = ("lightning.pytorch", "pytorch_lightning")
VARIABLE = "LIGHTNING_FED_PACKAGE"

_served: str | None = None


def is_package_known() -> bool:
    """Whether there is something to choose a package by."""
    return bool(_served or os.environ.get(VARIABLE) or any(name in sys.modules for name in PACKAGES))


def served_package() -> str:
    """The package that this process is served in; chosen now, if it was not.

    Raises:
        ConfigError: ``LIGHTNING_FED_PACKAGE`` names something else.
    """
    global _served
    if _served is None:
        named = os.environ.get(VARIABLE)
        if named and named not in PACKAGES:
            raise ConfigError(f"{VARIABLE} = {named!r} is no package of Lightning. Set it to one of {PACKAGES}.")
        # sys.modules keeps the order of imports.
        _served = named or next((name for name in sys.modules if name in PACKAGES), PACKAGES[0])
    return _served


def package_of_module(module: str) -> str | None:
    """The package of Lightning that a module is part of, if any."""
    return next((name for name in PACKAGES if f"{module}.".startswith(f"{name}.")), None)


def package_of(kind: type) -> str | None:
    """The package of Lightning that a class derives from, if any."""
    found = (package_of_module(base.__module__) for base in kind.__mro__)
    return next((package for package in found if package), None)


def serve(package: str, asked_by: str) -> None:
    """Choose a package because of something that belongs to it.

    Args:
        package: one of ``PACKAGES``.
        asked_by: what belongs to it, for the message.

    Raises:
        ConfigError: the process is served in the other one already.
    """
    global _served
    if _served is None and not os.environ.get(VARIABLE):
        _served = package
    elif served_package() != package:
        raise ConfigError(f"{asked_by} belongs to {package}, and {how_to_change(package)}")


def how_to_change(package: str) -> str:
    """Why this process is not served in ``package``, and what to do about it."""
    chosen = f"{VARIABLE} says so" if os.environ.get(VARIABLE) else "it was imported or used first"
    return (
        f"lightning_fed works with {served_package()} in this process, because {chosen}. The two are different "
        f"packages with different classes. Import everything from one of them: for {package}, set {VARIABLE}={package} "
        f"or import {package} before anything else that brings {served_package()} with it."
    )


if not TYPE_CHECKING:  # a type checker would take it for a promise of every name

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = globals()[name] = getattr(import_module(served_package() + _MODULES[name]), name)
        return found
