"""Where each method gains: for each a situation that it was made for, among hospitals of the same fracture images.

    python -m examples.fracture.situations [--seeds 5] [--only "unequal steps" ...]

The images are those of the study with strong scanner shift, seen through ``OrientedEnergy``, so that a federation takes
seconds. Methods are compared with FedAvg under the same plan; where sites train with SGD, its rate is the one at which
FedAvg did best. Settings and sizes were chosen on the patients of two seeds that are not reported: ``--first-seed 100
--seeds 2``. What was finished before, in runs/heterogeneity/situations, is not done again.
"""

import argparse
import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial

import torch
from torchmetrics.functional.classification import binary_auroc

from examples.fracture.heterogeneity import RUNS, STRENGTH, kept, quieten, spread
from examples.fracture.methods import Method
from examples.fracture.scanners import Images, site_images
from examples.fracture.trials import TEST_IMAGES, Data, federated, logits, prepared, trained
from lightning_fed.callbacks.fedrep import FedRep
from lightning_fed.radiology.synthetic.fractures import FractureKind
from lightning_fed.radiology.synthetic.study import patients
from lightning_fed.radiology.synthetic.style import SiteStyle, default_sites

TRAIN_IMAGES = 300
"""Images that each of the four hospitals has to train on, at least; a situation takes some of them."""

Measures = dict[str, float]
MEAN, WORST, POOLED = "AUROC, mean of sites", "AUROC, worst site", "AUROC, all test images as one"


@dataclass(frozen=True)
class Situation:
    """How hospitals differ, and which methods are compared there.

    Attributes:
        hospitals: makes the training and test images of each site, grey ones, of a seed.
        rounds: of the federation; a site that trains alone does as many epochs.
        methods: beside FedAvg. One named ``alone`` is trained by each site alone.
        fedavg: what the others are compared with, and share the local training of.
        metrics: what is compared.
        batch_sizes: of sites whose batches are not of the usual size.
    """

    hospitals: Callable[[int], Data]
    rounds: int
    methods: Mapping[str, Method]
    fedavg: Method
    metrics: Sequence[str] = (MEAN,)
    batch_sizes: Mapping[str, int] = field(default_factory=dict)

    @property
    def rows(self) -> dict[str, Method]:
        """All methods, FedAvg first."""
        return {"FedAvg": self.fedavg, **self.methods}


def four(seed: int) -> Data:
    """Training and test images of the four hospitals of the study."""
    return {
        style.name: site_images(style, TRAIN_IMAGES, TEST_IMAGES, seed=seed, strength=STRENGTH)
        for style in default_sites(4)
    }


def sized(seed: int, **sizes: int) -> Data:
    """Each hospital with so many images to train on."""
    return {site: (_some(own, slice(sizes[site])), test) for site, (own, test) in four(seed).items()}


def departments(seed: int, images: int, fractured: float) -> Data:
    """Each hospital's emergency department and its clinic take part apart: mostly fractured wrists, mostly whole ones.

    Args:
        seed: of the patients.
        images: that each trains on, if the hospital has so many.
        fractured: share of the emergency department's images that show a fracture, and of the clinic's that do not.
    """
    data = {}
    many, few = round(images * fractured), images - round(images * fractured)
    for site, (own, test) in four(seed).items():
        yes, no = (own.label == 1).nonzero().flatten(), (own.label == 0).nonzero().flatten()
        data[f"{site}-emergency"] = _some(own, torch.cat([yes[:many], no[:few]])), test
        data[f"{site}-clinic"] = _some(own, torch.cat([yes[many:images], no[few:images]])), test
    return data


QUESTIONS: dict[str, frozenset[FractureKind]] = {
    "growth": frozenset({"I", "II", "III", "IV"}),
    "shaft": frozenset({"torus", "metaphyseal"}),
}


def registries(seed: int, images: int) -> Data:
    """Each hospital keeps two registries, of other patients: one of injured growth plates, one of fractures beside it.

    What one registry calls a case, the other calls none.
    """
    data = {}
    for style, both in zip(default_sites(4), four(seed).values(), strict=True):
        for number, question in enumerate(QUESTIONS):
            own, test = asked(question, style, seed, *both)
            data[f"{style.name}-{question}"] = _part(own, number, images), test
    return data


def asked(question: str, style: SiteStyle, seed: int, own: Images, test: Images) -> tuple[Images, Images]:
    """All images of a hospital, labelled by whether they show a fracture of the kinds that a question is about."""
    label = torch.tensor([float(kind in QUESTIONS[question]) for kind in kinds(style, seed)])
    first, rest = label.split([len(own.label), len(test.label)])
    return Images(own.image, first), Images(test.image, rest)


def kinds(style: SiteStyle, seed: int) -> list[FractureKind | None]:
    """What kind of fracture each image of a hospital shows, those to train on first."""
    return [
        patient.fracture.kind if patient.fracture else None
        for patient in patients(style, TRAIN_IMAGES + TEST_IMAGES, seed)
        for _ in patient.views
    ]


def _part(images: Images, number: int, size: int) -> Images:
    """One of the parts of a given size."""
    return _some(images, slice(number * size, (number + 1) * size))


def _some(images: Images, which: slice | torch.Tensor) -> Images:
    return Images(images.image[which], images.label[which])


def _with(fedavg: Method, **changes: object) -> Method:
    return dataclasses.replace(fedavg, **changes)  # type: ignore[arg-type]


LINEAR = Method(energy=True, sgd=0.1)
DRIFT, UNEQUAL = _with(LINEAR, epochs=10), _with(LINEAR, epochs=5)
SHARED = Method(energy=True, hidden=16, epochs=10)
HEAD = {"personal": ["head.*"]}
FAIR = {"name": "qfedavg", "q": 1.0, "local_lr": 10.0}

SITUATIONS = {
    "uneven labels": Situation(
        partial(departments, images=90, fractured=0.9),
        rounds=10,
        fedavg=DRIFT,
        methods={
            "SCAFFOLD": _with(DRIFT, algorithm={"name": "scaffold"}),
            "FedAdam": _with(DRIFT, algorithm={"name": "fedadam", "server_lr": 0.03}),
        },
        metrics=(MEAN, POOLED),
    ),
    "unequal steps": Situation(
        partial(sized, north=120, east=120, south=120, west=120),
        rounds=10,
        fedavg=UNEQUAL,
        methods={
            "FedProx": _with(UNEQUAL, proximal=0.3),
            "FedNova": _with(UNEQUAL, algorithm={"name": "fednova"}),
        },
        batch_sizes={"north": 4},
    ),
    "unequal sizes": Situation(
        partial(sized, north=300, east=60, south=60, west=60),
        rounds=10,
        fedavg=UNEQUAL,
        methods={
            "FedNova": _with(UNEQUAL, algorithm={"name": "fednova"}),
            "q-FedAvg": _with(UNEQUAL, algorithm=FAIR),
            "q-FedAvg, q = 0": _with(UNEQUAL, algorithm=FAIR | {"q": 0.0}),
        },
        metrics=(MEAN, WORST),
    ),
    "another question at each site": Situation(
        partial(registries, images=100),
        rounds=10,
        fedavg=SHARED,
        methods={
            "FedPer": _with(SHARED, **HEAD),
            "FedRep": _with(SHARED, **HEAD, callbacks=lambda: [FedRep(head=["head.*"], head_epochs=5)]),
            "alone": SHARED,
        },
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0, metavar="SEED")
    parser.add_argument("--only", nargs="+", choices=SITUATIONS, metavar="NAME", default=list(SITUATIONS))
    options = parser.parse_args()
    if options.seeds < 1:
        parser.error(f"--seeds {options.seeds}: at least 1 is needed")
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    print_table({name: compare(name, seeds) for name in options.only})


def compare(name: str, seeds: Sequence[int]) -> dict[str, list[Measures]]:
    """By method: what was measured in a situation, for each seed."""
    quieten()
    torch.set_num_threads(1)
    found = [of_seed(name, seed) for seed in seeds]
    return {row: [measured[row] for measured in found] for row in SITUATIONS[name].rows}


def of_seed(name: str, seed: int) -> dict[str, Measures]:
    """By method: what was measured in a situation; what was not measured before is now."""
    situation = SITUATIONS[name]
    # Made once for all methods, and not at all if every result is there.
    data = cache(lambda: seen(situation, seed))
    place = RUNS / "situations"
    return {
        row: kept(place / f"{name}-{row}-{seed}.json", lambda row=row: trial(situation, row, data(), seed))  # type: ignore
        for row in situation.rows
    }


def seen(situation: Situation, seed: int) -> Data:
    """A situation's images as its models see them."""
    data = situation.hospitals(seed)
    return prepared(situation.fedavg, data, data.keys())


def trial(situation: Situation, row: str, data: Data, seed: int) -> Measures:
    """What is measured of the models that one method makes of images as ``seen`` gives them."""
    method = situation.rows[row]
    train = {site: own for site, (own, _) in data.items()}
    if row == "alone":
        models = {site: trained(method, own, seed, situation.rounds) for site, own in train.items()}
    else:
        models = federated(method, train, seed, situation.rounds, situation.batch_sizes)
    answers = {site: (logits(models[site], test), test.label.int()) for site, (_, test) in data.items()}
    each = [binary_auroc(said, label).item() for said, label in answers.values()]
    together = (torch.cat(parts) for parts in zip(*answers.values(), strict=True))
    return {MEAN: statistics.fmean(each), WORST: min(each), POOLED: binary_auroc(*together).item()}


def print_table(found: Mapping[str, Mapping[str, Sequence[Measures]]]) -> None:
    """One row for each method and metric, as Markdown; gains are paired by seed, bold where above their spread."""
    print("\n| situation | method | metric | FedAvg | the method | gain |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, rows in found.items():
        for row, metric in ((row, metric) for row in rows if row != "FedAvg" for metric in SITUATIONS[name].metrics):
            base, other = ([measured[metric] for measured in rows[each]] for each in ("FedAvg", row))
            gain = [b - a for a, b in zip(base, other, strict=True)]
            shown = spread(gain, "+.3f")
            if len(gain) > 1 and statistics.fmean(gain) > statistics.stdev(gain):
                shown = f"**{shown}**"
            print(f"| {name} | {row} | {metric} | {spread(base)} | {spread(other)} | {shown} |")


if __name__ == "__main__":
    main()
