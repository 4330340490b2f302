"""A site that sends fewer coordinates than the plan allows, over sockets and from a config of Lightning's CLI."""

import lightning as L
import pytest
import torch
import yaml
from modules import Plain, loader

from lightning_fed import FederatedStrategy
from lightning_fed.callbacks import RoundCallback, TopKCompression
from lightning_fed.cli.main import main
from lightning_fed.plan import Compression
from lightning_fed.protocol.exchange import Exchange
from lightning_fed.protocol.upload_bytes import expected_upload

ROUNDS, SHARE, FEWER = 6, 0.2, 0.01
WIDTH = 1500
COMPRESSION = Compression("topk", share=SHARE, values="float32")


class Wide(Plain):
    """Of 9,001 parameters."""

    def __init__(self):
        super().__init__(5e-4, WIDTH)


class Trained(RoundCallback):
    """All that this site has trained, and what its logger got of each round."""

    def __init__(self):
        self.total, self.logged = torch.zeros(6 * WIDTH + 1), []

    def on_round_end(self, trainer, pl_module, round):
        now = torch.cat([parameter.detach().flatten() for parameter in pl_module.parameters()])
        self.total += now - trainer.callbacks[0].round_start

    def on_train_epoch_end(self, trainer, pl_module):
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.logged.append([values.get(name) for name in ("upload_bytes", "residual_norm", "val_loss")])


def train_sending(strategy, folder, seed, share):
    """Fit; gives all that was trained, what was not sent, and what was logged."""
    record = Trained()
    fit = L.Trainer(
        strategy=FederatedStrategy(**strategy),
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[record, *([TopKCompression(share)] if share else [])],
    )
    loop = []
    record.on_train_start = lambda trainer, module: loop.append(trainer.callbacks[0])
    fit.fit(Wide(), loader(seed, 24, 8), loader(2, 16, 16))
    return {"total": record.total, "residual": loop[0].state_dict()["exchange"]["residual"], "logged": record.logged}


def flat(state):
    return torch.cat([tensor.flatten() for tensor in state.values()])


def test_a_site_that_sends_less_takes_fewer_bytes_loses_nothing_and_the_federation_learns(federation):
    here = federation(sites=2, rounds=ROUNDS, compression=COMPRESSION)
    coordinator = here.coordinate(Wide)
    shares = dict(zip(here.sites, (SHARE, FEWER), strict=True))
    programs = [here.site(name, train_sending, 1, share) for name, share in shares.items()]
    full, fewer = (program.result() for program in programs)
    assert coordinator.result() == "finished"

    exchange = Exchange(here.plan, 6 * WIDTH + 1, 2)
    said = [expected_upload(exchange, name, here.sites, exchange.count_of(share)) for name, share in shares.items()]
    for event in here.events("round_finished")[1:-1]:
        assert event["bytes_up"] == pytest.approx(sum(one.total for one in said), rel=0.02)
    for result, one in zip((full, fewer), said, strict=True):
        assert len(result["logged"]) == ROUNDS
        assert [nbytes for nbytes, _, _ in result["logged"]] == pytest.approx([one.update] * ROUNDS, rel=0.03)
        assert result["logged"][-1][1] == pytest.approx(float(result["residual"].norm()), rel=1e-5)
    assert fewer["logged"][0][0] < full["logged"][0][0] / 10
    assert fewer["residual"].norm() > full["residual"].norm() > 0

    sent = flat(here.model(ROUNDS)) - flat(here.model(0))
    kept = (full["residual"] + fewer["residual"]) / 2
    torch.testing.assert_close(sent + kept, (full["total"] + fewer["total"]) / 2, rtol=1e-4, atol=1e-6)
    losses = [loss for _, _, loss in fewer["logged"]]
    assert losses[-1] < 0.5 * losses[0]


def cli_config(federation, name, folder, share):
    strategy = {key: str(value) for key, value in federation.strategy_arguments(name).items()}
    strategy["patience_s"] = 60.0
    callback = {"class_path": "lightning_fed.callbacks.TopKCompression", "init_args": {"share": share}}
    config = {
        "trainer": {
            "strategy": {"class_path": "lightning_fed.FederatedStrategy", "init_args": strategy},
            "accelerator": "cpu",
            "callbacks": [callback],
            "default_root_dir": str(folder),
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": False,
            "logger": {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": str(folder)}},
        },
        "model": {"class_path": "modules.Plain"},
        "data": {"class_path": "test_topk_callback.Examples"},
    }
    path = folder / "site.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


class Examples(L.LightningDataModule):
    def train_dataloader(self):
        return loader(1, 24, 8)


def fit_by_command(strategy, folder, config):
    return main(["fit", "--config", str(config)])


def test_a_config_of_the_command_line_names_the_callback_and_its_numbers_reach_the_sites_logger(federation):
    here = federation(sites=1, rounds=2, compression=COMPRESSION)
    coordinator = here.coordinate(Plain)
    folder = here.folder / "site-0"
    folder.mkdir()
    assert here.site("site-0", fit_by_command, cli_config(here, "site-0", folder, 0.05)).result() in (0, None)
    assert coordinator.result() == "finished"
    rows = next(folder.rglob("metrics.csv")).read_text()
    assert "upload_bytes" in rows.splitlines()[0]
    assert "residual_norm" in rows.splitlines()[0]


def test_a_site_with_a_larger_share_than_the_plans_says_so_and_the_others_are_not_harmed(federation):
    here = federation(sites=3, rounds=2, quorum=2, gather_s=1.0, compression=COMPRESSION)
    coordinator = here.coordinate(Wide)
    refused = here.site("site-0", train_sending, 1, 0.5)
    text = refused.error()
    assert text.startswith("ConfigError: TopKCompression(share=0.5) would send more than plan.compression.share = 0.2")
    for program in [here.site(name, train_sending, 1, FEWER) for name in here.sites[1:]]:
        program.result()
    assert coordinator.result() == "finished"
