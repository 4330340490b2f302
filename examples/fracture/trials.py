"""One trial of the comparison: train by one method on one study, and test at every site."""

from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType

import torch
from lightning.pytorch import Trainer, seed_everything
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_calibration_error,
    binary_sensitivity_at_specificity,
)

from examples.fracture.batchnorm import BatchNormClassifier, Classifier, EnergyClassifier
from examples.fracture.methods import ALONE, METHODS, ROUNDS, TOGETHER, WIDTH, Method
from examples.fracture.scanners import Images, site_images
from lightning_fed.callbacks.adabn import AdaBN
from lightning_fed.callbacks.ditto import Ditto
from lightning_fed.radiology.harmonisation import landmark_sums, standard_scale, standardised
from lightning_fed.radiology.negatives import bone_bright
from lightning_fed.radiology.oriented_energy import OrientedEnergy
from lightning_fed.radiology.synthetic.style import default_sites
from lightning_fed.simulation.in_process import QUIET, VirtualSite, federate_in_process

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
    method = {**ALONE, **TOGETHER, **METHODS}[name]
    data = prepared(method, data, data.keys())
    if name in ALONE:
        return {
            site: scores(logits(trained(method, train, seed, ROUNDS), test), test)
            for site, (train, test) in data.items()
        }
    if name in TOGETHER:
        model = trained(method, pooled(data), seed, ROUNDS)
        return {site: scores(logits(model, test), test) for site, (_, test) in data.items()}
    models = federated(method, {site: train for site, (train, _) in data.items()}, seed)
    return {site: scores(logits(models[site], test, method.adapted), test) for site, (_, test) in data.items()}


def unseen(name: str, data: Data, seed: int, adapted: Sequence[bool]) -> list[dict[str, Scores]]:
    """Leave one out: the scores at each site of a model that the others trained; with AdaBN there or without."""
    method = {**TOGETHER, **METHODS}[name]
    found: list[dict[str, Scores]] = [{} for _ in adapted]
    for site in data:
        shown = prepared(method, data, [other for other in data if other != site])
        test = shown[site][1]
        seen = {other: both for other, both in shown.items() if other != site}
        if name in TOGETHER:
            model = trained(method, pooled(seen), seed)
        else:
            models = federated(method, {other: train for other, (train, _) in seen.items()}, seed)
            model = next(iter(models.values()))
        for row, adapt in zip(found, adapted, strict=True):
            row[site] = scores(logits(model, test, adapt), test)
    return found


def prepared(method: Method, data: Data, sites: Collection[str]) -> Data:
    """The images as a method wants them; a common scale is found by ``sites`` alone."""
    if method.turned:
        data = _each(data, bone_bright)
    if method.standardised:
        data = on_common_scale(data, sites)
    if method.energy:
        energies = OrientedEnergy()
        data = _each(data, lambda image: energies(image[None])[0])
    return data


def federated(
    method: Method,
    train: Mapping[str, Images],
    seed: int,
    rounds: int = ROUNDS,
    batch_sizes: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, Classifier]:
    """Each site's model after the federation, the personal one where there is one; the images are prepared ones."""
    sites = [
        VirtualSite(
            site,
            _model(method, seed, images),
            loader(images, True, batch_sizes.get(site, BATCH_SIZE)),
            method.callbacks(),
        )
        for site, images in train.items()
    ]
    federate_in_process(method.plan(rounds), sites, seed=seed)
    models: dict[str, Classifier] = {}
    for site in sites:
        assert isinstance(site.module, Classifier)
        models[site.name] = site.module
        if method.tuned:
            _fit(site.module, train[site.name], method.tuned * method.epochs, seed)
        for callback in site.callbacks:
            if isinstance(callback, Ditto):
                site.module.load_state_dict(callback.state_dict()["personal"])
    return models


def trained(method: Method, images: Images, seed: int, rounds: int = ROUNDS) -> Classifier:
    """A model trained without a federation on prepared images, for as many epochs."""
    model = _model(method, seed, images)
    _fit(model, images, rounds * method.epochs, seed)
    return model


def pooled(data: Data) -> Images:
    """The training images of all sites."""
    images = [train for train, _ in data.values()]
    return Images(torch.cat([each.image for each in images]), torch.cat([each.label for each in images]))


def on_common_scale(data: Data, sites: Collection[str]) -> Data:
    """All images on the scale that the training images of ``sites`` have together, found from sums."""
    scale = standard_scale(sum((landmark_sums(data[site][0].image) for site in sites), torch.zeros(12)))
    return _each(data, lambda image: standardised(image, scale))


def changed(images: Images, change: Callable[[Tensor], Tensor]) -> Images:
    """Images, changed one by one."""
    return Images(torch.stack([change(image) for image in images.image]), images.label)


def _each(data: Data, change: Callable[[Tensor], Tensor]) -> Data:
    return {site: (changed(train, change), changed(test, change)) for site, (train, test) in data.items()}


def loader(images: Images, shuffle: bool, batch_size: int = BATCH_SIZE) -> DataLoader[tuple[Tensor, ...]]:
    """Batches of images and labels, larger ones where they are not shuffled."""
    return DataLoader(TensorDataset(images.image, images.label), batch_size if shuffle else 250, shuffle=shuffle)


def logits(model: Classifier, images: Images, adapted: bool = False) -> Tensor:
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


def _fit(model: Classifier, images: Images, epochs: int, seed: int) -> None:
    seed_everything(seed, verbose=False)
    Trainer(max_epochs=epochs, **QUIET).fit(model, loader(images, True))


def _model(method: Method, seed: int, images: Images) -> Classifier:
    torch.manual_seed(seed)
    channels, side = images.image.shape[1:3]
    if channels > 1:
        return EnergyClassifier(channels, side, sgd=method.sgd, hidden=method.hidden)
    # The faster layout for convolutions on a processor, by a fifth.
    return BatchNormClassifier(WIDTH).to(memory_format=torch.channels_last)
