"""One hostile site of eight, seen where it hurts: the AUROC of the classifier that the sites train together."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from lightning_fed.aggregation.contracts import Algorithm, SiteReport
from lightning_fed.aggregation.fedavg import FedAvg
from lightning_fed.aggregation.krum import Krum, MultiKrum
from lightning_fed.aggregation.median import Median
from lightning_fed.aggregation.norm_bounding import NormBounding
from lightning_fed.aggregation.trimmed_mean import TrimmedMean

SITES, FEATURES, ROUNDS, LOCAL_STEPS, LR = 8, 20, 15, 5, 0.3


@dataclass
class Data:
    """Eight sites' examples, shape ``(sites, n, features)``, with labels, and a held-out set."""

    features: Tensor
    labels: Tensor
    test_features: Tensor
    test_labels: Tensor


@pytest.fixture(scope="module")
def data() -> Data:
    generator = torch.Generator().manual_seed(11)
    truth = torch.randn(FEATURES, generator=generator)
    drawn = torch.randn(SITES + 4, 150, FEATURES, generator=generator)
    drawn[:SITES] += 0.3 * torch.randn(
        SITES, 1, FEATURES, generator=generator
    )  # each scanner sees a little differently
    labels = torch.bernoulli((drawn @ truth).sigmoid(), generator=generator)
    return Data(drawn[:SITES], labels[:SITES], drawn[SITES:].flatten(0, 1), labels[SITES:].flatten())


def local_update(model: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """The update of a few steps of logistic regression."""
    weights = model.clone()
    for _ in range(LOCAL_STEPS):
        weights -= LR * features.T @ ((features @ weights).sigmoid() - labels) / len(labels)
    return weights - model


def hostile_update(attack: str, honest: Tensor, flipped: Tensor, generator: torch.Generator) -> Tensor:
    return {
        "none": honest,
        "sign-flipped": -8.0 * honest,
        "scaled": -100.0 * honest,
        "random": 20.0 * torch.randn(FEATURES, generator=generator),
        "label-flipped": flipped,
    }[attack]


def trained_auroc(algorithm: Algorithm, data: Data, attack: str) -> float:
    generator = torch.Generator().manual_seed(1)
    parts, model = algorithm.build(FEATURES), torch.zeros(FEATURES)
    for _ in range(ROUNDS):
        updates = torch.stack([local_update(model, x, y) for x, y in zip(data.features, data.labels, strict=True)])
        flipped = local_update(model, data.features[0], 1 - data.labels[0])
        updates[0] = hostile_update(attack, updates[0].clone(), flipped, generator)
        if algorithm.needs_single_updates:
            mean = parts.combine.aggregate(updates)  # type: ignore[union-attr]
        else:
            terms = [parts.combine.contribution(u, SiteReport(150)) for u in updates]  # type: ignore[union-attr]
            total = torch.stack([vector for vector, _ in terms]).sum(dim=0)
            sums = {name: sum(numbers[name] for _, numbers in terms) for name in parts.combine.sums}  # type: ignore[union-attr]
            mean = parts.combine.mean_update(total, sums)  # type: ignore[union-attr]
        model = parts.server.apply(model, mean)
    return binary_auroc(data.test_features @ model, data.test_labels.int()).item()


@pytest.fixture(scope="module")
def clean(data: Data) -> float:
    return trained_auroc(FedAvg(), data, "none")


@pytest.mark.parametrize("attack", ["sign-flipped", "scaled", "random", "label-flipped"])
@pytest.mark.parametrize("algorithm", [Median(), TrimmedMean(), Krum(), MultiKrum()], ids=lambda a: a.name)
def test_robust_rules_keep_auroc_within_3_points_of_the_clean_run(
    algorithm: Algorithm, attack: str, data: Data, clean: float
) -> None:
    assert clean > 0.9
    assert trained_auroc(algorithm, data, attack) > clean - 0.03


@pytest.mark.parametrize("attack", ["sign-flipped", "scaled", "random"])
def test_plain_averaging_visibly_fails(attack: str, data: Data, clean: float) -> None:
    assert trained_auroc(FedAvg(), data, attack) < clean - 0.1


@pytest.mark.parametrize("attack", ["sign-flipped", "scaled", "random"])
def test_norm_bounding_takes_the_force_from_attacks_that_rely_on_size(attack: str, data: Data, clean: float) -> None:
    assert trained_auroc(NormBounding(max_norm=0.5), data, attack) > clean - 0.05
