"""AdaBN: an unseen hospital's own BatchNorm statistics, from images without labels."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from lightning_fed.errors import ConfigError
from lightning_fed.lightning_api import Callback, CombinedLoader, FSDPStrategy, LightningModule, Trainer, TrainerFn


class AdaBN(Callback):
    """Replaces BatchNorm's running statistics by those of the site's own images before it evaluates or predicts.

    It acts in ``trainer.validate``, ``test`` and ``predict``, not in the validation of a fit, and gives the model its
    statistics back afterwards. Labels are not looked at. The module's ``forward`` is run once over the images, in
    evaluation mode but for the BatchNorm layers; each of them takes the mean of its batches' statistics, weighted by
    the number of examples.

    Args:
        dataloader: batches of the site's images; without one, those that are about to be evaluated.
        images: key (of a batch that is a mapping) or index (of a sequence) of the images; a batch that is neither is
            the images.

    Source: Li et al. 2018, Adaptive Batch Normalization for practical domain adaptation, Pattern Recognition 80, arXiv
    1603.04779.
    """

    def __init__(self, dataloader: Iterable[Any] | None = None, images: str | int | None = None) -> None:
        self._dataloader = dataloader
        self._images = images
        self._before: list[tuple[Tensor, Tensor]] = []

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Adapt, unless this is a fit's validation.

        Raises:
            ConfigError: as in ``on_test_start``.
        """
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._adapt(trainer, pl_module, trainer.val_dataloaders)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Adapt.

        Raises:
            ConfigError: the model has no BatchNorm with running statistics, there are no two images to learn from, or
                the model is divided among devices (FSDP).
        """
        self._adapt(trainer, pl_module, trainer.test_dataloaders)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Adapt.

        Raises:
            ConfigError: as in ``on_test_start``.
        """
        self._adapt(trainer, pl_module, trainer.predict_dataloaders)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the model its own statistics back."""
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the model its own statistics back."""
        self._restore()

    def _adapt(self, trainer: Trainer, pl_module: LightningModule, evaluated: Any) -> None:
        layers = [m for m in pl_module.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
        if not layers:
            raise ConfigError(
                f"AdaBN needs BatchNorm layers with running statistics, and {type(pl_module).__name__} has none. "
                "Remove the callback."
            )
        if isinstance(trainer.strategy, FSDPStrategy):
            raise ConfigError(
                "AdaBN runs the model over the images by itself, and FSDP has its parameters whole only where "
                "Lightning runs the model. Evaluate with strategy='ddp', or on one device."
            )
        kept = [(layer.momentum, layer.training) for layer in layers]
        self._before = [(b, b.clone()) for layer in layers for b in layer.buffers()]
        loader = self._dataloader if self._dataloader is not None else evaluated
        seen = 0
        try:
            for layer in layers:
                layer.train()
            for batch in (batch for part in CombinedLoader(loader).flattened for batch in _unused(part)):
                images = self._images_of(trainer.strategy.batch_to_device(batch))
                # A single image has no variance where there is one value a channel.
                if len(images) < 2:
                    continue
                seen += len(images)
                for layer in layers:
                    layer.momentum = len(images) / seen
                with torch.no_grad(), trainer.precision_plugin.forward_context():
                    pl_module(images)
        finally:
            for layer, (momentum, training) in zip(layers, kept, strict=True):
                layer.momentum = momentum
                layer.train(training)
        seen = self._over_all_devices(trainer, layers, seen)
        if not seen:
            raise ConfigError(
                "AdaBN found no batch of at least two images to take statistics from. Use a larger batch size, or give "
                "it images (AdaBN(dataloader=...))."
            )

    def _over_all_devices(self, trainer: Trainer, layers: Sequence[_BatchNorm], seen: int) -> int:
        """Average the statistics over the devices, by how many images each has seen; returns that of all."""
        if trainer.world_size == 1:
            return seen
        every = int(trainer.strategy.reduce(torch.tensor(seen, device=trainer.strategy.root_device), reduce_op="sum"))
        for buffer in (b for layer in layers for b in (layer.running_mean, layer.running_var) if every):
            assert buffer is not None
            buffer.copy_(trainer.strategy.reduce(buffer * (seen / every), reduce_op="sum"))
        return every

    def _images_of(self, batch: Any) -> Tensor:
        if isinstance(batch, Mapping):
            return batch["image" if self._images is None else self._images]  # type: ignore[no-any-return]
        if isinstance(batch, Sequence):
            return batch[0 if self._images is None else int(self._images)]  # type: ignore[no-any-return]
        return batch  # type: ignore[no-any-return]

    def _restore(self) -> None:
        with torch.no_grad():
            for tensor, before in self._before:
                tensor.copy_(before)
        self._before = []


def _unused(loader: Iterable[Any]) -> Iterable[Any]:
    # Lightning has begun to iterate over the loader; its workers and its sampler would be the same ones.
    if not isinstance(loader, DataLoader) or loader.batch_sampler is None:
        return loader
    return DataLoader(
        loader.dataset,
        batch_sampler=copy.copy(loader.batch_sampler),
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        worker_init_fn=loader.worker_init_fn,
    )
