r"""What privacy costs: the study with and without noise, on several synthetic studies.

    python -m examples.fracture.private_study [--seeds 3] [--epsilon 1 3 8] [--picture docs/pictures/private-study.png]
    python -m examples.fracture.private_study --epsilon 8 --config configs/fracture-private-conv.yaml \
        --reference configs/fracture-conv.yaml

For each seed a study of its own is written, and the same federation trains on it without privacy and with each epsilon,
in one process; every model is tested on the pooled test set. The front end does not change, so that what it makes of
each image is computed once. ``--reference`` trains without privacy by a config of its own.
"""

import argparse
import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from examples.fracture.classifier import FractureClassifier
from lightning_fed.plan import Privacy
from lightning_fed.radiology import RadiographDataModule
from lightning_fed.radiology.synthetic.study import write_study
from lightning_fed.simulation import VirtualSite, federate_in_process
from lightning_fed.simulation.config import Simulation, read_config
from lightning_fed.simulation.in_process import QUIET

IMAGES_PER_SITE = 1000

Curve = dict[float, float]


class Sides(NamedTuple):
    """One hospital's images behind the front end, to train and to test on."""

    train: "Answered"
    test: "Answered"


class Answered(Dataset[dict[str, Tensor]]):
    """Samples whose images have gone through the front end.

    Args:
        samples: a data set of radiographs.
        front_end: gives ``(B, ...)`` for images ``(B, 1, S, S)``.
    """

    def __init__(self, samples: Dataset[dict[str, Tensor]], front_end: torch.nn.Module) -> None:
        batches = list(DataLoader(samples, batch_size=100))
        self._columns = {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}
        self._columns["image"] = torch.cat([front_end(batch["image"]) for batch in batches])

    def __len__(self) -> int:
        return len(self._columns["label"])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {key: column[index] for key, column in self._columns.items()}


class Spent(Callback):
    """Keeps the epsilon that a fit has spent, which the private callback logs."""

    def __init__(self) -> None:
        self.epsilon = 0.0

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read it."""
        self.epsilon = float(trainer.callback_metrics["epsilon"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epsilon", type=float, nargs="+", default=[1.0, 3.0, 8.0])
    parser.add_argument("--config", default="configs/fracture-private.yaml")
    parser.add_argument("--reference", help="config of the training without privacy, if the recipe is another")
    parser.add_argument("--picture", type=Path, help="PNG file to draw the curve into")
    options = parser.parse_args()
    curves = [aurocs(options.config, seed, options.epsilon, options.reference) for seed in range(options.seeds)]
    print_table(curves)
    if options.picture:
        draw(curves, options.picture)


def aurocs(config: str, seed: int, epsilons: Sequence[float], reference: str | None = None) -> Curve:
    """AUROC on the pooled test set for each epsilon, and for infinity, which is training without privacy.

    Args:
        config: of the private training, and of the other but for the promise.
        seed: of the study and of the training.
        epsilons: the promises.
        reference: config of the training without privacy, with the same front end, data and test sets.
    """
    data = f"data/wrists-{IMAGES_PER_SITE}-seed{seed}"
    write_study(data, images_per_site=IMAGES_PER_SITE, seed=seed)
    simulation = dataclasses.replace(read_config(["--config", config]), seed=seed)
    hospitals = {site: sides(simulation, f"{data}/{site}") for site in simulation.sites}
    simulations = {epsilon: with_epsilon(simulation, epsilon) for epsilon in (float("inf"), *epsilons)}
    if reference:
        simulations[float("inf")] = dataclasses.replace(read_config(["--config", reference]), seed=seed)
    curve = {}
    for epsilon, one in simulations.items():
        curve[epsilon] = auroc(one, hospitals)
        print(f"seed {seed}, epsilon {epsilon:g}: AUROC {curve[epsilon]:.4f}", flush=True)
    return curve


def sides(simulation: Simulation, folder: str) -> Sides:
    """A hospital's images behind the config's front end."""
    data = RadiographDataModule(**{**simulation.data["init_args"], "root": folder})
    front_end = FractureClassifier(**simulation.model["init_args"]).network[0]
    found = []
    for stage in ("fit", "test"):
        data.setup(stage)
        loader = data.train_dataloader() if stage == "fit" else data.test_dataloader()
        found.append(Answered(loader.dataset, front_end))
    return Sides(*found)


def with_epsilon(simulation: Simulation, epsilon: float) -> Simulation:
    """The same simulation with another epsilon for its examples; no promise at all for infinity."""
    example = simulation.plan.privacy.example
    assert example is not None
    if epsilon == float("inf"):
        privacy = dataclasses.replace(simulation.plan.privacy, example=None)
    else:
        privacy = Privacy(dataclasses.replace(example, epsilon=epsilon, noise_multiplier=None))
    return dataclasses.replace(simulation, plan=dataclasses.replace(simulation.plan, privacy=privacy))


def auroc(simulation: Simulation, hospitals: Mapping[str, Sides]) -> float:
    """Train the federation, test its last global model, and look that no site has spent more than was promised."""
    example = simulation.plan.privacy.example
    spent = {site: Spent() for site in hospitals if example}
    sites = [
        VirtualSite(site, _trained(simulation), _loader(simulation, sides.train), [spent[site]] if example else [])
        for site, sides in hospitals.items()
    ]
    federate_in_process(simulation.plan, sites, seed=simulation.seed)
    if example:
        assert example.epsilon is not None
        require_kept({site: one.epsilon for site, one in spent.items()}, example.epsilon)
    pooled = torch.utils.data.ConcatDataset([sides.test for sides in hospitals.values()])
    tests = Trainer(**QUIET).test(sites[0].module, DataLoader(pooled, batch_size=100), verbose=False)
    return tests[0]["test_auroc"]


def require_kept(spent: Mapping[str, float], promised: float) -> None:
    """End the program if a site has spent more than was promised, or nothing."""
    for site, epsilon in spent.items():
        if not 0 < epsilon <= promised:
            raise SystemExit(f"{site} has spent epsilon {epsilon:.4g}, and {promised:g} was promised.")


def _trained(simulation: Simulation) -> FractureClassifier:
    seed_everything(simulation.seed, verbose=False)
    module = FractureClassifier(**simulation.model["init_args"])
    module.network = module.network[1]
    return module


def _loader(simulation: Simulation, samples: Answered) -> DataLoader[dict[str, Tensor]]:
    return DataLoader(samples, batch_size=simulation.data["init_args"]["batch_size"], shuffle=True)


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
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _name(epsilon: float) -> str:
    return "no privacy" if epsilon == float("inf") else f"epsilon {epsilon:g}"


if __name__ == "__main__":
    main()
