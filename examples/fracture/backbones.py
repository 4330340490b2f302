"""A network of torchvision from a local checkpoint file, with a head of its own for grey images."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer, get_model
from torchvision.models.vision_transformer import ConvStemConfig, interpolate_embeddings

from examples.fracture.batchnorm import Classifier
from lightning_fed.callbacks.finetuning import checkpoint_state, load_backbone
from lightning_fed.errors import ConfigError

SMALL_TRANSFORMER = "vit_192"
"""Torchvision's VisionTransformer in a size for small images and one processor core: patches of 8 x 8 pixels, six
layers of 192 values. None is published, so it may have what learns from few images: patches through convolutions (Xiao
et al. 2021, Early Convolutions Help Transformers See Better, arXiv 2106.14881)."""

# Mean and deviation of the photographs that published weights were trained on: torchvision's own presets.
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class BackboneClassifier(Classifier):
    """Binary classifier of grey images on a network for colour photographs.

    A grey image is given as all three colours, standardised as the published weights expect, so that the network stays
    as it is published, with its names and shapes. Its last linear layer is left out, and ``head`` stands in its place.

    Args:
        backbone: name of one of torchvision's classification networks (``resnet50``, ``densenet121``, ``vit_b_16``,
            ``convnext_tiny``, ...; see ``torchvision.models.list_models``), or ``vit_192``.
        checkpoint: local file with the network's weights, as torchvision publishes them: a state dict, whose last layer
            is ignored. Without, weights are random. Nothing is downloaded.
        size: side of the images in pixels. A transformer's position embeddings are interpolated to it.
        lr: learning rate of AdamW.

    Raises:
        ConfigError: there is no such network, or the file does not hold its weights.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, backbone: str, checkpoint: str | Path | None = None, size: int = 56, lr: float = 5e-4) -> None:
        super().__init__(lr)
        self.backbone, features, last = headless(backbone, size)
        if checkpoint is not None:
            _load(self.backbone, last, Path(checkpoint), size)
        self.head = nn.Linear(features, 1)
        for name, values in (("mean", _MEAN), ("deviation", _DEVIATION)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Return a logit for each image: float32 ``(B, 1, size, size)`` in [0, 1] to ``(B,)``."""
        logits: Tensor = self.head(self.features(image))
        return logits.flatten()

    def features(self, image: Tensor) -> Tensor:
        """Return what the backbone makes of such images, float32 ``(B, F)``."""
        features: Tensor = self.backbone((image - self.mean) / self.deviation)
        return features


def headless(name: str, size: int) -> tuple[nn.Module, int, str]:
    """A network of torchvision with random weights that gives features: its last linear layer passes its input on.

    Args:
        name: as ``BackboneClassifier`` takes it.
        size: side of its images, which a transformer's position embeddings depend on.

    Returns:
        The network, the number of its features, and the name of the layer left out.

    Raises:
        ConfigError: there is no network of that name, or its last linear layer is not its last layer.
    """
    if name == SMALL_TRANSFORMER:
        stem = [ConvStemConfig(channels, kernel_size=3, stride=2) for channels in (24, 48, 96)]
        network: nn.Module = VisionTransformer(size, 8, 6, 3, 192, 768, conv_stem_configs=stem)
    else:
        try:
            network = get_model(name, weights=None, **({"image_size": size} if name.startswith("vit_") else {}))
        except ValueError as error:
            raise ConfigError(
                f"torchvision has no network {name!r}; torchvision.models.list_models() has all."
            ) from error
    linear = [layer for layer, module in network.named_modules() if isinstance(module, nn.Linear)]
    leaves = [layer for layer, module in network.named_modules() if not list(module.children())]
    if not linear or linear[-1] != leaves[-1]:
        raise ConfigError(f"{name!r} does not end in a linear layer, in whose place a head could stand.")
    last = network.get_submodule(linear[-1])
    assert isinstance(last, nn.Linear)
    network.set_submodule(linear[-1], nn.Identity())
    return network, last.in_features, linear[-1]


def _load(network: nn.Module, last: str, path: Path, size: int) -> None:
    state = checkpoint_state(path)
    if any(name.startswith("backbone.") for name in state):
        # A checkpoint of this module, head and all.
        state = {name.removeprefix("backbone."): t for name, t in state.items() if name.startswith("backbone.")}
    more = sorted(state.keys() - network.state_dict().keys() - {f"{last}.weight", f"{last}.bias"})
    if isinstance(network, VisionTransformer):
        wanted, found = network.encoder.pos_embedding, state.get("encoder.pos_embedding")
        # Of another width it is another network's, which the loading says.
        if found is not None and found.ndim == 3 and found.shape[2] == wanted.shape[2]:
            state = dict(interpolate_embeddings(size, network.patch_size, state))  # type: ignore[arg-type]
    load_backbone(network, "backbone", state, path.name)
    if more:
        # All of a ResNet-18 is in a ResNet-34's file, too, and would not be the network that was trained.
        raise ConfigError(
            f"the checkpoint {path.name} is of a larger network: it has {more[0]!r} and {len(more) - 1} tensors more. "
            "Name the network that it is of."
        )
