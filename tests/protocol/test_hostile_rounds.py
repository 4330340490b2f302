"""What hostile, late or returning sites do to a round: the others' round goes on, and nobody honest is refused."""

import numpy as np
import pytest
import torch
from wire import Wire, layout_of_size, model_of_size

from lightning_fed.aggregation.contracts import SiteReport
from lightning_fed.errors import FederationError, PlanError, ProtocolError, QuorumLostError
from lightning_fed.masking import messages as masking
from lightning_fed.plan import Compression, FederationPlan, Masking, Privacy, SitePrivacy
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.coordinator.round_result import DEADLINE, VALUES_S
from lightning_fed.protocol.exchange import Exchange

SIZE = 400
HEAD = bytes(range(32))
NAMES = ["site-0", "site-1", "site-2"]


def voting(mode, rounds=1, quorum=2, names=NAMES):
    plan = FederationPlan(
        rounds=rounds,
        quorum=quorum,
        gather_s=1.0,
        masking=Masking(mode, bits=32, bound=200.0),
        compression=Compression("vote", share=0.1, block=4),
    )
    w = Wire(plan, names, SIZE, model_of_size(SIZE))
    for name in names:
        w.connect(name)
    return w


def hold_back(w, name):
    """The site joins, and does not train until the returned function is called."""
    original = Wire.train
    w.train = lambda one: False if one == name and w.sites[one].joined else original(w, one)

    def go_on():
        del w.train

    return go_on


def stuffed(vote, lane):
    """Ballots that no site can have cast."""
    words = np.zeros((vote.words, vote.per_word), dtype=np.uint32)
    words.reshape(-1)[lane] = vote.winners
    words <<= np.arange(0, vote.per_word * vote.bits, vote.bits, dtype=np.uint32)
    return np.bitwise_or.reduce(words, axis=1)


@pytest.mark.parametrize("ballot", ["all", "one block many times", "beyond the last block"])
def test_a_stuffed_ballot_is_refused_when_it_comes_and_costs_nobody_else_anything(ballot):
    w = voting("off")
    go_on = hold_back(w, "site-2")
    w.settle()
    vote = w.coordinator._exchange.vote
    words = {
        "all": np.full(vote.words, 0xFFFF_FFFF, dtype=np.uint32),
        "one block many times": stuffed(vote, 0),
        "beyond the last block": stuffed(vote, -1),
    }[ballot]
    data = memoryview(words.tobytes())
    w.perform(w.coordinator.receive("site-2", m.Offer("vote", 1, len(data), 1)))
    with pytest.raises(ProtocolError, match="votes"):
        w.coordinator.receive("site-2", m.Chunk("vote", 1, 0), data)
    w.perform(w.coordinator.refused("site-2", "votes"))
    w.sites.pop("site-2")
    go_on()
    w.settle()
    assert w.events("round_finished")[0]["participants"] == ["site-0", "site-1"]


def test_a_voter_that_comes_back_is_not_waited_for_to_vote_again():
    w = voting("off", quorum=3)
    go_on = hold_back(w, "site-2")
    w.settle()
    w.connect("site-0")
    w.settle()
    go_on()
    w.settle()
    assert w.events("round_finished")[0]["participants"], "without a deadline"
    assert sorted(w.events("round_finished")[0]["participants"]) == NAMES


def test_an_offer_that_comes_when_its_attempt_is_over_does_not_refuse_its_honest_site():
    plan = FederationPlan(rounds=1, quorum=2, gather_s=1.0, masking=Masking(bits=32, bound=64.0))
    w = Wire(plan, NAMES, 5, model_of_size(5))
    for name in NAMES:
        w.connect(name)
    original = Wire.train
    w.train = lambda name: original(w, name) if name == "site-1" or not w.sites[name].joined else False
    while not any(isinstance(message, m.Offer) for message, _ in w.up["site-1"]):
        _ = [w.deliver_down(name) or w.deliver_up(name) or w.train(name) for name in NAMES]
    w.expire(DEADLINE)
    assert len(w.events("round_started")) == 2, "the next attempt began while the offer was under way"
    del w.train
    w.settle()
    assert sorted(w.events("round_finished")[0]["participants"]) == NAMES


def test_a_vector_that_comes_before_the_vote_is_over_is_not_added():
    w = voting("required")
    go_on = hold_back(w, "site-0")
    w.settle()
    hostile = w.sites["site-2"]
    hostile._outbox._support = np.arange(10, dtype=np.int64)
    total = w.update_of("site-2", 1).numpy()
    messages, _ = hostile._outbox._update(hostile._outbox._held, total, hostile._digest)
    with pytest.raises(ProtocolError, match="before its turn"):
        w.coordinator.receive("site-2", messages[0])
    w.perform(w.coordinator.refused("site-2", "before its turn"))
    w.sites.pop("site-2")
    go_on()
    w.settle()
    assert sorted(w.events("round_finished")[0]["participants"]) == ["site-0", "site-1"]


def with_report(w, report):
    def train(name):
        site = w.sites[name]
        if site.model and site.joined and site.begun == site.model[0] + 1 and site.begun not in w.trained[name]:
            w.trained[name].add(site.begun)
            data = memoryview(w.update_of(name, site.begun).numpy()).cast("B")
            w.up[name].extend(site.submit(site.begun, data, report(name)))
            return True
        return Wire.train(w, name)

    w.train = train


def test_a_masked_site_that_cannot_send_its_update_does_not_tell_its_loss_in_the_reason():
    algorithm = {"name": "qfedavg", "q": 4.0, "local_lr": 0.1}
    plan = FederationPlan(rounds=1, quorum=2, gather_s=1.0, algorithm=algorithm, masking=Masking(bits=32, bound=64.0))
    w = Wire(plan, NAMES, 5, model_of_size(5))
    with_report(w, lambda name: SiteReport(10, 1, 1.5 if name != "site-2" else 876543210.0))
    for name in NAMES:
        w.connect(name)
    w.settle()
    (refused,) = w.events("update_refused")
    assert refused["site"] == "site-2"
    assert "8765" not in refused["reason"]
    assert "8765" in w.sites["site-2"].rejected, "the site itself is told"


def test_under_site_level_privacy_a_withdrawal_says_nothing_of_the_update():
    plan = FederationPlan(
        rounds=1, quorum=2, gather_s=1.0, masking=Masking(bits=32), privacy=Privacy(site=SitePrivacy(quantile=0.5))
    )
    w = Wire(plan, NAMES, 5, model_of_size(5))
    for name in NAMES:
        w.connect(name)
    go_on = hold_back(w, "site-2")
    w.settle()
    w.up["site-2"].extend(w.sites["site-2"].withdraw(1, "the update holds 7 NaN or infinite values"))
    w.trained["site-2"].add(1)
    go_on()
    w.settle()
    (refused,) = w.events("update_refused")
    assert "7" not in refused["reason"]


@pytest.mark.parametrize("died", [False, True], ids=["coordinator-lives", "coordinator-dies-before-it-says-so"])
def test_a_site_that_was_away_while_its_round_was_skipped_keeps_its_residual(died):
    compression = Compression("randomk", share=0.2)
    plan = FederationPlan(
        rounds=2, quorum=2, gather_s=1.0, compression=compression, masking=Masking(bits=32, bound=64.0)
    )
    w = Wire(plan, NAMES, 50, model_of_size(50))
    for name in NAMES:
        w.connect(name)
    receive = w.coordinator.receive

    def lose_reveals(site, message, chunk=None):
        if isinstance(message, m.Masking) and isinstance(masking.decode_from_site(message.data), masking.Reveal):
            return []
        return receive(site, message, chunk)

    w.coordinator.receive = lose_reveals
    w.settle()
    assert w.coordinator._collection.opened
    away = w.sites["site-2"]
    w.disconnect("site-2")
    w.perform(w.coordinator.lost("site-2"))
    before = away.state_dict()["residual"].clone()
    w.expire("masked update")
    assert w.events("round_skipped")
    w.coordinator.receive = receive
    if died:
        w.start()
    w.connect("site-2")
    while not away.model or away.model[0] < 1:
        _ = w.deliver_up("site-2") or w.deliver_down("site-2")
    assert not away.counted
    assert (away.state_dict()["residual"] == before).all()


@pytest.mark.parametrize("value", [2e12, -3e38])
@pytest.mark.parametrize("compression", [Compression(), Compression("topk", share=0.2, values="float32")])
def test_a_value_that_would_spoil_the_sum_for_all_is_refused_by_its_sites_name(value, compression):
    plan = FederationPlan(rounds=2, quorum=2, gather_s=1.0, masking=Masking("off"), compression=compression)
    w = Wire(plan, NAMES, 50, model_of_size(50))
    healthy = w.update_of
    w.update_of = lambda name, round: torch.full((50,), value) if name == "site-2" else healthy(name, round)
    for name in NAMES:
        w.connect(name)
    w.settle()
    assert [(event["round"], event["site"]) for event in w.events("update_refused")] == [(1, "site-2"), (2, "site-2")]
    assert all("1e+12" in event["reason"] for event in w.events("update_refused"))
    assert [sorted(event["participants"]) for event in w.events("round_finished")] == [["site-0", "site-1"]] * 2


def test_a_control_that_would_spoil_the_server_s_is_refused_by_its_sites_name():
    plan = FederationPlan(rounds=2, quorum=2, gather_s=1.0, masking=Masking("off"), algorithm={"name": "scaffold"})
    w = Wire(plan, NAMES, 5, model_of_size(5))
    w.update_of = lambda name, round: torch.cat([torch.zeros(5), torch.full((5,), 3e38 if name == "site-2" else 1.0)])
    for name in NAMES:
        w.connect(name)
    w.settle()
    assert [(event["round"], event["site"]) for event in w.events("update_refused")] == [(1, "site-2"), (2, "site-2")]
    assert float(w.saved[-1].control.abs().max()) < 10


@pytest.mark.parametrize("bound", [0.0, -1.0, float("nan"), float("inf"), 5e-324, 1e308])
def test_an_impossible_clipping_norm_is_a_named_error_at_the_site(bound):
    plan = FederationPlan(
        rounds=2, quorum=2, gather_s=1.0, masking=Masking(bits=32), privacy=Privacy(site=SitePrivacy(quantile=0.5))
    )
    w = Wire(plan, NAMES, 5, model_of_size(5))
    for name in NAMES:
        w.connect(name)
    w.settle()
    begin = m.Begin(2, 9, (bound,), w.coordinator._handout.digest)
    with pytest.raises(FederationError, match="clipping norm"):
        w.sites["site-0"].receive(m.decode_from_coordinator(m.encode(begin)))


def test_a_round_that_begins_before_a_site_has_joined_is_a_named_error():
    w = Wire(FederationPlan(quorum=2), NAMES, 5, model_of_size(5))
    site = w.connect("site-0")
    with pytest.raises(ProtocolError, match="before"):
        site.receive(m.Begin(1, 1))


@pytest.mark.parametrize("numbers", [(-1, 1), (1, -1), (1 << 40, 1)])
def test_a_round_or_attempt_that_cannot_be_is_no_message(numbers):
    for message in (m.Begin(*numbers), m.Support(*numbers, b""), m.BeginReport(*numbers, b"", {})):
        with pytest.raises(ProtocolError, match="cannot be read"):
            m.decode_from_coordinator(m.encode(message))


def test_a_late_piece_of_an_older_model_does_not_become_part_of_the_newest():
    plan = FederationPlan(rounds=9, quorum=2, gather_s=1.0, masking=Masking("off"), compression=Compression("randomk"))
    w = Wire(plan, NAMES, 400, model_of_size(400))
    for name in NAMES:
        w.connect(name)
    w.settle()
    site = w.sites["site-0"]
    site.receive(m.Model(10, 1600, 16, counted=9))
    site.receive(m.Model(11, 1600, 16, counted=9))
    site.receive(m.Chunk("delta", 10, 0), memoryview(bytes(16)))
    assert site.model[0] == 9
    site.receive(m.Chunk("model", 11, 0), memoryview(bytes(1600)))
    assert site.model[0] == 11
    site.receive(m.Chunk("delta", 10, 0), memoryview(bytes(16)))
    assert bytes(site.model[1]) == bytes(1600)


@pytest.mark.parametrize("mode", ["off", "required"])
def test_a_vote_that_is_decided_just_before_the_deadline_leaves_time_for_the_values(mode):
    w = voting(mode)
    while not any(isinstance(message, m.Support) for name in NAMES for message, _ in w.down[name]):
        _ = [w.deliver_down(name) or w.deliver_up(name) or w.train(name) for name in NAMES]
    w.expire(DEADLINE)
    assert w.timers[DEADLINE] == VALUES_S
    w.settle()
    assert sorted(w.events("round_finished")[0]["participants"]) == NAMES


@pytest.mark.parametrize("mode", ["off", "required"])
def test_a_site_that_votes_and_vanishes_costs_the_deadline_and_the_time_for_the_values(mode):
    w = voting(mode)
    while not any(isinstance(message, m.Support) for name in NAMES for message, _ in w.down[name]):
        _ = [w.deliver_down(name) or w.deliver_up(name) or w.train(name) for name in NAMES]
    w.sites.pop("site-2")
    w.settle()
    assert not w.events("round_finished")
    w.expire(DEADLINE)
    w.settle()
    assert not w.events("round_finished")
    w.expire(DEADLINE)
    w.settle()
    assert sorted(w.events("round_finished")[0]["participants"]) == ["site-0", "site-1"]


def test_a_run_in_which_no_round_can_be_opened_ends_with_an_error_and_not_as_finished():
    plan = FederationPlan(rounds=5, quorum=2, gather_s=1.0, max_attempts=3, masking=Masking(bits=32, bound=64.0))
    w = Wire(plan, NAMES, 5, model_of_size(5))
    for name in NAMES:
        w.connect(name)
    receive = w.coordinator.receive

    def lose_reveals(site, message, chunk=None):
        if isinstance(message, m.Masking) and isinstance(masking.decode_from_site(message.data), masking.Reveal):
            return []
        return receive(site, message, chunk)

    w.coordinator.receive = lose_reveals
    for _ in range(5):
        w.settle()
        w.expire("masked update")
    assert len(w.events("round_skipped")) == 3
    assert isinstance(w.coordinator.outcome, QuorumLostError)
    assert "skipped" in str(w.coordinator.outcome)


def test_a_site_cannot_have_a_round_in_the_clear_skipped():
    w = Wire(FederationPlan(rounds=2, quorum=3, gather_s=1.0, masking=Masking("off")), NAMES, 5, model_of_size(5))
    for name in NAMES:
        w.connect(name)
    go_on = hold_back(w, "site-2")
    w.settle()
    w.perform(w.coordinator.receive("site-2", m.Withdraw(1, "no", opened=True)))
    assert w.events("round_failed")
    assert not w.events("round_skipped")
    go_on()


def test_a_vote_whose_result_no_message_could_hold_is_refused_before_it_begins():
    plan = FederationPlan(quorum=2, compression=Compression("vote", share=0.1, block=1))
    with pytest.raises(PlanError, match="block"):
        _ = Exchange(plan, 100_000_000, 3).vote


def test_a_site_that_reconnects_pays_for_an_attempt_once():
    plan = FederationPlan(
        rounds=1, quorum=3, gather_s=1.0, masking=Masking("off"), privacy=Privacy(site=SitePrivacy("central"))
    )
    w = Wire(plan, NAMES, 5, model_of_size(5))
    paid = []
    for name in NAMES:
        w.connect(name)
    site = w.sites["site-0"]
    while site.plan is None:
        assert w.deliver_up("site-0") or w.deliver_down("site-0")
    w.up["site-0"].extend(site.join(model_of_size(5).layout, pay=lambda *release: paid.append(release) or HEAD))
    original = Wire.deliver_up
    w.deliver_up = lambda name: False if w.up[name] and isinstance(w.up[name][0][0], m.Offer) else original(w, name)
    w.settle()
    w.connect("site-0")
    w.settle()
    assert len(paid) == 1
    del w.deliver_up
    w.settle()
    assert w.events("round_finished")
    assert paid == [(1, 1, 1.0)]
    assert w.events("ledger_anchored") == [{"site": "site-0", "head": HEAD.hex()}]


def test_a_round_beyond_those_that_the_site_agreed_to_is_refused():
    w = Wire(FederationPlan(rounds=2, quorum=2, gather_s=1.0), NAMES, 5, model_of_size(5))
    for name in NAMES:
        w.connect(name)
    w.settle()
    assert len(w.saved) == 2
    with pytest.raises(ProtocolError, match="2 rounds"):
        w.sites["site-0"].receive(m.Begin(3, 99, (64.0,), w.coordinator._handout.digest))


def test_a_reason_that_a_site_gives_is_written_down_as_one_printable_line():
    w = Wire(FederationPlan(rounds=2, quorum=3, gather_s=1.0, masking=Masking("off")), NAMES, 5, model_of_size(5))
    for name in NAMES:
        w.connect(name)
    hold_back(w, "site-2")
    w.settle()
    w.perform(w.coordinator.receive("site-2", m.Withdraw(1, "a\x1b[2J\nround 1 done")))
    assert w.events("update_refused")[0]["reason"] == "a\\x1b[2J\\nround 1 done"


def test_a_reason_that_a_coordinator_gives_is_shown_as_one_printable_line():
    w = Wire(FederationPlan(quorum=2), NAMES, 5, model_of_size(5))
    site = w.connect("site-0")
    site.receive(m.Rejected(1, "a\x1b[2J\nb" * 1000))
    assert site.rejected.startswith("a\\x1b[2J\\nb")
    assert len(site.rejected) < 2000
    with pytest.raises(ProtocolError) as error:
        site.receive(m.Refused("ProtocolError", "a\x1b[2J\nb" * 1000))
    assert str(error.value).isprintable()


def test_a_masking_step_does_not_show_its_content_in_its_text_form():
    assert "secret" not in repr(m.Masking("update", 1, 1, b"secret", b"secret"))


@pytest.mark.parametrize(
    "message",
    [m.Report(0, {"loss": 1.0}), m.NoReport(0), m.NoReport(0, "site-1"), m.Computed(0, {"loss": 1.0})],
    ids=lambda message: repr(message)[:40],
)
def test_what_speaks_of_a_model_before_there_is_one_is_refused_by_name(message):
    w = Wire(FederationPlan(rounds=1, quorum=2, metrics=("loss",)), NAMES, SIZE)
    w.connect("site-0")
    hold_back(w, "site-0")
    w.settle()
    w.perform(w.coordinator.receive("site-0", m.Join(w.sites["site-0"]._layout or layout_of_size(SIZE), {"loss": 1})))
    assert w.coordinator.model is None
    with pytest.raises(ProtocolError, match=f"{type(message).__name__} before there was a global model"):
        w.coordinator.receive("site-0", message)
