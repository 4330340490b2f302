import pytest
import torch
from round_fits import Alternating, Quadratic, Regression, Rounds, constant, fitted, loader, same, trainer_of
from torch import nn

from lightning_fed.callbacks.scaffold import Scaffold
from lightning_fed.errors import UpdateRefusedError
from lightning_fed.update.layout import flatten, layout_of, tensors_of


def sgd(parameters):
    return torch.optim.SGD(parameters, 0.1)


def adamw(parameters):
    return torch.optim.AdamW(parameters, 0.01)


@pytest.mark.parametrize("module", [Regression, Alternating])
def test_with_zero_controls_training_is_bit_for_bit_fedavg(module):
    assert same(fitted(module(), [Rounds(4), Scaffold()]), fitted(module(), [Rounds(4)]))
    zeros = Scaffold()
    zeros.server_control = torch.zeros(layout_of(module()).size)
    assert same(fitted(module(), [Rounds(4), zeros]), fitted(module(), [Rounds(4)]))


def test_each_step_is_corrected_by_the_servers_control_less_the_sites():
    scaffold = Scaffold()
    scaffold.server_control = torch.tensor([0.7])
    scaffold.load_state_dict({"control": torch.tensor([0.2])})
    w = fitted(Quadratic(sgd, 2.0), [Rounds(10), scaffold], constant(3.0, 2), max_epochs=1)["w"]
    first = -0.1 * (2 * (0 - 3) + 0.5)
    assert w.item() == pytest.approx(first - 0.1 * (2 * (first - 3) + 0.5), abs=1e-6)


def change_of(module, optimizer=None, server=None, **settings):
    """A round of training, and the change of the control after it."""
    module = module if isinstance(module, nn.Module) else module(optimizer)
    scaffold, layout = Scaffold(), layout_of(module)
    scaffold.server_control = server
    start = flatten(tensors_of(module, layout.exchanged))
    fitted(module, [Rounds(100), scaffold], **settings)
    update = flatten(tensors_of(module, layout.exchanged)).sub_(start)
    return scaffold.upload(update)[layout.size :], layout, scaffold


@pytest.mark.parametrize("optimizer", [sgd, adamw, lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)])
def test_the_new_control_is_the_mean_local_gradient_whatever_the_optimiser(optimizer):
    module = Quadratic(optimizer, 2.0)
    seen = []

    class Gradients(Rounds):
        def on_before_zero_grad(self, trainer, pl_module, optimizer):
            seen.append(float(pl_module.w))

    scaffold = Scaffold()
    scaffold.server_control = torch.tensor([0.3])
    fitted(module, [Gradients(100), scaffold], constant(3.0, 5), max_epochs=1)
    change = scaffold.upload(module.w.detach().clone())[1:]
    mean = sum(2 * (w - 3) for w in seen) / len(seen)
    assert len(seen) == 5 and change.item() == pytest.approx(mean, abs=1e-4)


def test_schedules_and_several_optimisers_are_summed_tensor_by_tensor():
    def falling(parameters):
        optimizer = torch.optim.SGD(parameters, 0.1)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)}

    change, _, _ = change_of(Quadratic(falling, 2.0), data=constant(3.0, 1), max_epochs=2)
    first = 0.6
    weighted = 0.1 * 2 * (0 - 3) + 0.05 * 2 * (first - 3)
    assert change.item() == pytest.approx(weighted / 0.15, abs=1e-5)
    change, layout, _ = change_of(Alternating())
    assert torch.isfinite(change).all() and change.abs().max() > 0
    for start, stop in layout.statistics:
        assert change[start:stop].abs().max() == 0


def test_a_checkpoint_carries_the_control_into_the_next_fit():
    _, _, scaffold = change_of(Regression())
    scaffold.settle_change(None)
    again = Scaffold()
    again.load_state_dict(scaffold.state_dict())
    assert torch.equal(again.state_dict()["control"], scaffold.state_dict()["control"])
    assert not same(fitted(Regression(), [Rounds(100), again]), fitted(Regression(), [Rounds(100)]))
    assert torch.equal(again.state_dict()["control"], scaffold.state_dict()["control"])


def test_a_checkpoint_of_another_run_gives_no_control():
    left = Scaffold()
    left.begin_run("first")
    left.restore(torch.full((layout_of(Regression()).size,), 0.3))
    state = left.state_dict()
    same_run, other_run = Scaffold(), Scaffold()
    same_run.begin_run("first")
    same_run.load_state_dict(state)
    assert torch.equal(same_run.state_dict()["control"], state["control"])
    other_run.begin_run("second")
    other_run.load_state_dict(state)
    assert other_run.state_dict() == {}
    assert same(fitted(Regression(), [Rounds(100), other_run]), fitted(Regression(), [Rounds(100)]))


def test_a_scaffold_that_joins_another_run_drops_what_it_holds():
    _, _, scaffold = change_of(Regression())
    scaffold.begin_run("second")
    assert scaffold.state_dict() == {}


def test_an_undone_change_leaves_the_checkpoint_as_it_was():
    _, _, scaffold = change_of(Regression())
    scaffold.undo_change()
    assert scaffold.state_dict()["control"].abs().max() == 0


def test_a_change_without_a_round_is_refused():
    with pytest.raises(UpdateRefusedError, match="no round"):
        Scaffold().upload(torch.zeros(1))
    scaffold = Scaffold()
    trainer_of([scaffold]).fit(Regression(), loader())
    with pytest.raises(UpdateRefusedError, match="no round"):
        scaffold.upload(torch.zeros(1))


def test_callbacks_federation_reaches_the_right_point_where_fedavg_does_not():
    sites = ((1.0, 4.0), (5.0, -1.0))
    right = sum(curvature * optimum for curvature, optimum in sites) / 6.0

    def run(scaffolds):
        w, server = torch.zeros(1), torch.zeros(1)
        for _ in range(25):
            updates, changes = [], torch.zeros(1)
            for (curvature, optimum), scaffold in zip(sites, scaffolds, strict=True):
                module = Quadratic(sgd, curvature, start=w.item())
                callbacks = [Rounds(100), *([scaffold] if scaffold else [])]
                if scaffold:
                    scaffold.server_control = server
                fitted(module, callbacks, constant(optimum, 10), max_epochs=1)
                updates.append(module.w.detach() - w)
                if scaffold:
                    changes += scaffold.upload(updates[-1])[1:]
            w, server = w + sum(updates) / 2, server + changes / 2
        return w.item()

    assert abs(run([None, None]) - right) > 0.5
    assert run([Scaffold(), Scaffold()]) == pytest.approx(right, abs=1e-4)
