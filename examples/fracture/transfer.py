"""Federated transfer: a backbone from a file, frozen, so that only the rest travels; and what that costs in AUROC.

    python -m examples.fracture.transfer --seeds 3

The backbone is trained on 2,200 images of four hospitals that take no part (``hill`` to ``valley``), with labels, as
a published model would be. Then ``north`` to ``west`` train with it: whole, frozen, or frozen with low-rank adapters;
with FedAvg or FedBN.
"""

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning.pytorch import Trainer, seed_everything

from examples.fracture.batchnorm import BatchNormClassifier
from examples.fracture.heterogeneity import RUNS, kept, over_sites, quieten, spread
from examples.fracture.methods import METHODS
from examples.fracture.scanners import Images, site_images
from examples.fracture.trials import TEST_IMAGES, loader, logits, scores, study
from lightning_fed.callbacks.finetuning import FederatedFinetuning, checkpoint_state, load_backbone
from lightning_fed.radiology.synthetic.style import default_sites
from lightning_fed.simulation.in_process import QUIET, VirtualSite, federate_in_process

WIDTH, PATIENTS_OF_SEED, EPOCHS = 16, 100, 15
RANK = 4


@dataclass(frozen=True)
class Start:
    """Where a federation starts, and what it trains.

    ``frozen`` trains the head and batch normalisation alone, ``adapted`` adapters of the frozen backbone, too.
    """

    method: str
    pretrained: bool = False
    frozen: bool = False
    adapted: bool = False

    def __str__(self) -> str:
        start = "pretrained" if self.pretrained else "from scratch"
        return f"{self.method}, {start}{', backbone frozen' * self.frozen}{', LoRA' * self.adapted}"


KINDS = ((), (True,), (True, True), (True, True, True))
STARTS = tuple(Start(method, *kind) for method in ("FedAvg", "FedBN") for kind in KINDS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    quieten()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        backbone = Path(folder) / "backbone.pt"
        rows: dict[str, list[dict[str, float]]] = {}
        for seed in range(options.seeds):
            for start in STARTS:
                path = RUNS / "transfer" / f"{start}-{seed}.json"
                rows.setdefault(str(start), []).append(kept(path, lambda: trial(start, seed, backbone)))  # type: ignore[arg-type]  # noqa: B023
    print("\n| federation | AUROC, mean of sites | worst site's AUROC | sent by the sites, kB | sent to them, kB |")
    print("| --- | --- | --- | --- | --- |")
    for name, results in rows.items():
        cells = [spread([r[key] for r in results]) for key in ("auroc", "worst")]
        cells += [f"{results[0][key] / 1000:,.0f}" for key in ("up", "down")]
        print(f"| {name} | {' | '.join(cells)} |")


def trial(start: Start, seed: int, backbone: Path) -> dict[str, float]:
    """AUROC, and the bytes of the whole run."""
    if start.pretrained and not backbone.exists():
        pretrain(backbone)
    method, data = METHODS[start.method], study(4, seed, 1.0)
    sites = []
    for name, (train, _) in data.items():
        torch.manual_seed(seed)
        model = BatchNormClassifier(WIDTH).to(memory_format=torch.channels_last)
        if start.pretrained:
            load_backbone(model.backbone, "backbone", checkpoint_state(backbone), backbone.name)
        tuning = FederatedFinetuning("backbone", checkpoint=backbone, rank=RANK if start.adapted else 0)
        callbacks = [tuning] if start.frozen else []
        sites.append(VirtualSite(name, model, loader(train, True), callbacks))
    run = federate_in_process(method.plan(), sites, seed=seed)
    found = {s.name: scores(logits(s.module, data[s.name][1]), data[s.name][1]) for s in sites}  # type: ignore[arg-type]
    worst = min(site["auroc"] for site in found.values())
    return {"auroc": over_sites(found, "auroc"), "worst": worst, "up": run.bytes_up, "down": run.bytes_down}


def pretrain(path: Path) -> None:
    """Write the backbone that others have published."""
    images = []
    for style in default_sites(8)[4:]:
        images += site_images(style, 300, TEST_IMAGES, seed=PATIENTS_OF_SEED, strength=1.0)
    everything = Images(torch.cat([each.image for each in images]), torch.cat([each.label for each in images]))
    seed_everything(PATIENTS_OF_SEED, verbose=False)
    model = BatchNormClassifier(WIDTH)
    Trainer(max_epochs=EPOCHS, **QUIET).fit(model, loader(everything, True))
    torch.save(model.backbone.state_dict(), path)


if __name__ == "__main__":
    main()
