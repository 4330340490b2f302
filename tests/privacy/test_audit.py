import math

import numpy as np
import pytest

from lightning_fed.errors import DataError
from lightning_fed.privacy.accounting import DpSgd, epsilon
from lightning_fed.privacy.audit import many_runs_epsilon, one_run_epsilon
from lightning_fed.privacy.central import CentralNoise, central_noise, gradient_with_noise
from lightning_fed.privacy.discrete import distributed_noise
from lightning_fed.privacy.rounding import round_clipped

DELTA = 1e-5
STEP = 2.0**-12
CANARIES = 2000


def canary_release(mechanism, drawn):
    """Sites that each put the whole clipping norm on a coordinate of their own, if a coin says so."""
    included = np.random.default_rng().random(CANARIES) < 0.5
    total = np.zeros(CANARIES, dtype=np.int64)
    # Canary sites' rounded updates: one coordinate each, so that their sum is one vector.
    total[included] = round(1 / STEP)
    return drawn(mechanism, total).astype(np.float64), included


def add_central(mechanism, total):
    return mechanism.added_to(total)


def add_shares(mechanism, total):
    return total + sum(mechanism.share() for _ in range(mechanism.shares))


@pytest.mark.parametrize("place", ["central", "distributed"])
@pytest.mark.parametrize("noise_multiplier", [0.6, 1.0, 3.0])
def test_the_audit_of_a_release_stays_below_the_claimed_epsilon(place, noise_multiplier):
    if place == "central":
        mechanism, drawn = central_noise(noise_multiplier, 1.0, STEP, CANARIES), add_central
    else:
        mechanism, drawn = distributed_noise(noise_multiplier, 1.0, STEP, CANARIES, 3), add_shares
    scores, included = canary_release(mechanism, drawn)
    found = one_run_epsilon(scores, included, 200, DELTA, confidence=0.99)
    assert found <= epsilon([mechanism], DELTA)
    if noise_multiplier < 1:
        assert found > 0.5, "the attack is too weak to mean anything"


@pytest.mark.parametrize("place", ["central", "distributed"])
def test_the_audit_exceeds_the_claimed_epsilon_when_the_noise_is_cut_to_an_eighth(place):
    claimed = epsilon([central_noise(2.0, 1.0, STEP, CANARIES)], DELTA)
    if place == "central":
        mechanism, drawn = central_noise(0.25, 1.0, STEP, CANARIES), add_central
    else:
        mechanism, drawn = distributed_noise(0.25, 1.0, STEP, CANARIES, 3), add_shares
    scores, included = canary_release(mechanism, drawn)
    assert one_run_epsilon(scores, included, 600, DELTA, confidence=0.99) > 1.2 * claimed


def test_the_audit_exceeds_the_claim_when_only_one_site_of_64_adds_its_share():
    mechanism = distributed_noise(2.0, 1.0, STEP, CANARIES, 64)
    claimed = epsilon([mechanism], DELTA)
    scores, included = canary_release(mechanism, lambda m, total: total + m.share())
    assert one_run_epsilon(scores, included, 600, DELTA, confidence=0.99) > 1.2 * claimed


def dp_sgd_scores(noise_multiplier, canary, runs, steps=4, size=50):
    """Runs of DP-SGD's sums of clipped gradients, with or without an example whose gradient is its own direction."""
    rng = np.random.default_rng()
    direction = np.zeros(size, dtype=np.float32)
    direction[0] = 1.0
    scores = []
    for _ in range(runs):
        seen = 0.0
        for _ in range(steps):
            gradients = rng.standard_normal((8, size)).astype(np.float32)
            gradients[:, 0] = 0.0
            gradients /= np.maximum(1.0, np.linalg.norm(gradients, axis=1, keepdims=True))
            total = gradients.sum(axis=0) + (direction if canary else 0)
            seen += float(gradient_with_noise(total.astype(np.float32), noise_multiplier, 1.0)[0])
        scores.append(seen)
    return np.array(scores)


def test_many_runs_of_dp_sgd_are_below_the_claim_and_above_it_with_a_twelfth_of_the_noise():
    claimed = epsilon([DpSgd(1.0, 1.0, 4)], DELTA)
    honest = [dp_sgd_scores(1.0, canary, 600) for canary in (True, False)]
    assert 0.5 < many_runs_epsilon(*honest, DELTA, confidence=0.99) <= claimed
    claimed = epsilon([DpSgd(1.0, 6.0, 4)], DELTA)
    cut = [dp_sgd_scores(0.5, canary, 600) for canary in (True, False)]
    assert many_runs_epsilon(*cut, DELTA, confidence=0.99) > claimed


@pytest.mark.parametrize("level", [0.5, 2.0])
def test_the_one_run_bound_is_right_for_randomised_response_and_close_to_it(level):
    rng = np.random.default_rng(3)
    included = rng.random(20_000) < 0.5
    told = np.where(rng.random(20_000) < 1 / (1 + math.exp(-level)), included, ~included)
    found = one_run_epsilon(told + 1e-6 * rng.random(20_000), included, 10_000, 0.0, confidence=0.9999)
    assert 0.7 * level < found <= level


def test_no_skill_gives_no_bound():
    rng = np.random.default_rng(4)
    assert one_run_epsilon(rng.random(1000), rng.random(1000) < 0.5, 500, DELTA, 0.9999) < 0.05
    assert many_runs_epsilon(rng.random(1000), rng.random(1000), DELTA, 0.9999) < 0.3


def test_delta_weakens_the_bound_as_theorem_5_2_says():
    included = np.arange(1000) % 2 == 0
    perfect = included.astype(np.float64)
    exact = one_run_epsilon(perfect, included, 100, 0.0, 0.95)
    # All of 100 guesses right: e^(100 x) = 0.05 for the success rate e^x = 1 / (1 + e^-epsilon).
    success = 0.05 ** (1 / 100)
    assert exact == pytest.approx(math.log(success / (1 - success)), abs=1e-3)
    assert one_run_epsilon(perfect, included, 100, 1e-3, 0.95) < exact


@pytest.mark.parametrize("guesses", [0, 3, 12])
def test_guesses_that_do_not_fit_are_refused(guesses):
    with pytest.raises(DataError, match="guesses cannot be made"):
        one_run_epsilon(np.zeros(10), np.zeros(10, dtype=bool), guesses, DELTA)


def test_scores_that_are_not_finite_or_too_few_are_refused():
    with pytest.raises(DataError, match="finite vector"):
        one_run_epsilon(np.array([0.0, math.nan]), np.array([True, False]), 2, DELTA)
    with pytest.raises(DataError, match="too few"):
        many_runs_epsilon(np.zeros(3), np.zeros(9), DELTA)


def test_clipping_is_audited_too_an_update_that_was_not_clipped_is_found():
    mechanism = CentralNoise(CANARIES, 4096.0, 4096.0)
    claimed = epsilon([mechanism], DELTA)
    included = np.random.default_rng().random(CANARIES) < 0.5
    unclipped = np.where(included, 20.0, 0.0).astype(np.float32)
    total = round_clipped(unclipped, STEP, 20.0 * math.sqrt(CANARIES))
    scores = mechanism.added_to(total).astype(np.float64)
    assert one_run_epsilon(scores, included, 1600, DELTA, confidence=0.99) > claimed
