"""A federation that ends because its metric does not improve, and a store that keeps few models, over real sockets."""

import pytest
import torch
from modules import Plain, train
from processes import Program

from lightning_fed import load_global_model
from lightning_fed.cli.main import main
from lightning_fed.coordinator.retention import Keep
from lightning_fed.coordinator.service import Coordinator
from lightning_fed.plan import BestModel, Masking
from lightning_fed.transport.identity import load_identity
from lightning_fed.transport.roster import Roster


def coordinate_and_keep(plan, address, keys, store):
    identity, roster = load_identity(keys / "coordinator.key"), Roster.load(keys / "roster.yaml")
    Coordinator(
        plan, address=address, identity=identity, roster=roster, store=store, initial=Plain(), keep=Keep(last=1)
    ).run()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["required", "off"])
def test_sites_end_well_with_the_last_model_and_the_best_one_is_still_there(federation, capsys, mode):
    # The loss falls in training, and the plan wants it large: the first model stays the best.
    best = BestModel("val_loss", "max", patience=3)
    masking = Masking(mode, bits=32, bound=256.0)
    here = federation(sites=3, rounds=40, metrics=["val_loss"], best=best, masking=masking)
    coordinator = Program(coordinate_and_keep, here.plan, here.address, here.keys, here.store)
    sites = [here.site(name, train, Plain, seed) for seed, name in enumerate(here.sites)]
    results = [site.result() for site in sites]
    coordinator.result()
    (finished,) = here.events("finished")
    last = finished["version"]
    assert 4 < last < 12
    assert "val_loss has not been better than" in finished["reason"]
    assert [event["reason"] for event in here.events("site_left")] == ["done"] * 3
    for result in results:
        assert all(torch.equal(result["state"][name], tensor) for name, tensor in here.model(last).items())
    assert here.events("metrics")[-1]["version"] == last
    assert {event["version"] for event in here.events("best")} == {1}
    models = sorted(int(path.stem) for path in (here.store / "models").glob("*.safetensors"))
    assert models == [1, last - 2, last - 1, last]
    assert main(["report", "--best", str(here.store)]) == 0
    assert capsys.readouterr().out.startswith(f"{here.store}/models/000001.ckpt\tval_loss ")
    loaded = load_global_model(here.store, Plain, "best").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in here.model(1).items())
