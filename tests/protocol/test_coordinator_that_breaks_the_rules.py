"""A coordinator that does what its software would not: what it gets to know of one site, and what the site says."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, save
from wire import Wire, layout_of_size, model_of_size

from lightning_fed.aggregation.contracts import SiteReport
from lightning_fed.errors import FederationError, IdentityError, ProtocolError, StoreError
from lightning_fed.plan import Compression, FederationPlan, Masking
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.coordinator import masked_collection
from lightning_fed.protocol.coordinator.actions import Send
from lightning_fed.protocol.site.signed_sums import SignedSums
from lightning_fed.update.contribution import Contribution
from lightning_fed.update.global_model import GlobalModel
from lightning_fed.update.layout import Layout, TensorSpec
from lightning_fed.update.metric_sum import MetricSum
from lightning_fed.update.model_digest import fixed_digest, layout_digest, model_digest

SIZE = 40
VICTIM = "site-3"
RING = Masking(bits=32, bound=4096.0)


class Forgetful(SignedSums):
    """What a site did before it kept a record: the attack must work on it, or the test would show nothing."""

    def may_have_opened(self, purpose, round, model):
        return False

    def check_sharers(self, purpose, round, model, sharers):
        pass

    def sign(self, purpose, round, model, survivors):
        self._of_round[purpose, round] = frozenset(survivors)


class Hospitals(Wire):
    """Sites that are started again with what they have written down, and train alike whenever they do."""

    kind = SignedSums
    min_change = 0
    sizes = None

    def __post_init__(self):
        self.kept = {name: [] for name in self.names}
        self.keep = {name: kept.append for name, kept in self.kept.items()}
        super().__post_init__()

    def update_of(self, name, round):
        return super().update_of(name, 1)

    def train(self, name):
        site = self.sites[name]
        if not (site.plan and not site.joined and site._layout is None):
            return super().train(name)
        layout, before, keep = layout_of_size(self.size), tuple(self.kept[name]), self.keep[name]
        signed = self.kind(self.plan.name, site.run, layout_digest(layout), before, keep, self.min_change)
        self.up[name].extend(site.join(layout, self.sizes, signed=signed))
        return True

    def end_all_fits(self):
        """What one message of the coordinator does to each of them."""
        for name in list(self.sites):
            with pytest.raises(ProtocolError):
                self.sites.pop(name).receive(m.Refused("ProtocolError", "a pretext"))
            self.trained[name].clear()

    def meet(self, *absent):
        for name in self.names:
            if name not in absent:
                self.connect(name)
        self.settle()
        self.expire("gather")
        self.settle()


def hospitals(kind=SignedSums, names=None, min_change=0, **plan):
    names = names or [f"site-{index}" for index in range(4)]
    settings = {"rounds": 5, "quorum": 3, "masking": RING, "gather_s": 1.0, **plan}
    w = Hospitals(FederationPlan(**settings), names, SIZE, model_of_size(SIZE))
    w.kind, w.min_change = kind, min_change
    return w


@pytest.fixture
def opened(monkeypatch):
    """The sums of updates that the coordinator has opened: values, and the number of examples."""
    sums, decode = [], Contribution.decode

    def decoded(self, words, survivors):
        sum_of_round = decode(self, words, survivors)
        # A copy, as the mean is made in the place of the values.
        sums.append(replace(sum_of_round, values=sum_of_round.values.copy()))
        return sum_of_round

    monkeypatch.setattr(Contribution, "decode", decoded)
    return sums


def difference(sums):
    """What a coordinator makes of two sums: an update, and the examples behind it."""
    examples = sums[0].numbers["examples"] - sums[1].numbers["examples"]
    return torch.from_numpy(sums[0].values - sums[1].values) / examples, examples


# Everything that shapes an update is in what all sites sign.

FROZEN = Layout((TensorSpec("head", (SIZE,), "float32"),), (TensorSpec("backbone", (SIZE,), "float32"),))


class WithBackbone(Hospitals):
    """A frozen backbone scales each update; without one there is no gradient."""

    def train(self, name):
        site = self.sites[name]
        if site.plan and not site.joined and site._layout is None:
            self.up[name].extend(site.join(FROZEN))
        elif site.frozen and site.model and site.begun == site.model[0] + 1 and not self.trained[name]:
            self.trained[name].add(site.begun)
            update = self.update_of(name, 1) * load(site.frozen)["backbone"]
            self.up[name].extend(site.submit(1, memoryview(update.numpy()).cast("B"), SiteReport(10)))
        else:
            return False
        return True


@pytest.mark.parametrize("told", ["all the same hash", "each the hash of what it got"])
def test_other_frozen_weights_for_the_others_do_not_single_out_the_victim(told, opened):
    """With the others' backbone at zero their updates vanish, and the sum over four sites is the victim's update."""
    names = [f"site-{index}" for index in range(4)]
    model = GlobalModel(0, FROZEN, torch.zeros(SIZE), {"backbone": torch.ones(SIZE)})
    w = WithBackbone(FederationPlan(rounds=1, quorum=3, masking=RING), names, SIZE, model)
    zeros = save({"backbone": torch.zeros(SIZE)})
    perform = w.perform

    def lie(actions):
        for action in actions:
            if isinstance(action, Send) and action.site != VICTIM:
                message = action.message
                if isinstance(message, m.Chunk) and message.stream == "frozen":
                    action = replace(action, chunk=memoryview(zeros))
                elif isinstance(message, m.Begin) and told != "all the same hash":
                    digest = model_digest(fixed_digest(FROZEN, zeros), model.exchanged_bytes(), model.control_bytes())
                    action = replace(action, message=m.Begin(1, message.attempt, message.bounds, digest))
            perform([action])

    w.perform = lie
    for name in names:
        w.connect(name)
    error, reason = {
        "all the same hash": (ProtocolError, "another global model to the federation than it sent to this site"),
        "each the hash of what it got": (IdentityError, "not signed"),
    }[told]
    with pytest.raises(error, match=reason):
        w.settle()
    assert opened == []


@pytest.mark.parametrize("nbytes", [0, 1 << 40])
def test_frozen_parameters_that_are_not_the_models_are_refused_when_they_are_announced(nbytes):
    """With none a site would keep its own, which nobody else has."""
    w = hospitals()
    site = w.connect("site-0")
    while site.plan is None:
        assert w.deliver_up("site-0") or w.deliver_down("site-0")
    site.join(FROZEN)
    with pytest.raises(ProtocolError, match="frozen parameters were announced"):
        site.receive(m.Joined(nbytes))


def test_frozen_parameters_are_refused_where_the_model_has_none():
    w = hospitals()
    site = w.connect("site-0")
    while site.plan is None:
        assert w.deliver_up("site-0") or w.deliver_down("site-0")
    site.join(layout_of_size(SIZE))
    with pytest.raises(ProtocolError, match="frozen parameters were announced"):
        site.receive(m.Joined(80))


def test_another_control_variate_for_one_site_is_not_summed():
    names = [f"site-{index}" for index in range(4)]
    plan = FederationPlan(rounds=1, quorum=3, masking=RING, algorithm={"name": "scaffold"})
    w = Wire(plan, names, SIZE, model_of_size(SIZE))
    w.update_of = lambda name, round: torch.ones(2 * SIZE)
    perform = w.perform

    def lie(actions):
        for action in actions:
            message = getattr(action, "message", None)
            if isinstance(message, m.Chunk) and message.stream == "control" and action.site == VICTIM:
                action = replace(action, chunk=memoryview(torch.full((SIZE,), 1e3).numpy()).cast("B"))
            perform([action])

    w.perform = lie
    for name in names:
        w.connect(name)
    with pytest.raises(ProtocolError, match="another global model"):
        w.settle()
    assert w.saved == []


def test_the_hash_of_a_model_changes_with_whatever_shapes_an_update():
    values, control = torch.arange(SIZE).float(), torch.ones(SIZE)
    frozen = save({"backbone": torch.zeros(SIZE)})

    def digest(layout=FROZEN, frozen=frozen, values=values, control=control):
        parts = (memoryview(each.numpy()).cast("B") for each in (values, control))
        return model_digest(fixed_digest(layout, frozen), *parts)

    other = TensorSpec("backbone", (SIZE,), "float16")
    layouts = [
        replace_layout(exchanged=(TensorSpec("head", (SIZE,), "float16"),)),
        replace_layout(exchanged=(TensorSpec("head", (SIZE,), "float32", buffer=True),)),
        replace_layout(exchanged=(TensorSpec("head", (2, SIZE // 2), "float32"),)),
        replace_layout(frozen=(other,)),
        replace_layout(frozen=()),
        replace_layout(tied=(("again", "head"),)),
    ]
    digests = [
        digest(),
        *(digest(layout=layout) for layout in layouts),
        digest(frozen=save({"backbone": torch.ones(SIZE)})),
        digest(frozen=b""),
        digest(values=values + 1e-3),
        digest(control=control + 1e-3),
        digest(control=torch.empty(0)),
        digest(values=control, control=values),
    ]
    assert len(set(digests)) == len(digests)
    assert digest(layout=replace_layout(personal=("norm.weight",))) == digest(), "what is a site's own may differ"


def replace_layout(**changes):
    fields = {name: getattr(FROZEN, name) for name in FROZEN.__struct_fields__}
    return Layout(**{**fields, **changes})


# No update, and no two trainings of one round, in two opened sums.


@pytest.mark.parametrize("kind", [Forgetful, SignedSums])
@pytest.mark.parametrize("how", ["the same round", "under the next number", "in a new run"])
def test_a_round_that_was_opened_is_not_opened_again_without_the_victim_after_all_were_started_again(kind, how, opened):
    w = hospitals(kind)
    w.coordinator._complete = lambda: []  # it keeps the sum, and nothing that it stores says so
    w.meet()
    assert len(opened) == 1
    w.end_all_fits()
    if how == "under the next number":
        w.model = w.model.next(w.model.vector)
    w.start()
    if how == "in a new run":
        w.coordinator.run = "another"
    w.meet(VICTIM)
    if kind is Forgetful:
        update, examples = difference(opened)
        assert examples == pytest.approx(w.examples_of(VICTIM))
        assert torch.cosine_similarity(update, w.update_of(VICTIM, 1), 0) > 0.999
        return
    assert len(opened) == 1
    reasons = {event["reason"] for event in w.events("update_refused")}
    assert reasons
    assert all("was opened before over other sites" in reason for reason in reasons)
    assert w.events("round_finished") == []
    # Nobody's fit has ended, and the coordinator says what happened: it waits for the victim, and not for ever.
    assert set(w.sites) == {"site-0", "site-1", "site-2"}
    if how != "in a new run":
        assert "only with exactly the same sites" in w.events("paused")[-1]["reason"]
    for _ in range(w.plan.max_attempts):
        w.expire("gather")
        w.settle()
    assert len(opened) == 1
    assert "skipped" in str(w.coordinator.outcome)


def test_once_all_of_that_sum_are_back_the_federation_goes_on(opened):
    w = hospitals()
    w.coordinator._complete = lambda: []
    w.meet()
    w.end_all_fits()
    w.start()
    w.meet()
    assert [event["round"] for event in w.events("round_finished")] == [1, 2, 3, 4, 5]
    assert all(event["participants"] == w.names for event in w.events("round_finished"))
    assert torch.allclose(torch.from_numpy(opened[0].values), torch.from_numpy(opened[1].values), atol=1e-4)


def test_it_waits_for_the_one_of_that_sum_who_is_not_back_yet(opened):
    w = hospitals()
    w.coordinator._complete = lambda: []
    w.meet()
    w.end_all_fits()
    w.start()
    w.meet(VICTIM)
    assert [event["round"] for event in w.events("round_skipped")] == [1]
    w.connect(VICTIM)
    w.settle()
    assert [event["round"] for event in w.events("round_skipped")] == [1]
    assert [event["round"] for event in w.events("round_finished")] == [2, 3, 4, 5]
    assert all(event["participants"] == w.names for event in w.events("round_finished"))


@pytest.mark.parametrize("again", [("site-0", "site-1", "site-2", "site-3"), ("site-0", "site-1")])
def test_sites_that_may_only_be_summed_in_one_company_do_not_make_every_round_fail(again, opened):
    names = [f"site-{index}" for index in range(6)]
    w = hospitals(names=names, max_attempts=2)
    w.coordinator._complete = lambda: []
    w.meet("site-4", "site-5")
    assert len(opened) == 1
    for name in again:
        with pytest.raises(ProtocolError):
            w.sites.pop(name).receive(m.Refused("ProtocolError", "a pretext"))
        w.trained[name].clear()
    w.start()
    w.meet()
    # One round shows the coordinator who is bound to whom; the next is completed among those who can be together.
    assert [event["round"] for event in w.events("round_skipped")] == [1]
    together = names[:4] if len(again) == 4 else names[2:]
    apart = [name for name in names if name not in together]
    assert [event["participants"] for event in w.events("round_finished")] == [together, names, names, names]
    (started,) = [event for event in w.events("round_started") if "apart" in event]
    assert (started["round"], started["cohort"], started["apart"]) == (2, together, apart)


@pytest.mark.parametrize("kind", [Forgetful, SignedSums])
def test_a_vote_is_not_opened_again_without_the_victim_either(kind, monkeypatch):
    ballots, winners = [], masked_collection.winners

    def count(words, vote, survivors, seed):
        ballots.append(survivors)
        return winners(words, vote, survivors, seed)

    monkeypatch.setattr(masked_collection, "winners", count)
    w = hospitals(kind, compression=Compression("vote", share=0.1, block=4))
    w.coordinator._complete = lambda: []
    w.meet()
    assert ballots == [4]
    w.end_all_fits()
    w.start()
    w.coordinator._complete = lambda: []
    w.meet(VICTIM)
    assert ballots == ([4, 3] if kind is Forgetful else [4])


def test_in_the_process_that_signed_a_skipped_round_is_followed_by_one_over_other_sites():
    w = hospitals(rounds=3)
    w.coordinator._complete = lambda: []
    w.meet()
    w.disconnect(VICTIM)
    w.sites.pop(VICTIM)
    w.start()
    w.meet(VICTIM)
    assert w.events("round_skipped") == [{"round": 1}]
    assert [event["round"] for event in w.events("round_finished")] == [2, 3]
    assert w.events("round_finished")[0]["participants"] == w.names[:3]
    assert [(signed.round, len(signed.survivors)) for signed in w.kept["site-0"]] == [(1, 4), (2, 3), (3, 3)]


def test_what_cannot_be_written_down_is_not_signed_and_only_the_site_learns_why():
    def full(signed):
        raise StoreError("the disk is full of secrets.")

    w = hospitals(rounds=1)
    w.keep["site-0"] = full
    w.meet()
    assert isinstance(w.sites["site-0"].spent, StoreError)
    (refused,) = w.events("update_refused")
    assert refused["site"] == "site-0"
    assert "secrets" not in refused["reason"]
    assert "own log" in refused["reason"]
    # The others can open the sum without its help.
    assert len(w.events("round_finished")) == 1


def test_it_is_written_down_before_it_is_signed():
    w = hospitals(rounds=1)
    sent = []
    deliver_up = w.deliver_up

    def watched(name):
        if w.up[name] and isinstance(w.up[name][0][0], m.Masking):
            sent.append((name, len(w.kept[name]), w.sites[name]._masked._machines["update", 1].phase.name))
        return deliver_up(name)

    w.deliver_up = watched
    w.meet()
    assert {kept for _, kept, phase in sent if phase in ("SIGNED", "REVEALED")} == {1}
    assert {kept for _, kept, phase in sent if phase not in ("SIGNED", "REVEALED")} == {0}
    (signed,) = w.kept["site-0"]
    assert signed.survivors == tuple(w.names)
    assert (signed.federation, signed.run, signed.purpose, signed.round) == (w.plan.name, "run", "update", 1)


# Metrics: of one model once, among those who made it.

MATRICES = {f"site-{index}": [30.0 + index, 4.0 + 2 * index, 7.0 - index, 50.0 + 5 * index] for index in range(4)}


@pytest.fixture
def summed(monkeypatch):
    """The sums of metrics that the coordinator has opened."""
    sums, original = [], MetricSum.sums

    def opened(self, words, survivors):
        sums.append(original(self, words, survivors))
        return sums[-1]

    monkeypatch.setattr(MetricSum, "sums", opened)
    return sums


def measuring(kind=SignedSums, **plan):
    """Every site reports its confusion matrix of each version as soon as it has it."""
    w = hospitals(kind, metrics=["confusion"], **plan)
    w.sizes, reported, train = {"confusion": 4}, set(), w.train
    w.reported = reported

    def measure(name):
        site = w.sites[name]
        if site.model and site.model[0] > 0 and (name, site.model[0]) not in reported:
            reported.add((name, site.model[0]))
            states = {"confusion": MATRICES.get(name, [0.0] * 4)}
            w.up[name].extend(site.report(site.model[0], {"confusion": 0.5}, states, lambda sums: {}))
            return True
        return train(name)

    w.train = measure
    return w


def ask_for_metrics(w, version, digest, cohort):
    coordinator = w.coordinator
    coordinator._attempts.number += 1
    told = [{"confusion": 4} for _ in cohort]
    w.reported.difference_update([each for each in w.reported if each[1] == version])
    w.perform(coordinator._metrics.begin(version, digest, coordinator._attempts.number, frozenset(cohort), told))
    w.settle()


@pytest.mark.parametrize("kind", [Forgetful, SignedSums])
def test_metrics_of_one_model_under_two_numbers_do_not_show_the_victims_confusion_matrix(kind, summed):
    w = measuring(kind)
    coordinator = w.coordinator
    go_on = coordinator._begin_if_possible
    coordinator._begin_if_possible = lambda: [] if coordinator.model.version else go_on()
    w.meet()
    assert len(summed) == 1
    coordinator.model = coordinator.model.next(coordinator.model.vector)
    coordinator._handout.replace(coordinator.model)
    w.perform([Send(name, coordinator._handout.announcement(name)) for name in w.names])
    w.settle()
    ask_for_metrics(w, 2, coordinator._handout.digest, w.names[:3])
    if kind is Forgetful:
        matrix = [a - b for a, b in zip(*(each["confusion"] for each in summed), strict=True)]
        assert matrix == pytest.approx(MATRICES[VICTIM], abs=1e-5)
        return
    assert len(summed) == 1
    assert not any(site.reporting for site in w.sites.values())


@pytest.mark.parametrize("kind", [Forgetful, SignedSums])
def test_metrics_of_a_model_are_not_opened_again_over_others_after_a_restart(kind, summed):
    w = measuring(kind)
    coordinator = w.coordinator
    go_on = coordinator._begin_if_possible
    coordinator._begin_if_possible = lambda: [] if coordinator.model.version else go_on()
    w.meet()
    assert len(summed) == 1
    w.end_all_fits()
    w.start()
    w.coordinator._begin_if_possible = lambda: []
    w.meet(VICTIM)
    ask_for_metrics(w, 1, w.coordinator._handout.digest, w.names[:3])
    assert len(summed) == (2 if kind is Forgetful else 1)


@pytest.mark.parametrize("kind", [Forgetful, SignedSums])
def test_metrics_are_not_summed_with_a_site_that_was_not_in_the_sum_that_made_the_model(kind, summed):
    """A member that helps the coordinator, and whose matrix that knows, would stand in for one that is left out."""
    names = [*(f"site-{index}" for index in range(4)), "accomplice"]
    w = measuring(kind, names=names)
    coordinator = w.coordinator
    go_on, begin = coordinator._begin_if_possible, coordinator._metrics.begin
    coordinator._begin_if_possible = lambda: [] if coordinator.model.version else go_on()
    coordinator._metrics.begin = lambda *_: []
    w.meet("accomplice")
    assert w.events("round_finished")[0]["participants"] == names[:4]
    coordinator._metrics.begin = begin
    w.connect("accomplice")
    w.kind = Forgetful
    w.settle()
    ask_for_metrics(w, 1, coordinator._handout.digest, [*names[:3], "accomplice"])
    assert len(summed) == (1 if kind is Forgetful else 0)


def telling(w, lie):
    """Every site hears of the counts what ``lie`` makes of them."""
    perform = w.perform

    def told(actions):
        perform(
            [
                Send(each.site, lie(each.site, each.message))
                if isinstance(each, Send) and isinstance(each.message, m.MetricCounts)
                else each
                for each in actions
            ]
        )

    w.perform = told


def reporting_values(w, values):
    reported, train = set(), w.train

    def report(name):
        site = w.sites[name]
        if site.model and site.model[0] == 1 and name not in reported:
            reported.add(name)
            w.up[name].extend(site.report(1, values[name], {}, dict))
            return True
        return train(name)

    w.train = report


@pytest.mark.parametrize(
    "counts",
    [{"patient": 4}, {"auroc": 2}, {"auroc": 5}, {"loss": 4, "auroc": 4}],
    ids=["not in the plan", "too few", "more than there are", "all, and this site has it not"],
)
def test_counts_that_cannot_be_true_are_refused_by_the_site_that_sees_it(counts, summed):
    w = hospitals(metrics=["auroc", "loss"], rounds=1)
    reporting_values(w, {name: {"loss": 1.0} for name in w.names})
    telling(w, lambda _, message: m.MetricCounts(message.version, message.attempt, counts))
    with pytest.raises(ProtocolError, match="Nothing was sent"):
        w.meet()
    assert not summed


def test_a_metric_is_not_named_to_one_site_alone(summed):
    """That site's value would be the sum; what was named is signed with the values, and all must have signed alike."""
    w = hospitals(metrics=["auroc", "loss"], rounds=1)
    reporting_values(w, {name: {"loss": 1.0, "auroc": 0.9} for name in w.names})
    counts = {"loss": 4, "auroc": 4}
    telling(
        w,
        lambda site, message: m.MetricCounts(
            message.version, message.attempt, counts if site == VICTIM else {"loss": 4}
        ),
    )
    with pytest.raises(ProtocolError, match="did not mask among the sites that shared"):
        w.meet()
    assert not summed


@pytest.mark.parametrize("kind", [Forgetful, SignedSums])
def test_values_are_not_opened_without_sites_that_were_counted(kind, summed):
    """Of three sites that have a metric the coordinator would leave out two, and open the value of the third."""
    w = hospitals(kind, metrics=["auroc"], rounds=1)
    values = {name: {"auroc": 0.1 * (1 + index)} for index, name in enumerate(w.names)}
    reporting_values(w, {**values, "site-0": {}})
    begin = w.coordinator._metrics.begin

    def careless(*arguments):
        actions = begin(*arguments)
        sums = w.coordinator._metrics._masked[-1]
        announce = sums._announce

        def without_one():
            announced = announce()
            sums._values.among = None
            return [*announced, *sums._values.drop(VICTIM)]

        sums._announce = without_one
        return actions

    w.coordinator._metrics.begin = careless
    w.meet()
    assert len(summed) == (1 if kind is Forgetful else 0)


# Sums over cohorts that differ by too few.


@pytest.mark.parametrize(
    ("cohorts", "allowed"),
    [([5, 5, 5], True), ([5, 3], True), ([5, 3, 5], True), ([5, 4], False), ([5, 3, 4], False), ([3, 5, 4], False)],
)
def test_a_policy_keeps_sums_apart_whose_sites_differ_by_too_few(cohorts, allowed, opened):
    names = [f"site-{index}" for index in range(5)]
    w = hospitals(names=names, min_change=2, rounds=9, quorum=3, max_attempts=2)
    for number, count in enumerate(cohorts):
        w.model = w.saved[-1] if w.saved else w.model
        w.start()
        w.end_all_fits()
        coordinator = w.coordinator
        go_on, start = coordinator._begin_if_possible, coordinator.model.version
        coordinator._begin_if_possible = lambda c=coordinator, s=start, g=go_on: [] if c.model.version > s else g()
        w.meet(*names[count:])
        if number < len(cohorts) - 1 or allowed:
            assert len(opened) == number + 1
    if not allowed:
        assert len(opened) == len(cohorts) - 1
        reasons = {event["reason"] for event in w.events("update_refused")}
        assert all("differ from those of an earlier one by 1" in reason for reason in reasons)
        assert all("min_cohort_change" in reason for reason in reasons)
        assert w.events("round_skipped") == [], "nothing was opened that would have to be skipped"
        assert isinstance(w.coordinator.outcome, FederationError)
