"""Combining through sums: by examples, uniform, FedNova, q-FedAvg, bounded at the site."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_fed.aggregation.contracts import SiteReport, Weighting
from lightning_fed.aggregation.fednova import FedNova, local_progress
from lightning_fed.aggregation.norm_bounding import SiteNormBounding
from lightning_fed.aggregation.qfedavg import QFedAvg
from lightning_fed.aggregation.registry import ALGORITHMS
from lightning_fed.aggregation.total import Total
from lightning_fed.aggregation.weightings import ByExamples, Uniform
from lightning_fed.errors import UpdateRefusedError
from lightning_fed.plan import FederationPlan, Masking
from lightning_fed.protocol.exchange import Exchange

Sites = list[tuple[Tensor, SiteReport]]


def combined(weighting: Weighting, sites: Sites) -> Tensor:
    """What the coordinator makes of the sums alone, as under masking."""
    total = torch.zeros(sites[0][0].numel(), dtype=torch.float64)
    sums = dict.fromkeys(weighting.sums, 0.0)
    for update, report in sites:
        vector, numbers = weighting.contribution(update, report)
        assert set(numbers) == set(weighting.sums)
        assert vector.dtype == torch.float32
        total += vector
        for name, number in numbers.items():
            sums[name] += number
    return weighting.mean_update(total, sums)


def fednova(size: int = 1, momentum: float = 0.0, statistics: tuple[tuple[int, int], ...] = ()) -> Weighting:
    return FedNova(momentum).build(size, statistics).combine  # type: ignore[return-value]


def qfedavg(size: int, q: float, local_lr: float = 0.5, statistics: tuple[tuple[int, int], ...] = ()) -> Weighting:
    return QFedAvg(q, local_lr).build(size, statistics).combine  # type: ignore[return-value]


def test_by_examples_is_the_weighted_mean_worked_out_by_hand() -> None:
    sites = [(torch.tensor([4.0, 0.0]), SiteReport(1)), (torch.tensor([0.0, 8.0]), SiteReport(3))]
    assert combined(ByExamples(), sites).tolist() == [1.0, 6.0]


def test_uniform_counts_a_small_and_a_large_site_alike() -> None:
    sites = [(torch.tensor([4.0, 0.0]), SiteReport(10)), (torch.tensor([0.0, 8.0]), SiteReport(10_000))]
    assert combined(Uniform(), sites).tolist() == [2.0, 4.0]


def test_a_running_total_gives_the_mean_of_all_updates_at_once() -> None:
    generator = torch.Generator().manual_seed(0)
    sites = [(torch.randn(70_000, generator=generator), SiteReport(n)) for n in (1, 17, 4000)]
    running = Total(70_000)
    for update, report in sites:
        running.add(ByExamples().contribution(update, report)[0])
    mean = ByExamples().mean_update(running.sum, {"examples": 4018.0})
    torch.testing.assert_close(combined(ByExamples(), sites), mean, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("weighting", [ByExamples(), Uniform(), fednova(70_000), qfedavg(70_000, 0.5)])
def test_a_mean_of_a_float32_sum_is_its_quotient_whether_or_not_it_takes_the_place_of_the_sum(
    weighting: Weighting,
) -> None:
    total = torch.randn(70_000, generator=torch.Generator().manual_seed(0))
    sums = dict.fromkeys(weighting.sums, 3.0)
    expected = total / 3.0
    assert torch.equal(weighting.mean_update(total, sums), expected)


@pytest.mark.parametrize("weighting", [ByExamples(), Uniform()])
@pytest.mark.parametrize("support", [None, torch.arange(0, 70_000, 3)])
def test_a_total_that_takes_the_factor_has_the_bits_of_one_that_takes_contributions(weighting, support):
    generator = torch.Generator().manual_seed(1)
    size = 70_000 if support is None else len(support)
    whole, factors = Total(70_000), Total(70_000)
    for examples in (1, 3, 1237):
        update, report = torch.randn(size, generator=generator), SiteReport(examples)
        contribution, sums = weighting.contribution(update, report)
        whole.add(contribution, support)
        factor, beside = weighting.factor(report)
        factors.add(update, support, factor)
        assert beside == sums
    assert whole.sum.any()
    assert torch.equal(whole.sum, factors.sum)


@pytest.mark.parametrize(
    "algorithm",
    [
        {"name": "fednova", "momentum": 0.9},
        {"name": "site_norm_bounding", "max_norm": 0.5},
        {"name": "qfedavg", "q": 1.0, "local_lr": 0.1},
    ],
)
def test_an_exchange_adds_what_a_weighting_contributes_also_where_it_is_more_than_a_factor(algorithm):
    exchange = Exchange(FederationPlan(algorithm=algorithm, masking=Masking("off")), 6, 2)
    values, report = np.linspace(-1, 1, 6, dtype=np.float32), SiteReport(10, steps=4, loss=0.5)
    terms = exchange.terms(values, report)
    total = Total(6)
    assert exchange.add(total, values, report, None) == terms.numbers
    assert terms.factor == 1.0
    assert torch.equal(total.sum, torch.from_numpy(terms.values).double())


def test_a_running_total_takes_values_on_part_of_the_coordinates() -> None:
    running = Total(5)
    running.add(torch.tensor([1.0, 2.0]), torch.tensor([0, 4]))
    running.add(torch.tensor([3.0]), torch.tensor([4]))
    assert running.sum.tolist() == [1.0, 0.0, 0.0, 0.0, 5.0]


def test_fednova_matches_numbers_worked_out_by_hand() -> None:
    """Shares 1/4 and 3/4, two and five steps: (4/2 / 4 + 5/5 x 3/4) x (2/4 + 15/4)."""
    sites = [(torch.tensor([4.0]), SiteReport(10, steps=2)), (torch.tensor([5.0]), SiteReport(30, steps=5))]
    assert combined(fednova(), sites).item() == pytest.approx(1.25 * 4.25)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("steps", [1, 2, 13])
def test_local_progress_is_how_far_momentum_sgd_travels_under_a_constant_gradient(momentum: float, steps: int) -> None:
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    sgd = torch.optim.SGD([weight], lr=1.0, momentum=momentum)
    for _ in range(steps):
        weight.grad = torch.ones(1, dtype=torch.float64)
        sgd.step()
    assert local_progress(steps, momentum) == pytest.approx(-weight.item(), rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    steps=st.sampled_from([1, 2, 64, 7]),
    examples=st.lists(st.integers(1, 10_000), min_size=1),
)
def test_fednova_is_fedavg_when_all_sites_take_the_same_steps(seed: int, steps: int, examples: list[int]) -> None:
    generator = torch.Generator().manual_seed(seed)
    sites = [(torch.randn(5, generator=generator), SiteReport(n, steps=steps)) for n in examples]
    torch.testing.assert_close(combined(fednova(5), sites), combined(ByExamples(), sites), rtol=1e-5, atol=1e-6)


def test_fednova_undoes_the_pull_of_the_site_that_trains_longest() -> None:
    """Two sites with optima 0 and 1, equal curvature and data, 2 and 40 steps: the right answer is 1/2."""
    optima, steps, lr = torch.tensor([0.0, 1.0]), (2, 40), 0.002

    def settled(weighting: Weighting) -> float:
        model = torch.zeros(1)
        for _ in range(1500):
            sites: Sites = []
            for optimum, count in zip(optima, steps, strict=True):
                moved = (optimum - model) * (1 - (1 - lr) ** count)  # count steps of SGD on (x - optimum)^2 / 2
                sites.append((moved, SiteReport(1, steps=count)))
            model = model + combined(weighting, sites)
        return model.item()

    assert abs(settled(ByExamples()) - 0.5) > 0.4
    assert abs(settled(fednova()) - 0.5) < 0.02


def test_fednova_averages_running_statistics_instead_of_extrapolating_them() -> None:
    """A site with 1 step beside one with 99 counts 25-fold, which would take its running variance far below zero."""
    sites = [
        (torch.tensor([1.0, -0.1]), SiteReport(50, steps=1)),
        (torch.tensor([1.0, 0.0]), SiteReport(50, steps=99)),
    ]
    assert combined(fednova(2), sites)[1].item() == pytest.approx(-2.5)
    assert combined(fednova(2, statistics=((1, 2),)), sites)[1].item() == pytest.approx(-0.05)
    assert combined(fednova(2, statistics=((1, 2),)), sites)[0].item() == pytest.approx(50 * 0.5 * (1 + 1 / 99))


def test_qfedavg_matches_numbers_worked_out_by_hand() -> None:
    """q = 1, L = 2: divisors 2 + 2 x 1 and 1 + 2 x 4."""
    sites = [(torch.tensor([1.0, 0.0]), SiteReport(9, loss=2.0)), (torch.tensor([0.0, 2.0]), SiteReport(1, loss=1.0))]
    assert combined(qfedavg(2, q=1.0), sites).tolist() == pytest.approx([2 / 13, 2 / 13])


def test_qfedavg_with_q_0_is_the_plain_mean_bit_for_bit() -> None:
    generator = torch.Generator().manual_seed(1)
    sites = [(torch.randn(50, generator=generator), SiteReport(n, loss=float(n))) for n in range(1, 8)]
    assert torch.equal(combined(qfedavg(50, q=0.0), sites), combined(Uniform(), sites))


def test_qfedavg_moves_further_towards_the_worst_site_as_q_grows() -> None:
    sites = [(torch.tensor([1.0, 0.0]), SiteReport(1, loss=0.2)), (torch.tensor([0.0, 1.0]), SiteReport(1, loss=0.9))]
    shares = []
    for q in (0.0, 0.5, 1.0, 3.0):
        update = combined(qfedavg(2, q), sites)
        shares.append((update[1] / update.sum()).item())
    assert shares == sorted(shares)
    assert shares[0] == pytest.approx(0.5)
    assert shares[-1] > 0.95


def test_qfedavg_averages_running_statistics_and_leaves_them_out_of_the_norm() -> None:
    sites = [
        (torch.tensor([1.0, 1000.0]), SiteReport(1, loss=2.0)),
        (torch.tensor([2.0, 4000.0]), SiteReport(1, loss=1.0)),
    ]
    update = combined(qfedavg(2, q=1.0, statistics=((1, 2),)), sites)
    assert update.tolist() == pytest.approx([(2 + 2) / (2 + 2 + 1 + 8), (2 * 1000 + 4000) / 3])


@pytest.mark.parametrize("loss", [None, float("nan"), float("inf"), -0.1, 1e9])
def test_qfedavg_refuses_a_loss_it_cannot_weigh(loss: float | None) -> None:
    with pytest.raises(UpdateRefusedError, match="loss"):
        qfedavg(1, q=5.0).contribution(torch.ones(1), SiteReport(1, loss=loss))


def test_qfedavg_takes_a_loss_of_zero() -> None:
    sites = [(torch.ones(1), SiteReport(1, loss=0.0)), (torch.ones(1), SiteReport(1, loss=1.0))]
    assert 0.0 < combined(qfedavg(1, q=0.5), sites).item() < 1.0


def test_a_site_bounds_its_own_update_and_leaves_short_ones_alone() -> None:
    weighting = SiteNormBounding(max_norm=5.0).build(2).combine
    sites = [(torch.tensor([30.0, 40.0]), SiteReport(1)), (torch.tensor([0.0, 1.0]), SiteReport(99))]
    assert combined(weighting, sites).tolist() == pytest.approx([1.5, 2.5])  # type: ignore[arg-type]
    zero, _ = weighting.contribution(torch.zeros(2), SiteReport(1))  # type: ignore[union-attr]
    assert zero.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("report", [SiteReport(0, steps=1, loss=1.0), SiteReport(-3, steps=1, loss=1.0)])
@pytest.mark.parametrize("weighting", [ByExamples(), fednova()])
def test_a_site_without_examples_is_refused(weighting: Weighting, report: SiteReport) -> None:
    with pytest.raises(UpdateRefusedError, match="examples"):
        weighting.contribution(torch.ones(1), report)


def test_fednova_refuses_a_site_that_took_no_step() -> None:
    with pytest.raises(UpdateRefusedError, match="0 local steps"):
        fednova().contribution(torch.ones(1), SiteReport(5, steps=0))


OVER_SUMS = [algorithm() for algorithm in ALGORITHMS.values() if not algorithm.needs_single_updates]


@pytest.mark.parametrize("algorithm", OVER_SUMS, ids=lambda a: a.name)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), order=st.permutations(range(6)))
def test_the_order_in_which_sites_arrive_does_not_matter_to_any_weighting(
    algorithm: object, seed: int, order: list[int]
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weighting = algorithm.build(9).combine  # type: ignore[attr-defined]
    sites = [(torch.randn(9, generator=generator), SiteReport(n + 1, steps=2 * n + 1, loss=0.1 + n)) for n in range(6)]
    torch.testing.assert_close(
        combined(weighting, sites), combined(weighting, [sites[i] for i in order]), rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize("algorithm", OVER_SUMS, ids=lambda a: a.name)
@pytest.mark.parametrize("divisor", [0.0, -1.0, float("nan")])
def test_no_weighting_divides_by_a_sum_that_is_not_positive(algorithm: object, divisor: float) -> None:
    weighting = algorithm.build(2).combine  # type: ignore[attr-defined]
    with pytest.raises(UpdateRefusedError):
        weighting.mean_update(torch.ones(2, dtype=torch.float64), dict.fromkeys(weighting.sums, divisor))
