"""Federated transfer learning: a frozen backbone costs no bytes, and may be unfrozen round by round."""

import fnmatch
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_fed.callbacks.adapters import Adapter, adapt, can_be_adapted, is_read, merged
from lightning_fed.callbacks.devices import refuse_unawaited
from lightning_fed.callbacks.exchanged_parameters import refuse_private
from lightning_fed.callbacks.round_callback import RoundCallback
from lightning_fed.errors import ConfigError
from lightning_fed.lightning_api import BaseFinetuning, LightningModule, Trainer, rank_zero_info


class FederatedFinetuning(RoundCallback):
    """Freezes a backbone, as Lightning's ``BaseFinetuning`` does, and unfreezes its layers on a schedule of rounds.

    What is exchanged is fixed when the fit begins, and is what is trainable then:

    * layers that the schedule does not name are frozen before that. They travel once, when a site joins, so that all
      sites have the same ones, and cost nothing in a round;
    * layers that the schedule names are exchanged from the first round on, with an update of zero until their round has
      come. Sites whose schedules name other layers are refused like sites with another model.

    An optimiser made from the parameters that are trainable (``filter(lambda p: p.requires_grad, ...)``) holds the
    scheduled layers from the start and leaves them as they are while they get no gradient, so no parameter group is
    added later, and a checkpoint of any round can be resumed. In a fit without rounds nothing is unfrozen.

    With a ``rank``, frozen layers that can be adapted (Linear, Conv2d with one group, MultiheadAttention) get a
    low-rank adapter, LoRA, which trains and is exchanged: rank times outputs values a layer. Layers that the schedule
    names get none, as they will train whole. DP-SGD goes with all adapters but those of MultiheadAttention. Adapters
    stay after the fit and are in checkpoints, beside the backbone's weights, whose names do not change; for validate,
    test and predict they are made again, so that such a checkpoint fits. For a plain model::

        plain.load_state_dict(merged(model.state_dict()))  # merged is in lightning_fed.callbacks.adapters

    Args:
        backbone: name of the backbone in the LightningModule, such as ``net.features``.
        checkpoint: a local file to take the backbone from: a Lightning checkpoint, a state dict saved by torch, or
            safetensors; names with the backbone's prefix or without. Adapters in it are merged, and other tensors
            ignored.
        schedule: by round (1 is the first), shell patterns of layers within the backbone that train from then on, for
            example ``{5: ["layer4"], 10: ["*"]}``; a layer's own layers come with it.
        train_bn: keep BatchNorm layers trainable from the start, as ``BaseFinetuning.freeze`` does by default. Without,
            a frozen one normalises by its batch in training and by its running statistics, which stay, in evaluation.
        rank: of the adapters; 0 for none.
        adapted: shell patterns of layers within the backbone that get an adapter, such as ``["*.mlp"]``; a layer's own
            layers come with it. Not given: all.

    Raises:
        ConfigError: a round of the schedule is below 1, or the rank below 0.
    """

    def __init__(
        self,
        backbone: str,
        checkpoint: str | Path | None = None,
        schedule: Mapping[int, Sequence[str]] | None = None,
        train_bn: bool = True,
        rank: int = 0,
        adapted: Sequence[str] | None = None,
    ) -> None:
        self.backbone, self.checkpoint, self.train_bn, self.rank = backbone, checkpoint, train_bn, rank
        self.adapted = adapted
        self.schedule = {int(round): tuple(patterns) for round, patterns in (schedule or {}).items()}
        if min(self.schedule, default=1) < 1:
            raise ConfigError(f"FederatedFinetuning's schedule begins in round {min(self.schedule)}; the first is 1.")
        if rank < 0:
            raise ConfigError(f"FederatedFinetuning(rank={rank}) is not possible; 0 is without adapters.")
        self._due: dict[nn.Module, int] = {}
        self._waiting: dict[nn.Module, list[nn.Parameter]] = {}
        self._adapters: dict[str, Adapter] = {}
        self._read: list[str] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Load the backbone, freeze what is never unfrozen and adapt it, before Lightning asks for optimisers.

        Raises:
            ConfigError: there is no such backbone or layer, the checkpoint does not hold the backbone, or no layer can
                be adapted.
        """
        if stage != "fit" and not self.rank:
            return
        modules = dict(pl_module.named_modules())
        if self.backbone not in modules:
            raise ConfigError(
                f"the module has no layer {self.backbone!r} for FederatedFinetuning; it has "
                f"{[name for name, _ in pl_module.named_children()]}."
            )
        backbone = modules[self.backbone]
        due = self._schedule_of(backbone)
        never = [layer for layer in _layers(backbone) if layer not in due]
        if stage == "fit":
            if self.checkpoint is not None:
                path = Path(self.checkpoint)
                load_backbone(backbone, self.backbone, checkpoint_state(path), path.name)
            self._due = due
            for layer in never:
                if not (self.train_bn and isinstance(layer, _BatchNorm)):
                    BaseFinetuning.freeze_module(layer)
        if self.rank:
            chosen = set(never).intersection(self._chosen(backbone))
            self._adapt({name: layer for name, layer in modules.items() if layer in chosen})

    def _adapt(self, frozen: Mapping[str, nn.Module]) -> None:
        adaptable = {name: layer for name, layer in frozen.items() if can_be_adapted(layer)}
        if not adaptable:
            raise ConfigError(
                f"FederatedFinetuning(rank={self.rank}) finds no layer to adapt in {self.backbone!r}: none is a "
                "Linear, a Conv2d with one group or a MultiheadAttention that the schedule leaves frozen"
                f"{f' and adapted = {self.adapted} names' if self.adapted else ''}. Leave rank out."
            )
        for name, layer in adaptable.items():
            adapt(layer, self.rank, name)
        self._adapters = {name: layer.get_submodule("lora") for name, layer in adaptable.items()}  # type: ignore[misc]
        self._read = [name for name, layer in adaptable.items() if is_read(layer)]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Freeze what waits for its round; by now it is in the optimisers and among what is exchanged.

        Raises:
            ConfigError: there is a schedule, and DDP does not let parts rest.
        """
        if self._due:
            refuse_unawaited(trainer, "FederatedFinetuning's schedule")
        for layer in self._due:
            if self.train_bn and isinstance(layer, _BatchNorm):
                continue
            self._waiting[layer] = [p for p in layer.parameters(recurse=False) if p.requires_grad]
            BaseFinetuning.freeze_module(layer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a schedule that cannot be kept, and adapters whose gradients cannot be told apart by example.

        Raises:
            ConfigError: layers are to be unfrozen, or attention is adapted, and the fit uses DP-SGD.
        """
        if self._read:
            refuse_private(
                trainer,
                f"the adapters of {_listed(self._read)} change a weight that torch's attention reads, so DP-SGD cannot "
                "find each example's gradient there. Give FederatedFinetuning the other layers by adapted, for example "
                'adapted=["*.mlp"].',
            )
        if self._due:
            refuse_private(
                trainer,
                "FederatedFinetuning's schedule leaves layers without gradients for some rounds, and DP-SGD needs a "
                "gradient of every parameter in each step. Leave the schedule out.",
            )

    def on_round_start(self, trainer: Trainer, pl_module: LightningModule, round: int) -> None:
        """Unfreeze the layers whose round this is or was."""
        due = [layer for layer in self._waiting if self._due[layer] <= round]
        self._unfreeze(due)
        if due:
            rank_zero_info(f"round {round}: {len(due)} layers of {self.backbone!r} train from now on.")

    def on_round_end(self, trainer: Trainer, pl_module: LightningModule, round: int) -> None:
        """Refuse adapters without effect, before their first exchange.

        Raises:
            ConfigError: the model reads these layers' weights itself and does not call them, so that what the adapters
                would learn is not there.
        """
        self._refuse_unused()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse adapters without effect in a fit without rounds, too.

        Raises:
            ConfigError: as at a round's end.
        """
        self._refuse_unused()

    def _refuse_unused(self) -> None:
        unused = [name for name, adapter in self._adapters.items() if not adapter.used]
        if unused:
            raise ConfigError(
                f"the adapters of {_listed(unused)} have no effect: the model does not call these layers and reads "
                "their weights, if it uses them at all. Give FederatedFinetuning the layers that it calls by adapted, "
                'for example adapted=["*.mlp"].'
            )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make what still waits trainable again: it is exchanged by the next fit, too."""
        self._unfreeze(list(self._waiting))

    def _unfreeze(self, layers: Sequence[nn.Module]) -> None:
        for layer in layers:
            for parameter in self._waiting.pop(layer):
                parameter.requires_grad_(True)
            if isinstance(layer, _BatchNorm):
                layer.track_running_stats = True

    def _schedule_of(self, backbone: nn.Module) -> dict[nn.Module, int]:
        due: dict[nn.Module, int] = {}
        for round, patterns in sorted(self.schedule.items()):
            for pattern in patterns:
                for layer in self._matching(backbone, pattern, f"which is to be unfrozen in round {round}"):
                    due.setdefault(layer, round)
        return due

    def _chosen(self, backbone: nn.Module) -> list[nn.Module]:
        if self.adapted is None:
            return list(backbone.modules())
        return [layer for p in self.adapted for layer in self._matching(backbone, p, "which is to be adapted")]

    def _matching(self, backbone: nn.Module, pattern: str, purpose: str) -> list[nn.Module]:
        names = {name: module for name, module in backbone.named_modules() if name}
        matching = [module for name, module in names.items() if fnmatch.fnmatchcase(name, pattern)]
        if not matching:
            raise ConfigError(
                f"no layer of {self.backbone!r} matches {pattern!r}, {purpose}; it has {sorted(names)[:10]}."
            )
        return BaseFinetuning.flatten_modules(matching)


def _layers(backbone: nn.Module) -> list[nn.Module]:
    adapters = {part for adapter in backbone.modules() if isinstance(adapter, Adapter) for part in adapter.modules()}
    return [layer for layer in BaseFinetuning.flatten_modules(backbone) if layer not in adapters]


def _listed(names: Sequence[str]) -> str:
    return f"{list(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''}"


def checkpoint_state(path: Path) -> dict[str, Tensor]:
    """The weights in a local file: a Lightning checkpoint, a state dict saved by torch, or safetensors.

    Adapters in it are merged. No code that may be in the file is run.

    Raises:
        ConfigError: the file cannot be read, or is none of these.
    """
    try:
        loaded: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (OSError, RuntimeError, SafetensorError, ValueError, EOFError) as error:
        raise ConfigError(f"the backbone's checkpoint {path.name} cannot be read: {error}.") from error
    except Exception as error:
        # Pickle's own error, whose advice is to run whatever code is in the file.
        raise ConfigError(f"the backbone's checkpoint {path.name} is none: {type(error).__name__}.") from error
    return merged(loaded.get("state_dict", loaded))


def load_backbone(backbone: nn.Module, name: str, state: Mapping[str, Tensor], file: str) -> None:
    """Give a backbone the weights of a state, in which there may be more.

    Batch normalisation's counts of batches are left as they are: files of torchvision come without, and a site whose
    layers have counted batches is taken for one that has trained, whose model must not be the federation's first. Only
    layers with ``momentum=None`` ever ask for them.

    Args:
        backbone: what gets them; adapters that it has stay as they are.
        name: its name in the LightningModule, with which the state's names may begin.
        state: of ``checkpoint_state``.
        file: where that was, for messages.

    Raises:
        ConfigError: a tensor is missing in the state, or has another shape.
    """
    prefix = f"{name}." if any(key.startswith(f"{name}.") for key in state) else ""
    state_dict = merged(backbone.state_dict())
    wanted = {key: tensor for key, tensor in state_dict.items() if not key.endswith("num_batches_tracked")}
    for key, tensor in wanted.items():
        found = state.get(prefix + key)
        if found is None or found.shape != tensor.shape:
            holds = "nothing" if found is None else list(found.shape)
            raise ConfigError(
                f"the checkpoint {file} does not hold the backbone {name!r}: {prefix + key!r} should be "
                f"{list(tensor.shape)}, and it has {holds}. Give the file of the same backbone."
            )
    # Not strict, for adapters of a fit before, and for the counts.
    backbone.load_state_dict({key: state[prefix + key] for key in wanted}, strict=False)
