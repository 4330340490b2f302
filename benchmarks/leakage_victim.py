"""What the attacks of `leakage.py` are tried on: small radiographs, a small model, and what leaves a site in each case.

Everything that protects is the product's own: the DP-SGD callback, the clipping, the code and the masks of a round.
Seeds fix the images and the models. Noise and masks cannot be seeded, on purpose.
"""

import copy
import logging
import math
import warnings
from collections.abc import Sequence
from functools import cache
from typing import TypeVar

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed.callbacks.differential_privacy import DifferentialPrivacy
from lightning_fed.errors import BudgetExhaustedError
from lightning_fed.masking import Context, Terms
from lightning_fed.masking.coordinator import MaskingCoordinator
from lightning_fed.masking.site import MaskingSite
from lightning_fed.privacy.accounting import dp_sgd_noise_multiplier, sample_rate_of
from lightning_fed.radiology.canvas import fit_to_canvas
from lightning_fed.radiology.synthetic import default_sites, patients
from lightning_fed.radiology.synthetic.exposure import exposed
from lightning_fed.update.contribution import Contribution
from lightning_fed.update.layout import flatten
from lightning_fed.update.ring import from_ring
from lightning_fed.update.vectors import FloatVector, RingVector

SIDE = 32
PIXELS = SIDE * SIDE
HIDDEN = 64
CLIPPING_NORM = 1.0
DELTA = 1e-5
LEARNING_RATE = 0.1
BITS = 16


def radiographs(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """One image each of ``count`` synthetic patients of one hospital.

    Returns:
        Images in [0, 1], float32, shape ``(count, PIXELS)``, and whether the wrist is broken, int64, ``(count,)``.
    """
    style = default_sites(1)[0]
    images, labels = torch.empty(count, PIXELS), torch.empty(count, dtype=torch.long)
    # Patients have one to three images: so many images always come from enough patients.
    for number, patient in zip(range(count), patients(style, 3 * count, seed), strict=False):
        grey = exposed(
            style,
            patient.wrist,
            patient.views[0],
            left=patient.left,
            cast=patient.cast,
            fracture=patient.fracture,
            random=np.random.default_rng([seed, number]),
        )
        images[number] = fit_to_canvas(torch.from_numpy(grey)[None], (SIDE, SIDE)).flatten()
        labels[number] = patient.fracture is not None
    return images, labels


class Classifier(LightningModule):
    """A perceptron of one hidden layer: the easiest prey, since its first layer sees the pixels.

    Args:
        seed: of the initial weights.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.build()

    def build(self) -> None:
        """Make the layers."""
        self.first = nn.Linear(PIXELS, HIDDEN)
        self.second = nn.Linear(HIDDEN, 2)

    def forward(self, images: Tensor) -> Tensor:
        """Two outputs for each image, ``(n, 2)``."""
        return self.second(functional.relu(self.first(images)))

    def training_step(self, batch: Sequence[Tensor]) -> Tensor:
        """The mean cross-entropy."""
        images, labels = batch
        return functional.cross_entropy(self(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=LEARNING_RATE)


class Convolutional(Classifier):
    """Two convolutions: no layer sees all pixels, so the image has to be searched for."""

    def build(self) -> None:
        """Make the layers."""
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 5, stride=2, padding=2),
            nn.Sigmoid(),
            nn.Conv2d(16, 16, 5, stride=2, padding=2),
            nn.Sigmoid(),
            nn.Flatten(),
            nn.Linear(16 * PIXELS // 16, 2),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Two outputs for each image, ``(n, 2)``."""
        return self.layers(images.view(-1, 1, SIDE, SIDE))


Victim = TypeVar("Victim", bound=Classifier)


def crafted(public: Tensor) -> Classifier:
    """A model with which a dishonest coordinator sorts images by brightness: each neuron wakes up at its own.

    Two neurons next to each other differ by the images whose brightness lies between their thresholds. The sum of many
    sites' updates then falls apart into single images.

    Args:
        public: images of the same kind that the attacker has, ``(n, PIXELS)``; they tell it where to put thresholds.

    Source: Fowl et al. 2021, Robbing the Fed (arXiv 2110.13057).
    """
    model = Classifier()
    brightness = public.mean(dim=1)
    levels = brightness.mean() + brightness.std() * torch.linspace(-2.5, 2.5, HIDDEN)
    with torch.no_grad():
        model.first.weight.fill_(1 / PIXELS)
        model.first.bias.copy_(-levels)
        model.second.weight.copy_(torch.tensor([[0.05], [-0.05]]).expand(2, HIDDEN))
        model.second.bias.zero_()
    return model


@cache
def noise_for(epsilon: float, sample_rate: float, steps: int) -> float:
    """The noise multiplier that the callback would find for this epsilon; finding it takes longer than training."""
    return dp_sgd_noise_multiplier(epsilon, DELTA, sample_rate, steps)


def fit(
    model: Victim, images: Tensor, labels: Tensor, *, batch_size: int, steps: int, epsilon: float | None = None
) -> Victim:
    """Train ``model`` as a site does, with the DP-SGD callback if there is an epsilon, which all steps spend together.

    Args:
        model: trained in place, and returned.
        images: ``(n, PIXELS)``.
        labels: ``(n,)``.
        batch_size: examples of a step; on average, with an epsilon.
        steps: optimiser steps.
        epsilon: at ``DELTA``.

    Raises:
        BudgetExhaustedError: more was spent than ``epsilon``.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    callbacks: list[Callback] = []
    if epsilon is not None:
        noise = noise_for(epsilon, sample_rate_of(batch_size, len(images)), steps)
        callbacks.append(DifferentialPrivacy(noise_multiplier=noise, clipping_norm=CLIPPING_NORM, delta=DELTA))
    with warnings.catch_warnings():
        # About workers, logging intervals and Opacus' choice of orders: nothing of it matters here.
        warnings.simplefilter("ignore")
        trainer = Trainer(
            max_steps=steps,
            max_epochs=-1,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=callbacks,
        )
        trainer.fit(model, DataLoader(TensorDataset(images, labels), batch_size=batch_size, shuffle=True))
    for callback in callbacks:
        if isinstance(callback, DifferentialPrivacy) and callback.epsilon_so_far > (epsilon or 0):
            raise BudgetExhaustedError(f"{callback.epsilon_so_far} was spent, and {epsilon} is what the results say.")
    return model


def update_of(model: Classifier, images: Tensor, labels: Tensor, epsilon: float | None = None) -> FloatVector:
    """What one step on all the images changes, flat; ``model`` stays as it is.

    With an epsilon, this one step spends all of it: a step of a longer training has more noise.
    """
    before = flatten(model.parameters())
    trained = fit(copy.deepcopy(model), images, labels, batch_size=len(images), steps=1, epsilon=epsilon)
    return (flatten(trained.parameters()) - before).numpy()


def contribution_for(updates: Sequence[FloatVector]) -> Contribution:
    """The code of a round in which every site trained on one image; its bound follows from the updates as in a run."""
    largest = max(float(np.abs(update).max()) for update in updates)
    bound = 1.5 * 2.0 ** math.ceil(math.log2(largest))
    return Contribution(updates[0].size, BITS, len(updates), (bound,), ("examples",))


def masked_round(updates: Sequence[FloatVector]) -> tuple[list[RingVector], FloatVector]:
    """A whole masked sum: what the coordinator receives of each site, and the sum that it opens.

    Returns:
        Each site's words as they arrive, and the sum of the updates, float32, shape ``(P,)``.
    """
    code = contribution_for(updates)
    names = [f"site-{number}" for number in range(len(updates))]
    identities = {name: Ed25519PrivateKey.generate() for name in names}
    roster = {name: key.public_key().public_bytes_raw() for name, key in identities.items()}
    context = Context(federation="leakage", plan_hash="00" * 32, round=1, attempt=1)
    terms = Terms(minimum_cohort=2, threshold=len(names) // 2 + 1)
    sites = {name: MaskingSite(name, identities[name], roster, context, terms) for name in names}
    coordinator = MaskingCoordinator(context, terms, roster, code.length, BITS)
    for name, site in sites.items():
        coordinator.receive(name, site.advertise())
    cohort = coordinator.close()
    for name, site in sites.items():
        coordinator.receive(name, site.receive_keys(cohort[name]))
    bundles = coordinator.close()
    received = []
    for (name, site), update in zip(sites.items(), updates, strict=True):
        site.receive_shares(bundles[name])
        words = code.encode(update, {"examples": 1.0})
        signed = site.mask(words, BITS)
        received.append(words.copy())
        coordinator.add(name, signed, words)
    survivors = coordinator.close()
    for name, site in sites.items():
        coordinator.receive(name, site.sign_survivors(survivors[name]))
    signatures = coordinator.close()
    for name, site in sites.items():
        coordinator.receive(name, site.reveal(signatures[name]))
    return received, code.decode(coordinator.unmask(), len(names)).values


def read_as_update(words: RingVector, code: Contribution) -> FloatVector:
    """Masked words as if they were an update. The code's own reader would refuse them, being out of range."""
    integers = from_ring(words[: code.size], code.bits).astype(np.float64)
    return (integers * code.code(0).step).astype(np.float32)
