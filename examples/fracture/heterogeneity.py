"""Hospitals whose scanners differ strongly: every method beside FedAvg, local-only and centralised training.

``python -m examples.fracture.study --scanners strong`` runs it: whole federations in one process, under masks, a few
seconds each. What was finished before, in runs/heterogeneity, is not done again.
"""

import json
import logging
import statistics
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from examples.fracture.methods import ALONE, METHODS, ROUNDS, TOGETHER, WIDTH
from examples.fracture.trials import Data, Scores, study, trial, unseen

RUNS = Path("runs/heterogeneity")
STRENGTH = 1.0
Rows = dict[str, list[dict[str, Scores]]]
"""By method: for each seed, the scores by site."""

SEEN = (*ALONE, *TOGETHER, *METHODS)
_UNSEEN = ("FedAvg", "SiloBN", "Histogram", "Turned", "Turned, Histogram", "Energy", "Energy + FedDyn")
UNSEEN = (*TOGETHER, *_UNSEEN)
"""What is compared at hospitals that took part, and at one that did not."""


def compare(sites: int, seeds: int, methods: Sequence[str], leave_one_out: bool) -> Rows:
    """The scores of each method with strong scanner shift; left out, a site is tested without AdaBN and with it."""
    quieten()
    torch.set_num_threads(1)
    place = RUNS / f"sites{sites}-strength{STRENGTH:g}-rounds{ROUNDS}-width{WIDTH}"
    studies: dict[int, Data] = {}

    def data(seed: int) -> Data:
        if seed not in studies:
            studies.clear()
            studies[seed] = study(sites, seed, STRENGTH)
        return studies[seed]

    rows: Rows = {}
    # Seed by seed, so that an interrupted run leaves whole comparisons behind.
    for seed in range(seeds):
        for name in methods:
            if leave_one_out:
                pair = kept(place / f"unseen-{name}-{seed}.json", lambda: unseen(name, data(seed), seed, (False, True)))  # noqa: B023
                for scores, suffix in zip(pair, ("", " + AdaBN"), strict=True):
                    rows.setdefault(name + suffix, []).append(scores)
            else:
                scores = kept(place / f"{name}-{seed}.json", lambda: trial(name, data(seed), seed))  # noqa: B023
                rows.setdefault(name, []).append(scores)
    return rows


def quieten() -> None:
    """A trial makes a Trainer for each site, and each would introduce itself."""
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")


def kept(path: Path, compute: Callable[[], object]) -> object:
    """The content of a file, computed and written if it is not there."""
    if not path.exists():
        content = compute()
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(content))
        part.rename(path)
        print(path.stem, flush=True)
    return json.loads(path.read_text())


def print_table(rows: Rows) -> None:
    """Mean and standard deviation over the seeds, as Markdown; gains are paired by seed."""
    print("\n| method | AUROC, mean of sites | gain over FedAvg | worst site's AUROC | sensitivity at 90 % | ECE |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, seeds in rows.items():
        mean = [over_sites(sites, "auroc") for sites in seeds]
        gain = [a - over_sites(b, "auroc") for a, b in zip(mean, rows.get("FedAvg", ()), strict=False)]
        cells = [
            spread(mean),
            spread(gain, "+.3f") if gain else "",
            spread([min(site["auroc"] for site in sites.values()) for sites in seeds]),
            spread([over_sites(sites, "sensitivity") for sites in seeds]),
            spread([over_sites(sites, "ece") for sites in seeds]),
        ]
        print(f"| {name} | {' | '.join(cells)} |")


def over_sites(sites: dict[str, Scores], score: str) -> float:
    """Mean of a score over the sites."""
    return statistics.fmean(site[score] for site in sites.values())


def spread(values: Sequence[float], form: str = ".3f") -> str:
    """Mean ± standard deviation."""
    deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):{form}}{deviation}"
