"""Members come, go and change their keys while a federation of real processes trains under masks."""

import shutil

import pytest
from modules import Plain, train, trained_alone
from processes import Federation, Program, assert_same

from lightning_fed.cli.main import main
from lightning_fed.coordinator.service import Coordinator
from lightning_fed.plan import FederationPlan, Masking
from lightning_fed.transport.identity import load_identity, new_identity, write_identity
from lightning_fed.transport.roster import Roster

SEEDS = {"north": 0, "south": 1, "west": 2, "east": 3}


def coordinate(plan, address, keys, store):
    """As ``lightning-fed coordinate`` does: the roster's file is looked at while the federation runs."""
    roster, identity = keys / "roster.yaml", load_identity(keys / "coordinator.key")
    Coordinator(
        plan,
        address=address,
        identity=identity,
        roster=Roster.load(roster),
        store=store,
        initial=Plain(),
        roster_file=roster,
    ).run()
    return "finished"


class Consortium(Federation):
    """A federation whose members have a file of the roster each, and a consortium that changes it."""

    def __init__(self, folder, *, signed=True, **plan):
        super().__init__(folder, FederationPlan(**plan), ["north", "south", "west"])
        self.identity = new_identity("consortium")
        if signed:
            self.roster = self.roster.signed_by(self.identity, 1)
            self.roster.write(self.keys / "roster.yaml")
        for name in self.sites:
            self.give(name)

    def give(self, name):
        """A site gets keys and roster in a folder of its own."""
        folder = self.folder / name
        folder.mkdir()
        shutil.copy(self.keys / f"{name}.key", folder)
        shutil.copy(self.keys / "roster.yaml", folder)

    def strategy_arguments(self, name):
        folder = self.folder / name
        own = {"identity": folder / f"{name}.key", "roster": folder / "roster.yaml"}
        if (folder / "policy.yaml").exists():
            own["policy"] = folder / "policy.yaml"
        return {**super().strategy_arguments(name), **own}

    def change(self, cards):
        """The consortium signs other members, and somebody puts the roster into the coordinator's folder."""
        roster = Roster.of(self.roster.coordinator, cards)
        self.roster = roster.signed_by(self.identity, self.roster.version + 1)
        self.roster.write(self.keys / "roster.yaml")

    def coordinate(self):
        return Program(coordinate, self.plan, self.address, self.keys, self.store)

    def train(self, name, slow_s=0.0):
        return self.site(name, train, Plain, SEEDS[name], 24, 8, None, slow_s)

    def wait_for_round_of(self, *names):
        """Wait for a round among exactly these that began after the newest roster came into force."""
        after = self.wait_for("roster_changed", version=self.roster.version)
        round = 1 + len([e for e in self.events("round_finished") if e["time"] <= after["time"]])
        while self.wait_for("round_finished", round=round)["participants"] != sorted(names):
            round += 1

    def assert_every_model_is_the_mean_of_its_participants(self):
        for event in self.events("round_finished"):
            before = self.model(event["round"] - 1)
            alone = [trained_alone(SEEDS[name], before) for name in event["participants"]]
            mean = {key: sum(state[key] for state in alone) / len(alone) for key in before}
            assert_same(self.model(event["round"]), mean, atol=1e-5)


MASKED = {"masking": Masking("required", bits=32, bound=256.0)}


@pytest.fixture
def consortium(tmp_path):
    return lambda **plan: Consortium(tmp_path, **{**MASKED, "gather_s": 30.0, **plan})


@pytest.mark.slow
def test_a_site_joins_one_leaves_for_good_and_one_changes_its_key_while_the_others_train_on(consortium):
    here = consortium(rounds=60, quorum=2)
    coordinator = here.coordinate()
    sites = {name: here.train(name, 0.1) for name in here.sites}
    north, south, west = (here.roster.sites[name] for name in here.sites)
    here.wait_for("round_finished", count=2)

    east = new_identity("east")
    write_identity(east, here.keys)
    here.change([north, south, west, east.card])
    here.give("east")
    sites["east"] = here.train("east", 0.1)
    here.wait_for_round_of("north", "south", "west", "east")

    here.change([north, west, east.card])
    assert "roster, of version 3 now, does not name this site any more" in sites.pop("south").error()
    here.wait_for_round_of("north", "west", "east")

    renewed = new_identity("west")
    write_identity(renewed, here.folder / "west" / "next")
    here.change([north, renewed.card, east.card])
    here.wait_for_round_of("north", "west", "east")

    states = [site.result()["state"] for site in sites.values()]
    assert coordinator.result() == "finished"
    for state in states:
        assert_same(state, here.model(60))
    changes = [(e["version"], e["added"], e["removed"], e["rotated"]) for e in here.events("roster_changed")]
    assert changes == [(2, ["east"], [], []), (3, [], ["south"], []), (4, [], [], ["west"])]
    # Nobody was started a second time, and no round was lost over it.
    assert len(here.events("started")) == 1
    assert {name for e in here.events("site_left") for name in [e["site"]]} == {"north", "west", "east"}
    assert here.events("round_failed") == []
    here.assert_every_model_is_the_mean_of_its_participants()
    # The log of what left the site that changed its key holds, each part by the key of its time.
    assert main(["audit", "verify", str(here.store), str(here.folder / "west" / "ledger.jsonl.sent")]) == 0
    keys = {e["key"] for e in here.events("log_head") if e["site"] == "west"}
    assert keys == {west.signing_public.hex(), renewed.card.signing_public.hex()}


def test_a_site_whose_policy_pins_the_members_takes_no_part_with_others_and_they_go_on(consortium):
    here = consortium(rounds=40, quorum=2)
    pinned = "".join(f"  {name}: {shown}\n" for name, shown in here.roster.fingerprints.items())
    (here.folder / "west" / "policy.yaml").write_text(f"members:\n{pinned}")
    coordinator = here.coordinate()
    sites = {name: here.train(name, 0.1) for name in here.sites}
    here.wait_for("round_finished")
    east = new_identity("east")
    write_identity(east, here.keys)
    here.change([*here.roster.sites.values(), east.card])
    here.give("east")
    sites["east"] = here.train("east", 0.1)
    error = sites.pop("west").error()
    assert error.startswith("PlanRefusedError: site 'west' refused the roster: member 'east' has the fingerprint")
    here.wait_for_round_of("north", "south", "east")
    for site in sites.values():
        site.result()
    assert coordinator.result() == "finished"
    (declined,) = here.events("roster_declined")
    assert (declined["site"], declined["version"]) == ("west", 2)
    assert east.card.fingerprint in declined["reason"]
    assert [e["reason"] for e in here.events("site_left") if e["site"] == "west"] == ["refused"]
    here.assert_every_model_is_the_mean_of_its_participants()


def test_a_site_that_was_started_again_with_its_older_file_takes_no_older_roster_from_its_coordinator(consortium):
    here = consortium(rounds=2, quorum=2, gather_s=3.0)
    older = here.roster
    here.change([*here.roster.sites.values(), new_identity("east").card])
    coordinator = here.coordinate()
    for site in [here.train(name) for name in here.sites]:
        site.result()
    assert coordinator.result() == "finished"
    older.write(here.keys / "roster.yaml")
    here.store = here.folder / "another store"
    again = here.coordinate()
    error = here.train("north").error()
    assert "the coordinator's roster is version 1, and version 2 was accepted here before" in error
    assert "north" in {e["site"] for e in here.events("roster_declined")}
    again.kill()


def test_a_site_with_an_older_roster_is_brought_up_to_date(consortium):
    here = consortium(rounds=2, quorum=3)
    east = new_identity("east")
    write_identity(east, here.keys)
    here.change([*here.roster.sites.values(), east.card])
    here.give("east")
    coordinator = here.coordinate()
    results = [here.train(name) for name in SEEDS]
    for each in results:
        each.result()
    assert coordinator.result() == "finished"
    assert [e["participants"] for e in here.events("round_finished")] == 2 * [sorted(SEEDS)]
    here.assert_every_model_is_the_mean_of_its_participants()


def test_a_site_with_an_older_roster_that_nobody_has_signed_is_left_out_with_the_reason_and_stops_nobody(consortium):
    here = consortium(rounds=2, quorum=2, signed=False, gather_s=5.0)
    east = new_identity("east")
    write_identity(east, here.keys)
    here.roster = Roster.of(here.roster.coordinator, [*here.roster.sites.values(), east.card])
    here.roster.write(here.keys / "roster.yaml")
    here.give("east")
    for name in ("north", "south"):
        shutil.copy(here.keys / "roster.yaml", here.folder / name)
    coordinator = here.coordinate()
    sites = {name: here.train(name) for name in SEEDS}
    error = sites.pop("west").error()
    assert error.startswith("IdentityError: the roster here is not signed")
    assert "it also names east" in error
    for site in sites.values():
        site.result()
    assert coordinator.result() == "finished"
    assert [e["participants"] for e in here.events("round_finished")] == 2 * [["east", "north", "south"]]
    (declined,) = here.events("roster_declined")
    assert (declined["site"], "it also names east" in declined["reason"]) == ("west", True)


def test_a_roster_that_the_consortium_has_not_signed_changes_nothing_at_the_coordinator(consortium):
    here = consortium(rounds=30, quorum=3)
    coordinator = here.coordinate()
    sites = [here.train(name, 0.1) for name in here.sites]
    here.wait_for("round_finished")
    own = new_identity("own")
    forged = Roster.of(here.roster.coordinator, [*here.roster.sites.values(), own.card])
    forged.signed_by(new_identity("consortium"), 2).write(here.keys / "roster.yaml")
    refused = here.wait_for("roster_refused")
    assert "is signed by another consortium" in refused["reason"]
    for site in sites:
        site.result()
    assert coordinator.result() == "finished"
    assert here.events("roster_changed") == []
