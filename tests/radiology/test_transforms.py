import time

import pytest
import torch
from torchvision.transforms import v2

from lightning_fed.errors import DataError
from lightning_fed.radiology import EvaluationTransform, TrainingTransform, monai_training_transform
from lightning_fed.radiology.canvas import fit_to_canvas


def sample(height=64, width=64):
    torch.manual_seed(0)
    smooth = torch.nn.functional.avg_pool2d(torch.rand(1, height + 8, width + 8), 9, stride=1)
    return {
        "image": (smooth - smooth.min()) / (smooth.max() - smooth.min()),
        "label": torch.tensor(1.0),
        "salter_harris": torch.tensor(2),
    }


@pytest.mark.parametrize("build", [TrainingTransform, monai_training_transform])
def test_training_transforms_change_the_image_and_keep_its_shape_range_and_labels(build):
    original = sample(80, 50)
    before = original["image"].clone()
    transform = build(48)
    first, second = transform(dict(original)), transform(dict(original))
    for result in (first, second):
        assert result["image"].shape == (1, 48, 48)
        assert result["image"].dtype == torch.float32
        assert result["image"].min() >= 0
        assert result["image"].max() <= 1
        assert (result["label"], result["salter_harris"]) == (1.0, 2)
    assert not torch.equal(torch.as_tensor(first["image"]), torch.as_tensor(second["image"]))
    assert torch.equal(original["image"], before)


def test_training_transform_repeats_under_the_same_torch_seed():
    transform, images = TrainingTransform(64), []
    for _ in range(2):
        torch.manual_seed(7)
        images.append(transform(sample())["image"])
    assert torch.equal(*images)


def test_training_transform_without_strength_changes_nothing():
    transform = TrainingTransform(64, flip_probability=0, max_rotation_deg=0, max_shift=0, max_zoom=0, max_exposure=0)
    torch.testing.assert_close(transform(sample())["image"], sample()["image"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [33, 64])
def test_the_warp_is_torchvisions_to_the_bit(size):
    torchvisions = v2.RandomAffine(10.0, (0.05, 0.05), (0.9, 1.1), interpolation=v2.InterpolationMode.BILINEAR)
    image = torch.rand(1, size, size)
    ours = TrainingTransform(size, flip_probability=0.0, max_exposure=0.0)
    for seed in range(20):
        torch.manual_seed(seed)
        warped = ours({"image": image})["image"]
        torch.manual_seed(seed)
        torch.rand(4)  # of mirror and exposure
        assert torch.equal(warped, torchvisions(image).clamp(0, 1))


def test_flip_mirrors_left_to_right_and_never_top_to_bottom():
    transform = TrainingTransform(64, flip_probability=1, max_rotation_deg=0, max_shift=0, max_zoom=0, max_exposure=0)
    torch.testing.assert_close(transform(sample())["image"], sample()["image"].flip(-1), atol=1e-5, rtol=0)


def test_evaluation_transform_leaves_an_image_of_the_right_size_alone():
    original = sample()
    assert torch.equal(EvaluationTransform(64)(original)["image"], original["image"])
    assert EvaluationTransform(32)(original)["image"].shape == (1, 32, 32)


def test_canvas_centres_the_image_and_keeps_the_light_of_a_thin_line():
    image = torch.zeros(1, 512, 256)
    image[:, :, 129] = 1
    canvas = fit_to_canvas(image, (64, 64))
    assert canvas[:, :, :16].sum() == 0
    assert canvas[:, :, 48:].sum() == 0
    # One of eight columns is bright; without antialiasing the line would vanish or double.
    torch.testing.assert_close(canvas[0].sum(1), torch.full((64,), 1 / 8), atol=0.005, rtol=0)


@pytest.mark.parametrize("image", [torch.zeros(5, 5), torch.zeros(1, 0, 5)])
def test_canvas_refuses_what_is_no_image(image):
    with pytest.raises(DataError, match="shape"):
        fit_to_canvas(image, (8, 8))


def test_training_transform_manages_three_hundred_images_a_second_on_one_core():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        transform, original = TrainingTransform(128), sample(128, 128)
        best = float("inf")
        for _ in range(5):
            start = time.process_time()
            for _ in range(40):
                transform(original)
            best = min(best, (time.process_time() - start) / 40)
    finally:
        torch.set_num_threads(threads)
    assert best < 1 / 300
