"""A site whose two devices, here two CPU processes with gloo, hold a part of the model each."""

import torch
from rank_processes import Federation, errors, outcomes, plan
from trained_on_ranks import divide

from lightning_fed.callbacks import FedProx


def test_the_global_model_is_that_of_whole_models(tmp_path):
    models = []
    for local in ("ddp", "fsdp"):
        (tmp_path / local).mkdir()
        federation = Federation(tmp_path / local, plan(epochs=2, quorum=1), ("site-0",))
        ranks = federation.site("site-0", divide, local, devices=2)
        assert [kind for kind, _ in outcomes(ranks)] == ["result", "result"]
        federation.wait()
        models.append([federation.model(version) for version in (0, 1, 2)])
    for whole, divided in zip(*models, strict=True):
        assert whole.keys() == divided.keys()
        for name in whole:
            torch.testing.assert_close(divided[name], whole[name], rtol=0, atol=1e-6)
    assert not torch.equal(models[0][0]["net.0.weight"], models[0][2]["net.0.weight"])


def test_what_needs_whole_parameters_is_refused_before_the_site_joins(tmp_path):
    federation = Federation(tmp_path, plan(epochs=1, quorum=1), ("site-0",))
    said = errors(federation.site("site-0", divide, "fsdp", (FedProx(0.1),), devices=2))
    assert all(error.startswith("ConfigError: FedProx, of the script or of the plan, works on whole") for error in said)
    assert not federation.events("site_joined")
