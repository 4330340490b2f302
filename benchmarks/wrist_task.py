"""The fracture study with its small network, for the compression benchmark; ``fracture_task`` has 11 M parameters.

Four hospitals go on from a model that was trained on 2,200 images of four others, as in ``fracture_task``.
"""

from collections.abc import Sequence
from functools import cache

import torch
from compression_tasks import FlatTask
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.utils import parameters_to_vector
from torchmetrics.functional.classification import binary_auroc

from examples.fracture.classifier import FractureClassifier
from examples.fracture.scanners import site_images
from lightning_fed.radiology.synthetic.style import default_sites

TRAIN, TEST = 300, 250
"""Images of each hospital."""
PUBLISHED_SEED, PUBLISHED_EPOCHS = 999, 8
SHIFT = 3
"""Pixels that a picture is moved by at random in training."""


class Wrists(FlatTask):
    """Fracture or not at four hospitals, one local epoch of AdamW; AUROC on the patients held out of all of them."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, _network(), epochs=1, batch=16)
        self.initial = _published().clone()
        sites = [site_images(style, TRAIN, TEST, seed=seed, strength=0.0) for style in default_sites()]
        self._train, self._test = zip(*sites, strict=True)
        self.examples: Sequence[int] = [len(site.label) for site in self._train]

    def optimiser(self) -> torch.optim.Optimizer:
        """AdamW, whose moments start from zero in each round."""
        return torch.optim.AdamW(self.network.parameters(), lr=5e-4, weight_decay=1e-3)

    def backward(self, data: Tensor, label: Tensor, generator: torch.Generator) -> None:
        """See ``FlatTask.backward``."""
        _backward(self.network, data, label, generator)

    def train(self, site: int, round: int, model: Tensor) -> Tensor:
        """A site's update of a round."""
        return self.trained(site, round, model, self._train[site].image, self._train[site].label)

    @torch.no_grad()
    def score(self, model: Tensor) -> float:
        """AUROC over all hospitals' held-out patients."""
        self.load(model)
        self.network.eval()
        logits = torch.cat([self.network(site.image)[:, 0] for site in self._test])
        return float(binary_auroc(logits, torch.cat([site.label for site in self._test]).long()))


def _network() -> nn.Module:
    return FractureClassifier(dropout=0.0).network


def _backward(network: nn.Module, data: Tensor, label: Tensor, generator: torch.Generator) -> None:
    down, right = torch.randint(-SHIFT, SHIFT + 1, (2,), generator=generator).tolist()
    binary_cross_entropy_with_logits(network(data.roll((down, right), (2, 3)))[:, 0], label).backward()


@cache
def _published() -> Tensor:
    sites = [site_images(style, TRAIN, TEST, seed=PUBLISHED_SEED, strength=0.0) for style in default_sites(8)[4:]]
    data, label = (torch.cat([getattr(part, name) for site in sites for part in site]) for name in ("image", "label"))
    torch.manual_seed(PUBLISHED_SEED)
    network, generator = _network().train(), torch.Generator().manual_seed(PUBLISHED_SEED)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-3)
    for _ in range(PUBLISHED_EPOCHS):
        for chosen in torch.randperm(len(data), generator=generator).split(32):
            optimiser.zero_grad()
            _backward(network, data[chosen], label[chosen], generator)
            optimiser.step()
    return parameters_to_vector(network.parameters()).detach().clone()
