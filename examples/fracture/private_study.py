"""What privacy costs: the study with and without noise, on several synthetic studies.

    python -m examples.fracture.private_study [--seeds 3] [--epsilon 1 3 8] [--picture docs/pictures/private-study.png]

For each seed a study of its own is written, and the same federation of real processes trains on it without privacy and
with each epsilon; every model is tested on the pooled test set. What was finished before is not done again.
"""

import argparse
import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from examples.fracture.study import on_study, results_of
from lightning_fed.plan import Privacy
from lightning_fed.privacy.history import read_history
from lightning_fed.privacy.ledger_rows import ledger_rows
from lightning_fed.radiology.synthetic.study import write_study
from lightning_fed.simulation.baselines import jobs_of
from lightning_fed.simulation.config import Simulation, read_config
from lightning_fed.simulation.folder import RunFolder
from lightning_fed.simulation.job import run

IMAGES_PER_SITE = 1000

Curve = dict[float, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epsilon", type=float, nargs="+", default=[1.0, 3.0, 8.0])
    parser.add_argument("--config", default="configs/fracture-private.yaml")
    parser.add_argument("--picture", type=Path, help="PNG file to draw the curve into")
    options = parser.parse_args()
    curves = [aurocs(options.config, seed, options.epsilon) for seed in range(options.seeds)]
    print_table(curves)
    if options.picture:
        draw(curves, options.picture)


def aurocs(config: str, seed: int, epsilons: Sequence[float]) -> Curve:
    """AUROC on the pooled test set for each epsilon, and for infinity, which is training without privacy."""
    data = f"data/wrists-{IMAGES_PER_SITE}-seed{seed}"
    write_study(data, images_per_site=IMAGES_PER_SITE, seed=seed)
    simulation = read_config(["--config", config])
    curve = {}
    for epsilon in (float("inf"), *epsilons):
        run_folder = f"runs/private-study-seed{seed}/epsilon-{epsilon:g}"
        curve[epsilon] = auroc(on_study(with_epsilon(simulation, epsilon), data, seed, run_folder))
        print(f"seed {seed}, epsilon {epsilon:g}: AUROC {curve[epsilon]:.4f}", flush=True)
    return curve


def with_epsilon(simulation: Simulation, epsilon: float) -> Simulation:
    """The same simulation with another epsilon for its examples; no promise at all for infinity."""
    example = simulation.plan.privacy.example
    assert example is not None
    if epsilon == float("inf"):
        privacy = dataclasses.replace(simulation.plan.privacy, example=None)
    else:
        privacy = Privacy(dataclasses.replace(example, epsilon=epsilon, noise_multiplier=None))
    return dataclasses.replace(simulation, plan=dataclasses.replace(simulation.plan, privacy=privacy))


def auroc(simulation: Simulation) -> float:
    """Train the federation, test its last global model, and look that no site's ledger says more than was promised."""
    results_of(dataclasses.replace(simulation, baselines=None))
    folder = RunFolder(Path(simulation.run))
    promised = simulation.plan.privacy.example
    for site in simulation.sites if promised else ():
        spent = ledger_rows(read_history(folder.site(site) / "ledger.jsonl"))[-1].unit_epsilon
        assert promised.epsilon is not None
        if spent > promised.epsilon:
            raise SystemExit(f"the ledger of {site} says epsilon {spent:.4g}, and {promised.epsilon:g} was promised.")
    return run(jobs_of(simulation, folder)["federated"])["test_auroc"]


def print_table(curves: Sequence[Curve]) -> None:
    epsilons = list(curves[0])
    print(f"\n{'pooled-test AUROC':<20}" + "".join(f"{_name(epsilon):>16}" for epsilon in epsilons))
    for seed, curve in enumerate(curves):
        print(f"{f'seed {seed}':<20}" + "".join(f"{curve[epsilon]:16.3f}" for epsilon in epsilons))
    mean = means(curves)
    print(f"{'mean':<20}" + "".join(f"{mean[epsilon]:16.3f}" for epsilon in epsilons))
    if len(curves) > 1:
        spread = [statistics.stdev(curve[epsilon] for curve in curves) for epsilon in epsilons]
        print(f"{'spread over seeds':<20}" + "".join(f"{value:16.3f}" for value in spread))
    print(f"{'lost to privacy':<20}" + "".join(f"{mean[float('inf')] - mean[epsilon]:16.3f}" for epsilon in epsilons))


def means(curves: Sequence[Mapping[float, float]]) -> Curve:
    """Mean AUROC over the seeds for each epsilon."""
    return {epsilon: statistics.fmean(curve[epsilon] for curve in curves) for epsilon in curves[0]}


def draw(curves: Sequence[Curve], path: Path) -> None:
    """Draw AUROC over epsilon: the mean as a line, the seeds as points, training without privacy as a dashed line."""
    # Imported here: nothing else needs it.
    from matplotlib.figure import Figure

    mean = means(curves)
    epsilons = sorted(epsilon for epsilon in mean if epsilon != float("inf"))
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.axhline(mean[float("inf")], color="black", linestyle="--", linewidth=1, label="without privacy, mean")
    axes.plot(epsilons, [mean[epsilon] for epsilon in epsilons], color="tab:blue", label="private, mean")
    for number, curve in enumerate(curves):
        label = "single seeds" if number == 0 else None
        axes.plot(epsilons, [curve[epsilon] for epsilon in epsilons], "o", color="tab:blue", alpha=0.5, label=label)
    axes.set_xscale("log")
    axes.set_xticks(epsilons, [f"{epsilon:g}" for epsilon in epsilons])
    axes.minorticks_off()
    axes.set_xlabel("epsilon of each training image (delta 1e-5)")
    axes.set_ylabel("AUROC on the pooled test set")
    axes.legend(loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _name(epsilon: float) -> str:
    return "no privacy" if epsilon == float("inf") else f"epsilon {epsilon:g}"


if __name__ == "__main__":
    main()
