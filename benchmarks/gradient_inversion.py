"""Two attacks on a message that left a site: make the image from it, and tell which image of a list it came from.

The attacker is the coordinator. It knows the model, the learning rate, the clipping norm and the kind of image.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from leakage_victim import (
    CLIPPING_NORM,
    HIDDEN,
    LEARNING_RATE,
    PIXELS,
    SIDE,
    Classifier,
    contribution_for,
    masked_round,
    radiographs,
    read_as_update,
    update_of,
)
from torch import Tensor
from torch.nn import functional
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from lightning_fed.update.clipping import clip_by_norm
from lightning_fed.update.vectors import FloatVector

UPDATE_NORM = 0.04
"""Largest L2 norm of the clipped update: a tenth of what one image changes unclipped."""

COHORT = 8

VARIATION_WEIGHT = 1e-4


def recovered(update: FloatVector) -> Tensor:
    """Every picture that the first layer's part of an update gives away, shape ``(pictures, PIXELS)``.

    For one image x, neuron i's weights change by g_i x and its bias by g_i, so that their ratio is the image, exactly
    and whatever the loss. For sums of images, a neuron that only one of them woke up shows that image, and so does the
    difference of two neurons that only one image tells apart. The first picture is the best rank-one fit to all
    neurons, which noise disturbs the least.

    Source: Phong et al. 2018, Privacy-Preserving Deep Learning via Additively Homomorphic Encryption, section 3; Fowl
    et al. 2021, Robbing the Fed (arXiv 2110.13057), for the differences.
    """
    vector = torch.from_numpy(update[: HIDDEN * (PIXELS + 1)].astype(np.float64))
    weights, biases = vector[: HIDDEN * PIXELS], vector[HIDDEN * PIXELS :]
    joined = torch.cat([weights.view(HIDDEN, PIXELS), biases[:, None]], dim=1)
    strongest = torch.linalg.svd(joined, full_matrices=False).Vh[:1]
    rows = torch.cat([strongest, joined, joined[:-1] - joined[1:]])
    rows = rows[rows[:, -1] != 0]
    return torch.stack([shown(row[:-1] / row[-1]) for row in rows]) if len(rows) else torch.full((1, PIXELS), 0.5)


def shown(picture: Tensor) -> Tensor:
    """A recovered picture as grey values in [0, 1]: stretched to that range if it does not lie in it already."""
    picture = picture.float()
    low, high = picture.quantile(0.01), picture.quantile(0.99)
    if low < -0.1 or high > 1.1:
        picture = (picture - low) / (high - low).clamp(min=1e-12)
    return picture.clamp(0, 1)


def searched(update: FloatVector, model: Classifier, label: Tensor, steps: int = 1500, seed: int = 0) -> Tensor:
    """The picture whose gradient points where the update does, found by descent, shape ``(1, PIXELS)``.

    It works on any model, and knows the label. The loss is one less the cosine, so that clipping hides nothing, with
    the total variation of the picture against noise; steps follow the signs of the gradient.

    Source: Geiping et al. 2020, Inverting Gradients: How easy is it to break privacy in federated learning? (arXiv
    2003.14053).
    """
    parameters = list(model.parameters())
    # The gradient's direction is the opposite of the update's.
    wanted = functional.normalize(-torch.from_numpy(update), dim=0)
    picture = torch.rand(1, PIXELS, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    optimizer = torch.optim.Adam([picture], lr=0.1)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [steps * k // 8 for k in (3, 5, 7)])
    for _ in range(steps):
        loss = functional.cross_entropy(model(picture), label)
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, create_graph=True)])
        square = picture.view(SIDE, SIDE)
        variation = square.diff(dim=0).abs().mean() + square.diff(dim=1).abs().mean()
        distance = 1 - functional.cosine_similarity(gradient, wanted, dim=0)
        (picture.grad,) = torch.autograd.grad(distance + VARIATION_WEIGHT * variation, [picture])
        picture.grad.sign_()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            picture.clamp_(0, 1)
    return picture.detach()


@dataclass(frozen=True)
class Reconstruction:
    """The best picture of an image that an attack gave, chosen with the image in hand: no attacker can choose better.

    Attributes:
        picture: shape ``(PIXELS,)``.
        psnr: peak signal-to-noise ratio in dB; above 30 looks the same, the mean of other wrists has about 19.
        ssim: structural similarity, 1 for the same picture.
    """

    picture: Tensor
    psnr: float
    ssim: float


def best_of(pictures: Tensor, image: Tensor) -> Reconstruction:
    """The picture with the smallest squared error."""
    picture = pictures[(pictures - image).square().mean(dim=1).argmin()]
    two = [values.view(1, 1, SIDE, SIDE) for values in (picture, image)]
    psnr = peak_signal_noise_ratio(*two, data_range=1.0)
    return Reconstruction(picture, float(psnr), float(structural_similarity_index_measure(*two, data_range=1.0)))


Message = Callable[[Tensor, Tensor], FloatVector]
"""From images and labels, one of each site of a cohort, to what the attacker holds; the target is the first."""


def messages(model: Classifier) -> Mapping[str, Message]:
    """What the coordinator holds after a round, by how the sites are protected."""

    def updates(images: Tensor, labels: Tensor, epsilon: float | None = None) -> list[FloatVector]:
        return [update_of(model, images[i : i + 1], labels[i : i + 1], epsilon) for i in range(len(images))]

    def plain(images: Tensor, labels: Tensor) -> FloatVector:
        return updates(images[:1], labels[:1])[0]

    def clipped(images: Tensor, labels: Tensor) -> FloatVector:
        return clip_by_norm(plain(images, labels), UPDATE_NORM)[0]

    def masked(images: Tensor, labels: Tensor) -> FloatVector:
        sent = updates(images, labels)
        return read_as_update(masked_round(sent)[0][0], contribution_for(sent))

    def opened(epsilon: float | None) -> Message:
        return lambda images, labels: masked_round(updates(images, labels, epsilon))[1]

    def private(epsilon: float) -> Message:
        return lambda images, labels: updates(images[:1], labels[:1], epsilon)[0]

    return {
        "plain": plain,
        "clipped": clipped,
        "masked": masked,
        "opened sum": opened(None),
        "DP, epsilon 8": private(8.0),
        "DP, epsilon 1": private(1.0),
        "opened sum, DP, epsilon 8": opened(8.0),
    }


def without_a_message(public: Tensor, image: Tensor) -> Reconstruction:
    """What somebody who saw nothing would draw: the mean of images of the same kind."""
    return best_of(public.mean(dim=0, keepdim=True), image)


def expected_updates(model: Classifier, images: Tensor, labels: Tensor, largest: float) -> Tensor:
    """The update that each image would make without noise, clipped to a norm of ``largest``, shape ``(n, P)``."""
    rows = []
    for image, label in zip(images, labels, strict=True):
        loss = functional.cross_entropy(model(image[None]), label[None])
        gradient = torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))])
        rows.append(gradient * -min(LEARNING_RATE, largest / float(gradient.norm())))
    return torch.stack(rows)


def guess(message: FloatVector, expected: Tensor, others: Tensor) -> int:
    """Which candidate a message came from.

    For one image and Gaussian noise this is the most likely one, so no attacker with the same list guesses better.

    Args:
        message: shape ``(P,)``.
        expected: what each candidate would have added, ``(candidates, P)``.
        others: what the rest of a sum adds on average, shape ``(P,)``.
    """
    rest = torch.from_numpy(message).double() - others.double()
    return int((rest - expected.double()).square().sum(dim=1).argmin())


def identified(model: Classifier, kind: str, trials: int, candidates: int, seed: int) -> int:
    """In how many of ``trials`` the attacker picks the right image from a list of ``candidates``.

    Args:
        model: before the step.
        kind: one of ``messages``.
        trials: each with a site's image from the list; the other sites' images are not on it.
        candidates: images that the attacker has, with their labels.
        seed: of the images.
    """
    images, labels = radiographs(candidates, seed)
    other_images, other_labels = radiographs(trials + COHORT, seed + 1)
    largest = LEARNING_RATE * CLIPPING_NORM if "DP" in kind else UPDATE_NORM if kind == "clipped" else float("inf")
    expected = expected_updates(model, images, labels, largest)
    others = expected.mean(dim=0) * (COHORT - 1 if "sum" in kind else 0)
    send, right = messages(model)[kind], 0
    for trial in range(trials):
        target, rest = trial % candidates, slice(trial, trial + COHORT - 1)
        cohort = torch.cat([images[target : target + 1], other_images[rest]])
        answers = torch.cat([labels[target : target + 1], other_labels[rest]])
        right += guess(send(cohort, answers), expected, others) == target
    return right
