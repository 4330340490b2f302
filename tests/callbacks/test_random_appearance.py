import math

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from round_fits import trainer_of
from scipy.ndimage import gaussian_filter1d
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed.callbacks.random_appearance import RandomAppearance
from lightning_fed.errors import ConfigError
from lightning_fed.plan import FederationPlan
from lightning_fed.simulation.in_process import VirtualSite, federate_in_process

OFF = {"inversion": 0.0, "tone": 0.0, "window": 0.0, "blur": 0.0, "noise": 0.0}


def some_images(count: int = 6, channels: int = 1) -> torch.Tensor:
    return torch.rand(count, channels, 12, 10, generator=torch.Generator().manual_seed(1))


def one_by_one(appearance: RandomAppearance, image: torch.Tensor) -> np.ndarray:
    """The same with NumPy and SciPy in float64, image by image, from the same random numbers."""
    uniform, normal = torch.rand(5, len(image)).double().numpy(), torch.randn(len(image), 4).double().numpy()
    grain, done = torch.randn(image.shape).double().numpy(), []
    for number, picture in enumerate(image.double().numpy()):
        negative, width, centre, blur, noise = uniform[:, number]
        if negative < appearance.inversion:
            picture = 1 - picture
        steps = np.exp(appearance.tone * normal[number])
        picture = np.interp(picture, np.linspace(0, 1, 5), np.concatenate([[0], np.cumsum(steps / steps.sum())]))
        width, centre = 1 + appearance.window * (2 * width - 1), 0.5 + appearance.window * (centre - 0.5)
        picture = np.clip((picture - centre) / width + 0.5, 0, 1)
        if appearance.blur:
            for axis in (1, 2):
                sigma, radius = appearance.blur * blur, math.ceil(3 * appearance.blur)
                picture = gaussian_filter1d(picture, sigma, axis=axis, mode="nearest", radius=radius)
        done.append(np.clip(picture + appearance.noise * noise * grain[number], 0, 1))
    return np.stack(done)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        *({**OFF, name: value} for name, value in [("inversion", 0.5), ("tone", 1.0), ("window", 0.5), ("noise", 0.2)]),
        {**OFF, "blur": 1.5},
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_those_of_the_formulas(settings, channels):
    appearance, image = RandomAppearance(**settings), some_images(channels=channels)
    torch.manual_seed(3)
    found = appearance.randomised(image)
    torch.manual_seed(3)
    assert np.allclose(found.numpy(), one_by_one(appearance, image), atol=2e-6)
    assert not torch.allclose(found, image, atol=0.01)


def test_without_any_strength_images_stay_and_the_given_tensor_always_does():
    image = some_images()
    kept = image.clone()
    assert torch.allclose(RandomAppearance(**OFF).randomised(image), image, atol=1e-6)
    RandomAppearance().randomised(image)
    assert torch.equal(image, kept)


def test_a_tone_curve_keeps_dark_below_bright_and_black_and_white():
    ramp = torch.linspace(0, 1, 64).reshape(1, 1, 8, 8).repeat(20, 1, 1, 1)
    toned = RandomAppearance(**{**OFF, "tone": 2.0}).randomised(ramp).flatten(1)
    assert bool((toned.diff(dim=1) >= -1e-6).all())
    assert torch.allclose(toned[:, 0], torch.zeros(20))
    assert torch.allclose(toned[:, -1], torch.ones(20), atol=1e-6)


def test_an_images_appearance_does_not_depend_on_the_others():
    # Under DP-SGD another example could otherwise move this one's gradient.
    image = some_images()
    torch.manual_seed(3)
    first = RandomAppearance().randomised(image)
    other = image.clone()
    other[1:] = 0.5
    torch.manual_seed(3)
    assert torch.equal(RandomAppearance().randomised(other)[0], first[0])
    assert RandomAppearance().randomised(image[:0]).shape == (0, 1, 12, 10)


class Seeing(LightningModule):
    """Keeps what it is shown."""

    def __init__(self, images: str | int = 0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.images = nn.Linear(120, 1), images
        self.trained: list[torch.Tensor] = []
        self.tested: list[torch.Tensor] = []

    def training_step(self, batch, batch_idx):
        self.trained.append(batch[self.images].clone())
        return self.layer(batch[self.images].flatten(1)).square().mean()

    def validation_step(self, batch, batch_idx):
        self.tested.append(batch[self.images].clone())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


class AsDicts(TensorDataset):
    def __getitem__(self, index):
        return {"image": self.tensors[0][index], "label": self.tensors[1][index]}


@pytest.mark.parametrize("kind", [TensorDataset, AsDicts])
def test_the_training_step_sees_other_images_and_validation_the_same(kind):
    image = some_images(8)
    kept = image.clone()
    loader = DataLoader(kind(image, torch.zeros(8)), batch_size=4)
    module = Seeing(0 if kind is TensorDataset else "image")
    trainer_of([RandomAppearance()], max_epochs=2, num_sanity_val_steps=0).fit(module, loader, loader)
    assert torch.equal(image, kept)
    assert torch.equal(torch.cat(module.tested[:2]), image)
    first, second = torch.cat(module.trained[:2]), torch.cat(module.trained[2:])
    assert not torch.allclose(first, image, atol=0.01)
    assert not torch.allclose(first, second, atol=0.01)


def test_a_masked_federation_trains_on_it_and_its_seed_fixes_the_images():
    def run(seed: int) -> list[torch.Tensor]:
        sites = [
            VirtualSite(name, Seeing(), DataLoader(TensorDataset(some_images(8)), batch_size=4), [RandomAppearance()])
            for name in ("north", "east")
        ]
        federate_in_process(FederationPlan(name="appearance", rounds=2), sites, seed=seed)
        return [shown for site in sites for shown in site.module.trained]

    first = run(1)
    assert len(first) == 8
    assert all(torch.equal(a, b) for a, b in zip(first, run(1), strict=True))
    assert not torch.equal(first[0], run(2)[0])


@pytest.mark.parametrize(
    ("batch", "images", "message"),
    [
        ((some_images(),), None, "a tuple does not allow"),
        (some_images(), None, "a Tensor does not allow"),
        ([torch.zeros(2, 1, 4, 4, dtype=torch.uint8)], None, r"not torch.uint8 \(2, 1, 4, 4\)"),
        ({"image": some_images()[0]}, None, r"batch\['image'\]"),
        (["path", some_images()], None, "not str"),
    ],
)
def test_a_batch_without_float_images_is_refused(batch, images, message):
    with pytest.raises(ConfigError, match=message):
        RandomAppearance(images=images).on_train_batch_start(None, None, batch, 0)


@pytest.mark.parametrize(
    "setting", [{"inversion": 1.5}, {"window": 1.0}, {"tone": -1}, {"blur": math.nan}, {"noise": math.inf}]
)
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(ConfigError, match=next(iter(setting))):
        RandomAppearance(**setting)
