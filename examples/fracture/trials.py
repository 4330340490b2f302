"""One trial of the comparison: train by one method on one study, and test at every site."""

from collections.abc import Mapping, Sequence

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_calibration_error,
    binary_sensitivity_at_specificity,
)

from examples.fracture.batchnorm import BatchNormClassifier
from examples.fracture.methods import LOCAL_EPOCHS, METHODS, ROUNDS, WIDTH, Method
from examples.fracture.scanners import Images, site_images
from lightning_fed.callbacks.adabn import AdaBN
from lightning_fed.callbacks.ditto import Ditto
from lightning_fed.callbacks.random_appearance import RandomAppearance
from lightning_fed.radiology.harmonisation import landmark_sums, standard_scale, standardised
from lightning_fed.radiology.synthetic.style import default_sites
from lightning_fed.simulation.in_process import QUIET, VirtualSite, federate_in_process

ALONE, TOGETHER, VARIED = "alone", "centralised", "centralised, Appearance"
BATCH_SIZE = 32
IMAGES, SHARES, TEST_IMAGES = 800, (1.5, 1.0, 0.5, 1.0), 250
"""Training images of all sites, how unequally they are spread, and test images of each site."""

Scores = dict[str, float]
Data = dict[str, tuple[Images, Images]]


def study(sites: int, seed: int, strength: float) -> Data:
    """Training and test images by site: as many training images in all, however many sites there are."""
    data = {}
    for number, style in enumerate(default_sites(sites)):
        train, test = site_images(style, 300, TEST_IMAGES, seed=seed, strength=strength)
        count = int(IMAGES / sites * SHARES[number % len(SHARES)])
        data[style.name] = Images(train.image[:count], train.label[:count]), test
    return data


def trial(name: str, data: Data, seed: int) -> dict[str, Scores]:
    """The scores at each site of a model that was trained by a method, or by each site alone, or on all data."""
    method = METHODS.get(name, Method())
    if method.standardised:
        data = on_common_scale(data, data.keys())
    if name == ALONE:
        return {site: scores(logits(trained(train, seed), test), test) for site, (train, test) in data.items()}
    if name in (TOGETHER, VARIED):
        model = trained(pooled(data), seed, _varying(name))
        return {site: scores(logits(model, test), test) for site, (_, test) in data.items()}
    models = federated(method, {site: train for site, (train, _) in data.items()}, seed)
    return {site: scores(logits(models[site], test, method.adapted), test) for site, (_, test) in data.items()}


def unseen(name: str, data: Data, seed: int, adapted: Sequence[bool]) -> list[dict[str, Scores]]:
    """Leave one out: the scores at each site of a model that the others trained; with AdaBN there or without."""
    method = METHODS.get(name, Method())
    found: list[dict[str, Scores]] = [{} for _ in adapted]
    for site in data:
        others = {other: both for other, both in data.items() if other != site}
        shown = on_common_scale(data, others.keys()) if method.standardised else data
        seen, test = {other: shown[other] for other in others}, shown[site][1]
        if name in (TOGETHER, VARIED):
            model = trained(pooled(seen), seed, _varying(name))
        else:
            models = federated(method, {other: train for other, (train, _) in seen.items()}, seed)
            model = next(iter(models.values()))
        for row, adapt in zip(found, adapted, strict=True):
            row[site] = scores(logits(model, test, adapt), test)
    return found


def federated(
    method: Method, train: Mapping[str, Images], seed: int, rounds: int = ROUNDS
) -> dict[str, BatchNormClassifier]:
    """Each site's model after the federation, the personal one where there is one."""
    sites = [VirtualSite(s, _model(seed), loader(images, True), method.callbacks()) for s, images in train.items()]
    federate_in_process(method.plan(rounds), sites, seed=seed)
    models: dict[str, BatchNormClassifier] = {}
    for site in sites:
        assert isinstance(site.module, BatchNormClassifier)
        models[site.name] = site.module
        if method.tuned:
            _fit(site.module, train[site.name], method.tuned, seed)
        for callback in site.callbacks:
            if isinstance(callback, Ditto):
                site.module.load_state_dict(callback.state_dict()["personal"])
    return models


def trained(images: Images, seed: int, callbacks: Sequence[Callback] = ()) -> BatchNormClassifier:
    """A model trained without a federation, for as many epochs."""
    model = _model(seed)
    _fit(model, images, ROUNDS, seed, callbacks)
    return model


def _varying(name: str) -> list[Callback]:
    return [RandomAppearance()] if name == VARIED else []


def pooled(data: Data) -> Images:
    """The training images of all sites."""
    images = [train for train, _ in data.values()]
    return Images(torch.cat([each.image for each in images]), torch.cat([each.label for each in images]))


def on_common_scale(data: Data, sites: Sequence[str]) -> Data:
    """All images on the scale that the training images of ``sites`` have together, found from sums."""
    scale = standard_scale(sum((landmark_sums(data[site][0].image) for site in sites), torch.zeros(12)))
    return {
        site: (_scaled(train, scale), _scaled(test, scale))  # type: ignore[misc]
        for site, (train, test) in data.items()
    }


def _scaled(images: Images, scale: Sequence[float]) -> Images:
    return Images(torch.stack([standardised(image, scale) for image in images.image]), images.label)


def loader(images: Images, shuffle: bool) -> DataLoader[tuple[Tensor, ...]]:
    """Batches of images and labels."""
    return DataLoader(TensorDataset(images.image, images.label), BATCH_SIZE if shuffle else 250, shuffle=shuffle)


def logits(model: BatchNormClassifier, images: Images, adapted: bool = False) -> Tensor:
    """What a model says of images, float32 ``(N,)``."""
    parts = Trainer(callbacks=[AdaBN()] if adapted else [], **QUIET).predict(model, loader(images, False))
    assert parts is not None
    return torch.cat(parts)  # type: ignore[arg-type]


def scores(logits: Tensor, images: Images) -> Scores:
    """AUROC, sensitivity where the specificity is 0.9, and expected calibration error over ten bins."""
    probability, label = logits.sigmoid(), images.label.int()
    return {
        "auroc": binary_auroc(probability, label).item(),
        "sensitivity": binary_sensitivity_at_specificity(probability, label, min_specificity=0.9)[0].item(),
        "ece": binary_calibration_error(probability, label, n_bins=10).item(),
    }


def _fit(
    model: BatchNormClassifier, images: Images, rounds: int, seed: int, callbacks: Sequence[Callback] = ()
) -> None:
    seed_everything(seed, verbose=False)
    Trainer(max_epochs=rounds * LOCAL_EPOCHS, callbacks=list(callbacks), **QUIET).fit(model, loader(images, True))


def _model(seed: int) -> BatchNormClassifier:
    torch.manual_seed(seed)
    # The faster layout for convolutions on a processor, by a fifth.
    return BatchNormClassifier(WIDTH).to(memory_format=torch.channels_last)
