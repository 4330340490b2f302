"""The fracture study with an 11 M network, for the compression benchmark: four hospitals go on from a published model.

A ResNet-18 from scratch needs more images than four hospitals of 280 have; nobody would start it from scratch there.
So it starts from a model that was trained on 4,000 images of four other hospitals, made here once and kept.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from compression_tasks import FlatTask
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate
from torch.nn.utils import parameters_to_vector
from torchmetrics.functional.classification import binary_auroc

from lightning_fed.radiology.synthetic.exposure import exposed
from lightning_fed.radiology.synthetic.study import patients
from lightning_fed.radiology.synthetic.style import SiteStyle, default_sites

SIDE, SHIFT = 96, 6
"""Pixels of a picture's side, and how far it is moved at random in training."""
IMAGES = 500
"""Of each of the four hospitals; 280 of them are for training."""
PUBLISHED_IMAGES, PUBLISHED_EPOCHS, PUBLISHED_SEED = 1000, 8, 999
"""Images of each of the other hospitals, how often the published model saw them, and whose patients they are."""
KEPT = Path("runs/compression")

Radiographs = tuple[Tensor, Tensor, Tensor]
"""Standardised pictures (N, 1, SIDE, SIDE), labels (N,) and patients' numbers (N,), float32."""


class Fracture(FlatTask):
    """Fracture or not at four hospitals, one local epoch; AUROC on the patients held out of all of them."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, _network(), epochs=1, batch=16)
        self.network.load_state_dict(_published())
        self.initial = parameters_to_vector(self.network.parameters()).detach().clone()
        self._train, self._test = [], []
        for data, label, patient in _hospitals(slice(0, 4), IMAGES, seed):
            held_out = patient >= patient[int(0.56 * len(patient))]
            self._train.append((data[~held_out], label[~held_out]))
            self._test.append((data[held_out], label[held_out]))
        self.examples: Sequence[int] = [len(label) for _, label in self._train]

    def optimiser(self) -> torch.optim.Optimizer:
        """AdamW, whose moments start from zero in each round: SGD does not improve on the published model."""
        return torch.optim.AdamW(self.network.parameters(), lr=2e-4, weight_decay=0.01, fused=True)

    def backward(self, data: Tensor, label: Tensor, generator: torch.Generator) -> None:
        """See ``FlatTask.backward``."""
        _backward(self.network, data, label, generator)

    def train(self, site: int, round: int, model: Tensor) -> Tensor:
        """A site's update of a round."""
        return self.trained(site, round, model, *self._train[site])

    def score(self, model: Tensor) -> float:
        """AUROC over all hospitals' held-out patients."""
        self.load(model)
        self.network.eval()
        label = torch.cat([label for _, label in self._test]).long()
        with torch.no_grad():
            logits = torch.cat([_logits(self.network, part) for data, _ in self._test for part in data.split(64)])
        return float(binary_auroc(logits, label))


def _network() -> nn.Module:
    from torchvision.models import resnet18

    torch.manual_seed(0)
    network = resnet18(weights=None, num_classes=1, norm_layer=lambda channels: nn.GroupNorm(32, channels))
    network.conv1 = nn.Conv2d(1, 64, 5, stride=2, padding=2, bias=False)
    # The growth plate is always about the middle: a pooled average dilutes a fracture over the whole wrist.
    network.avgpool = nn.Identity()
    network.fc = nn.Linear(512 * (SIDE // 32) ** 2, 1)
    nn.init.zeros_(network.fc.weight)
    nn.init.zeros_(network.fc.bias)
    return network


def _logits(network: nn.Module, data: Tensor) -> Tensor:
    logits: Tensor = network(data)
    return logits[:, 0]


def _backward(network: nn.Module, data: Tensor, label: Tensor, generator: torch.Generator) -> None:
    down, right = torch.randint(-SHIFT, SHIFT + 1, (2,), generator=generator).tolist()
    binary_cross_entropy_with_logits(_logits(network, data.roll((down, right), (2, 3))), label).backward()
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)


def _published() -> dict[str, Tensor]:
    path = KEPT / f"published-{PUBLISHED_IMAGES}.pt"
    if not path.exists():
        _keep(_trained_elsewhere().state_dict(), path)
    state: dict[str, Tensor] = torch.load(path, weights_only=True)
    return state


def _trained_elsewhere() -> nn.Module:
    hospitals = _hospitals(slice(4, 8), PUBLISHED_IMAGES, PUBLISHED_SEED)
    data, label = torch.cat([hospital[0] for hospital in hospitals]), torch.cat([hospital[1] for hospital in hospitals])
    network, generator = _network().train(), torch.Generator().manual_seed(PUBLISHED_SEED)
    steps = PUBLISHED_EPOCHS * -(-len(data) // 32)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 1e-3, total_steps=steps, pct_start=0.15, cycle_momentum=False
    )
    for _ in range(PUBLISHED_EPOCHS):
        for chosen in torch.randperm(len(data), generator=generator).split(32):
            optimiser.zero_grad()
            _backward(network, data[chosen], label[chosen], generator)
            optimiser.step()
            schedule.step()
    return network


def _hospitals(chosen: slice, images: int, seed: int) -> list[Radiographs]:
    """The radiographs of some of the eight hospitals; a minute of work for a thousand, so they are kept."""
    path = KEPT / f"radiographs-{chosen.start}-{images}-{seed}.pt"
    if not path.exists():
        _keep([_radiographs(style, images, seed) for style in default_sites(8)[chosen]], path)
    found: list[Radiographs] = torch.load(path, weights_only=True)
    return found


def _keep(content: object, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    torch.save(content, part)
    part.rename(path)


def _radiographs(style: SiteStyle, images: int, seed: int) -> Radiographs:
    pictures, labels, numbers = [], [], []
    for number, patient in enumerate(patients(style, images, seed)):
        for index, view in enumerate(patient.views):
            random = np.random.default_rng([seed, number, index])
            grey = exposed(
                style,
                patient.wrist,
                view,
                left=patient.left,
                cast=patient.cast,
                fracture=patient.fracture,
                random=random,
            )
            picture = torch.from_numpy(grey)[None, None]
            side = min(picture.shape[2:])
            top, left = ((length - side) // 2 for length in picture.shape[2:])
            picture = interpolate(picture[..., top : top + side, left : left + side], size=(SIDE, SIDE), mode="area")[0]
            pictures.append((picture - picture.mean()) / (picture.std() + 1e-3))
            labels.append(float(patient.fracture is not None))
            numbers.append(number)
    return torch.stack(pictures), torch.tensor(labels), torch.tensor(numbers)
