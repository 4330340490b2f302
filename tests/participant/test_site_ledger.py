"""Which budget a plan is held to, and what it is charged with."""

import math

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lightning_fed.errors import BudgetExhaustedError, LedgerError
from lightning_fed.participant.site_ledger import SiteLedger
from lightning_fed.plan import ExamplePrivacy, FederationPlan, Masking, Privacy, SitePrivacy
from lightning_fed.policy import SitePolicy
from lightning_fed.privacy.accounting import DpSgd, epsilon
from lightning_fed.privacy.history import read_history
from lightning_fed.privacy.ledger import Owner
from lightning_fed.privacy.ledger_rows import ledger_rows
from lightning_fed.protocol.exchange import Exchange

OWNER = Owner("north", Ed25519PrivateKey.from_private_bytes(bytes(32)))
TRAINING = DpSgd(0.25, 1.5, 3)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.jsonl"


def opened(path, policy=None, name="wrists", quorum=2, colluding=0, **privacy):
    masking = Masking("required", bits=32, bound=1.0, colluding=colluding)
    plan = FederationPlan(name=name, masking=masking, privacy=Privacy(**privacy), quorum=quorum)
    ledger = SiteLedger.for_plan(path, OWNER, plan, "run", policy or SitePolicy(), Exchange(plan, 5, 4))
    assert ledger is not None
    return ledger


def rounds_allowed(ledger, at_most=20, train=False):
    try:
        for round in range(1, at_most + 1):
            if train:
                ledger.pay_for_training(round, TRAINING)
            ledger.pay_for_update(round, 1, 1.0)
    except BudgetExhaustedError:
        return round - 1
    finally:
        ledger.close()
    return at_most


def example(delta):
    return {"example": ExamplePrivacy(noise_multiplier=1.5, delta=delta)}


def test_a_plans_own_delta_does_not_decide_what_the_policys_epsilon_allows(path):
    assert epsilon([TRAINING], 1e-5) > 1 > epsilon([TRAINING] * 20, 0.9)
    policy = SitePolicy(max_epsilon=1.0)
    for delta in (1e-5, 0.05, 0.9):
        assert rounds_allowed(opened(path, policy, **example(delta)), train=True) == 0
    assert read_history(path).entries == ()


@pytest.mark.parametrize("max_delta", [1e-7, 1e-5, 1e-3])
def test_epsilon_is_read_at_the_policys_delta_however_strict_the_plans_is(path, max_delta):
    limit = epsilon([TRAINING] * 4, max_delta)
    policy = SitePolicy(max_epsilon=limit * (1 + 1e-9), max_delta=max_delta)
    for delta, allowed in ((1e-9, 4), (0.9, 0)):
        assert rounds_allowed(opened(path, policy, **example(delta)), train=True) == allowed


def test_a_spent_ledger_stays_spent_under_another_delta_and_another_federations_name(path):
    policy = SitePolicy(max_epsilon=8.0)
    assert 0 < rounds_allowed(opened(path, policy, **example(1e-5)), 60, train=True) < 60
    for name in ("wrists", "knees"):
        assert rounds_allowed(opened(path, policy, name, **example(0.05)), train=True) == 0
        site = {"site": SitePrivacy(noise_multiplier=4.0, delta=0.05)}
        assert rounds_allowed(opened(path, policy, name, **site)) == 0


def test_images_whose_budget_is_spent_are_not_released_at_site_level_either(path):
    policy = SitePolicy(max_epsilon=8.0)
    assert rounds_allowed(opened(path, policy, **example(1e-5)), 60, train=True) < 60
    ledger = opened(path, policy, site=SitePrivacy(noise_multiplier=4.0))
    with pytest.raises(BudgetExhaustedError, match=r"example-level epsilon .*released about each example of it, too"):
        ledger.pay_for_update(1, 1, 1.0)
    ledger.close()


def test_site_level_releases_are_charged_to_examples_unless_dp_sgd_has_paid_for_them(path, tmp_path):
    rounds_allowed(opened(path, site=SitePrivacy(noise_multiplier=4.0)), 2)
    assert [row.unit for row in ledger_rows(read_history(path))] == ["site", "example"] * 2
    both = tmp_path / "both.jsonl"
    rounds_allowed(opened(both, site=SitePrivacy(noise_multiplier=4.0), **example(1e-5)), 2, train=True)
    rows = ledger_rows(read_history(both))
    assert [(row.unit, row.mechanism) for row in rows] == [("example", "dp-sgd"), ("site", "distributed")] * 2


def test_two_sites_and_ten_rounds_cost_18_against_an_outsider_and_28_against_the_other_site(path):
    rounds_allowed(opened(path, site=SitePrivacy(noise_multiplier=1.0)), 10)
    last = [row for row in ledger_rows(read_history(path)) if row.unit == "site"][-1]
    assert last.unit_epsilon == pytest.approx(17.87, rel=1e-3)
    assert last.member_epsilon == pytest.approx(28.37, rel=1e-3)


def test_a_plan_that_already_counts_on_a_colluding_site_is_not_charged_for_another(path, tmp_path):
    rounds_allowed(opened(path, site=SitePrivacy(noise_multiplier=1.0), quorum=3, colluding=1), 10)
    last = ledger_rows(read_history(path))[-1]
    assert last.member_epsilon == last.unit_epsilon
    # Its shares are larger: three sites of which one may tell have the noise of two that do not.
    rounds_allowed(opened(tmp_path / "none.jsonl", site=SitePrivacy(noise_multiplier=1.0), quorum=3), 10)
    trusting = ledger_rows(read_history(tmp_path / "none.jsonl"))[-1]
    assert last.unit_epsilon == pytest.approx(trusting.unit_epsilon, rel=1e-3)
    assert trusting.member_epsilon > last.member_epsilon


def test_without_a_limit_nothing_stops_and_the_plans_delta_is_written(path):
    assert rounds_allowed(opened(path, **example(1e-2)), 3, train=True) == 3
    entry = read_history(path).entries[-1]
    assert (entry.delta, entry.accountant, entry.format) == (1e-2, "pld", 2)
    assert math.isfinite(entry.totals["example"]["member"])


def test_the_line_that_was_noted_last_must_be_in_the_ledger(path):
    ledger = opened(path, site=SitePrivacy(noise_multiplier=4.0))
    older, newer = ledger.pay_for_update(1, 1, 1.0), ledger.pay_for_update(2, 1, 1.0)
    assert len(newer) == 32
    for head in (b"", older, newer):
        ledger.require_newest(head)
    with pytest.raises(LedgerError, match="is an older copy, or another file"):
        ledger.require_newest(bytes(32))
    ledger.close()
