"""The textbook problem: sites with other optima and curvatures, and many local steps."""

import pytest
import torch
from torch import Tensor

from lightning_fed.aggregation.scaffold import next_server_control
from lightning_fed.errors import ModelMismatchError, UpdateRefusedError
from lightning_fed.update.layout import Layout, TensorSpec
from lightning_fed.update.scaffold_control import ScaffoldControl

LAYOUT = Layout(
    (
        TensorSpec("weight", (2,), "float32"),
        TensorSpec("running_mean", (2,), "float32", True),
        TensorSpec("bias", (1,), "float32"),
    )
)
CURVATURES = torch.tensor([[0.1, 1.0, 3.0], [1.0, 2.0, 0.2], [4.0, 0.5, 1.0], [0.5, 5.0, 2.0]])
OPTIMA = torch.tensor([[1.0, -2.0, 0.0], [-1.0, 4.0, 3.0], [2.0, 0.0, -5.0], [6.0, 1.0, 1.0]])
RIGHT = (CURVATURES * OPTIMA).sum(0) / CURVATURES.sum(0)
PARAMETERS = [0, 1, 4]
STEPS = 50
RATES = {"constant": lambda step: (0.05, 0.05), "two rates that fall": lambda step: (0.08 * 0.97**step, 0.02)}


def train(model: Tensor, site: int, control: ScaffoldControl | None, rates, gradients: bool) -> Tensor:
    """The update of a site: plain gradient descent, with the correction if there is a control."""
    local = model.clone()
    correction = control.correction() if control else None
    for step in range(STEPS):
        gradient = torch.zeros(5)
        gradient[PARAMETERS] = CURVATURES[site] * (local[PARAMETERS] - OPTIMA[site])
        if correction is not None:
            gradient += correction
        for index, span, lr in ((0, slice(0, 2), rates(step)[0]), (2, slice(4, 5), rates(step)[1])):
            local[span] -= lr * gradient[span]
            if control:
                control.stepped(index, lr, gradient[span] if gradients else None)
    # What no gradient moves: a buffer follows the site's images.
    local[2:4] = float(site)
    return local - model


def federation(rounds: int, rates, scaffold: bool, gradients: bool = False, seldom: bool = False) -> Tensor:
    model, server = torch.zeros(5), torch.zeros(5)
    controls = [ScaffoldControl(LAYOUT) for _ in OPTIMA]
    for round in range(rounds):
        updates, changes = [], torch.zeros(5)
        # A different site sits out in every round.
        sites = [site for site in range(4) if not seldom or site != round % 4]
        for site in sites:
            if scaffold:
                controls[site].begin(server)
            updates.append(train(model, site, controls[site] if scaffold else None, rates, gradients))
            if scaffold:
                changes += controls[site].renewed(updates[-1])
        model = model + torch.stack(updates).mean(0)
        server = next_server_control(server, changes, 4)
    assert server[2:4].abs().max() == 0
    return model[PARAMETERS]


@pytest.mark.parametrize("rates", RATES.values(), ids=RATES)
@pytest.mark.parametrize("gradients", [False, True], ids=["from the update", "from the gradients"])
def test_fedavg_goes_to_the_wrong_point_and_scaffold_to_the_right_one(rates, gradients):
    assert (federation(100, rates, scaffold=False) - RIGHT).abs().max() > 0.3
    assert torch.allclose(federation(120, rates, scaffold=True, gradients=gradients), RIGHT, atol=1e-4)


def test_a_site_that_sits_out_keeps_its_control_and_the_point_stays_right():
    assert torch.allclose(federation(250, RATES["constant"], scaffold=True, seldom=True), RIGHT, atol=1e-4)


def test_without_controls_there_is_no_correction():
    control = ScaffoldControl(LAYOUT)
    control.begin(None)
    assert control.correction() is None
    control.begin(torch.zeros(5))
    assert control.correction() is None


def test_both_ways_to_a_control_agree_for_plain_descent():
    one, other = ScaffoldControl(LAYOUT), ScaffoldControl(LAYOUT)
    for control, gradients in ((one, False), (other, True)):
        for server in (torch.zeros(5), torch.tensor([0.3, -0.2, 0.0, 0.0, 0.5])):
            control.begin(server)
            control.renewed(train(torch.ones(5), 1, control, RATES["two rates that fall"], gradients))
    assert torch.allclose(one.control, other.control, atol=1e-5)
    assert one.control.abs().min() == 0 and one.control[PARAMETERS].abs().min() > 0.01


def test_a_parameter_that_took_no_step_keeps_its_control():
    control = ScaffoldControl(LAYOUT)
    control.begin(torch.ones(5))
    control.stepped(0, 0.1)
    change = control.renewed(torch.full((5,), -0.2))
    # -c - update / lr_sum = -1 + 2
    assert torch.allclose(change, torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0]))


def test_an_upload_that_did_not_count_leaves_the_control_as_it_was():
    control = ScaffoldControl(LAYOUT)
    control.begin(None)
    first = control.renewed(train(torch.zeros(5), 0, control, RATES["constant"], False))
    control.begin(None)
    control.renewed(train(torch.zeros(5), 2, control, RATES["constant"], False))
    control.undo()
    control.undo()
    assert torch.equal(control.control, first)


def test_what_the_sum_holds_becomes_the_control_once_and_cannot_be_undone():
    control = ScaffoldControl(LAYOUT)
    control.begin(None)
    change = control.renewed(train(torch.zeros(5), 0, control, RATES["constant"], False))
    control.settle(change + 0.25)
    control.settle(change + 0.5)
    control.undo()
    assert torch.equal(control.control, change + 0.25)


def test_a_round_without_training_or_with_an_infinite_control_is_refused_and_changes_nothing():
    control = ScaffoldControl(LAYOUT)
    control.begin(None)
    with pytest.raises(UpdateRefusedError, match="no local step"):
        control.renewed(torch.ones(5))
    control.stepped(0, 0.0)
    with pytest.raises(UpdateRefusedError, match="no local step"):
        control.renewed(torch.ones(5))
    control.stepped(0, 1e-30)
    with pytest.raises(UpdateRefusedError, match="not finite"):
        control.renewed(torch.full((5,), 1e20))
    assert control.control.abs().max() == 0


def test_controls_of_another_model_are_refused():
    control = ScaffoldControl(LAYOUT)
    with pytest.raises(ModelMismatchError, match="4 values"):
        control.begin(torch.zeros(4))
    with pytest.raises(ModelMismatchError, match="4 values"):
        control.load_state_dict({"control": torch.zeros(4)})


def test_a_checkpoint_holds_no_change_whose_update_may_never_have_been_summed():
    control = ScaffoldControl(LAYOUT)
    control.begin(None)
    control.stepped(0, 0.1)
    change = control.renewed(torch.ones(5))
    assert change.any()
    assert not control.state_dict()["control"].any()
    control.settle(None)
    torch.testing.assert_close(control.state_dict()["control"], change)


def test_a_control_that_would_change_absurdly_stays_as_it_was():
    control = ScaffoldControl(LAYOUT)
    control.begin(None)
    control.stepped(0, 1e-20)
    with pytest.raises(UpdateRefusedError, match="beyond 1e\\+12"):
        control.renewed(torch.ones(5))
    assert not control.control.any()
