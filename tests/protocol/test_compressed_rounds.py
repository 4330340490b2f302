"""Rounds that send a part of each update, and rounds under site-level privacy, without sockets."""

import numpy as np
import pytest
import torch
from wire import Wire, model_of_size

from lightning_fed.plan import Compression, FederationPlan, Masking, Privacy, SitePrivacy
from lightning_fed.protocol import messages as m

SIZE = 400
NAMES = ["site-0", "site-1", "site-2"]


def run(rounds=3, size=SIZE, names=NAMES, **plan):
    w = Wire(FederationPlan(rounds=rounds, quorum=len(names), gather_s=1.0, **plan), names, size, model_of_size(size))
    for name in names:
        w.connect(name)
    w.settle()
    assert w.coordinator.phase == "closing", w.records[-3:]
    return w


def everything(w, rounds, names=NAMES):
    """Sum of all updates of all sites, each weighted as in the sum, by round."""
    weights = {name: w.examples_of(name) for name in names}
    total = sum(weights.values())
    return sum(
        (w.update_of(name, r) * (weights[name] / total) for name in names for r in range(1, rounds + 1)),
        torch.zeros(w.size),
    )


def residuals(w):
    states = [site.state_dict() for site in w.sites.values()]
    return [(state["residual"], state.get("proposed")) for state in states]


CASES = [
    (method, masking, values)
    for method in ("topk", "randomk", "vote")
    for masking in ("off", "required")
    for values in ("float32", "int8")
    if not (method == "topk" and masking == "required") and not (masking == "required" and values == "int8")
]


@pytest.mark.parametrize(("method", "masking", "values"), CASES)
def test_what_was_sent_and_what_stayed_make_up_all_that_was_trained(method, masking, values):
    rounds = 4
    compression = Compression(method, share=0.1, values=values, block=4, listed=0.6)
    w = run(rounds, masking=Masking(masking, bits=32, bound=200.0), compression=compression)
    left = torch.zeros(SIZE)
    total = sum(w.examples_of(name) for name in NAMES)
    for name, (residual, proposed) in zip(NAMES, residuals(w), strict=True):
        assert proposed is None, "every round was settled"
        left += residual * (w.examples_of(name) / total)
    torch.testing.assert_close(w.saved[-1].vector + left, everything(w, rounds), rtol=1e-4, atol=2e-4)
    assert left.norm() > 1


@pytest.mark.parametrize(("method", "masking"), [("randomk", "off"), ("vote", "off"), ("vote", "required")])
def test_a_round_changes_no_more_coordinates_than_the_share(method, masking):
    w = run(2, masking=Masking(masking), compression=Compression(method, share=0.1, block=4))
    for before, after in zip([torch.zeros(SIZE), w.saved[0].vector], [one.vector for one in w.saved], strict=False):
        assert 0 < int((before != after).sum()) <= 0.1 * SIZE


def test_a_vote_sends_the_blocks_where_all_sites_have_most_to_say():
    w = Wire(
        FederationPlan(rounds=1, quorum=3, compression=Compression("vote", share=0.1, block=10)),
        NAMES,
        SIZE,
        model_of_size(SIZE),
    )
    original = w.update_of

    def update_of(name, round):
        update = original(name, round) * 0.01
        update[100:140] += 1.0
        return update

    w.update_of = update_of
    for name in NAMES:
        w.connect(name)
    w.settle()
    changed = torch.nonzero(w.saved[-1].vector).flatten()
    assert changed.min() >= 100
    assert changed.max() < 140


def test_a_site_that_holds_the_model_before_gets_only_the_difference():
    w = run(3, size=5000, masking=Masking("off"), compression=Compression("randomk", share=0.01, values="float32"))
    for site in w.sites.values():
        assert site.model[0] == 3
        assert bytes(site.model[1]) == bytes(w.saved[-1].exchanged_bytes())
    assert 0 < len(w.coordinator._handout._delta) < 0.03 * 4 * 5000


def test_a_site_that_comes_late_gets_the_whole_model():
    names = [*NAMES, "late"]
    plan = FederationPlan(
        rounds=4, quorum=3, gather_s=1.0, masking=Masking("off"), compression=Compression("randomk", share=0.05)
    )
    w = Wire(plan, names, SIZE, model_of_size(SIZE))
    for name in NAMES:
        w.connect(name)
    while len(w.saved) < 2:
        if "gather" in w.timers:
            w.expire("gather")
        for name in NAMES:
            while w.deliver_up(name) or w.deliver_down(name):
                pass
            if len(w.saved) < 2:
                w.train(name)
    w.connect("late")
    w.settle()
    assert w.sites["late"].model[0] == 4
    assert bytes(w.sites["late"].model[1]) == bytes(w.saved[-1].exchanged_bytes())


def test_a_site_that_was_dropped_from_a_round_keeps_its_residual_as_it_was():
    names = [*NAMES, "site-3"]
    plan = FederationPlan(
        rounds=3,
        quorum=3,
        gather_s=1.0,
        masking=Masking("required", bits=32, bound=200.0),
        compression=Compression("randomk", share=0.1),
    )
    w = Wire(plan, names, SIZE, model_of_size(SIZE))
    for name in names:
        w.connect(name)
    while len(w.saved) < 1:
        for name in names:
            while w.deliver_up(name) or w.deliver_down(name) or (len(w.saved) < 1 and w.train(name)):
                pass
    before = w.sites["site-3"].state_dict()["residual"]
    w.disconnect("site-3")
    w.perform(w.coordinator.lost("site-3"))
    while len(w.saved) < 2:
        for name in NAMES:
            while w.deliver_up(name) or w.deliver_down(name) or (len(w.saved) < 2 and w.train(name)):
                pass
    w.connect("site-3")
    while w.deliver_up("site-3") or w.deliver_down("site-3"):
        pass
    assert w.sites["site-3"].model[0] == 2
    torch.testing.assert_close(w.sites["site-3"].state_dict()["residual"], before, rtol=0, atol=0)
    w.settle()
    assert len(w.saved) == 3


def test_a_restarted_site_goes_on_with_its_residual():
    w = run(2, masking=Masking("off"), compression=Compression("topk", share=0.05))
    state = w.sites["site-0"].state_dict()
    other = Wire(w.plan, NAMES, SIZE, model_of_size(SIZE))
    site = other.connect("site-0")
    while site.plan is None:
        assert other.deliver_up("site-0") or other.deliver_down("site-0")
    site.join(model_of_size(SIZE).layout, state=state)
    torch.testing.assert_close(site.state_dict()["residual"], state["residual"], rtol=0, atol=0)
    assert state["residual"].norm() > 1


def test_a_restarted_site_learns_what_became_of_the_round_in_which_its_checkpoint_was_made():
    w = Wire(
        FederationPlan(rounds=9, quorum=2, masking=Masking("off"), compression=Compression("topk", share=0.05)),
        NAMES,
        SIZE,
        model_of_size(SIZE),
    )
    for name in NAMES:
        w.connect(name)
    original = Wire.train
    w.train = lambda name: False if name == "site-2" and w.sites[name].joined else original(w, name)
    w.settle()
    state = w.sites["site-0"].state_dict()
    assert state["proposed"].norm() > 0
    w.disconnect("site-0")
    del w.sites["site-0"]
    w.perform(w.coordinator.lost("site-2"))
    w.perform(w.coordinator.lost("site-0"))
    assert w.events("round_finished")[0]["participants"] == ["site-0", "site-1"]
    site = w.connect("site-0")
    while site.plan is None:
        assert w.deliver_up("site-0") or w.deliver_down("site-0")
    w.up["site-0"].extend(site.join(model_of_size(SIZE).layout, state=state))
    while site.model is None:
        assert w.deliver_up("site-0") or w.deliver_down("site-0")
    torch.testing.assert_close(site.state_dict()["residual"], state["proposed"], rtol=0, atol=0)


@pytest.mark.parametrize("masking", ["off", "required"])
def test_a_coordinator_that_dies_before_it_announces_what_it_stored_still_knows_whose_updates_are_in_it(masking):
    compression = Compression("randomk", share=0.1, values="float32")
    w = Wire(
        FederationPlan(rounds=3, quorum=2, gather_s=1.0, masking=Masking(masking, 32, 200.0), compression=compression),
        NAMES,
        SIZE,
        model_of_size(SIZE),
    )
    for name in NAMES:
        w.connect(name)
    while not w.saved:
        for name in NAMES:
            while not w.saved and (w.deliver_up(name) or w.deliver_down(name) or w.train(name)):
                pass
    for name in NAMES:
        w.disconnect(name)
    w.start()
    for name in NAMES:
        w.connect(name)
    w.settle()
    w.expire("gather")
    w.settle()
    assert [model.version for model in w.saved] == [1, 2, 3]
    assert all(w.sites[name].counted == 3 for name in NAMES)
    examples = {name: w.examples_of(name) / sum(map(w.examples_of, NAMES)) for name in NAMES}
    left = sum(w.sites[name].state_dict()["residual"] * examples[name] for name in NAMES)
    torch.testing.assert_close(w.saved[-1].vector + left, everything(w, 3), rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize(
    ("mechanism", "masking"), [("central", "off"), ("central", "required"), ("distributed", "required")]
)
@pytest.mark.parametrize("method", ["none", "randomk"])
def test_site_level_noise_in_the_mean_has_the_variance_that_is_claimed(mechanism, masking, method):
    size, clipping, multiplier = 4000, 0.5, 2.0
    privacy = Privacy(site=SitePrivacy(mechanism, multiplier, clipping))
    compression = Compression(method, share=0.5, values="float32")
    w = Wire(
        FederationPlan(rounds=1, quorum=3, masking=Masking(masking, bits=32), privacy=privacy, compression=compression),
        NAMES,
        size,
        model_of_size(size),
    )
    update = torch.zeros(size)
    update[0] = 100 * clipping
    w.update_of = lambda name, round: update.clone()
    for name in NAMES:
        w.connect(name)
    w.settle()
    noisy = w.saved[-1].vector
    noise = noisy[torch.nonzero(noisy).flatten()][1:] * 3
    count = noise.numel()
    assert count > 0.45 * size
    # Of the sum; a chi-square of so many degrees of freedom is within 6 standard deviations but for one in 10^9.
    spread = 6 * np.sqrt(2 / count)
    assert float(noise.square().mean()) == pytest.approx((multiplier * clipping) ** 2, rel=spread)


def test_an_update_a_hundred_times_too_long_moves_the_sum_by_the_clipping_norm():
    privacy = Privacy(site=SitePrivacy("central", 0.02, 0.5))
    w = Wire(FederationPlan(rounds=1, quorum=3, privacy=privacy, masking=Masking(bits=32)), NAMES, 4, model_of_size(4))
    w.update_of = lambda name, round: torch.tensor([50.0, 0, 0, 0]) if name == "site-0" else torch.zeros(4)
    for name in NAMES:
        w.connect(name)
    w.settle()
    assert float(w.saved[-1].vector[0] * 3) == pytest.approx(0.5, abs=0.08)


def test_the_clipping_norm_follows_the_updates():
    privacy = Privacy(site=SitePrivacy("distributed", 0.02, 50.0, quantile=0.5))
    w = run(30, size=20, privacy=privacy, masking=Masking(bits=32))
    norms = [model.bounds[0] for model in w.saved]
    # Each round's updates have a norm of about sqrt(20); a step is at most exp(-0.2 * 0.5).
    assert norms[0] < 50.0
    assert 3.0 < norms[-1] < 7.0


def test_nothing_of_a_site_but_the_noisy_vector_is_in_a_private_sum():
    privacy = Privacy(site=SitePrivacy("distributed", 1.0, 1.0))
    w = Wire(FederationPlan(rounds=1, quorum=3, privacy=privacy, masking=Masking(bits=32)), NAMES, 7, model_of_size(7))
    sizes = []
    deliver = w.deliver_up

    def deliver_up(name):
        if w.up[name] and isinstance(w.up[name][0][0], m.Offer):
            sizes.append((w.up[name][0][0].nbytes, w.up[name][0][0].examples))
        return deliver(name)

    w.deliver_up = deliver_up
    for name in NAMES:
        w.connect(name)
    w.settle()
    assert sizes == [(28, 1)] * 3
    assert len(w.saved) == 1
