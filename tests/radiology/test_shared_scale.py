"""The data module's part in finding a common grey scale."""

import pytest
import torch

from lightning_fed.errors import DataError
from lightning_fed.radiology import RadiographDataModule
from lightning_fed.radiology.harmonisation import landmark_sums, standard_scale


def test_a_site_shares_the_mean_landmarks_of_its_training_images_and_uses_the_common_ones(write_site):
    module = RadiographDataModule(str(write_site()), image_size=48, harmonise=True, augment=False)
    module.setup("fit")
    own = module.shared_statistics()
    dataset = module.dataset("train")
    assert own == pytest.approx(standard_scale(landmark_sums(dataset.image(i) for i in range(len(dataset)))))
    before = dataset[0]["image"].clone()
    torch.testing.assert_close(before, module.dataset("train")[0]["image"])
    common = [min(1.0, value + 0.02) for value in own]
    module.use_shared_statistics(common)
    after = dataset[0]["image"]
    assert (after != before).any()
    assert standard_scale(landmark_sums([after])) == pytest.approx(own, abs=0.2)


def test_rounding_that_swapped_two_landmarks_is_mended(write_site):
    module = RadiographDataModule(str(write_site()), image_size=48, harmonise=True)
    scale = [0.2 + 0.07 * i for i in range(11)]
    scale[3], scale[4], scale[10] = scale[4], scale[3], 1.0001
    module.use_shared_statistics(scale)
    used = module.dataset("train").transform.scale
    assert used == sorted(used)
    assert used[-1] == 1.0
    assert used[:3] == scale[:3]


def test_without_harmonise_nothing_is_shared(write_site):
    module = RadiographDataModule(str(write_site()), image_size=48)
    with pytest.raises(DataError, match="harmonise = False"):
        module.shared_statistics()
