import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

from lightning_fed.errors import DataError
from lightning_fed.radiology import RadiographDataModule
from lightning_fed.radiology.harmonisation import (
    RANGE,
    HistogramStandardisation,
    landmark_sums,
    landmarks,
    standard_scale,
    standardised,
)
from lightning_fed.radiology.synthetic import default_sites, write_study


def image_of(seed, gamma=1.0, low=0.1, high=0.9):
    generator = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(1, 40, 30, generator=generator) ** gamma


SCALE = standard_scale(landmark_sums([image_of(0), image_of(1)]))


@given(st.integers(0, 1000), st.floats(0.3, 3.0), st.floats(0.0, 0.4), st.floats(0.6, 1.0))
@settings(deadline=None, max_examples=50)
def test_landmarks_are_moved_onto_the_scale_and_order_is_kept(seed, gamma, low, high):
    image = image_of(seed, gamma, low, high)
    result = standardised(image, SCALE)
    assert result.shape == image.shape and result.dtype == image.dtype
    assert result.min() >= 0 and result.max() <= 1
    order = image.flatten().argsort()
    assert (result.flatten()[order].diff() >= 0).all()
    content = image[image > 0]
    foreground = result[image > content.mean()]
    expected = np.percentile(foreground.double().numpy(), [1, 50, 99])
    assert np.allclose(expected, [SCALE[0], SCALE[5], SCALE[-1]], atol=0.01)


def test_an_affine_or_gamma_change_of_the_scanner_is_undone():
    image = image_of(4, low=0.0, high=1.0)
    # Between the first and the last landmark; markers above keep their place in [0, 1].
    content = (image > image.mean()) & (image < image.quantile(0.99))
    one, other = standardised(image, SCALE), standardised(0.1 + 0.5 * image, SCALE)
    assert torch.allclose(one[content], other[content], atol=0.02)
    # The tone curve moves the mean, and with it the border of the foreground: close, but not the same.
    assert (one - standardised(image**1.3, SCALE)).abs().mean() < (image - image**1.3).abs().mean() / 2


def test_sums_of_sites_give_the_scale_of_all_images_together():
    sites = [[image_of(10 * site + k, 0.5 + site) for k in range(3 + site)] for site in range(3)]
    summed = sum(landmark_sums(images) for images in sites)
    together = standard_scale(landmark_sums(itertools.chain(*sites)))
    assert standard_scale(summed) == pytest.approx(together, abs=1e-12)
    assert (together[0], together[-1]) == pytest.approx(RANGE)


def test_the_known_landmarks_of_a_ramp():
    ramp = torch.arange(1, 1001).float() / 1000
    # The mean is 0.5005, so the foreground is 0.501 to 1.
    assert landmarks(ramp).tolist() == pytest.approx([0.501 + 0.499 * p / 100 for p in (1, *range(10, 91, 10), 99)])


def test_black_around_the_image_changes_nothing():
    image = image_of(3)
    padded = torch.nn.functional.pad(image, (20, 20))
    assert torch.equal(landmarks(padded), landmarks(image))
    assert torch.equal(standardised(padded, SCALE)[..., 20:-20], standardised(image, SCALE))
    assert standardised(padded, SCALE)[..., :20].abs().max() == 0


@pytest.mark.parametrize("image", [torch.zeros(1, 8, 8), torch.full((1, 8, 8), 0.5)])
def test_an_image_without_contrast_is_left_alone_and_not_counted(image):
    assert landmarks(image) is None
    assert torch.equal(standardised(image, SCALE), image)
    assert landmark_sums([image]).abs().sum() == 0


def test_a_saturated_image_keeps_its_range():
    image = image_of(5, high=1.4).clamp(max=1.0)
    result = standardised(image, SCALE)
    assert torch.isfinite(result).all() and result.max() == 1


def test_bad_values_and_scales_are_refused():
    with pytest.raises(DataError, match="not finite"):
        landmarks(torch.tensor([0.5, float("nan")]))
    with pytest.raises(DataError, match="0 images"):
        standard_scale(torch.zeros(12))
    with pytest.raises(DataError, match="shape"):
        standard_scale(torch.zeros(5))
    for scale in ([0.1, 0.9], SCALE[::-1], [*SCALE[:-1], 1.5], [float("nan")] * 11):
        with pytest.raises(DataError, match="no standard scale"):
            HistogramStandardisation(scale)


def distances(sites):
    """Earth mover's distance of the grey values of each pair of sites, without the black around the images."""
    values = [torch.cat([image[image > 0] for image in images])[::7].numpy() for images in sites.values()]
    return [wasserstein_distance(a, b) for a, b in itertools.combinations(values, 2)]


def test_synthetic_scanners_are_closer_after_standardisation_and_every_side_is_on_the_scale(tmp_path):
    styles = default_sites(8)
    write_study(tmp_path, styles, images_per_site=12, seed=3)

    def module(style, scale=None):
        return RadiographDataModule(str(tmp_path / style.name), image_size=64, augment=False, standard_scale=scale)

    def images(style, scale=None):
        data = module(style, scale)
        return [sample["image"] for split in ("train", "val", "test") for sample in data.dataset(split)]

    before = {style.name: images(style) for style in styles}
    scale = standard_scale(sum(landmark_sums(found) for found in before.values()))
    after = {style.name: images(style, scale) for style in styles}
    apart, closer = np.array(distances(before)), np.array(distances(after))
    assert closer.mean() < 0.6 * apart.mean()
    assert closer.max() < 0.6 * apart.max()
    one = module(styles[1], scale)
    for split in ("train", "val", "test"):
        for sample in one.dataset(split):
            foreground = sample["image"][sample["image"] > sample["image"][sample["image"] > 0].mean()]
            assert foreground.median() == pytest.approx(scale[5], abs=0.1)
