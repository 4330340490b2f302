"""A fixed front end for private training: what is not trained needs no noise.

    python -m examples.fracture.front_end

writes ``front_end.safetensors`` beside this file again: which way round a wrist is, and mean and principal directions
of the filters' answers, over radiographs of four synthetic hospitals that take part in no study here. Their labels are
not read.
"""

import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from lightning_fed.radiology import PooledRadiographs
from lightning_fed.radiology.oriented_energy import gabor_filters
from lightning_fed.radiology.synthetic.study import write_study
from lightning_fed.radiology.synthetic.style import default_sites

IMAGE_SIZE = 48
"""Side of the images that the directions were computed from, in pixels."""

_ORIENTATIONS, _WAVELENGTH, _SCALES, _GRID = 8, 4.0, 2, 6
_FINE_GRID = 12
_KEPT = 40
_PUBLIC = default_sites(8)[4:]
_FILE = Path(__file__).with_name("front_end.safetensors")


class GaborAnswers(nn.Module):
    """How strongly edges and lines of each direction and width are seen at each of 6 x 6 places.

    The logarithm takes exposure for an offset, and the mean of each filter over the picture is taken away, so that what
    is left is where there is more of a direction than elsewhere in the same picture.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filters", gabor_filters(_ORIENTATIONS, _WAVELENGTH), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Return unit vectors.

        Args:
            image: float32 ``(B, 1, S, S)``, any scale of grey.

        Returns:
            float32 ``(B, 576)``: two scales, eight directions, 6 x 6 places.
        """
        return functional.normalize(self.maps(image, _GRID).flatten(1), dim=1)

    def maps(self, image: Tensor, grid: int) -> Tensor:
        """Return the logarithms as maps, float32 ``(B, 16, grid, grid)``, each of mean 0."""
        deviation, mean = torch.std_mean(image, dim=(1, 2, 3), keepdim=True)
        level = (image - mean) / (deviation + 1e-3)
        margin = self.filters.shape[-1] // 2
        answers = []
        for _ in range(_SCALES):
            waves = functional.conv2d(functional.pad(level, (margin,) * 4, mode="replicate"), self.filters)
            strength = (waves[:, 0::2].square() + waves[:, 1::2].square() + 1e-8).sqrt()
            answers.append(functional.adaptive_avg_pool2d(strength, grid))
            level = functional.avg_pool2d(level, 2)
        logs = (torch.cat(answers, dim=1) + 0.02).log()
        return logs - logs.mean(dim=(2, 3), keepdim=True)


class FrontEnd(nn.Module):
    """The answers along 40 principal directions, of the wrist turned to one side, as unit vectors.

    A left wrist is a right one in the mirror. Of a picture and its mirror image the one is taken whose answers lie on
    the positive side of ``hand``, so that a layer behind this has to learn each place of a fracture once and not twice.

    Every image has the same norm, so that clipping a linear layer's gradients cuts all of them alike. Each direction is
    divided by its deviation: left as they are, the first few would drown all others, and the few steps that noise
    allows would be too short for the rest.
    """

    def __init__(self) -> None:
        super().__init__()
        self.answers = GaborAnswers()
        for name, tensor in load_file(_FILE).items():
            self.register_buffer(name, tensor.float(), persistent=False)

    @property
    def features(self) -> int:
        """Length of a feature vector."""
        return int(self.directions.shape[1])

    def forward(self, image: Tensor) -> Tensor:
        """Return float32 ``(B, 40)`` of norm 1 for images ``(B, 1, S, S)``, the same for their mirror images."""
        with torch.no_grad():
            answers, mirrored = self.answers(image), self.answers(image.flip(-1))
            turned = _turned(answers, mirrored, self.hand)
            return functional.normalize((turned - self.mean) @ self.directions, dim=1)


class TurnedMaps(nn.Module):
    """The answers as maps of 12 x 12 places, of the wrist turned to one side: what convolutions can go on with.

    ``hand`` of the front end's file says which way round a wrist is; nothing else is read from it.
    """

    channels = _SCALES * _ORIENTATIONS

    def __init__(self) -> None:
        super().__init__()
        self.answers = GaborAnswers()
        self.register_buffer("hand", load_file(_FILE)["hand"].float(), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Return float32 ``(B, 16, 12, 12)`` for images ``(B, 1, S, S)``, the same for their mirror images."""
        with torch.no_grad():
            mirrored = image.flip(-1)
            along = (self.answers(image) - self.answers(mirrored)) @ self.hand > 0
            maps: Tensor = self.answers.maps(torch.where(along[:, None, None, None], image, mirrored), _FINE_GRID)
            return maps


def _turned(answers: Tensor, mirrored: Tensor, hand: Tensor) -> Tensor:
    """Of each row of two ``(B, 576)`` the one that lies further along ``hand``, which is ``(576,)``."""
    return torch.where(((answers - mirrored) @ hand > 0)[:, None], answers, mirrored)


def directions_of(answers: Tensor, mirrored: Tensor) -> dict[str, Tensor]:
    """What ``FrontEnd`` knows of wrists, in float16.

    Args:
        answers: float32 ``(N, 576)``.
        mirrored: the answers to the same pictures in the mirror.

    Returns:
        ``hand``, ``(576,)``: the direction in which pictures and their mirror images differ most. Of the answers that
        lie along it, ``mean``, ``(576,)``, and ``directions``, ``(576, 40)``: the principal ones over their deviations.
    """
    hand = torch.linalg.svd(answers - mirrored, full_matrices=False)[2][0].half()
    turned = _turned(answers, mirrored, hand.float())
    mean = turned.mean(dim=0)
    _, singular, transposed = torch.linalg.svd(turned - mean, full_matrices=False)
    deviations = singular[:_KEPT] / len(turned) ** 0.5
    directions = transposed[:_KEPT].T / deviations
    return {"hand": hand, "mean": mean.half(), "directions": directions.half().contiguous()}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_study(f"{folder}/public", _PUBLIC, images_per_site=500, seed=1000)
        roots = [f"{folder}/public/{style.name}" for style in _PUBLIC]
        data = PooledRadiographs(
            roots, image_size=IMAGE_SIZE, batch_size=100, val_fraction=0.0, test_fraction=0.0, augment=False
        )
        data.setup("fit")
        answers = GaborAnswers()
        images = torch.cat([batch["image"] for batch in data.train_dataloader()])
    found, mirrored = (torch.cat([answers(part) for part in either.split(100)]) for either in (images, images.flip(-1)))
    save_file(directions_of(found, mirrored), _FILE)
    print(f"{_FILE.name}: {found.shape[1]} answers of {len(found)} radiographs along {_KEPT} directions")


if __name__ == "__main__":
    main()
