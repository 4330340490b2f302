"""Small synthetic volumes in NIfTI: ``python -m examples.segmentation.volumes data/volumes`` writes three sites.

A body, an organ in it and in most patients a lesion in the organ. Each site has a scanner of its own: voxel size, the
direction in which it counts voxels, grey values and noise differ.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

SIZE_MM = (64.0, 64.0, 48.0)

BACKGROUND, ORGAN, LESION = 0, 1, 2


@dataclass(frozen=True)
class Scanner:
    """What differs between sites.

    Args:
        voxel_mm: side of a voxel within a slice and distance of slices.
        direction: 1 or -1 for each axis: whether voxels are counted to the right, to the front and upwards.
        body: grey value of the body; organ and lesion are brighter by ``contrast`` and twice that.
        contrast: see ``body``.
        noise: standard deviation of the grey values.
    """

    voxel_mm: tuple[float, float, float]
    direction: tuple[int, int, int]
    body: float
    contrast: float
    noise: float


SCANNERS = {
    "north": Scanner((2.0, 2.0, 2.0), (1, 1, 1), 40, 60, 12),
    "south": Scanner((1.6, 1.6, 3.0), (-1, -1, 1), 300, 160, 50),
    "west": Scanner((2.5, 2.5, 2.0), (-1, 1, 1), -20, 90, 25),
}


def write_site(folder: Path, scanner: Scanner, patients: int, seed: int) -> None:
    """Write ``images/NAME.nii.gz`` (int16) and ``labels/NAME.nii.gz`` (uint8: 0 none, 1 organ, 2 lesion).

    Args:
        folder: the site's folder.
        scanner: how its volumes look.
        patients: how many; each has one volume.
        seed: of the anatomy and the noise.
    """
    random = np.random.default_rng(seed)
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for patient in range(patients):
        image, label = _volume(scanner, random)
        affine = np.diag([*np.multiply(scanner.voxel_mm, scanner.direction), 1.0])
        for kind, voxels in (("images", image), ("labels", label)):
            nibabel.save(nibabel.Nifti1Image(voxels, affine), folder / kind / f"patient{patient:03d}.nii.gz")


def _volume(scanner: Scanner, random: np.random.Generator) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    shape = [round(size / voxel) for size, voxel in zip(SIZE_MM, scanner.voxel_mm, strict=True)]
    # In mm from the middle, to the right, to the front and upwards, whatever way the voxels are counted.
    axes = [
        (np.arange(count) - (count - 1) / 2) * voxel * way
        for count, voxel, way in zip(shape, scanner.voxel_mm, scanner.direction, strict=True)
    ]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    organ_at = np.array([9.0, 4.0, 0.0]) + random.normal(0, 2, 3)
    organ_size = np.array([14.0, 12.0, 13.0]) * random.uniform(0.85, 1.15)
    lesion_at = organ_at + random.uniform(-0.4, 0.4, 3) * organ_size
    body = _inside(grid, np.zeros(3), np.array([29.0, 25.0, 40.0]))
    organ = _inside(grid, organ_at, organ_size)
    lesion = organ & _inside(grid, lesion_at, np.full(3, random.uniform(6, 9))) & (random.random() < 0.8)
    label = np.where(lesion, LESION, np.where(organ, ORGAN, BACKGROUND))
    grey = np.where(body, scanner.body + scanner.contrast * label, scanner.body - scanner.contrast)
    return (grey + random.normal(0, scanner.noise, shape)).astype(np.int16), label.astype(np.uint8)


def _inside(grid: NDArray[np.float64], centre: NDArray[np.float64], radii: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.asarray((((grid - centre) / radii) ** 2).sum(-1) < 1)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.segmentation.volumes", description=__doc__)
    parser.add_argument("root", type=Path, help="folder of the study; each site becomes a folder in it")
    parser.add_argument("--patients", type=int, default=20, help="patients of each site")
    options = parser.parse_args()
    for seed, (site, scanner) in enumerate(SCANNERS.items()):
        write_site(options.root / site, scanner, options.patients, seed)
    print(f"{len(SCANNERS)} sites with {options.patients} volumes each are in {options.root}.")


if __name__ == "__main__":
    main()
