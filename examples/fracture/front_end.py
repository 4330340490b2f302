"""A fixed front end for private training: what is not trained needs no noise.

    python -m examples.fracture.front_end

writes ``front_end.safetensors`` beside this file again: mean and principal directions of the filters' answers over
radiographs of four synthetic hospitals that take part in no study here. Their labels are not read.
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
_KEPT = 128
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
        deviation, mean = torch.std_mean(image, dim=(1, 2, 3), keepdim=True)
        level = (image - mean) / (deviation + 1e-3)
        margin = self.filters.shape[-1] // 2
        answers = []
        for _ in range(_SCALES):
            waves = functional.conv2d(functional.pad(level, (margin,) * 4, mode="replicate"), self.filters)
            strength = (waves[:, 0::2].square() + waves[:, 1::2].square() + 1e-8).sqrt()
            answers.append(functional.adaptive_avg_pool2d(strength, _GRID))
            level = functional.avg_pool2d(level, 2)
        logs = (torch.cat(answers, dim=1) + 0.02).log()
        return functional.normalize((logs - logs.mean(dim=(2, 3), keepdim=True)).flatten(1), dim=1)


class FrontEnd(nn.Module):
    """The answers along 128 principal directions, as unit vectors.

    Every image has the same norm, so that clipping a linear layer's gradients cuts all of them alike. Directions that
    vary much are divided by the root of their deviation: left as they are, the first few would drown all others, and
    a step that noise allows would be too short for the rest.
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
        """Return float32 ``(B, 128)`` of norm 1 for images ``(B, 1, S, S)``."""
        with torch.no_grad():
            return functional.normalize((self.answers(image) - self.mean) @ self.directions, dim=1)


def principal_directions(answers: Tensor) -> dict[str, Tensor]:
    """Mean ``(576,)`` and scaled principal directions ``(576, 128)`` of answers ``(N, 576)``, in float16."""
    mean = answers.mean(dim=0)
    _, singular, transposed = torch.linalg.svd(answers - mean, full_matrices=False)
    deviations = singular[:_KEPT] / len(answers) ** 0.5
    directions = transposed[:_KEPT].T / deviations.sqrt()
    return {"mean": mean.half(), "directions": directions.half().contiguous()}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_study(f"{folder}/public", _PUBLIC, images_per_site=500, seed=1000)
        roots = [f"{folder}/public/{style.name}" for style in _PUBLIC]
        data = PooledRadiographs(
            roots, image_size=IMAGE_SIZE, batch_size=100, val_fraction=0.0, test_fraction=0.0, augment=False
        )
        data.setup("fit")
        answers = GaborAnswers()
        found = torch.cat([answers(batch["image"]) for batch in data.train_dataloader()])
    save_file(principal_directions(found), _FILE)
    print(f"{_FILE.name}: {found.shape[1]} answers of {len(found)} radiographs along {_KEPT} directions")


if __name__ == "__main__":
    main()
