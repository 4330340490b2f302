"""What is federated: one vector that nobody trains, and a small CNN that is trained in one process."""

import torch
from torch import Tensor, nn

EXAMPLES, BATCH, LEARNING_RATE = 32, 16, 0.05


class Vector(nn.Module):
    """One parameter of shape ``(params,)``."""

    def __init__(self, params: int) -> None:
        super().__init__()
        # NVFlare's server makes the module anew, with the arguments that it finds as attributes.
        self.params = params
        self.weight = nn.Parameter(torch.rand(params))

    def forward(self, images: Tensor) -> Tensor:
        """Nothing that depends on the images, for what asks for a loss."""
        return self.weight[:1].sum()


def small_cnn() -> nn.Module:
    """A convolution and a linear layer for images of 28 x 28."""
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(8 * 4 * 4, 10))


def examples() -> tuple[Tensor, Tensor]:
    """Images of shape ``(32, 1, 28, 28)`` and their classes, of one site; all sites share them."""
    chance = torch.Generator().manual_seed(0)
    return torch.randn(EXAMPLES, 1, 28, 28, generator=chance), torch.randint(10, (EXAMPLES,), generator=chance)
