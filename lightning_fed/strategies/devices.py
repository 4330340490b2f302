"""How a site's devices train together, before anything of federation is mixed in: on one, on several, or sharded.

How many devices there are a strategy hears when the Trainer is made, and it was made before. So it begins as one for
one device, and turns into another when Lightning, at the end, asks it for its launcher: then it has been given its
devices, nodes, accelerator and cluster environment, and nothing has looked at it yet. A strategy for several devices
that makes do with one was the alternative: it would wrap the model, and Lightning refuses it beside MPS.
"""

import inspect
import sys
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from lightning_fed.errors import ConfigError, did_you_mean
from lightning_fed.lightning_api import DDPStrategy, FSDPStrategy, LightningModule, SingleDeviceStrategy, TrainerFn

_OF_THE_TRAINER = frozenset(
    ("accelerator", "parallel_devices", "cluster_environment", "checkpoint_io", "precision_plugin")
)
_OF_LIGHTNING = frozenset(("self", "args", "kwargs", "module", "device_ids", "output_device", "device_id"))


class OneDevice(SingleDeviceStrategy):
    """One device, and room for all that Lightning's connector tells a strategy for several.

    Args:
        several: arguments of the strategy for several devices.
    """

    def __init__(self, **several: Any) -> None:
        super().__init__()
        self._several = several
        self._devices: list[torch.device] = []
        self.cluster_environment: Any = None
        self.num_nodes = 1
        self._layer_sync: Any = None

    @property
    def parallel_devices(self) -> list[torch.device]:
        """The site's devices in this machine, as Lightning's connector hands them over."""
        return self._devices

    @parallel_devices.setter
    def parallel_devices(self, devices: list[torch.device]) -> None:
        self._root_device, self._devices = devices[0], list(devices)

    @property
    def has_several(self) -> bool:
        """Whether there are more devices than one, in all machines."""
        return len(self._devices) * self.num_nodes > 1

    def become(self, kind: type[DDPStrategy]) -> None:
        """Turn into a strategy for several devices, with all that the Trainer has given this one.

        Raises:
            ConfigError: it is to start processes, and a launcher has started them already.
        """
        strategy: Any = self
        arguments, nodes, layer_sync = dict(self._several), self.num_nodes, self._layer_sync
        external = self.cluster_environment is not None and self.cluster_environment.creates_processes_externally
        if external and arguments.get("start_method", "popen") != "popen":
            raise ConfigError(
                f"{type(self.cluster_environment).__name__} has started this site's processes, and start_method="
                f"{arguments['start_method']!r} would have each of them start as many again. Leave start_method out."
            )
        if hasattr(sys, "ps1") or sys.flags.interactive:
            arguments.setdefault("start_method", "fork")  # there is no script that Lightning could run again
        of_the_trainer = {
            "accelerator": self._accelerator,
            "parallel_devices": self._devices,
            "cluster_environment": self.cluster_environment,
            "checkpoint_io": self._checkpoint_io,
            "precision_plugin": self._precision_plugin,
        }
        for name in ("global_rank", "local_rank", "world_size", "_root_device", "_several", "_devices"):
            del self.__dict__[name]
        strategy.__class__ = kind
        DDPStrategy.__init__(strategy, **of_the_trainer, **arguments)
        strategy.num_nodes, strategy._layer_sync = nodes, layer_sync
        strategy.set_world_ranks()
        strategy._configure_launcher()

    def connect(self, model: LightningModule) -> None:
        """See Lightning's.

        Raises:
            ConfigError: a launcher has started the script more than once for one device, each to fit by itself.
        """
        rank = self.cluster_environment.global_rank() if self.cluster_environment else 0
        if rank and model.trainer.state.fn == TrainerFn.FITTING:
            raise ConfigError(
                f"{type(self.cluster_environment).__name__} has started this script {rank + 1} times or more, and "
                "Trainer(devices=1, num_nodes=1) would make a site of its own of each; a site takes part once. Set "
                "devices and num_nodes to what was started, or start one process."
            )
        super().connect(model)


class Sharded(FSDPStrategy):
    """FSDP, on CPUs as well: to try a script before there are GPUs."""

    def _setup_model(self, model: nn.Module) -> nn.Module:
        if self.root_device.type != "cpu":
            return super()._setup_model(model)
        from torch.distributed.fsdp import FullyShardedDataParallel

        # Lightning names a device by its index, which a CPU has not; torch then looks for a GPU.
        sharded = FullyShardedDataParallel(
            model,
            cpu_offload=self.cpu_offload,
            mixed_precision=self.mixed_precision_config,
            sharding_strategy=self.sharding_strategy,
            device_id=self.root_device,
            **self.kwargs,
        )
        self.kwargs.pop("auto_wrap_policy", None)
        return super()._setup_model(sharded)


def check_arguments(local: str, arguments: Iterable[str]) -> None:
    """Refuse what neither Lightning's strategy nor torch's wrapper knows, which says so late or not at all.

    Args:
        local: ``ddp`` or ``fsdp``.
        arguments: names.

    Raises:
        ConfigError: there is no such way to train, or it has no such argument.
    """
    strategies: dict[str, type] = {"ddp": DDPStrategy, "fsdp": FSDPStrategy}
    if local not in strategies:
        raise ConfigError(
            f"FederatedStrategy(local={local!r}): several devices of a site train by one of {sorted(strategies)}."
            f"{did_you_mean(local, strategies)}"
        )
    kinds = (strategies[local], _wrapper(local))
    known = {name for kind in kinds for name in inspect.signature(kind.__init__).parameters}  # type: ignore[misc]
    for name in arguments:
        if name in _OF_THE_TRAINER:
            raise ConfigError(f"FederatedStrategy takes no {name}=...: give it to the Trainer.")
        if name not in known - _OF_LIGHTNING:
            raise ConfigError(
                f"FederatedStrategy has no argument {name!r}, nor have Lightning's {kinds[0].__name__} and torch's "
                f"{kinds[1].__name__}, which train with local={local!r}."
                f"{did_you_mean(name, (known | _OWN) - _OF_LIGHTNING - _OF_THE_TRAINER)}"
            )


_OWN = frozenset(("coordinator", "site", "identity", "roster", "policy", "patience_s", "ledger", "data_set", "local"))


def _wrapper(local: str) -> type:
    if local == "fsdp":
        from torch.distributed.fsdp import FullyShardedDataParallel  # takes long to import

        return FullyShardedDataParallel
    return nn.parallel.DistributedDataParallel
