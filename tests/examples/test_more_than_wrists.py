"""Nothing of the federation is tied to fractures: a 3-D UNet and a multi-label classifier in real processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from monai.metrics import DiceMetric
from monai.networks.utils import one_hot
from torchmetrics.classification import MultilabelAUROC

from examples.findings import FindingsClassifier, FindingsDataModule, chests
from examples.segmentation import Segmenter, VolumeDataModule, volumes
from examples.segmentation.dice import MeanDice

ROOT = Path(__file__).parents[2]
SITES = ("north", "south", "west")


def simulate(folder, config):
    """Two rounds over real sockets; returns the metrics of the last global model and its checkpoint."""
    command = [sys.executable, "-m", "lightning_fed.cli.main", "simulate", "--config", ROOT / "configs" / config]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [*map(str, command), "--run", "run", "--plan.rounds", "2"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (folder / "run" / "store" / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    finished = [event for event in events if event["event"] == "round_finished"]
    assert [sorted(event["participants"]) for event in finished] == [list(SITES)] * 2
    # Masks are on: the event of a round in the clear has no such field.
    assert all(event["saturated"] == 0 for event in finished)
    *_, last = (event for event in events if event["event"] == "metrics")
    assert (last["version"], last["sites"]) == (2, 3)
    return last["metrics"], folder / "run" / "store" / "models" / "000002.ckpt"


def validation_batches(modules):
    for module in modules:
        module.setup("fit")
        yield from module.val_dataloader()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_unet_trains_on_volumes_and_the_masked_dice_is_monais_over_all_sites_volumes_together(tmp_path):
    # Of unequal size, so that a mean over sites would be another number.
    for number, site in enumerate(SITES):
        volumes.write_site(tmp_path / "data/volumes" / site, volumes.SCANNERS[site], 8 + 6 * number, seed=number)
    metrics, checkpoint = simulate(tmp_path, "segmentation.yaml")

    model = Segmenter.load_from_checkpoint(checkpoint).eval()
    dice = DiceMetric(include_background=False, reduction="mean_batch")
    with torch.no_grad():
        for batch in validation_batches(VolumeDataModule(tmp_path / "data/volumes" / site) for site in SITES):
            predicted = one_hot(model(batch["image"]).argmax(1, keepdim=True), 3)
            dice(predicted, one_hot(batch["label"], 3))
    expected = dice.aggregate().mean().item()
    assert metrics["val_dice"] == pytest.approx(expected, abs=2e-3)
    assert 0 < metrics["val_dice"] < 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_several_findings_are_learned_and_the_masked_auroc_is_that_over_all_sites_images_together(tmp_path):
    for number, site in enumerate(SITES):
        chests.write_site(tmp_path / "data/chests" / site, site, 30 + 20 * number, seed=number)
    metrics, checkpoint = simulate(tmp_path, "findings.yaml")

    model = FindingsClassifier.load_from_checkpoint(checkpoint).eval()
    auroc = MultilabelAUROC(3, thresholds=200)
    with torch.no_grad():
        for batch in validation_batches(FindingsDataModule(tmp_path / "data/chests" / site) for site in SITES):
            auroc.update(model(batch["image"]), batch["findings"].long())
    assert metrics["val_auroc"] == pytest.approx(auroc.compute().item(), abs=2e-3)
    assert metrics["val_auroc"] > 0.6


def test_dice_of_summed_states_is_monais_mean_over_the_volumes_that_show_a_class():
    torch.manual_seed(0)
    label = torch.randint(0, 3, (5, 1, 8, 8, 4))
    label[3] = label[3].clamp(max=1)
    label[4] = 0
    logits = torch.randn(5, 3, 8, 8, 4)
    metric, monai = MeanDice(3), DiceMetric(include_background=False, reduction="mean_batch")
    for part in (slice(0, 2), slice(2, 5)):
        metric.update(logits[part], label[part])
    monai(one_hot(logits.argmax(1, keepdim=True), 3), one_hot(label, 3))
    assert metric.volumes.tolist() == [4, 3]
    assert metric.compute() == pytest.approx(monai.aggregate().mean().item(), abs=1e-6)


def test_volumes_of_all_scanners_come_out_alike(tmp_path):
    for site, scanner in volumes.SCANNERS.items():
        volumes.write_site(tmp_path / site, scanner, 5, seed=0)
        module = VolumeDataModule(tmp_path / site)
        module.setup()
        batch = next(iter(module.test_dataloader()))
        assert {name: (tuple(part.shape[1:]), part.dtype, type(part)) for name, part in batch.items()} == {
            "image": ((1, 32, 32, 24), torch.float32, torch.Tensor),
            "label": ((1, 32, 32, 24), torch.float32, torch.Tensor),
        }
        assert (batch["image"].min(), batch["image"].max()) == (0, 1)
        organ = (batch["label"][0, 0] > 0).nonzero().float().mean(0)
        # To the right of the middle, whatever way the scanner counts.
        assert 18 < organ[0] < 24
        sides = [{file["image"] for file in module.datasets[side].data} for side in ("train", "val", "test")]
        assert len(set.union(*sides)) == sum(map(len, sides)) == 5


def test_images_of_one_patient_with_findings_are_on_one_side(tmp_path):
    chests.write_site(tmp_path, "north", 20, seed=0)
    module = FindingsDataModule(tmp_path)
    module.setup()
    batch = next(iter(module.train_dataloader()))
    assert (tuple(batch["image"].shape), tuple(batch["findings"].shape)) == ((16, 1, 64, 64), (16, 3))
    names = [{row["image"].name[:5] for row in module.datasets[side].data} for side in ("train", "val", "test")]
    assert [len(side) for side in names] == [12, 4, 4]
    assert len(set.union(*names)) == 20
