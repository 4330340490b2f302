"""Was this patient's image in the training set? The likelihood-ratio attack on models trained on few images.

The attacker has the trained model, as every participant of a federation has, and many models of its own, trained in the
same way on images of which it knows which were in: it learns from them how the model's confidence in an image differs
between having been trained on it and not.
"""

from dataclasses import dataclass

import numpy as np
import torch
from leakage_victim import Classifier, fit, radiographs
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor

POOL = 80
BATCH_SIZE = 20
STEPS = 100
FALSE_POSITIVE_RATE = 0.01


@dataclass(frozen=True)
class Trained:
    """Models that were each trained on another random half of one pool of images.

    Attributes:
        members: whether an image was in a model's training set, shape ``(models, POOL)``.
        confidence: log-odds that a model gives to an image's true label, shape ``(models, POOL)``.
        accuracy: mean share of right answers on members, and on images that no model has seen.
    """

    members: NDArray[np.bool_]
    confidence: NDArray[np.float64]
    accuracy: tuple[float, float]


def train_all(models: int, epsilon: float | None, seed: int) -> Trained:
    """Train the target and the attacker's own models; which is which is decided later, in turn.

    Args:
        models: how many, an even number.
        epsilon: of the DP-SGD of each; plain training when None.
        seed: of the images, the halves and the initial weights.
    """
    images, labels = radiographs(2 * POOL, seed)
    # By images that no model is trained on, so that the scaling gives no member away.
    images = (images - images[POOL:].mean(dim=0)) / images[POOL:].std()
    random = np.random.default_rng(seed)
    members = np.zeros((models, POOL), dtype=bool)
    confidence = np.empty((models, POOL))
    right = np.empty((models, 2))
    for number in range(models):
        # In pairs of a half and the other half, so that every image is in half of the models.
        if number % 2:
            members[number] = ~members[number - 1]
        else:
            members[number, random.permutation(POOL)[: POOL // 2]] = True
        chosen = torch.from_numpy(np.flatnonzero(members[number]))
        model = Classifier(seed=number)
        fit(model, images[chosen], labels[chosen], batch_size=BATCH_SIZE, steps=STEPS, epsilon=epsilon)
        odds = _log_odds(model, images, labels)
        confidence[number] = odds[:POOL].numpy()
        right[number] = float((odds[chosen] > 0).float().mean()), float((odds[POOL:] > 0).float().mean())
    return Trained(members, confidence, (float(right[:, 0].mean()), float(right[:, 1].mean())))


@torch.no_grad()
def _log_odds(model: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    outputs = model(images).double()
    index = torch.arange(len(labels))
    return outputs[index, labels] - outputs[index, 1 - labels]


def likelihood_ratios(trained: Trained) -> NDArray[np.float64]:
    """For each model as the target and each image: how much likelier its confidence is if the image was in.

    The other models are the attacker's. Their confidences are taken as normal, with a mean for each image and one
    variance for all, as few models do not tell more.

    Returns:
        Logarithms, shape ``(models, POOL)``.

    Source: Carlini et al. 2022, Membership Inference Attacks From First Principles (arXiv 2112.03570), algorithm 1.
    """
    scores = np.empty_like(trained.confidence)
    for target in range(len(scores)):
        own = np.arange(len(scores)) != target
        inside = np.where(trained.members[own], trained.confidence[own], np.nan)
        outside = np.where(trained.members[own], np.nan, trained.confidence[own])
        terms = []
        for known in (inside, outside):
            variance = float(np.nanmean(np.nanvar(known, axis=0, ddof=1))) + 1e-12
            deviation = trained.confidence[target] - np.nanmean(known, axis=0)
            terms.append(-(deviation**2) / (2 * variance) - 0.5 * np.log(variance))
        scores[target] = terms[0] - terms[1]
    return scores


@dataclass(frozen=True)
class Attack:
    """How well an attack tells members from others.

    Attributes:
        auc: area under the ROC curve, 0.5 for chance.
        auc_interval: 95 % confidence interval.
        found: true positive rate at a false positive rate of 1 %, which chance would make 0.01.
        found_interval: 95 % confidence interval.
        curve: false and true positive rates.
    """

    auc: float
    auc_interval: tuple[float, float]
    found: float
    found_interval: tuple[float, float]
    curve: tuple[NDArray[np.float64], NDArray[np.float64]]


def evaluated(scores: NDArray[np.float64], members: NDArray[np.bool_], seed: int = 0, draws: int = 500) -> Attack:
    """The attack's success over all targets, with intervals from drawing targets again and again (bootstrap).

    Args:
        scores: higher for a likelier member, ``(models, POOL)``.
        members: the truth, ``(models, POOL)``.
        seed: of the draws.
        draws: how many.
    """
    random = np.random.default_rng(seed)
    drawn = []
    for _ in range(draws):
        targets = random.integers(0, len(scores), len(scores))
        truth, score = members[targets].ravel(), scores[targets].ravel()
        drawn.append((roc_auc_score(truth, score), _found(truth, score)))
    low, high = np.quantile(np.array(drawn), (0.025, 0.975), axis=0)
    truth, score = members.ravel(), scores.ravel()
    false, true, _ = roc_curve(truth, score, drop_intermediate=False)
    return Attack(
        float(roc_auc_score(truth, score)),
        (float(low[0]), float(high[0])),
        _found(truth, score),
        (float(low[1]), float(high[1])),
        (false, true),
    )


def _found(truth: NDArray[np.bool_], score: NDArray[np.float64]) -> float:
    false, true, _ = roc_curve(truth, score, drop_intermediate=False)
    return float(true[false <= FALSE_POSITIVE_RATE].max())
