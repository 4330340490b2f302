"""A global model of the store as a module again, whatever the plan made of the layers."""

import warnings

import lightning as L
import pytest
import torch
from torch import nn
from torchmetrics import MeanMetric

from lightning_fed import load_global_model
from lightning_fed.coordinator.events import EventLog
from lightning_fed.coordinator.loading import load_weights
from lightning_fed.coordinator.service import Coordinator
from lightning_fed.coordinator.store import Store
from lightning_fed.errors import ModelMismatchError, StoreError
from lightning_fed.plan import BestModel, ExamplePrivacy, FederationPlan, Privacy
from lightning_fed.privacy.layers import replace_layers
from lightning_fed.transport.identity import new_identity
from lightning_fed.transport.roster import Roster
from lightning_fed.update.global_model import GlobalModel, state_of
from lightning_fed.update.layout import layout_of

PRIVATE = Privacy(example=ExamplePrivacy(epsilon=8, replace_layers=True))


class Net(L.LightningModule):
    def __init__(self, width: int = 16):
        super().__init__()
        self.save_hyperparameters()
        self.body = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width))
        self.head = nn.Linear(width, 1)

    def forward(self, x):
        return self.head(self.body(x))


class WithExtra(Net):
    def __init__(self, width: int = 16):
        super().__init__(width)
        self.mean = MeanMetric()
        self.mean.persistent(True)
        self.register_buffer("phases", torch.zeros(3, dtype=torch.complex128))


class Wider(Net):
    def __init__(self, width: int = 16):
        super().__init__(width)
        self.more = nn.Linear(2, 2)


def stored(folder, initial, **plan):
    """The path of a coordinator's first global model."""
    coordinator, site = new_identity("coordinator"), new_identity("north")
    roster = Roster.of(coordinator.card, [site.card, new_identity("south").card])
    service = Coordinator(
        FederationPlan(**plan),
        address="tcp://127.0.0.1:*",
        identity=coordinator,
        roster=roster,
        store=folder,
        initial=initial,
    )
    service._store.close()
    service._hub.close()
    service._events.close()
    return folder / "models" / "000000.ckpt"


def equal(first, second, *, but=()):
    first, second = first.state_dict(), second.state_dict()
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first if name not in but)


def test_a_model_with_replaced_layers_comes_back_with_them(tmp_path):
    trained = Net(24)
    path = stored(tmp_path / "store", trained, privacy=PRIVATE)
    assert isinstance(trained.body[1], nn.GroupNorm)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_global_model(path, Net)
    assert loaded.hparams.width == 24 and equal(loaded, trained)
    assert equal(load_global_model(str(path), Net), trained)
    x = torch.randn(3, 4)
    assert torch.equal(loaded.eval()(x), trained.eval()(x))
    # As the initial model of another run, too.
    initial = Net(24)
    assert load_weights(initial, path) == [] and equal(initial, trained)


def test_a_store_gives_its_newest_its_best_or_a_numbered_model(tmp_path):
    plan = FederationPlan(metrics=["auroc"], best=BestModel("auroc", "max"))
    nets = [Net(24) for _ in range(3)]
    store = Store(tmp_path, plan, {"width": 24})
    for version, net in enumerate(nets):
        store.save(GlobalModel.from_state(state_of(net), layout_of(net), version))
    store.close()
    log = EventLog(tmp_path)
    with pytest.raises(StoreError, match="no site has reported a finite auroc"):
        load_global_model(tmp_path, Net, "best")
    for version, value in enumerate((0.5, 0.9, 0.8)):
        log.write("metrics", {"version": version, "metrics": {"auroc": value}, "counts": {"auroc": 2}})
    log.close()
    for version, expected in ((None, 2), ("best", 1), (0, 0)):
        assert equal(load_global_model(tmp_path, Net, version), nets[expected])
    with pytest.raises(StoreError, match=r"global model 7 is not in .* that are there: 0, 1, 2"):
        load_global_model(tmp_path, Net, version=7)
    with pytest.raises(StoreError, match="version = 1 needs a store"):
        load_global_model(tmp_path / "models" / "000000.ckpt", Net, version=1)
    with pytest.raises(StoreError, match="is not a coordinator's store"):
        load_global_model(tmp_path / "models", Net)


def test_without_the_arguments_in_the_file_they_are_asked_for_and_taken(tmp_path):
    trained = Net(24)
    bare = Net(24)
    bare.hparams.clear()
    bare.load_state_dict(trained.state_dict())
    path = stored(tmp_path / "store", bare)
    with pytest.raises(ModelMismatchError, match=r"load_global_model\(path, Net, name=value\)"):
        load_global_model(path, Net)
    assert equal(load_global_model(path, Net, width=24), trained)


def test_what_stays_at_the_sites_is_named_and_nothing_else_may_be_missing(tmp_path):
    trained = Net()
    path = stored(tmp_path / "store", trained, personal=["head.*"])
    with pytest.warns(UserWarning, match=r"\['head.weight', 'head.bias'\], 2 in all, are not in 000000.ckpt"):
        loaded = load_global_model(path, Net)
    assert equal(loaded, trained, but=("head.weight", "head.bias"))
    with pytest.raises(ModelMismatchError, match=r"\['more.bias', 'more.weight'\]"):
        load_global_model(path, Wider)
    with pytest.raises(StoreError, match="is missing or is no checkpoint"):
        load_global_model(tmp_path / "none.ckpt", Net)


def test_what_no_global_model_can_hold_is_named(tmp_path):
    trained = WithExtra()
    path = stored(tmp_path / "store", trained)
    with pytest.warns(UserWarning, match=r"\['phases'\], 1 in all"):
        assert equal(load_global_model(path, WithExtra), trained)


def test_a_file_that_is_no_global_model_is_loaded_whole_or_not_at_all(tmp_path):
    state = Net().state_dict()
    del state["head.bias"]
    torch.save({"state_dict": state}, tmp_path / "other.ckpt")
    with pytest.raises(ModelMismatchError, match=r"\['head.bias'\]"):
        load_weights(Net(), tmp_path / "other.ckpt")
    replaced = Net()
    replace_layers(replaced)
    torch.save({"state_dict": replaced.state_dict()}, tmp_path / "other.ckpt")
    with pytest.raises(ModelMismatchError, match="running_mean"):
        load_weights(Net(), tmp_path / "other.ckpt")
