"""Server rules: known steps, limits in which they are FedAvg, saved state, running statistics."""

import json
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from lightning_fed.aggregation.contracts import Algorithm, ServerRule
from lightning_fed.aggregation.fedadagrad import FedAdagrad
from lightning_fed.aggregation.fedadam import FedAdam
from lightning_fed.aggregation.fedavg import FedAvg
from lightning_fed.aggregation.fedavgm import FedAvgM
from lightning_fed.aggregation.feddyn import FedDyn
from lightning_fed.aggregation.fedyogi import FedYogi
from lightning_fed.aggregation.scaffold import Scaffold
from lightning_fed.errors import ModelMismatchError, StoreError, UpdateRefusedError

STATEFUL = [FedAvgM(), FedAdagrad(), FedAdam(), FedYogi(), FedDyn()]
ALL = [FedAvg(), FedAvgM(momentum=0.0), *STATEFUL, Scaffold()]


def named(algorithm: Algorithm) -> str:
    return algorithm.name


def positions(rule: ServerRule, updates: list[float]) -> list[float]:
    """Where a model of one value, started at 0, stands after each update."""
    model, seen = torch.zeros(1), []
    for update in updates:
        model = rule.apply(model, torch.tensor([update]))
        seen.append(model.item())
    return seen


@pytest.mark.parametrize(
    ("algorithm", "updates", "expected"),
    [
        (FedAvg(), [1.5, -0.5], [1.5, 1.0]),
        # velocity 1, then 0.5 x 1 + 1
        (FedAvgM(server_lr=2.0, momentum=0.5), [1.0, 1.0], [2.0, 5.0]),
        # v = 0.25 + 1, then + 4
        (
            FedAdagrad(server_lr=0.1, tau=0.5),
            [1.0, 2.0],
            [0.1 / (1.25**0.5 + 0.5), 0.1 / (1.25**0.5 + 0.5) + 0.2 / (5.25**0.5 + 0.5)],
        ),
        # corrected moments 2 and 4, then 0.18 / 0.19 and 0.0396 / 0.0199
        (
            FedAdam(server_lr=0.1, beta1=0.9, beta2=0.99, tau=1e-3),
            [2.0, 0.0],
            [0.2 / 2.001, 0.2 / 2.001 + 0.1 * (0.18 / 0.19) / ((0.0396 / 0.0199) ** 0.5 + 1e-3)],
        ),
        # v grows from 0.01 by 0.01 x 4, then shrinks by 0.01 x 0.01; m = 0.2, then 0.18 + 0.01
        (
            FedYogi(server_lr=0.1, beta1=0.9, beta2=0.99, tau=0.1),
            [2.0, 0.1],
            [0.02 / (0.05**0.5 + 0.1), 0.02 / (0.05**0.5 + 0.1) + 0.019 / (0.0499**0.5 + 0.1)],
        ),
        (Scaffold(server_lr=0.5), [1.0, 3.0], [0.5, 2.0]),
        # the drift is 1, then 4: 0 + 1 + 1, then 2 + 3 + 4
        (FedDyn(), [1.0, 3.0], [2.0, 9.0]),
    ],
    ids=lambda value: value.name if isinstance(value, Algorithm) else "",
)
def test_steps_match_numbers_worked_out_by_hand(
    algorithm: Algorithm, updates: list[float], expected: list[float]
) -> None:
    assert positions(algorithm.build(1).server, updates) == pytest.approx(expected, rel=1e-6)


def test_a_site_that_took_no_part_leaves_its_part_of_feddyns_drift_as_it_was() -> None:
    rule = FedDyn().build(1).server
    # One of four sites moves by 8, so the mean of their drifts by 2.
    assert rule.apply(torch.zeros(1), torch.tensor([8.0]), 0.25).item() == 8 + 2
    assert rule.apply(torch.zeros(1), torch.tensor([-4.0]), 1.0).item() == -4 + (2 - 4)


# With tau at 2^30 and the learning rate its equal (or twice it where v starts at tau^2), every update below 2^5 drowns
# in the denominator, which is then a power of two: dividing and multiplying by it is exact.
@pytest.mark.parametrize(
    "algorithm",
    [
        FedAvgM(server_lr=1.0, momentum=0.0),
        FedAdam(server_lr=2.0**30, beta1=0.0, beta2=0.0, tau=2.0**30),
        FedAdagrad(server_lr=2.0**31, tau=2.0**30),
        FedYogi(server_lr=2.0**31, beta1=0.0, beta2=0.0, tau=2.0**30),
        Scaffold(server_lr=1.0),
    ],
    ids=named,
)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_limit_cases_are_fedavg_bit_for_bit(algorithm: Algorithm, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    size = 37
    model = torch.randn(size, generator=generator)
    rule, plain, expected = algorithm.build(size).server, FedAvg().build(size).server, model
    for _ in range(3):
        update = torch.randn(size, generator=generator)
        model, expected = rule.apply(model, update), plain.apply(expected, update)
        assert torch.equal(model, expected)


@pytest.mark.parametrize("algorithm", ALL, ids=named)
@pytest.mark.parametrize("rounds_before", [0, 3])
def test_a_rule_restored_from_its_saved_state_takes_bit_identical_steps(
    algorithm: Algorithm, rounds_before: int
) -> None:
    generator = torch.Generator().manual_seed(5)
    statistics = ((10, 20),)
    rule = algorithm.build(64, statistics).server
    model = torch.randn(64, generator=generator)
    for _ in range(rounds_before):
        model = rule.apply(model, torch.randn(64, generator=generator))

    state = rule.state_dict()
    tensors = save({name: value for name, value in state.items() if isinstance(value, torch.Tensor)})
    numbers = json.dumps({name: value for name, value in state.items() if not isinstance(value, torch.Tensor)})
    restored = algorithm.build(64, statistics).server
    restored.load_state_dict({**load(tensors), **json.loads(numbers)})

    other = model.clone()
    for _ in range(3):
        update = torch.randn(64, generator=generator)
        model, other = rule.apply(model, update), restored.apply(other, update)
        assert torch.equal(model, other)


@pytest.mark.parametrize("algorithm", STATEFUL, ids=named)
def test_a_rule_taken_back_to_an_earlier_state_repeats_its_steps(algorithm: Algorithm) -> None:
    rule = algorithm.build(2).server
    model, update = torch.zeros(2), torch.tensor([1.0, -2.0])
    for _ in range(2):
        saved = rule.state_dict()
        first = rule.apply(model, update)
        rule.apply(first, -3 * update)
        for _ in range(2):  # twice, since the first time must not spoil what was saved
            rule.load_state_dict(saved)
            assert torch.equal(rule.apply(model, update), first)


@pytest.mark.parametrize("algorithm", ALL, ids=named)
def test_apply_leaves_its_arguments_and_earlier_results_as_they_were(algorithm: Algorithm) -> None:
    rule = algorithm.build(3).server
    model, update = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 0.0, -0.5])
    first = rule.apply(model, update)
    kept = first.clone()
    rule.apply(first, update)
    assert model.tolist() == [1.0, 2.0, 3.0]
    assert update.tolist() == [0.5, 0.0, -0.5]
    assert torch.equal(first, kept)
    assert first.dtype == torch.float32


@pytest.mark.parametrize("algorithm", STATEFUL, ids=named)
def test_state_of_another_rule_or_model_is_refused(algorithm: Algorithm) -> None:
    rule = algorithm.build(4).server
    rule.apply(torch.zeros(4), torch.ones(4))
    state = rule.state_dict()
    vector = next(name for name, value in state.items() if isinstance(value, torch.Tensor))
    for broken in (
        {**state, "surplus": 1.0},
        {name: value for name, value in state.items() if name != vector} or {"other": torch.zeros(4)},
        {**state, vector: torch.zeros(5)},
        {**state, vector: torch.zeros(4, dtype=torch.float64)},
        {**state, vector: torch.full((4,), torch.nan)},
        {**state, vector: 3.0},
    ):
        with pytest.raises(StoreError):
            algorithm.build(4).server.load_state_dict(broken)
    with pytest.raises(StoreError):
        FedAvg().build(4).server.load_state_dict(state)


@pytest.mark.parametrize("algorithm", ALL, ids=named)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_an_update_that_is_not_finite_is_refused_before_the_state_learns_of_it(
    algorithm: Algorithm, bad: float
) -> None:
    rule, model, update = algorithm.build(2).server, torch.zeros(2), torch.ones(2)
    expected = algorithm.build(2).server.apply(model, update)
    with pytest.raises(UpdateRefusedError, match="NaN or infinite"):
        rule.apply(model, torch.tensor([1.0, bad]))
    assert torch.equal(rule.apply(model, update), expected)


@pytest.mark.parametrize("algorithm", ALL, ids=named)
@pytest.mark.parametrize("make", [lambda: torch.zeros(5), lambda: torch.zeros(1, 4), lambda: torch.zeros(4).double()])
def test_a_vector_that_does_not_fit_is_refused(algorithm: Algorithm, make: Callable[[], torch.Tensor]) -> None:
    rule = algorithm.build(4).server
    with pytest.raises(ModelMismatchError):
        rule.apply(make(), torch.zeros(4))
    with pytest.raises(ModelMismatchError):
        rule.apply(torch.zeros(4), make())


@pytest.mark.parametrize("algorithm", STATEFUL, ids=named)
def test_running_variances_follow_the_plain_mean_and_stay_positive_under_every_server_optimiser(
    algorithm: Algorithm,
) -> None:
    """Variances that shrink steadily and then stop: momentum and sign-like steps would shoot below zero."""
    statistics = ((0, 2), (5, 6))
    rule, bare = algorithm.build(7, statistics).server, algorithm.build(7).server
    parameters = [2, 3, 4, 6]
    alone = algorithm.build(4).server
    model = torch.tensor([0.05, 0.02, 1.0, 1.0, 1.0, 0.03, 1.0])
    spoiled = model.clone()
    for _ in range(10):
        update = -0.2 * model
        spoiled = bare.apply(spoiled, update)
        expected = model + update
        expected[parameters] = alone.apply(model[parameters], update[parameters])
        model = rule.apply(model, update)
        assert torch.equal(model, expected)
        assert (model[[0, 1, 5]] > 0).all()
    assert (spoiled[[0, 1, 5]] < 0).any(), "without the ranges this algorithm does not show the danger"


@pytest.mark.parametrize("spans", [((0, 5),), ((2, 1),), ((0, 2), (1, 3)), ((2, 3), (0, 1)), ((-1, 1),)])
def test_ranges_that_do_not_fit_the_model_are_refused(spans: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(ModelMismatchError, match="running statistics"):
        FedAdam().build(4, spans)
