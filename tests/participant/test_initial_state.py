"""What of a model leaves as the federation's first one, and what shows that a model was trained."""

import json
import stat

import lightning as L
import pytest
import torch
from safetensors.torch import load
from torch import nn
from torchmetrics.classification import BinaryConfusionMatrix

from lightning_fed import SitePolicy
from lightning_fed.errors import PlanRefusedError, StoreError
from lightning_fed.participant.initial_state import InitialState
from lightning_fed.update.layout import layout_of


class Network(L.LightningModule):
    """Everything that a state holds: weights, tied weights, statistics, a count, a frozen part, a metric's counts."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
        self.head = nn.Linear(3, 3)
        self.head.weight = self.body[0].weight
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.own = nn.Linear(2, 2)
        self.confusion = BinaryConfusionMatrix()
        self.confusion.persistent(True)


@pytest.fixture
def trainer():
    return L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)


def initial(tmp_path, **policy):
    return InitialState(tmp_path / "ledgers" / "north.jsonl.trained", "north", SitePolicy(**policy))


def test_what_is_given_is_the_untrained_tensors_and_neither_personal_ones_nor_a_metrics_counts(tmp_path, trainer):
    module = Network()
    module.confusion.update(torch.tensor([0.9, 0.2]), torch.tensor([1, 1]))
    assert "confusion.confmat" in module.state_dict()
    state = load(initial(tmp_path).take(trainer, module, layout_of(module, ["own.*"])))
    expected = {name: tensor for name, tensor in module.state_dict().items() if not name.startswith(("own", "conf"))}
    del expected["head.weight"]
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in state)


@pytest.mark.parametrize("pattern", ["head.weight", "frozen.*", "*.num_batches_tracked", "*.running_mean"])
def test_nothing_that_never_leaves_is_in_it_be_it_tied_frozen_or_a_buffer(tmp_path, trainer, pattern):
    module = Network()
    with pytest.raises(PlanRefusedError, match=r"never leaves this site \(never_leaves\)"):
        initial(tmp_path, never_leaves=[pattern]).take(trainer, module, layout_of(module))
    initial(tmp_path, never_leaves=["own.*"]).take(trainer, module, layout_of(module, ["own.*"]))


def test_a_gradient_or_averaged_batches_show_that_a_model_was_trained(tmp_path, trainer):
    module = Network()
    module.body(torch.randn(4, 3))
    with pytest.raises(PlanRefusedError, match=r"its layer 'body\.1' has averaged 1 batches, and only an untrained"):
        initial(tmp_path).take(trainer, module, layout_of(module))
    module = Network()
    module.own(torch.randn(4, 2)).sum().backward()
    with pytest.raises(PlanRefusedError, match=r"its parameter 'own\.weight' has a gradient"):
        initial(tmp_path).take(trainer, module, layout_of(module))


def test_a_site_that_has_begun_to_train_gives_nothing_ever_after(tmp_path, trainer):
    module = Network()
    first = initial(tmp_path)
    first.take(trainer, module, layout_of(module))
    first.training_begins("run", 1)
    first.training_begins("run", 2)
    record = tmp_path / "ledgers" / "north.jsonl.trained"
    assert json.loads(record.read_bytes()) == {"site": "north", "run": "run", "round": 1}
    assert stat.S_IMODE(record.stat().st_mode) == 0o600
    for again in (first, initial(tmp_path), initial(tmp_path, gives_initial=True)):
        with pytest.raises(PlanRefusedError, match=r"it has trained before \(.*north\.jsonl\.trained\)"):
            again.take(trainer, Network(), layout_of(module))
    other_run = initial(tmp_path)
    other_run.training_begins("another", 7)
    assert json.loads(record.read_bytes())["run"] == "run"


def test_a_round_does_not_begin_where_that_cannot_be_written_down(tmp_path, trainer):
    (tmp_path / "ledgers").write_text("a file in the folder's place")
    with pytest.raises(StoreError, match=r"The site notes there that it has begun to train"):
        initial(tmp_path).training_begins("run", 1)
