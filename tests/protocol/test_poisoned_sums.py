"""What one site can do to a masked sum that it may put any ring words into: nothing beyond a failed round.

Each attack is that of a site whose own code was changed: honest words are made, and then others are masked.
"""

import numpy as np
import pytest
import torch
from wire import Wire, model_of_size

from lightning_fed.errors import ProtocolError
from lightning_fed.plan import FederationPlan, Masking, Privacy, SitePrivacy
from lightning_fed.privacy.contribution import PrivateContribution
from lightning_fed.protocol import messages as m
from lightning_fed.update.contribution import Contribution

NAMES = ["site-0", "site-1", "site-2", "site-3"]
HOSTILE = "site-3"


class Attacked(Wire):
    """Four sites; what the last one encodes goes through ``self.attack`` before it is masked, in the rounds named."""

    rounds = frozenset({1})
    examples = 1000

    def examples_of(self, name):
        return self.examples + self.names.index(name)

    def update_of(self, name, round):
        return super().update_of(name, round) * 0.01


@pytest.fixture
def attacked(monkeypatch):
    def make(attack, in_rounds=(1,), examples=1000, rounds=2, bits=32, size=50, kind=Contribution, **plan):
        plan = FederationPlan(
            rounds=rounds, quorum=3, gather_s=1.0, masking=Masking(bits=bits, bound=plan.pop("bound", None)), **plan
        )
        w = Attacked(plan, NAMES, size, model_of_size(size))
        w.examples = examples
        honest = kind.encode

        def encode(code, values, *beside):
            words = honest(code, values, *beside)
            if w.encoding == HOSTILE and w.sites[HOSTILE].begun in in_rounds:
                attack(code, words)
                words &= words.dtype.type((1 << code.bits) - 1) if code.bits < 32 else words.dtype.type(0xFFFF_FFFF)
            return words

        monkeypatch.setattr(kind, "encode", encode)
        train, down = w.train, w.deliver_down

        def named(what):
            def call(name):
                w.encoding = name
                return what(name)

            return call

        w.train, w.deliver_down = named(train), named(down)
        for name in NAMES:
            w.connect(name)
        w.settle()
        return w

    return make


def number(code, words, name, change):
    """Add a signed amount to a number: what its digits get is positive or negative, and wraps in the ring."""
    digits = code._number
    at = code.size + code.numbers.index(name) * digits.length
    steps, sign = round(abs(change) * 2**24), 1 if change > 0 else -1
    for place in range(digits.length):
        digit = (steps >> (place * digits.digit_bits)) & ((1 << digits.digit_bits) - 1)
        words[at + place] = (int(words[at + place]) + sign * digit) % (1 << 8 * words.itemsize)


def row_of(code, words):
    """The row of orders that the next bound is made from."""
    at = code.length - code._rows_length
    return words[at : at + 80]


@pytest.mark.parametrize("factor", [400, 4000])
@pytest.mark.parametrize("examples", [1000, 20])
def test_a_negative_count_that_makes_the_total_small_does_not_multiply_the_update(attacked, factor, examples):
    def attack(code, words):
        total = sum(examples + index for index in range(4))
        number(code, words, "examples", round(total / factor) - total)

    w = attacked(attack, examples=examples)
    assert w.events("round_skipped") == [{"round": 1}]
    assert torch.equal(w.saved[0].vector, torch.zeros(50))
    assert "examples" in w.events("round_failed")[0]["reason"] or "mean" in w.events("round_failed")[0]["reason"]
    assert float((w.saved[1].vector - w.saved[0].vector).abs().max()) < 0.1, "and the next round is a healthy one"


def test_a_count_beyond_what_the_plan_allows_fails_the_round(attacked):
    w = attacked(lambda code, words: number(code, words, "examples", 2.0**40))
    assert w.events("round_skipped") == [{"round": 1}]
    assert "plan.max_examples" in w.events("round_failed")[0]["reason"]


@pytest.mark.parametrize("amount", [-2.9, 1.0, 2.0**30])
def test_where_each_site_counts_alike_none_counts_for_more_or_less(attacked, amount):
    w = attacked(lambda code, words: number(code, words, "sites", amount), algorithm={"name": "feddyn"})
    assert w.events("round_skipped") == [{"round": 1}]
    assert "sites" in w.events("round_failed")[0]["reason"]


def test_a_next_bound_of_nearly_nothing_is_not_taken_from_one_site(attacked):
    """Words that no one-hot row has: the last bins emptied, the first one filled."""

    def attack(code, words):
        row = row_of(code, words)
        row[:] = 0
        row[0] = 4
        row[-1] = np.array(-3, dtype=np.int64).astype(row.dtype)

    w = attacked(attack)
    assert w.events("round_skipped") == [{"round": 1}]
    assert "order" in w.events("round_failed")[0]["reason"]


@pytest.mark.parametrize("bits", [16, 32])
def test_a_next_bound_that_is_huge_is_not_taken_from_one_site(attacked, bits):
    def attack(code, words):
        row = row_of(code, words)
        row[:] = 0
        row[-1] = 1

    w = attacked(attack, bits=bits)
    largest = max(float(w.update_of(name, 1).abs().max()) * w.examples_of(name) for name in NAMES)
    assert w.saved[0].bounds[0] <= 100 * largest
    wanted = sum(w.update_of(name, 2).double() * w.examples_of(name) for name in NAMES) / sum(map(w.examples_of, NAMES))
    moved = (w.saved[1].vector - w.saved[0].vector).double()
    assert float((moved - wanted).norm()) < 0.2 * float(wanted.norm()), "nobody rounds to nothing in the next round"


def test_one_site_of_a_larger_kind_may_still_be_many_times_larger_than_the_others(attacked):
    """A hospital of ten times the others' size is not an attack: none of its values are cut, round after round."""
    plan = FederationPlan(rounds=4, quorum=3, gather_s=1.0, masking=Masking(bits=32))
    w = Attacked(plan, NAMES, 50, model_of_size(50))
    w.examples_of = lambda name: 10_000 if name == HOSTILE else 1000
    for name in NAMES:
        w.connect(name)
    w.settle()
    assert [event["saturated"] for event in w.events("round_finished")] == [0, 0, 0, 0]


def test_a_lie_about_the_bound_costs_one_round_and_is_made_up_for_in_the_next(attacked):
    """The site knows where the honest ones' rows are, takes them away and puts them at the bottom."""

    def attack(code, words):
        row = row_of(code, words)
        place = int(row.argmax())
        row[place] = np.array(-3, dtype=np.int64).astype(row.dtype)
        row[0] = 4

    w = attacked(attack, in_rounds=(2,), rounds=4)
    bounds = [model.bounds[0] for model in w.saved]
    assert bounds[1] == bounds[0] / 16 or w.events("round_skipped"), "if it guesses right"
    assert bounds[-1] >= bounds[0] / 3


@pytest.mark.parametrize("mechanism", ["central", "distributed"])
def test_under_site_level_privacy_a_sum_longer_than_clipped_updates_give_fails_the_round(attacked, mechanism):
    def attack(code, words):
        words[:10] += words.dtype.type(10 * code.cohort * int(code.max_norm / code.step))

    site = SitePrivacy(mechanism, clipping_norm=1.0, noise_multiplier=0.1)
    w = attacked(attack, kind=PrivateContribution, privacy=Privacy(site=site))
    assert w.events("round_skipped") == [{"round": 1}]
    assert "was not clipped" in w.events("round_failed")[0]["reason"]
    assert len(w.events("round_finished")) == 1


def test_where_every_site_bounds_its_norm_a_longer_mean_fails_the_round(attacked):
    def attack(code, words):
        words[:20] += words.dtype.type(2 * code.code(0).limit)

    w = attacked(attack, algorithm={"name": "site_norm_bounding", "max_norm": 0.05}, bound=0.05)
    assert w.events("round_skipped") == [{"round": 1}]
    assert "max_norm" in w.events("round_failed")[0]["reason"]
    assert len(w.events("round_finished")) == 1


@pytest.mark.parametrize("examples", [2**40, 1_000_001, 0, -5])
def test_in_the_clear_a_count_beyond_the_plan_is_refused_by_the_sites_name(examples):
    w = Wire(FederationPlan(quorum=2, masking=Masking("off")), NAMES, 5, model_of_size(5))
    for name in NAMES:
        w.connect(name)
    original = w.train
    w.train = lambda name: original(name) if not w.sites[name].joined else False
    w.settle()
    with pytest.raises(ProtocolError, match=r"'site-3'.*plan\.max_examples"):
        w.coordinator.receive(HOSTILE, m.Offer("update", 1, 20, examples))


@pytest.mark.parametrize("mode", ["off", "required"])
def test_a_site_with_more_examples_than_the_plan_allows_is_told_so_and_the_others_go_on(mode):
    plan = FederationPlan(rounds=1, quorum=2, gather_s=1.0, max_examples=5000, masking=Masking(mode))
    w = Wire(plan, NAMES, 5, model_of_size(5))
    w.examples_of = lambda name: 5001 if name == HOSTILE else 5000
    for name in NAMES:
        w.connect(name)
    w.settle()
    assert "plan.max_examples = 5000" in w.sites[HOSTILE].rejected
    assert sorted(w.events("round_finished")[0]["participants"]) == NAMES[:3]
    assert "5001" not in w.events("update_refused")[0]["reason"]


def test_sites_whose_training_is_over_do_not_make_another_s_update_an_attack():
    """Two of three give nothing but zeros, or rounding errors, and the third still moves."""
    names = NAMES[:3]
    plan = FederationPlan(rounds=3, quorum=3, gather_s=1.0, masking=Masking(bits=32))
    w = Wire(plan, names, 5, model_of_size(5))
    honest = w.update_of
    w.update_of = lambda name, round: honest(name, round) * (1.0 if name == "site-0" else 0.0)
    for name in names:
        w.connect(name)
    w.settle()
    assert len(w.events("round_finished")) == 3
