"""What the compression benchmark trains: plain torch loops over flat parameter vectors."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, interpolate
from torch.nn.utils import parameters_to_vector, vector_to_parameters


class _Task(ABC):
    """One network, trained in turn by every site from the global model."""

    examples: Sequence[int]

    def __init__(self, seed: int, network: nn.Module, epochs: int, batch: int) -> None:
        self._seed, self.network, self.epochs, self._batch = seed, network, epochs, batch
        self.initial = parameters_to_vector(network.parameters()).detach().clone()

    def load(self, model: Tensor) -> None:
        # A copy: the parameters become views of it, and are trained.
        vector_to_parameters(model.clone(), self.network.parameters())

    def trained(self, site: int, round: int, model: Tensor, data: Tensor, label: Tensor) -> Tensor:
        """The update of a site with this data, the same whatever is done with it afterwards."""
        self.load(model)
        self.network.train()
        optimiser = self.optimiser()
        generator = torch.Generator().manual_seed(10_000 * self._seed + 100 * round + site)
        for _ in range(self.epochs):
            for chosen in torch.randperm(len(data), generator=generator).split(self._batch):
                optimiser.zero_grad()
                self.loss(self.network(data[chosen]), label[chosen]).backward()
                optimiser.step()
        return parameters_to_vector(self.network.parameters()).detach() - model

    @abstractmethod
    def optimiser(self) -> torch.optim.Optimizer:
        """A fresh optimiser of the network's parameters, for one round."""

    @abstractmethod
    def loss(self, output: Tensor, label: Tensor) -> Tensor:
        """Mean loss of a batch."""


class Digits(_Task):
    """scikit-learn's digits, 1,797 images of 8 x 8, a fifth of them held out; 8 sites, Dirichlet(0.3), plain SGD."""

    def __init__(self, seed: int, momentum: float = 0.0) -> None:
        from sklearn.datasets import load_digits

        torch.manual_seed(seed)
        super().__init__(seed, nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10)), epochs=2, batch=32)
        self._momentum = momentum
        images, labels = load_digits(return_X_y=True)
        self._images, self._labels = torch.from_numpy((images / 16).astype(np.float32)), torch.from_numpy(labels)
        random = np.random.default_rng(seed)
        order = random.permutation(len(labels))
        cut = len(order) * 4 // 5
        self._test = torch.from_numpy(order[cut:])
        self._sites = _by_dirichlet(order[:cut], labels, 8, 0.3, random)
        self.examples = [len(site) for site in self._sites]

    def optimiser(self) -> torch.optim.Optimizer:
        """SGD."""
        lr = 0.05 if self._momentum else 0.1
        return torch.optim.SGD(self.network.parameters(), lr=lr, momentum=self._momentum)

    def loss(self, output: Tensor, label: Tensor) -> Tensor:
        """See ``_Task.loss``."""
        return cross_entropy(output, label)

    def train(self, site: int, round: int, model: Tensor) -> Tensor:
        """A site's update of a round."""
        chosen = self._sites[site]
        return self.trained(site, round, model, self._images[chosen], self._labels[chosen])

    @torch.no_grad()
    def score(self, model: Tensor) -> float:
        """Accuracy on the images held out."""
        self.load(model)
        return float((self.network(self._images[self._test]).argmax(1) == self._labels[self._test]).float().mean())


def _by_dirichlet(
    indices: np.ndarray, labels: np.ndarray, sites: int, alpha: float, random: np.random.Generator
) -> list[Tensor]:
    """Indices of each site, each class divided by a Dirichlet draw; drawn again until nobody has fewer than ten."""
    while True:
        parts: list[list[int]] = [[] for _ in range(sites)]
        for label in np.unique(labels):
            members = indices[labels[indices] == label]
            cuts = (np.cumsum(random.dirichlet([alpha] * sites))[:-1] * len(members)).astype(int)
            for part, some in zip(parts, np.split(members, cuts), strict=True):
                part.extend(some)
        if min(map(len, parts)) >= 10:
            return [torch.tensor(part) for part in parts]


class Fracture(_Task):
    """Fracture or not on the synthetic study's four hospitals; AUROC on the patients held out of all of them."""

    def __init__(self, seed: int, images: int, size: int = 48) -> None:
        from torchvision.models import resnet18

        from lightning_fed.radiology.synthetic.style import default_sites

        torch.manual_seed(seed)
        network = resnet18(weights=None, num_classes=1, norm_layer=lambda channels: nn.GroupNorm(32, channels))
        # Small pictures: the usual stem would leave nothing of them.
        network.conv1 = nn.Conv2d(1, 64, 3, stride=2, padding=1, bias=False)
        super().__init__(seed, network, epochs=1, batch=16)
        self._train, self._test = [], []
        for style in default_sites():
            data, label, patient = _radiographs(style, images, seed, size)
            held_out = patient >= patient[int(0.56 * len(patient))]
            self._train.append((data[~held_out], label[~held_out]))
            self._test.append((data[held_out], label[held_out]))
        self.examples = [len(label) for _, label in self._train]

    def optimiser(self) -> torch.optim.Optimizer:
        """SGD with momentum, which starts from zero in each round."""
        return torch.optim.SGD(self.network.parameters(), lr=0.02, momentum=0.9)

    def loss(self, output: Tensor, label: Tensor) -> Tensor:
        """See ``_Task.loss``."""
        return binary_cross_entropy_with_logits(output[:, 0], label)

    def train(self, site: int, round: int, model: Tensor) -> Tensor:
        """A site's update of a round."""
        return self.trained(site, round, model, *self._train[site])

    @torch.no_grad()
    def score(self, model: Tensor) -> float:
        """AUROC over all hospitals' held-out patients."""
        from torchmetrics.functional.classification import binary_auroc

        self.load(model)
        self.network.eval()
        logits = [self.network(batch)[:, 0] for data, _ in self._test for batch in data.split(64)]
        return float(binary_auroc(torch.cat(logits), torch.cat([label for _, label in self._test]).long()))


def _radiographs(style: object, images: int, seed: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Standardised square pictures (N, 1, size, size), labels and patients' numbers of one hospital."""
    from lightning_fed.radiology.synthetic.exposure import exposed
    from lightning_fed.radiology.synthetic.study import patients

    pictures, labels, numbers = [], [], []
    for number, patient in enumerate(patients(style, images, seed)):  # type: ignore[arg-type]
        for index, view in enumerate(patient.views):
            random = np.random.default_rng([seed, number, index])
            grey = exposed(
                style,  # type: ignore[arg-type]
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
            picture = interpolate(picture[..., top : top + side, left : left + side], size=(size, size), mode="area")[0]
            pictures.append((picture - picture.mean()) / (picture.std() + 1e-3))
            labels.append(float(patient.fracture is not None))
            numbers.append(number)
    return torch.stack(pictures), torch.tensor(labels), torch.tensor(numbers)
