"""A newer roster while a federation trains under masks, without sockets."""

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from test_federation_without_sockets import assert_every_model_is_the_mean_of_its_participants
from wire import Wire, model_of_size

from lightning_fed.errors import IdentityError, PlanError
from lightning_fed.masking import messages as masking
from lightning_fed.masking.cohort import check_advertisement
from lightning_fed.plan import FederationPlan, Masking
from lightning_fed.protocol import messages as m
from lightning_fed.protocol.coordinator.roster_change import ANSWERS
from lightning_fed.protocol.members import Members
from lightning_fed.protocol.site.session import SiteSession


class Changing(Wire):
    """Sites that take each roster that the test has made, unless it says otherwise."""

    def __post_init__(self):
        self.rosters = {}
        self.declining = set()
        super().__post_init__()

    def members_by(self, keys):
        """The next version of the roster, among the owners of these keys."""
        version = len(self.rosters) + 1
        document = b"version %d" % version
        signing = {name: key.public_key().public_bytes_raw() for name, key in keys.items()}
        self.rosters[document] = Members(signing, version, document), keys
        return self.rosters[document][0]

    @property
    def members_of_roster(self):
        if not self.rosters:
            self.members_by(self.keys)
        return list(self.rosters.values())[-1][0]

    def connect(self, name):
        def take(document, plan):
            if name in self.declining:
                raise IdentityError("not with those")
            members, keys = self.rosters[document]
            return members, keys[name]

        if name not in self.sites:
            self.sites[name] = SiteSession(
                name, f"process-{name}", "0", self.keys[name], self.members_of_roster, (), take
            )
        return super().connect(name)

    def come(self, name):
        """A site that is new, before its roster is known to the coordinator."""
        self.names.append(name)
        self.keys[name] = Ed25519PrivateKey.generate()
        self.up[name], self.down[name], self.trained[name] = *(type(self.up[self.names[0]])() for _ in "ud"), set()

    def change(self, names):
        self.perform(self.coordinator.new_roster(self.members_by({name: self.keys[name] for name in names})))

    def participants(self):
        return [event["participants"] for event in self.events("round_finished")]

    def until_begun(self, round):
        """Deliver until the round is on and nobody has sent an update of it."""
        train, self.train = self.train, lambda name: self.sites[name].begun < round and train(name)
        self.settle()
        del self.train


@pytest.fixture
def w():
    names = [f"site-{index}" for index in range(4)]
    plan = FederationPlan(rounds=4, quorum=2, masking=Masking("required", bits=32, bound=64.0), metrics=["loss"])
    wire = Changing(plan, names, model=model_of_size(5))
    for name in names:
        wire.connect(name)
    wire.until_begun(2)
    return wire


def test_the_attempt_that_is_on_ends_among_those_whom_it_began_with_and_the_next_one_goes_by_the_newer_roster(w):
    w.come("site-4")
    w.change(w.names)
    w.settle()
    # The new site is not there yet.
    assert w.participants() == 4 * [w.names[:4]]
    (changed,) = w.events("roster_changed")
    assert (changed["version"], changed["added"]) == (2, ["site-4"])
    kinds = [record.event for record in w.records if record.event in ("roster_changed", "round_finished")]
    assert kinds.index("roster_changed") == 2
    assert_every_model_is_the_mean_of_its_participants(w)


def test_a_site_that_is_new_takes_part_from_the_round_after_it_came(w):
    w.come("site-4")
    w.change(w.names)
    w.until_begun(3)
    w.connect("site-4")
    w.settle()
    assert w.participants() == [w.names[:4], w.names[:4], w.names[:4], w.names]
    # Five members need three signatures, four needed three as well, of whom all had to be the same.
    assert {site._masked._terms.threshold for site in w.sites.values()} == {3}
    assert_every_model_is_the_mean_of_its_participants(w)


def test_a_site_that_is_removed_is_told_and_the_others_go_on_with_another_threshold(w):
    w.change(w.names[:2])
    with pytest.raises(IdentityError, match="does not name this site any more"):
        w.settle()
    for gone in w.names[2:]:
        w.sites.pop(gone)
    w.settle()
    assert w.participants() == [w.names, w.names, w.names[:2], w.names[:2]]
    assert_every_model_is_the_mean_of_its_participants(w)


def test_a_site_with_a_new_key_comes_back_with_it_and_is_waited_for(w):
    w.keys["site-1"] = Ed25519PrivateKey.generate()
    w.change(w.names)
    w.settle()
    assert len(w.participants()) == 2, "the others wait for it"
    w.disconnect("site-1")  # as the hub does with connections of an old key
    w.connect("site-1")
    w.settle()
    assert w.participants() == 4 * [w.names]
    assert w.events("roster_changed")[0]["rotated"] == ["site-1"]
    assert_every_model_is_the_mean_of_its_participants(w)


def test_nobody_is_waited_for_longer_than_half_a_minute(w):
    w.keys["site-1"] = Ed25519PrivateKey.generate()
    w.change(w.names)
    w.settle()
    w.disconnect("site-1")
    w.expire(ANSWERS)
    w.settle()
    others = [name for name in w.names if name != "site-1"]
    assert w.participants() == [w.names, w.names, others, others]
    assert w.events("roster_unanswered") == [{"version": 2, "sites": ["site-1"]}]


def test_a_site_that_does_not_take_the_roster_is_not_drawn_and_the_reason_is_recorded(w):
    w.declining.add("site-2")
    w.come("site-4")
    w.change(w.names)
    w.settle()
    others = [name for name in w.names[:4] if name != "site-2"]
    assert w.participants() == [w.names[:4], w.names[:4], others, others]
    assert w.events("roster_declined") == [{"site": "site-2", "version": 2, "reason": "not with those"}]
    assert str(w.sites["site-2"].declined) == "not with those"
    assert_every_model_is_the_mean_of_its_participants(w)


def test_a_site_that_was_away_gets_the_newest_roster_when_it_connects(w):
    w.disconnect("site-3")
    w.perform(w.coordinator.lost("site-3"))
    w.come("site-4")
    w.change(w.names)
    w.until_begun(3)
    w.connect("site-3")
    w.settle()
    assert w.participants()[-1] == w.names[:4]
    assert w.sites["site-3"]._members.version == 2


def test_a_site_that_has_the_roster_is_not_sent_it_again(w):
    ours = w.sites["site-0"]._members
    hello = w.sites["site-0"].connected()[0][0]
    (answer,) = w.coordinator.receive("site-0", hello)
    assert hello.roster == ours.document_hash
    assert answer.message.roster == b""
    w.change(w.names)
    (answer,) = w.coordinator.receive("site-0", hello)
    assert answer.message.roster == w.members_of_roster.document != ours.document


def test_two_changes_within_a_round_come_into_force_as_one(w):
    w.come("site-4")
    w.change(w.names)
    w.change([name for name in w.names if name != "site-0"])
    with pytest.raises(IdentityError, match="of version 3 now"):
        w.settle()
    w.sites.pop("site-0")
    w.settle()
    assert [event["version"] for event in w.events("roster_changed")] == [3]
    assert w.participants()[2:] == 2 * [w.names[1:4]]


def test_a_roster_that_leaves_too_few_for_the_plan_is_refused_and_the_present_one_stays(w):
    with pytest.raises(PlanError, match="the roster names 1 sites"):
        w.coordinator.new_roster(Members({"site-0": bytes(32)}, 2, b"version 2"))
    w.settle()
    assert w.participants() == 4 * [w.names]


def test_metrics_go_on_across_a_change(w):
    w.come("site-4")
    w.change(w.names)
    w.until_begun(3)
    for name in w.names[:4]:
        w.up[name].extend(w.sites[name].report(2, {"loss": 0.5}, {}, lambda sums: {}))
    w.settle()
    assert [(event["version"], event["metrics"]) for event in w.events("metrics")] == [(2, {"loss": 0.5})]


def test_keys_that_a_site_signs_among_other_members_are_no_keys_of_the_attempt(w):
    """Both rosters are the consortium's; the coordinator tells one site of the newer one and the other of the older."""
    older = w.members_of_roster
    newer = w.members_by({name: w.keys[name] for name in w.names[:3]})
    w.sites["site-0"].receive(m.NewRoster(newer.document))
    begin = m.Begin(3, 900, w.sites["site-0"]._masked._bounds, bytes(32))
    (told, _), *_ = w.sites["site-0"].receive(begin)
    w.sites["site-1"].receive(begin)
    context = w.sites["site-1"]._masked._machines["update", 3].context
    with pytest.raises(IdentityError, match="not signed by its identity"):
        check_advertisement(masking.decode_from_site(told.data), context, older.keys)


def test_the_wires_sites_would_notice_a_wrong_sum(w):
    """The other tests rest on it."""
    w.settle()
    w.saved[0].vector.add_(1.0)
    with pytest.raises(AssertionError):
        assert_every_model_is_the_mean_of_its_participants(w)
    assert torch.isfinite(w.saved[-1].vector).all()
