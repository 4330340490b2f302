"""What the compression benchmark trains: plain torch loops over flat parameter vectors; fractures in their own file."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parameters_to_vector, vector_to_parameters


class FlatTask(ABC):
    """One network, trained in turn by every site from the global model."""

    examples: Sequence[int]

    def __init__(self, seed: int, network: nn.Module, epochs: int, batch: int) -> None:
        self._seed, self.network, self.epochs, self._batch = seed, network, epochs, batch
        self.initial = parameters_to_vector(network.parameters()).detach().clone()

    def load(self, model: Tensor) -> None:
        """Put a flat model into the network."""
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
                self.backward(data[chosen], label[chosen], generator)
                optimiser.step()
        return parameters_to_vector(self.network.parameters()).detach() - model

    @abstractmethod
    def optimiser(self) -> torch.optim.Optimizer:
        """A fresh optimiser of the network's parameters, for one round."""

    @abstractmethod
    def backward(self, data: Tensor, label: Tensor, generator: torch.Generator) -> None:
        """Gradients of a batch's mean loss; what is random comes from the generator."""


class Digits(FlatTask):
    """scikit-learn's digits, 1,797 images of 8 x 8, a fifth of them held out; 8 sites, Dirichlet(0.3), SGD or AdamW."""

    def __init__(self, seed: int, momentum: float = 0.0, adamw: bool = False) -> None:
        from sklearn.datasets import load_digits

        torch.manual_seed(seed)
        super().__init__(seed, nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10)), epochs=2, batch=32)
        self._momentum, self._adamw = momentum, adamw
        images, labels = load_digits(return_X_y=True)
        self._images, self._labels = torch.from_numpy((images / 16).astype(np.float32)), torch.from_numpy(labels)
        random = np.random.default_rng(seed)
        order = random.permutation(len(labels))
        cut = len(order) * 4 // 5
        self._test = torch.from_numpy(order[cut:])
        self._sites = _by_dirichlet(order[:cut], labels, 8, 0.3, random)
        self.examples = [len(site) for site in self._sites]

    def optimiser(self) -> torch.optim.Optimizer:
        """A fresh one in each round."""
        if self._adamw:
            return torch.optim.AdamW(self.network.parameters(), lr=2e-3, weight_decay=0.01)
        lr = 0.05 if self._momentum else 0.1
        return torch.optim.SGD(self.network.parameters(), lr=lr, momentum=self._momentum)

    def backward(self, data: Tensor, label: Tensor, generator: torch.Generator) -> None:
        """See ``FlatTask.backward``."""
        cross_entropy(self.network(data), label).backward()

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
