import math

import numpy as np
import pytest
import torch
from scipy.signal import correlate2d
from torch import nn

from lightning_fed.errors import ConfigError
from lightning_fed.radiology import OrientedEnergy


def some_images(count: int = 2, size: int = 48) -> torch.Tensor:
    return torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(2))


def with_scipy(picture: np.ndarray, wavelength: float, scales: int, orientations: int, grid: int) -> np.ndarray:
    """The same in float64, filter by filter."""
    level = (picture - picture.mean()) / picture.std(ddof=1)
    width, found = wavelength / 2, []
    reach = math.ceil(2.5 * width)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    bell = np.exp(-(x**2 + y**2) / (2 * width**2))
    for _ in range(scales):
        padded = np.pad(level, reach, mode="edge")
        for number in range(orientations):
            along = x * np.cos(np.pi * number / orientations) + y * np.sin(np.pi * number / orientations)
            squares = 0
            for wave in (np.cos, lambda angle: -np.sin(angle)):
                kernel = bell * wave(2 * np.pi * along / wavelength)
                kernel = kernel - bell * kernel.sum() / bell.sum()
                squares = squares + correlate2d(padded, kernel / np.abs(kernel).sum(), mode="valid") ** 2
            side = level.shape[0] // grid
            energy = np.sqrt(squares).reshape(grid, side, grid, side).mean(axis=(1, 3))
            found.append(np.log(energy + 0.02))
        level = level.reshape(level.shape[0] // 2, 2, -1, 2).mean(axis=(1, 3))
    return np.stack(found)


@pytest.mark.parametrize("settings", [(8.0, 2, 8, 6), (5.0, 1, 3, 4), (4.0, 3, 4, 3)])
def test_energies_are_those_of_the_formula(settings):
    images = some_images()
    found = OrientedEnergy(*settings)(images)
    for image, energies in zip(images, found, strict=True):
        assert np.allclose(energies.numpy(), with_scipy(image[0].double().numpy(), *settings), atol=2e-3)


def test_a_grating_is_strongest_in_its_own_direction_and_width():
    energies = OrientedEnergy(wavelength=8.0, scales=2, orientations=8, grid=1)
    for number in range(8):
        for scale, wavelength in enumerate((8.0, 16.0)):
            y, x = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
            angle = math.pi * number / 8
            grating = (2 * math.pi * (x * math.cos(angle) + y * math.sin(angle)) / wavelength).cos()
            assert energies(grating[None, None]).flatten().argmax() == 8 * scale + number


def test_a_negative_gain_and_offset_change_nothing_and_a_tone_curve_little():
    image = some_images()
    energies = OrientedEnergy()
    plain = energies(image)
    for same in (1 - image, 0.2 + 0.3 * image, 0.9 - 0.01 * image, 1000 * image):
        torch.testing.assert_close(energies(same), plain, atol=2e-3, rtol=0)
    bent = (energies(image**1.5) - plain).abs().mean()
    assert bent < 0.2 * (plain[0] - plain[1]).abs().mean()


def test_the_smallest_image_is_one_pixel_in_the_widest_waves():
    image = torch.tensor([[[[0.1, 0.9], [0.4, 0.3]]]])
    found = OrientedEnergy(scales=2, orientations=4, grid=2)(image)
    fine = OrientedEnergy(scales=1, orientations=4, grid=2)(image)
    assert torch.equal(found[:, :4], fine)
    # Of one pixel only the mean is left, which is 0: the floor.
    assert torch.allclose(found[:, 4:], torch.full((1, 4, 2, 2), 0.02 + 1e-4).log(), atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_an_image_is_of_the_layers_dtype_and_so_is_the_result(dtype):
    image = some_images()
    plain = OrientedEnergy()(image)
    with pytest.raises(ConfigError, match=rf"the image is {dtype} and the layer torch.float32. Convert one of them"):
        OrientedEnergy()(image.to(dtype))
    found = OrientedEnergy().to(dtype)(image.to(dtype))
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), plain, atol=2e-3 if dtype == torch.float64 else 0.1, rtol=0)


def test_under_autocast_any_dtype_will_do():
    image, energies = some_images(), OrientedEnergy()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for given in (image, image.bfloat16()):
            found = energies(given)
            assert found.dtype == given.dtype
            torch.testing.assert_close(found.float(), energies(image), atol=0.1, rtol=0)


@pytest.mark.parametrize("grey", [0.0, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_an_image_of_one_grey_value_has_no_slope(grey, dtype):
    image = torch.full((1, 1, 32, 32), grey, dtype=dtype, requires_grad=True)
    OrientedEnergy().to(dtype)(image).sum().backward()
    assert torch.equal(image.grad, torch.zeros_like(image))


def test_a_gain_counts_once_grey_values_hardly_deviate():
    image, energies = some_images(), OrientedEnergy()
    plain, deviation = energies(image), image.std(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(energies(image / deviation * 0.001), plain, atol=1.1e-3, rtol=0)
    # Half of the energy is left where the deviation is what it is compared with.
    half = (energies(image / deviation * 1e-6).exp() - 0.02) / (plain.exp() - 0.02)
    torch.testing.assert_close(half, torch.full_like(half, 0.5), atol=2e-3, rtol=0)


def test_an_image_of_one_grey_value_has_the_floor_everywhere():
    found = OrientedEnergy()(torch.full((1, 1, 20, 30), 0.3))
    assert torch.allclose(found, torch.full((1, 16, 6, 6), 0.02 + 1e-4).log(), atol=1e-3)


def test_nothing_of_it_travels_or_trains_and_an_image_does_not_depend_on_the_batch():
    energies = OrientedEnergy(scales=3, orientations=4, grid=5)
    network = nn.Sequential(energies, nn.BatchNorm2d(energies.channels), nn.Flatten(), nn.Linear(12 * 25, 1))
    assert all(not name.startswith("0.") for name in network.state_dict())
    assert list(energies.parameters()) == []
    images = some_images(3, size=50)
    assert energies(images).shape == (3, 12, 5, 5)
    torch.testing.assert_close(torch.cat([energies(image[None]) for image in images]), energies(images))


@pytest.mark.parametrize(
    "setting", [{"wavelength": 1.5}, {"wavelength": math.nan}, {"scales": 0}, {"orientations": 0}, {"grid": 0}]
)
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(ConfigError, match=next(iter(setting))):
        OrientedEnergy(**setting)
