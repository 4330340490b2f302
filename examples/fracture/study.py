"""Alone, together, or all in one place: the comparison on several synthetic studies.

    python -m examples.fracture.study [--seeds 3] [--config configs/fracture-study.yaml]
    python -m examples.fracture.study --scanners strong [--sites 4] [--methods FedAvg FedBN] [--figure FILE]
    python -m examples.fracture.study --scanners strong --leave-one-out

With the usual scanners, for each seed a study of its own is written (other patients, other fractures), a federation of
real processes trains on it from that seed, and so do each site alone and one model on all data; every model is tested
on the pooled test set. With strong differences between scanners every method for unlike hospitals is compared, see
``examples.fracture.heterogeneity``. What was finished before is not done again.
"""

import argparse
import dataclasses
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from examples.fracture import heterogeneity
from examples.fracture.figure import draw
from lightning_fed.radiology.synthetic.study import write_study
from lightning_fed.simulation import simulate
from lightning_fed.simulation.config import Simulation, read_config
from lightning_fed.simulation.expansion import deep_merge

IMAGES_PER_SITE = 400


def main() -> None:
    options = read_options()
    if options.scanners == "usual":
        print_table([aurocs(options.config, seed) for seed in range(options.seeds)])
        return
    rows = heterogeneity.compare(options.sites, options.seeds, options.methods, options.leave_one_out)
    heterogeneity.print_table(rows)
    if options.figure:
        draw(rows, options.figure)


def read_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; ends the program if its options do not fit together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scanners", choices=("usual", "strong"), default="usual", help="how much they differ")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--config", help="with usual scanners; configs/fracture-study.yaml unless given")
    parser.add_argument(
        "--sites", type=int, choices=(4, 8), help="with strong differences, like the rest; 4 unless given"
    )
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help="all unless given")
    parser.add_argument("--leave-one-out", action="store_true", help="test at a hospital that took no part")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw the results at each site")
    options = parser.parse_args(arguments)
    if options.seeds < 1:
        parser.error(f"--seeds {options.seeds}: at least 1 is needed")
    for name in ("sites", "methods", "leave_one_out", "figure") if options.scanners == "usual" else ("config",):
        if getattr(options, name):
            parser.error(f"--{name.replace('_', '-')} does not go with --scanners {options.scanners}")
    known = heterogeneity.UNSEEN if options.leave_one_out else heterogeneity.SEEN
    for name in options.methods or ():
        if name not in known:
            where = " with --leave-one-out" if options.leave_one_out else ""
            parser.error(f"--methods: there is no {name!r}{where}; choose from {', '.join(map(repr, known))}")
    options.config, options.sites = options.config or "configs/fracture-study.yaml", options.sites or 4
    options.methods = options.methods or known
    return options


def aurocs(config: str, seed: int) -> dict[str, float]:
    """AUROC on the pooled test set: mean of the sites alone, federated, pooled."""
    data = f"data/wrists-seed{seed}"
    write_study(data, images_per_site=IMAGES_PER_SITE, seed=seed)
    simulation = on_study(read_config(["--config", config]), data, seed, f"runs/study-seed{seed}")
    return comparison(results_of(simulation))


def on_study(simulation: Simulation, data: str, seed: int, run: str) -> Simulation:
    """The same simulation from a seed, in a folder of its own, on the study in the folder ``data``."""
    assert simulation.baselines is not None
    roots = [f"{data}/{site}" for site in simulation.sites]
    pooled = deep_merge(simulation.baselines.pooled, {"init_args": {"roots": roots}})
    return dataclasses.replace(
        simulation,
        run=run,
        seed=seed,
        data=deep_merge(simulation.data, {"init_args": {"root": f"{data}/{{site}}"}}),
        baselines=dataclasses.replace(simulation.baselines, pooled=pooled),
    )


def results_of(simulation: Simulation) -> dict[str, Any]:
    """Run it, unless that was done before, and give its ``results.json``; ends the program if it fails."""
    if code := simulate(simulation):
        sys.exit(code)
    results: dict[str, Any] = json.loads((Path(simulation.run) / "results.json").read_text())
    return results


def comparison(results: dict[str, Any]) -> dict[str, float]:
    """The three numbers of one run, from its ``results.json``."""
    baselines = results["baselines"]
    return {"local": baselines["local_mean"], "federated": baselines["federated"], "pooled": baselines["pooled"]}


def print_table(rows: list[dict[str, float]]) -> None:
    print(
        f"\n{'pooled-test AUROC':<20}{'each alone (mean)':>20}{'federated':>12}{'centralised':>14}{'gain':>8}{'gap':>8}"
    )
    for seed, row in enumerate(rows):
        print(_line(f"seed {seed}", row))
    mean = {name: statistics.fmean(row[name] for row in rows) for name in rows[0]}
    print(_line("mean", mean))
    if len(rows) > 1:
        spread = {name: statistics.stdev(row[name] for row in rows) for name in rows[0]}
        print(f"{'spread over seeds':<20}{spread['local']:20.3f}{spread['federated']:12.3f}{spread['pooled']:14.3f}")


def _line(name: str, row: dict[str, float]) -> str:
    gain, gap = row["federated"] - row["local"], row["pooled"] - row["federated"]
    return f"{name:<20}{row['local']:20.3f}{row['federated']:12.3f}{row['pooled']:14.3f}{gain:8.3f}{gap:8.3f}"


if __name__ == "__main__":
    main()
