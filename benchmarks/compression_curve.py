"""Accuracy against uploaded bytes over a whole run, with either way to make up for what is not sent.

    python benchmarks/compression_curve.py [--seeds 3] [--picture docs/pictures/compression-bytes.png]

By the sessions of ``compression.py``. Four tables. On its digits every site takes part in each round and trains with
SGD, or with AdamW; or four of the eight, drawn anew in each round, with SGD. On wrists (``wrist_task``) four hospitals
go on from a published model with AdamW. A table has the accuracy (of wrists the AUROC) after some rounds, mean over the
seeds, the standard deviation over the seeds after the last round, and the kilobytes that a site sends in a round that
it takes part in (ballots and updates). Below it are accuracies at equal kilobytes. Votes are really masked: 8 bits on
digits, 12 on wrists.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from compression import Task, Way, dense, measured, own, vote
from compression_tasks import Digits
from wrist_task import Wrists

BUDGETS = (5, 10, 20, 40, 80, 160)
"""Kilobytes that a site may have sent."""


BOUND_ALIKE = 0.25
"""Likewise where sites count alike, as with EF21: its values are not weighted. Seeds 100 and 101 have at most 0.24."""


def with_feedback(way: Way, name: str, feedback: Literal["residual", "ef21"]) -> Way:
    masking = replace(way.masking, bound=BOUND_ALIKE) if feedback == "ef21" else way.masking
    compression = replace(way.compression, feedback=feedback)
    return replace(way, name=f"{name}, {feedback}", compression=compression, masking=masking)


def both(way: Way, name: str) -> list[Way]:
    """A way with either feedback."""
    return [with_feedback(way, name, "residual"), with_feedback(way, name, "ef21")]


DENSE = replace(dense(), name="dense float32")
DIGITS = [
    DENSE,
    *both(vote(0.106, 8, 32), "vote 10.6 %"),
    *both(vote(0.045, 8, 32), "vote 4.5 %"),
    *both(own(0.02, "int4"), "own top-k 2 % int4"),
]
WRISTS = [DENSE, *both(vote(0.05, 12, 32), "vote 5 %"), *both(own(0.02, "int4"), "own top-k 2 % int4")]


@dataclass(frozen=True)
class Setting:
    """One of the federations.

    Attributes:
        after: rounds whose score is printed, the last of all too.
        cohort: sites in a round; None for all.
    """

    name: str
    task: Callable[[int], Task]
    ways: Sequence[Way]
    after: Sequence[int]
    cohort: int | None = None


SETTINGS = (
    Setting("digits, SGD", Digits, DIGITS, (2, 5, 10, 15, 20, 30, 40)),
    Setting("digits, AdamW", partial(Digits, adamw=True), DIGITS, (2, 5, 10, 15, 20, 30, 40)),
    Setting("digits, SGD, 4 of 8 sites a round", Digits, DIGITS, (2, 5, 10, 15, 20, 30, 40), cohort=4),
    Setting("wrists, AdamW, from a published model", Wrists, WRISTS, (1, 2, 4, 6, 8, 12, 16, 20)),
)


@dataclass(frozen=True)
class Curve:
    """One way's scores, by seed and round, and the kilobytes of one round of one site."""

    name: str
    scores: Sequence[Sequence[float]]
    kilobytes: float

    def after(self, round: int) -> float:
        """Mean score after a round."""
        return statistics.fmean(scores[round - 1] for scores in self.scores)

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds after the last round."""
        last = [scores[-1] for scores in self.scores]
        return statistics.stdev(last) if len(last) > 1 else 0.0


def curves(setting: Setting, seeds: int) -> list[Curve]:
    """Every way in one setting, printed as it goes."""
    rounds = setting.after[-1]
    tasks = [setting.task(seed) for seed in range(seeds)]
    begun = statistics.fmean(task.score(task.initial) for task in tasks)
    print(f"\n{setting.name}: accuracy after rounds, mean of {seeds} seeds; {begun:.3f} before the first")
    print(f"{'':30}" + "".join(f"{f'@{round}':>8}" for round in setting.after) + f"{'spread':>8}{'KB a round':>12}")
    found = []
    for way in setting.ways:
        drawn = replace(way, cohort=setting.cohort)
        runs = [measured(drawn, task, rounds, range(1, rounds + 1)) for task in tasks]
        curve = Curve(way.name, [run["scores"] for run in runs], statistics.fmean(run["payload"] for run in runs) / 1e3)
        found.append(curve)
        print(
            f"{way.name:30}"
            + "".join(f"{curve.after(round):8.3f}" for round in setting.after)
            + f"{curve.spread:8.3f}{curve.kilobytes:12.3f}",
            flush=True,
        )
    print(f"\n{'at so many KB':30}" + "".join(f"{budget:8}" for budget in BUDGETS))
    for curve in found:
        within = [int(budget / curve.kilobytes) for budget in BUDGETS]
        cells = [f"{curve.after(round):.3f}" if 1 <= round <= rounds else "-" for round in within]
        print(f"{curve.name:30}" + "".join(f"{cell:>8}" for cell in cells), flush=True)
    return found


def draw(tables: Sequence[tuple[Setting, Sequence[Curve]]], path: Path) -> None:
    """Write a picture: accuracy against kilobytes, a line for each way, the seeds' range behind it."""
    # Imported here: the tables need no matplotlib.
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    colours = {"dense float32": "black", "vote 10.6 %": "C0", "vote 5 %": "C0", "vote 4.5 %": "C1"}
    figure, every = pyplot.subplots(1, len(tables), figsize=(4 * len(tables), 4.8), dpi=80)
    for axes, (setting, found) in zip(every, tables, strict=True):
        for curve in found:
            kind, _, feedback = curve.name.partition(", ")
            columns = list(zip(*curve.scores, strict=True))
            sent = [round * curve.kilobytes for round in range(1, len(columns) + 1)]
            colour, style = colours.get(kind, "C2"), "--" if feedback == "residual" else "-"
            axes.plot(sent, [statistics.fmean(column) for column in columns], style, color=colour, label=curve.name)
            axes.fill_between(sent, [*map(min, columns)], [*map(max, columns)], color=colour, alpha=0.08, linewidth=0)
        axes.set_xscale("log")
        axes.set_title(setting.name, fontsize=10)
        axes.set_xlabel("KB that a site has sent")
        axes.grid(linewidth=0.3)
        axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncol=2, frameon=False)
    every[0].set_ylabel("accuracy; of wrists AUROC")
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--picture", type=Path, help="file to write, .png or .svg")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tables = [(setting, curves(setting, options.seeds)) for setting in SETTINGS]
    if options.picture:
        draw(tables, options.picture)


if __name__ == "__main__":
    main()
