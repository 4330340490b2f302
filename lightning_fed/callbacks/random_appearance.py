"""Random appearance: training images as other hospitals' scanners might have shown them."""

import math
from collections.abc import MutableMapping, MutableSequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from lightning_fed.errors import ConfigError
from lightning_fed.lightning_api import Callback, LightningModule, Trainer

_KNOTS = 5
"""Knots of a tone curve, its ends among them."""


class RandomAppearance(Callback):
    """Gives every image of a training batch another random appearance, so that the model learns shapes, not scanners.

    For each image by itself, in this order: perhaps its negative, a random rising tone curve, a random window, a
    Gaussian blur, Gaussian noise. Labels, weights, gradients and what leaves the site are not touched. An image's
    appearance depends on nothing of the other images, so under DP-SGD one example still moves one gradient only. The
    batches of validation, test and prediction stay as they are. Randomness comes from PyTorch's global generator on the
    processor: ``seed_everything`` and a simulation's seed fix it, on every device alike.

    Args:
        inversion: probability of a negative, in [0, 1].
        tone: how bent the tone curve may be, at least 0: the steps between its knots are ``exp(tone * N(0, 1))`` before
            they are scaled to sum to 1. 0 is a straight line.
        window: in [0, 1): the window's width is uniform in 1 plus or minus this, its centre in 0.5 plus or minus half
            of this. What lies outside of it is clipped.
        blur: largest standard deviation of the blur, in pixels; each image's is uniform from 0.
        noise: largest standard deviation of the noise; each image's is uniform from 0.
        images: key (of a batch that is a mapping) or index (of a list) of the images, ``"image"`` or 0 unless given.

    Raises:
        ConfigError: a setting is outside of its range.

    Sources: in the manner of Ouyang et al. 2022, Causality-inspired single-source domain generalization for medical
    image segmentation, IEEE Transactions on Medical Imaging 42, arXiv 2111.12525, and Xu et al. 2021, Robust and
    generalizable visual representation learning via random convolutions, ICLR, arXiv 2007.13003: both randomise
    appearance and keep shape. They do it by networks and kernels of random weights; here it is by what differs between
    radiography systems.
    """

    def __init__(
        self,
        inversion: float = 0.5,
        tone: float = 0.7,
        window: float = 0.4,
        blur: float = 0.8,
        noise: float = 0.06,
        images: str | int | None = None,
    ) -> None:
        for name, value, limit in (("inversion", inversion, 1.0), ("window", window, 0.999)):
            if not 0 <= value <= limit:
                raise ConfigError(f"RandomAppearance: {name}={value} must be from 0 to {limit:g}.")
        for name, value in (("tone", tone), ("blur", blur), ("noise", noise)):
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"RandomAppearance: {name}={value} must be a finite number of at least 0.")
        self.inversion, self.tone, self.window, self.blur, self.noise = inversion, tone, window, blur, noise
        self._images = images

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Replace the batch's images.

        Raises:
            ConfigError: the batch is neither a mapping nor a list, or its images are no float tensor
                ``(B, C, H, W)``.
        """
        if not isinstance(batch, MutableMapping | MutableSequence):
            raise ConfigError(
                f"RandomAppearance puts new images into the batch, which a {type(batch).__name__} does not allow. Let "
                "the loader give mappings or lists, as PyTorch's default does."
            )
        place: Any = ("image" if isinstance(batch, MutableMapping) else 0) if self._images is None else self._images
        image = batch[place]
        if not (isinstance(image, Tensor) and image.is_floating_point() and image.ndim == 4):
            shown = f"{image.dtype} {tuple(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
            raise ConfigError(f"RandomAppearance needs float images (B, C, H, W) at batch[{place!r}], not {shown}.")
        batch[place] = self.randomised(image)

    def randomised(self, image: Tensor) -> Tensor:
        """Images of other appearance.

        Args:
            image: float ``(B, C, H, W)`` in [0, 1]; it is not changed.

        Returns:
            A new tensor of the same shape, dtype and device, in [0, 1].
        """
        count = len(image)
        if not count:  # Poisson sampling draws an empty batch now and then.
            return image
        # Always the same draws in the same order: a setting changes its own effect only.
        negative, width, centre, blur, noise = torch.rand(5, count, 1, 1, 1).to(image)
        steps = torch.randn(count, _KNOTS - 1).to(image)
        grain = torch.randn(image.shape).to(image)

        image = torch.where(negative < self.inversion, 1 - image, image)
        image = _toned(image, (self.tone * steps).softmax(1))
        width, centre = 1 + self.window * (2 * width - 1), 0.5 + self.window * (centre - 0.5)
        image = ((image - centre) / width + 0.5).clamp(0, 1)
        if self.blur:
            image = _blurred(image, self.blur * blur.flatten(), math.ceil(3 * self.blur))
        shown: Tensor = (image + self.noise * noise * grain).clamp(0, 1)
        return shown


def _toned(image: Tensor, steps: Tensor) -> Tensor:
    """The images through a curve each, straight between equidistant knots, that rises by ``steps`` ``(B, K)``."""
    count = steps.shape[1]
    position = image.clamp(0, 1) * count
    toned = torch.zeros_like(image)
    for number in range(count):
        toned = toned + (position - number).clamp(0, 1) * steps[:, number, None, None, None]
    return toned


def _blurred(image: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """The images under a Gaussian blur each, of standard deviation ``sigma`` ``(B,)`` in pixels; edges are extended."""
    batch, channels, rows, columns = image.shape
    offset = torch.arange(-radius, radius + 1, device=image.device, dtype=image.dtype)
    kernel = (-0.5 * (offset / sigma.clamp(min=0.05)[:, None]) ** 2).softmax(1).repeat_interleave(channels, 0)
    flat = image.reshape(1, batch * channels, rows, columns)
    flat = conv2d(pad(flat, (0, 0, radius, radius), "replicate"), kernel[:, None, :, None], groups=batch * channels)
    flat = conv2d(pad(flat, (radius, radius, 0, 0), "replicate"), kernel[:, None, None, :], groups=batch * channels)
    return flat.reshape(image.shape)
