"""Small synthetic chests as PNG files: ``python -m examples.findings.chests data/chests`` writes three sites.

Each site's folder holds the pictures and ``findings.csv`` with a column for each finding. Findings come together or
alone; sites differ in exposure, noise and in how often they see each finding.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from examples.findings.data import FINDINGS

# Share of the images with each finding, brightness and noise.
SITES = {
    "north": ((0.5, 0.3, 0.2), 1.0, 6.0),
    "south": ((0.2, 0.5, 0.3), 0.7, 12.0),
    "west": ((0.3, 0.2, 0.5), 1.2, 9.0),
}
_SIDE = 64


def write_site(folder: Path, site: str, patients: int, seed: int) -> None:
    """Write a site's pictures, two of each patient with the same findings, and its table.

    Args:
        folder: the site's folder.
        site: one of ``SITES``.
        patients: how many.
        seed: of findings, anatomy and noise.
    """
    shares, brightness, noise = SITES[site]
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "findings.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file", "patient_id", *FINDINGS])
        for patient in range(patients):
            findings = [int(random.random() < share) for share in shares]
            for view in range(2):
                name = f"p{patient:04d}_{view}.png"
                grey = _chest(findings, random) * brightness + random.normal(0, noise, (_SIDE, _SIDE))
                Image.fromarray(grey.clip(0, 255).astype(np.uint8)).save(folder / name)
                table.writerow([name, f"p{patient:04d}", *findings])


def _chest(findings: list[int], random: np.random.Generator) -> NDArray[np.float64]:
    nodule, effusion, enlarged_heart = findings
    rows, columns = np.mgrid[0:_SIDE, 0:_SIDE] - (_SIDE - 1) / 2
    grey = np.full((_SIDE, _SIDE), 150.0)
    lungs = [_inside(rows, columns, -2, side * 15, 22, 11) for side in (-1, 1)]
    grey[lungs[0] | lungs[1]] = 50
    grey[_inside(rows, columns, 8, 4, 11, random.uniform(14, 16) if enlarged_heart else random.uniform(8, 10))] = 160
    if effusion:
        grey[(lungs[0] | lungs[1]) & (rows > random.uniform(5, 10))] += 60
    if nodule:
        grey[_inside(rows, columns, random.uniform(-16, -4), random.choice([-1, 1]) * random.uniform(11, 18), 3, 3)] = (
            140
        )
    return grey


def _inside(
    rows: NDArray[np.float64], columns: NDArray[np.float64], row: float, column: float, height: float, width: float
) -> NDArray[np.bool_]:
    return np.asarray(((rows - row) / height) ** 2 + ((columns - column) / width) ** 2 < 1)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.findings.chests", description=__doc__)
    parser.add_argument("root", type=Path, help="folder of the study; each site becomes a folder in it")
    parser.add_argument("--patients", type=int, default=150, help="patients of each site")
    options = parser.parse_args()
    for seed, site in enumerate(SITES):
        write_site(options.root / site, site, options.patients, seed)
    print(f"{len(SITES)} sites with {options.patients} patients each are in {options.root}.")


if __name__ == "__main__":
    main()
