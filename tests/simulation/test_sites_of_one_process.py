"""What a federation in one process keeps of each site, shows of itself and says about masks."""

import io
import logging
import threading

import lightning as L
import pytest
import torch
from rich.console import Console
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed.callbacks import Ditto
from lightning_fed.plan import Compression, FederationPlan, LocalTraining, Masking
from lightning_fed.protocol.coordinator.actions import Record
from lightning_fed.simulation.in_process import QUIET, VirtualSite, federate_in_process
from lightning_fed.simulation.rounds_bar import RoundsBar

OFF = Masking(mode="off")


class Model(L.LightningModule):
    """With dropout, which draws random numbers, and normalisation, which a plan can leave at its site."""

    def __init__(self, optimizer="momentum") -> None:
        super().__init__()
        torch.manual_seed(3)
        self.body = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh())
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(6, 1))
        self.optimizer = optimizer

    def training_step(self, batch, batch_idx):
        x, y = batch
        return nn.functional.mse_loss(self.head(self.body(x)), y)

    def configure_optimizers(self):
        kinds = {
            "plain": lambda: torch.optim.SGD(self.parameters(), 0.05),
            "momentum": lambda: torch.optim.SGD(self.parameters(), 0.05, momentum=0.9),
            "adamw": lambda: torch.optim.AdamW(self.parameters(), 0.01),
            "scheduled": lambda: torch.optim.AdamW(self.parameters(), 0.01, amsgrad=True),
        }
        optimizer = kinds[self.optimizer]()
        if self.optimizer != "scheduled":
            return optimizer
        # Of both kinds, each with a state of its own: one for every batch, one for every epoch.
        warmed = torch.optim.lr_scheduler.CyclicLR(optimizer, 0.001, 0.02, step_size_up=3, cycle_momentum=False)
        falling = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8)
        return [optimizer], [{"scheduler": warmed, "interval": "step"}, {"scheduler": falling, "interval": "epoch"}]


def loader(index: int) -> DataLoader:
    generator = torch.Generator().manual_seed(index)
    x = torch.randn(16 + 2 * index, 4, generator=generator) + 0.1 * index
    return DataLoader(TensorDataset(x, x.sum(1, keepdim=True) + index), batch_size=8, shuffle=True)


def plan(rounds: int, **settings) -> FederationPlan:
    return FederationPlan(rounds=rounds, local=LocalTraining(epochs=1), masking=OFF, **settings)


def floats(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items() if value.is_floating_point()}


@pytest.mark.parametrize("optimizer", ["plain", "momentum", "adamw", "scheduled"])
def test_a_site_that_takes_turns_trains_to_the_last_bit_as_its_trainer_does_alone(optimizer):
    """All is personal but one bias, which no gradient reaches: so nothing of the others can show."""

    class Apart(Model):
        def __init__(self) -> None:
            super().__init__(optimizer)
            self.shared = nn.Parameter(torch.zeros(1))

        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) + 0 * self.shared.sum()

    alone = []
    for index in range(3):
        model = Apart()
        L.seed_everything(5, verbose=False)
        L.Trainer(max_epochs=4, **QUIET).fit(model, loader(index))
        alone.append(floats(model))
    sites = [VirtualSite(f"site-{index}", Apart(), loader(index)) for index in range(3)]

    federate_in_process(plan(4, personal=["body.*", "head.*"]), sites, seed=5)

    for site, expected in zip(sites, alone, strict=True):
        for name, value in floats(site.module).items():
            assert torch.equal(value, expected[name]), (site.name, name)
    assert not torch.equal(alone[0]["head.1.weight"], alone[1]["head.1.weight"])


@pytest.mark.parametrize(
    ("optimizer", "settings", "pulls"),
    [
        ("adamw", {}, ()),
        ("scheduled", {}, ()),
        ("plain", {"algorithm": {"name": "scaffold"}}, ()),
        ("adamw", {"algorithm": {"name": "feddyn"}}, ()),
        ("scheduled", {}, (0.5,)),
        ("plain", {"algorithm": {"name": "scaffold"}}, (0.5,)),
        ("momentum", {"compression": Compression(method="topk", share=0.2, values="float32")}, ()),
        ("momentum", {"personal": ["normalisation"]}, ()),
    ],
    ids=["adamw", "scheduled", "scaffold", "feddyn", "ditto", "scaffold and ditto", "topk", "fedbn"],
)
def test_the_models_are_the_same_when_only_the_drawn_are_made(optimizer, settings, pulls):
    """The federation's, and each site's own where it keeps one."""
    made: dict[str, VirtualSite] = {}

    def site(index: int) -> VirtualSite:
        beside = [Ditto(pull) for pull in pulls]
        made[f"site-{index}"] = VirtualSite(f"site-{index}", Model(optimizer), loader(index), beside)
        return made[f"site-{index}"]

    chosen = plan(5, cohort_size=3, **settings)
    given = [site(index) for index in range(8)]
    at_once = federate_in_process(chosen, given, seed=7)
    made.clear()
    when_drawn = federate_in_process(chosen, 8, site=site, seed=7)

    assert torch.equal(at_once.model.vector, when_drawn.model.vector)
    assert len(made) > 3
    for before in given:
        if before.name in made:
            after = made[before.name]
            owned = zip(kept(before), kept(after), strict=True)
            assert all(torch.equal(one, other) for one, other in owned), before.name


def kept(site: VirtualSite) -> list[torch.Tensor]:
    """What a site holds in the end: its module, and what Ditto trained beside it."""
    return [
        value
        for module in (site.module, *(ditto.personal for ditto in site.callbacks))
        for value in floats(module).values()
    ]


def test_no_thread_is_kept_for_a_site_that_waits():
    counts = []

    def watch(record: Record) -> None:
        if record.event == "round_finished":
            counts.append(threading.active_count())

    def site(index: int) -> VirtualSite:
        return VirtualSite(f"site-{index}", Model(), loader(index % 3))

    before = threading.active_count()
    run = federate_in_process(plan(6, cohort_size=4), 1_000, site=site, watch=watch)

    joined = [record for record in run.records if record.event == "site_joined"]
    assert len(joined) > 12
    assert max(counts) == before + 1


@pytest.fixture
def said():
    """What Lightning's logger says."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    loggers = [
        logging.getLogger(name)
        for name in (
            "lightning.pytorch.utilities.rank_zero",
            "lightning.fabric.utilities.rank_zero",
            "lightning_utilities.core.rank_zero",
        )
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    yield lines
    for logger, level in zip(loggers, levels, strict=True):
        logger.removeHandler(handler)
        logger.setLevel(level)


@pytest.mark.parametrize(
    ("masking", "words"),
    [(OFF, "masks nothing, and one process has no secrets"), (Masking(bits=32), "hide nothing here")],
)
def test_it_says_that_masks_are_optional_and_introduces_one_site_only(said, masking, words):
    sites = [VirtualSite(f"site-{index}", Model(), loader(index)) for index in range(3)]
    federate_in_process(FederationPlan(rounds=1, masking=masking), sites)

    assert len([line for line in said if words in line]) == 1
    assert len([line for line in said if "takes part in federation" in line]) == 1


def test_the_bar_counts_rounds_and_sites_and_shows_the_metrics():
    out = io.StringIO()
    console = Console(file=out, width=160, force_terminal=True, color_system=None)
    with RoundsBar(plan(4), 1_200, shown=True, console=console) as bar:
        for index in range(3):
            bar.take(Record("site_joined", {"site": f"site-{index}"}))
        bar.take(Record("round_finished", {"round": 1}))
        bar.take(Record("metrics", {"version": 1, "metrics": {"val_auroc": 0.75}}))
    last = [line for line in out.getvalue().splitlines() if "sites have been drawn" in line][-1]
    assert "1/4 rounds" in last
    assert "3 of 1,200 sites have been drawn, val_auroc 0.7500" in last


def test_a_bar_that_is_not_wanted_writes_nothing(capfd):
    sites = [VirtualSite(f"site-{index}", Model(), loader(index)) for index in range(2)]
    federate_in_process(plan(2), sites, progress=False)
    assert "2/2 rounds" not in capfd.readouterr().err

    federate_in_process(plan(2), [VirtualSite(f"site-{k}", Model(), loader(k)) for k in range(2)], progress=True)
    assert "2/2 rounds" in capfd.readouterr().err
