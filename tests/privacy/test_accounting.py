import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant, privacy_loss_distribution
from dp_accounting.rdp import RdpAccountant
from opacus.accountants import PRVAccountant, RDPAccountant

from lightning_fed.errors import PlanError
from lightning_fed.privacy.accounting import (
    ORDERS,
    Composition,
    DpSgd,
    dp_sgd_noise_multiplier,
    epsilon,
    epsilon_from_rdp,
    require_delta_for,
    sample_rate_of,
    site_noise_multiplier,
)
from lightning_fed.privacy.central import central_noise
from lightning_fed.privacy.discrete import distributed_noise
from lightning_fed.privacy.gaussian import MOST_STEPS

# Sampling rate, noise multiplier, steps, delta: small and large batches, strict and loose privacy.
SETTINGS = [
    (0.01, 1.1, 1_000, 1e-5),
    (0.064, 0.7, 400, 1e-5),
    (0.25, 4.0, 300, 1e-6),
    (1.0, 8.0, 50, 1e-5),
    (0.004, 0.6, 3_000, 1e-5),
]


def dp_sgd_event(rate, noise, steps):
    step = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))
    return dp_accounting.SelfComposedDpEvent(step, steps)


def rdp_epsilon(mechanisms, delta):
    return epsilon_from_rdp(sum(mechanism.rdp(ORDERS) for mechanism in mechanisms), delta)


def prv_epsilon(rate, noise, steps, delta):
    opacus = PRVAccountant()
    opacus.history = [(noise, rate, steps)]
    return opacus.get_epsilon(delta)


@pytest.mark.parametrize(("rate", "noise", "steps", "delta"), SETTINGS)
def test_dp_sgd_divergences_give_opacus_epsilon(rate, noise, steps, delta):
    opacus = RDPAccountant()
    opacus.history = [(noise, rate, steps)]
    assert rdp_epsilon([DpSgd(rate, noise, steps)], delta) == pytest.approx(opacus.get_epsilon(delta), rel=1e-12)


@pytest.mark.parametrize(("rate", "noise", "steps", "delta"), SETTINGS)
def test_dp_sgd_divergences_give_dp_accountings_epsilon_within_one_percent(rate, noise, steps, delta):
    theirs = RdpAccountant().compose(dp_sgd_event(rate, noise, steps)).get_epsilon(delta)
    assert rdp_epsilon([DpSgd(rate, noise, steps)], delta) == pytest.approx(theirs, rel=0.01)


@pytest.mark.parametrize(("rate", "noise", "steps", "delta"), SETTINGS)
def test_dp_sgd_epsilon_is_opacus_prv_and_dp_accountings_pld_and_below_rdp(rate, noise, steps, delta):
    ours = epsilon([DpSgd(rate, noise, steps)], delta)
    # Opacus' own is an upper bound, by up to 0.01; dp-accounting's is on a grid of its own.
    assert ours == pytest.approx(prv_epsilon(rate, noise, steps, delta), abs=0.012)
    assert ours == pytest.approx(PLDAccountant().compose(dp_sgd_event(rate, noise, steps)).get_epsilon(delta), rel=5e-4)
    assert ours < 0.97 * rdp_epsilon([DpSgd(rate, noise, steps)], delta)


def test_the_run_that_the_ledger_wrote_down_as_7_99_costs_6_66():
    steps = DpSgd(0.19519, 0.823, 24)
    assert rdp_epsilon([steps], 1e-3) == pytest.approx(7.99, abs=0.01)
    assert epsilon([steps], 1e-3) == pytest.approx(6.66, abs=0.01)
    assert epsilon([steps], 1e-3) == pytest.approx(prv_epsilon(0.19519, 0.823, 24, 1e-3), abs=0.012)


@pytest.mark.parametrize("steps", [1, 100, 10_000, 100_000])
def test_epsilon_is_never_below_what_finer_rounding_down_says(steps):
    rate, noise, delta = 0.002, 0.9, 1e-5
    # The same library, told to err to the other side: what is between the two is all that rounding can have cost.
    below = privacy_loss_distribution.from_gaussian_mechanism(
        noise,
        pessimistic_estimate=False,
        sampling_prob=rate,
        value_discretization_interval=5e-5,
        use_connect_dots=False,
    ).self_compose(steps)
    assert below.get_epsilon_for_delta(delta) <= epsilon([DpSgd(rate, noise, steps)], delta)


def test_steps_in_several_rounds_cost_what_they_cost_at_once():
    at_once = epsilon([DpSgd(0.02, 1.0, 500)], 1e-5)
    assert epsilon([DpSgd(0.02, 1.0, 50)] * 10, 1e-5) == pytest.approx(at_once, rel=1e-12)


def test_steps_of_several_settings_on_a_fixed_schedule_cost_what_dp_accounting_says():
    settings = [(0.05, 1.0, 100), (0.04, 1.2, 200), (1.0, 6.0, 3)]
    events = dp_accounting.ComposedDpEvent([dp_sgd_event(*one) for one in settings])
    ours = epsilon([DpSgd(*one) for one in settings], 1e-5)
    assert ours == pytest.approx(PLDAccountant().compose(events).get_epsilon(1e-5), rel=1e-3)
    assert ours < rdp_epsilon([DpSgd(*one) for one in settings], 1e-5)


@pytest.mark.parametrize("more", [DpSgd(0.05, 1.1, 1), DpSgd(0.06, 1.0, 1), DpSgd(1.0, 9.0, 1)])
def test_different_sampled_steps_on_a_schedule_that_was_not_fixed_are_counted_by_rdp(more):
    total = Composition()
    for steps in (DpSgd(0.05, 1.0, 100), DpSgd(0.05, 1.0, 50)):
        total.add(steps.rdp(ORDERS), steps.gaussian())
    assert total.bound(1e-5, fixed_schedule=False) == (epsilon([DpSgd(0.05, 1.0, 150)], 1e-5), "pld")
    total.add(more.rdp(ORDERS), more.gaussian())
    mixed = total.bound(1e-5, fixed_schedule=False)
    assert mixed.accountant == "rdp"
    assert mixed.epsilon == pytest.approx(rdp_epsilon([DpSgd(0.05, 1.0, 150), more], 1e-5), rel=1e-12)
    assert total.bound(1e-5, fixed_schedule=True).accountant == "pld"


def test_each_step_and_a_smaller_delta_cost_more():
    by_steps = [epsilon([DpSgd(0.05, 1.0, steps)], 1e-5) for steps in (1, 2, 3, 10, 11, 100, 101, 1000)]
    by_delta = [epsilon([DpSgd(0.05, 1.0, 100)], delta) for delta in (0.5, 1e-2, 1e-5, 1e-8, 1e-11, 1e-15)]
    assert by_steps == sorted(set(by_steps))
    assert by_delta == sorted(set(by_delta))


def test_a_delta_below_what_floating_point_can_tell_is_read_by_rdp():
    steps = DpSgd(0.05, 1.0, 100)
    assert epsilon([steps], 1e-12) == rdp_epsilon([steps], 1e-12)
    assert epsilon([steps], 1e-10) < rdp_epsilon([steps], 1e-10)


def test_more_steps_than_can_be_worked_out_are_left_to_rdp():
    steps = DpSgd(1e-3, 5.0, MOST_STEPS + 1)
    assert epsilon([steps], 1e-5) == rdp_epsilon([steps], 1e-5)


def test_an_epsilon_that_promises_nothing_is_left_to_rdp():
    # Of noise of 0.01 the losses would fill gigabytes.
    assert epsilon([DpSgd(0.5, 0.01, 100_000)], 1e-5) == rdp_epsilon([DpSgd(0.5, 0.01, 100_000)], 1e-5)


@pytest.mark.filterwarnings("ignore:Optimal order is the largest")
@pytest.mark.parametrize(
    ("target", "accountant"), [(0.5, "rdp"), (8.0, "rdp"), (0.5, "pld"), (1.0, "pld"), (8.0, "pld")]
)
def test_noise_for_a_target_epsilon_reaches_it_and_not_much_more(target, accountant):
    noise = dp_sgd_noise_multiplier(target, 1e-5, 0.05, 300, accountant)
    spent = epsilon if accountant == "pld" else rdp_epsilon
    assert 0.98 * target <= spent([DpSgd(0.05, noise, 300)], 1e-5) <= target


@pytest.mark.filterwarnings("ignore:Optimal order is the largest")
@pytest.mark.parametrize("target", [1.0, 3.0, 8.0])
def test_the_same_epsilon_needs_less_noise_than_by_rdp(target):
    private_study = (target, 1e-5, 360 / 700, 20)
    assert dp_sgd_noise_multiplier(*private_study) < 0.96 * dp_sgd_noise_multiplier(*private_study, "rdp")


@pytest.mark.parametrize("target", [0.5, 8.0])
@pytest.mark.parametrize("place", ["central", "distributed"])
def test_noise_for_a_sites_target_epsilon_reaches_it_and_not_much_more(target, place):
    def release(noise):
        if place == "central":
            return central_noise(noise, 1.0, 1e-4, 10_000)
        return distributed_noise(noise, 1.0, 1e-4, 10_000, 3)

    noise = site_noise_multiplier(target, 1e-5, 20, release)
    assert 0.99 * target <= epsilon([release(noise)] * 20, 1e-5) <= target


def test_composed_central_rounds_agree_with_dp_accounting():
    rounds = [central_noise(z, 1.0, 1e-6, 10) for z in (1.0, 2.0, 2.0, 5.0)]
    events = [dp_accounting.GaussianDpEvent(r.sigma / r.sensitivity) for r in rounds]
    composed = dp_accounting.ComposedDpEvent(events)
    rdp = RdpAccountant(ORDERS).compose(composed).get_epsilon(1e-5)
    assert rdp_epsilon(rounds, 1e-5) == pytest.approx(rdp, rel=1e-9)
    # Theirs is rounded up on a grid; ours is the Gaussian's own.
    pld = PLDAccountant().compose(composed).get_epsilon(1e-5)
    assert 0.9999 * pld <= epsilon(rounds, 1e-5) <= pld < rdp


def test_nothing_released_costs_nothing():
    assert epsilon([], 1e-5) == 0.0


def test_examples_and_sites_are_not_added():
    with pytest.raises(PlanError, match="different promises"):
        epsilon([DpSgd(0.1, 1.0, 1), central_noise(1.0, 1.0, 0.01, 10)], 1e-5)


@pytest.mark.parametrize("noise", [0.0, -1.0, 0.009, float("nan"), float("inf")])
def test_noise_that_protects_nobody_is_refused(noise):
    for mechanism in (
        lambda: DpSgd(0.1, noise, 10),
        lambda: central_noise(noise, 1.0, 0.01, 10),
        lambda: distributed_noise(noise, 1.0, 0.01, 10, 3),
    ):
        with pytest.raises(PlanError, match=r"noise_multiplier = .* must be a finite number of at least 0.01"):
            mechanism()


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.5, float("nan")])
def test_a_sampling_rate_that_is_no_chance_is_refused(rate):
    with pytest.raises(PlanError, match="Is the batch larger than the data set"):
        DpSgd(rate, 1.0, 10)


@pytest.mark.parametrize("delta", [0.0, -1e-5, 1.0, float("nan")])
def test_a_delta_that_is_no_chance_is_refused(delta):
    with pytest.raises(PlanError, match="delta"):
        epsilon([DpSgd(0.1, 1.0, 1)], delta)


def test_a_delta_above_one_over_the_population_is_refused():
    require_delta_for(1e-5, 5_000, "example")
    with pytest.raises(PlanError, match="publishes one example at random"):
        require_delta_for(1e-3, 5_000, "example")


def test_a_batch_larger_than_the_data_set_is_refused():
    assert sample_rate_of(32, 128) == 0.25
    with pytest.raises(PlanError, match="a batch of 129 cannot be sampled from 128 examples"):
        sample_rate_of(129, 128)


@pytest.mark.parametrize("target", [0.0, -1.0, float("nan")])
def test_a_target_epsilon_that_is_not_positive_is_refused(target):
    with pytest.raises(PlanError, match="target epsilon"):
        dp_sgd_noise_multiplier(target, 1e-5, 0.1, 10)


@pytest.mark.filterwarnings("ignore:Optimal order is the largest")
def test_a_target_that_no_noise_reaches_is_refused_and_not_searched_for_ever():
    with pytest.raises(PlanError, match="no noise multiplier"):
        dp_sgd_noise_multiplier(1e-9, 1e-5, 0.01, 10)
    with pytest.raises(PlanError, match="no noise multiplier"):
        site_noise_multiplier(1e-9, 1e-5, 10**7, lambda z: central_noise(z, 1.0, 0.01, 10))


def test_divergences_grow_with_the_order():
    for mechanism in (DpSgd(0.05, 0.8, 10), central_noise(1.0, 1.0, 1e-4, 100, 2, 9)):
        assert (np.diff(mechanism.rdp(ORDERS)) > -1e-12).all()


def test_the_orders_begin_with_opacus_own():
    assert list(ORDERS[: len(RDPAccountant.DEFAULT_ALPHAS)]) == RDPAccountant.DEFAULT_ALPHAS
