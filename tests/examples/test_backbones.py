"""Transfer with torchvision's networks from a local checkpoint file."""

import math

import pytest
import torch
from torch import nn
from torchvision.models import get_model

from examples.fracture import backbone_transfer, stand_in
from examples.fracture.backbone_transfer import ADAPTED, FROZEN, STARTS, WHOLE
from examples.fracture.backbones import BackboneClassifier, headless
from examples.fracture.scanners import Images
from lightning_fed.callbacks.finetuning import FederatedFinetuning
from lightning_fed.errors import ConfigError
from lightning_fed.update.layout import layout_of


def images(seed: int, count: int = 16, size: int = 32) -> Images:
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(count) % 2
    image = 0.3 * torch.rand(count, 1, size, size, generator=generator)
    image[label == 1, :, 8:16] += 0.5
    return Images(image, label.float())


@pytest.fixture
def published(tmp_path):
    """A file as torchvision publishes it: a state dict of the colour network with its 1,000 classes."""

    def file(name, **settings):
        torch.manual_seed(5)
        path = tmp_path / f"{name}-0123abcd.pth"
        torch.save(get_model(name, weights=None, **settings).state_dict(), path)
        return path

    return file


def test_a_published_file_gives_its_features_for_a_grey_photograph(published):
    path = published("resnet18")
    model = BackboneClassifier("resnet18", path, size=32).eval()
    whole = get_model("resnet18", weights=None).eval()
    whole.load_state_dict(torch.load(path, weights_only=True))
    grey = torch.rand(2, 1, 32, 32)
    # As torchvision's preset standardises a colour image.
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    colour = (grey.expand(-1, 3, -1, -1) - mean[:, None, None]) / deviation[:, None, None]
    with torch.no_grad():
        torch.testing.assert_close(whole.fc(model.backbone(colour)), whole(colour))
        torch.testing.assert_close(model(grey), model.head(model.backbone(colour)).flatten())


@pytest.mark.slow
def test_a_transformers_position_embeddings_are_interpolated_to_the_images(published):
    path = published("vit_b_16")
    saved = torch.load(path, weights_only=True)
    model = BackboneClassifier("vit_b_16", path, size=64)
    assert saved["encoder.pos_embedding"].shape == (1, 1 + 14**2, 768)
    embedding = model.backbone.encoder.pos_embedding
    assert embedding.shape == (1, 1 + 4**2, 768)
    # The class's own is no place, and stays; the places' stay what they were about there.
    assert torch.equal(embedding[:, 0], saved["encoder.pos_embedding"][:, 0])
    first = "encoder.layers.encoder_layer_0.self_attention.in_proj_weight"
    assert torch.equal(model.backbone.state_dict()[first], saved[first])
    with torch.no_grad():
        assert model(torch.rand(2, 1, 64, 64)).shape == (2,)

    FederatedFinetuning("backbone", rank=4).setup(None, model, "fit")
    layout = layout_of(model)
    # Four values for each output: of the patches, and in 12 blocks of 3 + 1 projections and the MLP's two layers.
    assert layout.size == 4 * (768 + 12 * (4 * 768 + 3072 + 768)) + 768 + 1
    assert sum(spec.size for spec in layout.frozen) > 85_000_000


@pytest.mark.parametrize(
    ("name", "other", "says"),
    [
        ("resnet18", "resnet34", r"resnet34-0123abcd.pth is of a larger network: it has 'layer1.2.bn1"),
        ("resnet50", "resnet18", r"'layer1.0.conv1.weight' should be \[64, 64, 1, 1\], and it has \[64, 64, 3, 3\]"),
        ("densenet121", "resnet18", r"'features.conv0.weight' should be \[64, 3, 7, 7\], and it has nothing"),
        ("vit_192", "resnet18", r"'class_token' should be \[1, 1, 192\], and it has nothing"),
    ],
)
def test_the_file_of_another_network_is_refused_with_the_tensor_that_does_not_fit(published, name, other, says):
    path = published(other)
    with pytest.raises(ConfigError, match=says):
        BackboneClassifier(name, path, size=32)


def test_what_is_no_checkpoint_or_no_network_is_refused(tmp_path):
    path = tmp_path / "resnet18.pth"
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(ConfigError, match=r"resnet18.pth is none"):
        BackboneClassifier("resnet18", path)
    with pytest.raises(ConfigError, match=r"resnet18.pth cannot be read.*No such file"):
        BackboneClassifier("resnet18", tmp_path / "absent" / "resnet18.pth")
    with pytest.raises(ConfigError, match="torchvision has no network 'resnet51'"):
        BackboneClassifier("resnet51")
    with pytest.raises(ConfigError, match="'squeezenet1_0' does not end in a linear layer"):
        BackboneClassifier("squeezenet1_0")


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "efficientnet_b0", "convnext_tiny", "swin_t", "vgg11"])
def test_the_last_layer_of_torchvisions_families_is_left_out(name):
    network, features, _ = headless(name, 32)
    assert not any(isinstance(m, nn.Linear) and m.out_features == 1000 for m in network.modules())
    with torch.no_grad():
        assert network.eval()(torch.rand(1, 3, 32, 32)).shape == (1, features)


def test_whole_frozen_and_adapted_learn_from_a_file_and_send_ever_less(tmp_path):
    torch.manual_seed(5)
    path = tmp_path / "backbone.pth"
    torch.save(headless("vit_192", 32)[0].state_dict(), path)
    data = {"north": (images(1), images(3)), "east": (images(2), images(4))}
    found = {
        start: backbone_transfer.federated(data, "vit_192", path, start, seed=0, rounds=2, size=32) for start in STARTS
    }
    assert all(each["auroc"] > 0.9 for each in found.values()), found
    up, down = ([found[start][key] for start in (FROZEN, ADAPTED, WHOLE)] for key in ("up", "down"))
    assert up == sorted(up) and down == sorted(down)
    # Half of what is left is the first model, which one site gives.
    assert up[0] * 2 < up[2]
    assert all(math.isfinite(each["seconds"]) and each["seconds"] > 0 for each in found.values())


@pytest.mark.parametrize(("name", "channels"), [("resnet18", 128), ("vit_192", 192), ("densenet121", None)])
def test_a_network_is_taught_by_its_map_of_as_many_places_where_it_has_one(name, channels):
    student = stand_in.Student(BackboneClassifier(name), features=5, channels=3)
    image, label = torch.rand(2, 1, 56, 56), torch.tensor([0.0, 1.0])
    student.training_step([image, label, torch.rand(2, 5), torch.rand(2, 3, 7, 7)], 0).backward()
    assert student.predicted.weight.grad is not None
    if channels is None:
        assert student.predicted_map is None
    else:
        assert student.predicted_map.weight.grad.shape == (3, channels, 1, 1)


def test_a_made_checkpoint_is_kept_and_fits(tmp_path, monkeypatch):
    monkeypatch.setattr(stand_in, "site_images", lambda style, *_, **__: (images(1, size=56), images(2, size=56)))
    path = stand_in.made("resnet18", tmp_path / "made" / "backbone.pth", 1)
    written = path.stat().st_mtime_ns
    assert stand_in.made("resnet18", path, 1).stat().st_mtime_ns == written
    BackboneClassifier("resnet18", path)
