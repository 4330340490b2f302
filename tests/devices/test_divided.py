"""A site whose two devices, here two CPU processes with gloo, hold a part of the model each."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from several import Here, Module, errors, examples
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_fed import FederatedStrategy, FederationPlan, LocalTraining
from lightning_fed.callbacks import AdaBN, Ditto, FederatedFinetuning, FedProx, FedRep
from lightning_fed.callbacks.feddyn import FedDyn
from lightning_fed.callbacks.scaffold import Scaffold
from lightning_fed.errors import ConfigError
from lightning_fed.participant.divided_model import refuse_divided
from lightning_fed.plan import Masking

DIVIDED = {"local": "fsdp", "auto_wrap_policy": {nn.Linear}}


class Scaled(Module):
    """Two layers, of which FSDP makes a part each, and a buffer that is sent once."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor([2.0]))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.mse_loss(self(batch[0]), self.scale * batch[1].tanh())


def plan(epochs: int) -> FederationPlan:
    return FederationPlan(rounds=2, local=LocalTraining(epochs=epochs), masking=Masking("off"), quorum=1)


def test_the_global_model_is_that_of_whole_models(tmp_path):
    models = []
    for strategy in ({"local": "ddp"}, DIVIDED):
        here = Here(tmp_path / strategy["local"], plan(epochs=2), ("site-0",))
        assert [node.end() for node in here.nodes("site-0", strategy, module=Scaled)] == [None, None]
        here.wait()
        models.append([here.model(version) for version in (0, 1, 2)])
    for whole, divided in zip(*models, strict=True):
        assert whole.keys() == divided.keys()
        for name in whole:
            torch.testing.assert_close(divided[name], whole[name], rtol=0, atol=1e-6)
    assert not torch.equal(models[0][0]["net.0.weight"], models[0][2]["net.0.weight"])


def fedprox() -> list[L.Callback]:
    return [FedProx(0.1)]


def test_what_needs_whole_parameters_is_refused_before_the_site_joins(tmp_path):
    here = Here(tmp_path, plan(epochs=1), ("site-0",))
    for text in errors(here.nodes("site-0", DIVIDED, module=Scaled, callbacks=fedprox)):
        kind, said = text.splitlines()[-1].split(": ", 1)
        assert kind.endswith(".ConfigError")
        assert said.startswith("FedProx, of the script or of the plan, works on whole")
    assert not here.events("site_joined")


@pytest.mark.parametrize(
    "callback", [FedProx(0.1), Scaffold(), FedDyn(0.1), Ditto(0.1), FedRep(["net.2.*"]), FederatedFinetuning("net")]
)
def test_so_is_each_callback_of_that_kind(callback):
    strategy = FederatedStrategy("tcp://127.0.0.1:1", "site-0", local="fsdp")
    trainer = L.Trainer(strategy=strategy, accelerator="cpu", devices=2, max_epochs=1, callbacks=callback, logger=False)
    with pytest.raises(ConfigError, match=f"^{type(callback).__name__}, of the script or of the plan, works on whole"):
        refuse_divided(trainer)


def adapt(settings: dict[str, Any], folder: Path, **_: Any) -> None:
    strategy = FederatedStrategy(**settings)
    trainer = L.Trainer(strategy=strategy, accelerator="cpu", num_nodes=2, callbacks=AdaBN(), logger=False)
    trainer.validate(Module(batch_norm=True), DataLoader(examples(3, 24), 4), verbose=False)


def test_adabn_is_refused(tmp_path):
    here = Here(tmp_path, plan(epochs=1), ("site-0",))
    for text in errors(here.nodes("site-0", DIVIDED, script=adapt)):
        assert "ConfigError: AdaBN runs the model over the images by itself" in text.splitlines()[-1]
