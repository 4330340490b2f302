import pytest
import torch
from round_fits import Alternating, Quadratic, Regression, Rounds, constant, fitted, same

from lightning_fed.callbacks.feddyn import FedDyn
from lightning_fed.errors import ConfigError, ModelMismatchError, UpdateRefusedError
from lightning_fed.update.layout import flatten, layout_of, tensors_of


def sgd(parameters):
    return torch.optim.SGD(parameters, 0.1)


def test_each_step_is_pulled_to_the_global_model_less_the_sites_drift():
    feddyn = FedDyn(0.5)
    feddyn.load_state_dict({"control": torch.tensor([0.2])})
    w = fitted(Quadratic(sgd, 2.0, start=1.0), [Rounds(10), feddyn], constant(3.0, 2), max_epochs=1)["w"]
    first = 1 - 0.1 * (2 * (1 - 3) + 0.5 * 0.2)
    assert w.item() == pytest.approx(first - 0.1 * (2 * (first - 3) + 0.5 * (first - 1 + 0.2)), abs=1e-6)


@pytest.mark.parametrize("module", [Regression, Alternating])
def test_outside_of_rounds_it_does_nothing(module):
    assert same(fitted(module(), [FedDyn(1.0)]), fitted(module()))


def test_the_drift_is_the_sum_of_the_updates_that_counted_and_part_of_checkpoints():
    module, feddyn = Regression(), FedDyn(0.1)
    layout = layout_of(module)
    start = flatten(tensors_of(module, layout.exchanged))
    fitted(module, [Rounds(100), feddyn])
    update = flatten(tensors_of(module, layout.exchanged)).sub_(start)
    assert torch.equal(feddyn.upload(update), update)
    assert feddyn.state_dict()["control"].abs().max() == 0, "it may never be summed"
    feddyn.settle_change(None)
    assert torch.equal(feddyn.state_dict()["control"], update)
    feddyn.restore(torch.zeros(layout.size))
    fitted(Regression(), [Rounds(100), feddyn])
    feddyn.upload(update)
    feddyn.undo_change()
    assert feddyn.state_dict()["control"].abs().max() == 0
    feddyn.upload(update)
    feddyn.settle_change(update + 0.25)
    assert torch.equal(feddyn.state_dict()["control"], update + 0.25)
    again = FedDyn(0.1)
    again.load_state_dict(feddyn.state_dict())
    assert not same(fitted(Regression(), [Rounds(100), again]), fitted(Regression(), [Rounds(100), FedDyn(0.1)]))
    assert torch.equal(again.state_dict()["control"], update + 0.25)


def test_what_cannot_be_is_refused():
    for alpha in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="alpha"):
            FedDyn(alpha)
    with pytest.raises(UpdateRefusedError, match="no round"):
        FedDyn(1.0).upload(torch.zeros(1))
    other = FedDyn(1.0)
    other.load_state_dict({"control": torch.zeros(7)})
    with pytest.raises(ModelMismatchError, match="7 values"):
        fitted(Quadratic(sgd), [Rounds(1), other], constant(1.0, 1))
