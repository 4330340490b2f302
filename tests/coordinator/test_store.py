"""What a coordinator's folder says after a restart, and what it tells to whom it gives a model."""

import dataclasses

import pytest
import torch
from safetensors import safe_open

from lightning_fed.coordinator.store import Store
from lightning_fed.plan import FederationPlan
from lightning_fed.update.global_model import GlobalModel
from lightning_fed.update.layout import Layout, TensorSpec

FIRST = GlobalModel(0, Layout((TensorSpec("weight", (3,), "float32"),)), torch.arange(3.0), {})


@pytest.mark.parametrize("server", [{}, {"momentum": torch.ones(3), "step": 2.0}])
@pytest.mark.parametrize("counted", [{}, {"north": 1, "south": 0}])
def test_the_newest_model_comes_back_with_all_that_belongs_to_it(tmp_path, server, counted):
    store = Store(tmp_path, FederationPlan(), {})
    store.save(FIRST)
    store.save(dataclasses.replace(FIRST.next(torch.ones(3)), server=server, counted=counted, bounds=(4.0,)))
    store.close()
    again = Store(tmp_path, FederationPlan(), {})
    again.close()
    model = again.model
    assert (model.version, model.counted, model.bounds) == (1, counted, (4.0,))
    assert torch.equal(model.vector, torch.ones(3))
    assert model.server.keys() == server.keys()
    for name, value in server.items():
        assert torch.equal(torch.as_tensor(model.server[name]), torch.as_tensor(value))


def test_a_models_own_files_name_no_site(tmp_path):
    store = Store(tmp_path, FederationPlan(), {})
    store.save(dataclasses.replace(FIRST, counted={"st-marys": 1}))
    store.close()
    with safe_open(tmp_path / "models/000000.safetensors", framework="pt") as file:
        assert file.metadata()["run"] == store.run
    for name in ("000000.safetensors", "000000.ckpt"):
        assert b"st-marys" not in (tmp_path / "models" / name).read_bytes()
