"""A site whose two devices, here two CPU processes with gloo, hold a part of the model each."""

from typing import Any

import torch
from several import Here, Module, errors
from torch import Tensor, nn

from lightning_fed import FederationPlan, LocalTraining
from lightning_fed.callbacks import FedProx
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


def fedprox() -> list[FedProx]:
    return [FedProx(0.1)]


def test_what_needs_whole_parameters_is_refused_before_the_site_joins(tmp_path):
    here = Here(tmp_path, plan(epochs=1), ("site-0",))
    for text in errors(here.nodes("site-0", DIVIDED, module=Scaled, callbacks=fedprox)):
        last = text.splitlines()[-1]
        assert last.startswith(
            "lightning_fed.errors.ConfigError: FedProx, of the script or of the plan, works on whole"
        )
    assert not here.events("site_joined")
