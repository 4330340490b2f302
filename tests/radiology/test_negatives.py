import numpy as np
import pydicom
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lightning_fed.errors import DataError
from lightning_fed.radiology import PooledRadiographs, RadiographDataModule, bone_bright, polarity, read_radiograph
from lightning_fed.radiology.harmonisation import landmark_sums, standard_scale
from lightning_fed.radiology.synthetic import default_sites, write_study


def limb(rows: int = 40, columns: int = 30) -> torch.Tensor:
    """A bright shaft before a darker background, every value between."""
    across = torch.linspace(-1, 1, columns).square().neg().exp()
    return (0.1 + 0.8 * across * torch.linspace(0.3, 1, rows)[:, None])[None]


@given(st.integers(0, 1000), st.integers(3, 40), st.integers(1, 12))
@settings(deadline=None, max_examples=50)
def test_it_is_the_difference_of_the_probabilities_of_brighter_and_darker(seed, columns, rows):
    # Few grey values, so that many pixels are alike.
    image = torch.randint(0, 6, (1, rows, columns), generator=torch.Generator().manual_seed(seed)).float() / 5
    edge, side = max(1, round(0.1 * columns)), round(0.25 * columns)
    picture = image[0].numpy()
    edges = np.concatenate([picture[:, :edge], picture[:, -edge:]], axis=1).ravel()
    differences = picture[:, side : columns - side].ravel()[:, None] - edges
    expected = (differences > 0).mean() - (differences < 0).mean()
    assert polarity(image) == pytest.approx(expected, abs=1e-12)
    assert polarity(1 - image) == pytest.approx(-expected, abs=1e-12)


def test_a_tone_curve_does_not_change_it_and_an_open_question_is_left_alone():
    image = limb()
    assert 0.5 < polarity(image) < 1
    assert polarity(image**3) == polarity(image)
    assert bone_bright(image) is image
    assert torch.equal(bone_bright(1 - image), 1 - (1 - image))
    for open_question in (
        torch.full((1, 8, 8), 0.4),
        torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(0)),
    ):
        assert abs(polarity(open_question)) < 0.1
        assert bone_bright(open_question) is open_question
        assert bone_bright(1 - open_question).equal(1 - open_question)
    assert bone_bright(1 - image, margin=1.0).equal(1 - image)


def limbs(rows: int = 60, columns: int = 50) -> dict[str, torch.Tensor]:
    """Right images, bone bright, of limbs that lie in other ways than upright in the middle."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns), indexing="ij")
    shapes = {
        # Wide where they leave the picture, as a wrist between hand and elbow.
        "horizontal": y.abs() / (0.3 + 0.5 * x.square()),
        "diagonal": (x - y).abs() / (0.1 + 0.5 * (x + y).square()),
        "other diagonal": (x + y).abs() / (0.1 + 0.5 * (x - y).square()),
        "at the left edge": (x + 1) / 0.4,
        "at the right edge": (1 - x) / 0.8,
    }
    return {name: (0.05 + (0.9 - 0.3 * shape) * (shape < 1))[None] for name, shape in shapes.items()}


@pytest.mark.parametrize("name", limbs())
def test_a_limb_that_does_not_stand_upright_in_the_middle_is_not_turned(name):
    image = limbs()[name]
    assert polarity(image) < -0.1  # its left and right edges together would have it turned
    for shutters in (0, 4):
        shown = torch.nn.functional.pad(image, (shutters,) * 4)
        for right in (shown, shown.transpose(1, 2), shown.flip(1), shown.flip(2)):
            assert bone_bright(right) is right


@pytest.mark.parametrize("shutters", [0, 4])
def test_a_negative_is_turned_with_its_shutters_if_the_limb_stands_upright(shutters):
    right = torch.nn.functional.pad(limb(), (shutters,) * 4)
    torch.testing.assert_close(bone_bright(1 - right), right)
    if not shutters:
        for name in ("horizontal", "at the left edge", "at the right edge"):
            negative = 1 - limbs()[name]
            assert bone_bright(negative) is negative


def test_a_negative_that_was_padded_with_black_is_left_alone():
    padded = torch.nn.functional.pad(1 - limb(), (6, 6, 6, 6))
    assert bone_bright(padded) is padded


def test_a_large_image_is_judged_like_a_small_one():
    assert polarity(limb(3000, 2000)) == pytest.approx(polarity(limb(300, 200)), abs=0.01)


@pytest.mark.parametrize("shape", [(40, 30), (3, 40, 30), (1, 40, 2), (1, 0, 30)])
def test_what_is_no_image_is_refused(shape):
    with pytest.raises(DataError, match="at least 3 columns"):
        polarity(torch.zeros(shape))
    with pytest.raises(DataError, match="not finite"):
        polarity(torch.full((1, 4, 4), float("nan")))


def test_files_whose_headers_are_right_stay_and_those_without_are_turned(tmp_path):
    styles = default_sites(8)
    write_study(tmp_path, styles, images_per_site=6, seed=5)
    for style in styles:
        for path in sorted((tmp_path / style.name).rglob("*.dcm")):
            right = read_radiograph(path, size=(64, 64))
            assert read_radiograph(path, size=(64, 64), correct_polarity=True).equal(right)
            dataset = pydicom.dcmread(path)
            negative = style.photometric == "MONOCHROME1"
            dataset.PhotometricInterpretation = "MONOCHROME2" if negative else "MONOCHROME1"
            dataset.PresentationLUTShape = "IDENTITY" if negative else "INVERSE"
            dataset.save_as(path)
            assert (read_radiograph(path, size=(64, 64)) - right).abs().max() > 0.5
            found = read_radiograph(path, size=(64, 64), correct_polarity=True)
            torch.testing.assert_close(found, right, atol=1e-6, rtol=0)


@pytest.fixture
def folder(tmp_path, write_radiograph, scene):
    """A DICOM file with a lying header and a picture, both negatives."""
    stored = np.round(4095 * (1 - scene)).astype(int)
    write_radiograph(stored, "site/lies.dcm", bits=12, PatientID="A", WindowCenter=2048, WindowWidth=4096)
    Image.fromarray(np.uint8(np.round(255 * (1 - scene)))).save(tmp_path / "site/picture.png")
    (tmp_path / "site/labels.csv").write_text(
        "file,patient_id,fracture,split\nlies.dcm,A,0,train\npicture.png,B,1,train\n"
    )
    return tmp_path / "site"


@pytest.mark.parametrize(("which", "turned"), [("no", set()), ("pictures", {1}), ("all", {0, 1})])
@pytest.mark.parametrize("cache", [True, False])
def test_a_data_module_turns_what_it_is_told_to_and_leaves_its_canvas_black(folder, scene, which, turned, cache):
    data = RadiographDataModule(str(folder), image_size=40, augment=False, cache=cache, correct_polarity=which)
    expected = torch.from_numpy(scene).float()
    for index in range(2):
        image = data.dataset("train").image(index)[0]
        assert image[:, :4].abs().max() == image[:, 36:].abs().max() == 0
        torch.testing.assert_close(image[:, 4:36], expected if index in turned else 1 - expected, atol=3e-3, rtol=0)


def test_the_common_scale_is_found_after_turning(folder, scene):
    data = RadiographDataModule(str(folder), image_size=40, augment=False, harmonise=True, correct_polarity="all")
    canvas = torch.nn.functional.pad(torch.from_numpy(scene).float()[None], (4, 4))
    expected = standard_scale(landmark_sums([canvas]))
    assert data.shared_statistics() == pytest.approx(expected, abs=5e-3)
    other = RadiographDataModule(str(folder), image_size=40, augment=False, harmonise=True)
    assert other.shared_statistics() != pytest.approx(expected, abs=5e-2)


def test_pooled_sites_are_turned_as_each_alone(folder):
    settings = {"image_size": 40, "augment": False, "correct_polarity": "all"}
    (pooled,) = PooledRadiographs([str(folder)], batch_size=2, **settings).train_dataloader()
    own = RadiographDataModule(str(folder), **settings).dataset("train")
    # Shuffled, so the sums are compared.
    assert pooled["image"].sum((1, 2, 3)).sort().values.tolist() == pytest.approx(
        sorted(own.image(index).sum().item() for index in range(2)), rel=1e-5
    )
    assert pooled["image"][..., 0].max() == 0


def test_an_unknown_choice_is_refused(tmp_path):
    with pytest.raises(DataError, match="correct_polarity = 'yes' is unknown; allowed are no, pictures and all"):
        RadiographDataModule(str(tmp_path), correct_polarity="yes")
