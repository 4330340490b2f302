"""What stays the same whatever the scanner: how strongly an image's edges and lines run in each direction."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_fed.errors import ConfigError

_FLOOR = 0.02
"""Added to each energy before the logarithm, in standard deviations of the image: below it there is only noise."""


def gabor_filters(orientations: int, wavelength: float) -> Tensor:
    """Cosine and sine waves under a bell of half a wavelength.

    Args:
        orientations: number of directions K, evenly spaced over half a turn.
        wavelength: in pixels.

    Returns:
        float32 ``(2 * K, 1, S, S)``, cosine and sine in turn; each of mean 0 and absolute sum 1.
    """
    width = wavelength / 2
    reach = math.ceil(2.5 * width)
    steps = torch.arange(-reach, reach + 1, dtype=torch.float32)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    bell = torch.exp(-(x.square() + y.square()) / (2 * width**2))
    filters = []
    for number in range(orientations):
        angle = math.pi * number / orientations
        along = x * math.cos(angle) + y * math.sin(angle)
        for phase in (0.0, math.pi / 2):
            wave = bell * torch.cos(2 * math.pi * along / wavelength + phase)
            wave = wave - bell * (wave.sum() / bell.sum())
            filters.append(wave / wave.abs().sum())
    return torch.stack(filters).unsqueeze(1)


class OrientedEnergy(nn.Module):
    """A fixed first layer that scanners change little: the energy of Gabor filters at a grid of places.

    Each image is brought to mean 0 and deviation 1 and filtered. The energy, root of the sum of the squared answers to
    a cosine and a sine wave, does not tell a bright line from a dark one. So the result is the same for an image, its
    negative and any other gain and offset, to rounding, wherever nothing was clipped and the grey values deviate by at
    least 0.001: then by less than 0.001. Far below, an image counts as one of a single grey value. A bent tone curve
    changes the result a little. No header, no label and no other image is needed, nothing is trained, and nothing of it
    travels: its filters are no part of the module's state. Use it as the first layer of a network, or apply it to
    images once, which is quicker where they are not augmented.

    What it cannot keep: fractures finer than about half a wavelength, and whether a line is dark or bright.

    Args:
        wavelength: of the finest waves, in pixels, at least 2. Larger ones see less noise and blur and fewer details.
        scales: how many wavelengths, each twice the one before, at least 1.
        orientations: how many directions, at least 1.
        grid: side of the grid of places over which energies are averaged, at least 1.

    Attributes:
        channels: of the result, ``scales * orientations``.

    Raises:
        ConfigError: a setting is outside of its range.

    Sources: Adelson and Bergen 1985, Spatiotemporal energy models for the perception of motion, Journal of the Optical
    Society of America A 2 (energy of a pair of waves); Jain and Farrokhnia 1991, Unsupervised texture segmentation
    using Gabor filters, Pattern Recognition 24; Oyallon and Mallat 2015, Deep roto-translation scattering for object
    classification, CVPR, arXiv 1412.8659 (fixed first layers, trained ones behind them).
    """

    filters: Tensor

    def __init__(self, wavelength: float = 8.0, scales: int = 2, orientations: int = 8, grid: int = 6) -> None:
        super().__init__()
        if not (math.isfinite(wavelength) and wavelength >= 2):
            raise ConfigError(f"OrientedEnergy: wavelength={wavelength} must be a finite number of at least 2 pixels.")
        for name, value in (("scales", scales), ("orientations", orientations), ("grid", grid)):
            if value < 1:
                raise ConfigError(f"OrientedEnergy: {name}={value} must be at least 1.")
        self.scales, self.grid, self.channels = scales, grid, scales * orientations
        self.register_buffer("filters", gabor_filters(orientations, wavelength), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Return logarithms of energies.

        Args:
            image: float ``(B, 1, H, W)``, any scale of grey, of at least ``2 ** (scales - 1)`` pixels a side and two in
                all. As for any layer, its dtype is the module's, float32 unless ``.to`` changed it; under autocast any.

        Returns:
            Of the same dtype, ``(B, channels, grid, grid)``: all directions of the finest waves first.

        Raises:
            ConfigError: the image is of another dtype than the module.
        """
        if image.dtype != self.filters.dtype and not torch.is_autocast_enabled(image.device.type):
            raise ConfigError(
                f"OrientedEnergy: the image is {image.dtype} and the layer {self.filters.dtype}. Convert one of them: "
                f"image.to({self.filters.dtype}), or OrientedEnergy(...).to({image.dtype})."
            )
        deviation, mean = torch.std_mean(image, dim=(1, 2, 3), keepdim=True)
        level = (image - mean) / (deviation + 1e-6)
        margin = self.filters.shape[-1] // 2
        energies = []
        for scale in range(self.scales):
            if scale:
                level = functional.avg_pool2d(level, 2)
            waves = functional.conv2d(functional.pad(level, (margin,) * 4, mode="replicate"), self.filters)
            if waves.dtype in (torch.float16, torch.bfloat16):
                # In half precision 1e-8 is 0, and the root of 0 has no slope.
                waves = waves.float()
            energy = (waves[:, 0::2].square() + waves[:, 1::2].square() + 1e-8).sqrt()
            energies.append(functional.adaptive_avg_pool2d(energy, self.grid))
        return (torch.cat(energies, dim=1) + _FLOOR).log().to(image.dtype)
