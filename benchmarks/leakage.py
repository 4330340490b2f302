"""What an attacker gets from what leaves a site, with each protection and without: pictures, curves and numbers.

    python benchmarks/leakage.py --out runs/leakage

Writes `leakage-inversion.png`, `leakage-membership.png`, `results.json` and `tables.md` (also printed). The attacks and
what they are tried on are in `gradient_inversion.py`, `membership_inference.py` and `leakage_victim.py`;
`docs/leakage.md` reads the results.
"""

import argparse
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from gradient_inversion import (
    COHORT,
    Reconstruction,
    best_of,
    identified,
    messages,
    recovered,
    searched,
    without_a_message,
)
from leakage_victim import SIDE, Classifier, Convolutional, crafted, radiographs
from matplotlib.figure import Figure
from membership_inference import Attack, evaluated, likelihood_ratios, train_all
from PIL import Image
from scipy.stats import binomtest
from torch import Tensor

matplotlib.use("Agg")
from matplotlib import pyplot

IMAGES_SEED, PUBLIC_SEED, LIST_SEED, POOL_SEED = 7, 1000, 50, 3
NOTHING = "no message"
ROWS = {
    "perceptron": "perceptron:\nread off",
    "convolutional": "convolutional:\nsearched",
    "chosen": "model chosen by\nthe coordinator:\nread off",
}

Inversions = dict[str, dict[str, list[Reconstruction]]]


def inversions(targets: int) -> tuple[Tensor, Inversions]:
    """The images, and what each attack makes of each of them, by model and message."""
    public, _ = radiographs(100, PUBLIC_SEED)
    images, labels = radiographs(max(targets, COHORT), IMAGES_SEED)
    models = {"perceptron": Classifier(), "convolutional": Convolutional(), "chosen": crafted(public)}
    found: Inversions = {}
    for name, model in models.items():
        found[name] = {NOTHING: [without_a_message(public, image) for image in images[:targets]]}
        for kind, send in messages(model).items():
            found[name][kind] = []
            for target in range(targets):
                order = [(target + k) % len(images) for k in range(COHORT)]
                held = send(images[order], labels[order])
                target_label = labels[target : target + 1]
                pictures = searched(held, model, target_label) if name == "convolutional" else recovered(held)
                found[name][kind].append(best_of(pictures, images[target]))
    return images[:targets], found


def draw_inversions(path: Path, images: Tensor, found: Inversions) -> None:
    """Another original for each model and the pictures made of it side by side, with their PSNR in dB."""
    kinds = list(found["perceptron"])
    rows = [(name, number % len(images)) for number, name in enumerate(found)]
    size = (1.15 * (len(kinds) + 1) + 0.6, 1.5 * len(rows) + 0.4)
    figure, grid = pyplot.subplots(len(rows), len(kinds) + 1, figsize=size, layout="constrained")
    for line, (name, target) in zip(grid, rows, strict=True):
        line[0].imshow(images[target].view(SIDE, SIDE), cmap="gray", vmin=0, vmax=1)
        line[0].set_ylabel(ROWS[name], fontsize=7)
        for axes, kind in zip(line[1:], kinds, strict=True):
            result = found[name][kind][target]
            axes.imshow(result.picture.view(SIDE, SIDE), cmap="gray", vmin=0, vmax=1)
            axes.set_xlabel(f"{_decibels(result.psnr)} dB", fontsize=7, labelpad=2)
    for axes, title in zip(grid[0], ["original", *kinds], strict=True):
        axes.set_title(title.replace(", ", ",\n"), fontsize=7)
    for axes in grid.flat:
        axes.set_xticks([])
        axes.set_yticks([])
    _save(figure, path)


def memberships(models: int) -> tuple[dict[str, Attack], dict[str, Attack], dict[str, tuple[float, float]]]:
    """The likelihood-ratio attack, the plain loss threshold, and the models' accuracy, by how they were trained."""
    by_ratio, by_loss, accuracy = {}, {}, {}
    for name, epsilon in {"plain": None, "DP, epsilon 8": 8.0, "DP, epsilon 1": 1.0}.items():
        trained = train_all(models, epsilon, POOL_SEED)
        by_ratio[name] = evaluated(likelihood_ratios(trained), trained.members)
        by_loss[name] = evaluated(trained.confidence, trained.members)
        accuracy[name] = trained.accuracy
    return by_ratio, by_loss, accuracy


def draw_memberships(path: Path, attacks: Mapping[str, Attack]) -> None:
    """ROC curves, on plain axes and on logarithmic ones, which show the few that are found for certain."""
    figure, (plain, logarithmic) = pyplot.subplots(1, 2, figsize=(7.5, 3.6))
    for axes in (plain, logarithmic):
        for name, attack in attacks.items():
            axes.plot(*attack.curve, label=f"{name}: AUC {attack.auc:.2f}", linewidth=1.5)
        rates = np.geomspace(1e-4, 1, 100)
        axes.plot(rates, rates, "k:", linewidth=1, label="chance")
        axes.set_xlabel("share of non-members accused", fontsize=8)
        axes.set_ylabel("share of members found", fontsize=8)
        axes.tick_params(labelsize=7)
    logarithmic.set(xscale="log", yscale="log", xlim=(1e-3, 1), ylim=(1e-3, 1))
    plain.legend(fontsize=7, loc="lower right")
    figure.tight_layout()
    _save(figure, path)


def inversion_table(found: Inversions) -> str:
    """PSNR and SSIM by model and message: the mean over the targets, and the best for the attacker."""
    names = {"perceptron": "perceptron", "convolutional": "convolutional", "chosen": "model chosen by the coordinator"}
    lines = ["| message | " + " | ".join(names[name] for name in found) + " |", "| --- |" + " --- |" * len(found)]
    for kind in found["perceptron"]:
        cells = []
        for name in found:
            psnrs = [result.psnr for result in found[name][kind]]
            ssim = np.mean([result.ssim for result in found[name][kind]])
            cells.append(f"{_decibels(float(np.mean(psnrs)))} (best {_decibels(max(psnrs))}) dB, {ssim:.2f}")
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def list_table(right: Mapping[str, int], trials: int) -> str:
    """How often the image was picked from the list, with exact intervals."""
    lines = ["| message | right picks | 95 % interval |", "| --- | --- | --- |"]
    for kind, count in right.items():
        interval = binomtest(count, trials).proportion_ci()
        lines.append(f"| {kind} | {count} of {trials} | {interval.low:.0%} to {interval.high:.0%} |".replace("%", " %"))
    return "\n".join(lines)


def membership_table(
    by_ratio: Mapping[str, Attack], by_loss: Mapping[str, Attack], accuracy: Mapping[str, tuple[float, float]]
) -> str:
    """AUC and TPR at 1 % FPR with intervals, and what the training cost in accuracy."""
    lines = [
        "| training | AUC | found at 1 % false alarms | AUC, loss alone | accuracy on members | on others |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, attack in by_ratio.items():
        cells = [
            f"{attack.auc:.2f} ({attack.auc_interval[0]:.2f} to {attack.auc_interval[1]:.2f})",
            f"{attack.found:.1%} ({attack.found_interval[0]:.1%} to {attack.found_interval[1]:.1%})",
            f"{by_loss[name].auc:.2f}",
            f"{accuracy[name][0]:.2f}",
            f"{accuracy[name][1]:.2f}",
        ]
        lines.append(f"| {name} | " + " | ".join(cells).replace("%", " %") + " |")
    return "\n".join(lines)


def _save(figure: Figure, path: Path) -> None:
    """With few colours: noise in all of them would make a large file."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=90)
    pyplot.close(figure)
    Image.open(drawn).convert("RGB").quantize(32, dither=Image.Dither.NONE).save(path, optimize=True)


def _decibels(psnr: float) -> str:
    return f"{psnr:.0f}" if psnr < 100 else "over 100"


def _numbers(found: Inversions, right: Mapping[str, int], by_ratio: Mapping[str, Attack]) -> dict[str, Any]:
    return {
        "inversion": {
            name: {kind: [[r.psnr, r.ssim] for r in results] for kind, results in kinds.items()}
            for name, kinds in found.items()
        },
        "picked_from_the_list": dict(right),
        "membership": {
            name: {
                "auc": attack.auc,
                "auc_interval": attack.auc_interval,
                "tpr_at_1_percent_fpr": attack.found,
                "tpr_interval": attack.found_interval,
            }
            for name, attack in by_ratio.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for pictures and tables")
    parser.add_argument("--targets", type=int, default=4, help="images to reconstruct, with each model and message")
    parser.add_argument("--trials", type=int, default=100, help="rounds in which to pick an image from a list")
    parser.add_argument("--candidates", type=int, default=100, help="length of that list")
    parser.add_argument("--models", type=int, default=32, help="models of the membership attack, an even number")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # models this small only lose by more
    images, found = inversions(arguments.targets)
    draw_inversions(arguments.out / "leakage-inversion.png", images, found)
    tables = [inversion_table(found)]
    print(tables[-1], flush=True)
    right = {
        kind: identified(Classifier(), kind, arguments.trials, arguments.candidates, LIST_SEED)
        for kind in messages(Classifier())
    }
    tables.append(list_table(right, arguments.trials))
    print(tables[-1], flush=True)
    by_ratio, by_loss, accuracy = memberships(arguments.models)
    draw_memberships(arguments.out / "leakage-membership.png", by_ratio)
    tables.append(membership_table(by_ratio, by_loss, accuracy))
    print(tables[-1])
    (arguments.out / "tables.md").write_text("\n\n".join(tables) + "\n")
    (arguments.out / "results.json").write_text(json.dumps(_numbers(found, right, by_ratio), indent=2) + "\n")


if __name__ == "__main__":
    main()
