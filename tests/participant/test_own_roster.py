"""What a site takes in the place of its roster, and what it still knows after a restart."""

import shutil
import stat

import pytest

from lightning_fed import SitePolicy
from lightning_fed.errors import IdentityError, PlanError, PlanRefusedError, StoreError
from lightning_fed.participant.own_roster import OwnRoster
from lightning_fed.plan import FederationPlan, Masking
from lightning_fed.transport.identity import load_identity, new_identity, write_identity
from lightning_fed.transport.roster import Roster

COORDINATOR, NORTH, SOUTH, WEST, EAST, CONSORTIUM = (
    new_identity(name) for name in ("coordinator", "north", "south", "west", "east", "consortium")
)
CARDS = [NORTH.card, SOUTH.card, WEST.card]
PLAN = FederationPlan(rounds=2, quorum=2)


def roster_of(*cards, version=0):
    roster = Roster.of(COORDINATOR.card, cards)
    return roster.signed_by(CONSORTIUM, version) if version else roster


class Site:
    """Site north, as its strategy finds it on the disk."""

    def __init__(self, folder):
        self.folder = folder
        write_identity(NORTH, folder / "keys")
        self.give(roster_of(*CARDS, version=2))

    def give(self, roster):
        roster.write(self.folder / "roster.yaml")

    def load(self, policy=None):
        key_file, ledger = self.folder / "keys" / "north.key", self.folder / "ledgers" / "north.jsonl"
        own = OwnRoster.load(self.folder / "roster.yaml", key_file, lambda key: b"", policy or SitePolicy(), ledger)
        own.remember()
        return own

    @property
    def memory(self):
        (path,) = (self.folder / "ledgers").glob("north.jsonl.roster-*")
        return path


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


def test_a_newer_roster_is_taken_and_known_after_a_restart_with_the_older_file(site):
    newer = roster_of(*CARDS, EAST.card, version=3)
    members, key = site.load().take(newer.to_bytes(), PLAN)
    assert members.digest == newer.members.digest
    assert key.private_bytes_raw() == NORTH.signing_key.private_bytes_raw()
    assert site.load().roster == newer
    assert stat.S_IMODE(site.memory.stat().st_mode) == 0o600


def test_an_older_roster_is_refused_whether_it_comes_from_the_coordinator_or_is_put_back_by_hand(site):
    site.load().take(roster_of(*CARDS, EAST.card, version=3).to_bytes(), PLAN)
    own = site.load()
    with pytest.raises(IdentityError, match="is version 2, and version 3 was accepted here before"):
        own.take(roster_of(*CARDS, version=2).to_bytes(), PLAN)
    site.give(roster_of(*CARDS, version=1))
    assert site.load().roster.version == 3


def test_a_newer_roster_that_is_put_there_by_hand_is_known_after_an_older_one_was_put_back(site):
    site.give(roster_of(*CARDS, version=5))
    site.load()
    site.give(roster_of(*CARDS, version=2))
    assert site.load().roster.version == 5


def test_two_rosters_of_one_version_are_told_apart_at_the_start(site):
    site.load()
    site.give(roster_of(*CARDS, EAST.card, version=2))
    with pytest.raises(IdentityError, match="the consortium has signed two of them"):
        site.load()


def test_a_damaged_memory_is_an_error_and_is_not_passed_over(site):
    site.load()
    site.memory.write_bytes(site.memory.read_bytes().replace(b"version: 2", b"version: 1"))
    with pytest.raises(IdentityError, match="signature of the roster"):
        site.load()


@pytest.mark.parametrize(
    ("theirs", "reason"),
    [
        (roster_of(*CARDS, EAST.card), "is not signed.*it also names east"),
        (Roster.of(COORDINATOR.card, CARDS).signed_by(new_identity("consortium"), 3), "another consortium"),
        (roster_of(SOUTH.card, WEST.card, version=3), "does not name site 'north' any more"),
        (roster_of(new_identity("north").card, SOUTH.card, version=3), "has other keys for site 'north'"),
    ],
)
def test_what_may_not_follow_is_refused_and_changes_nothing(site, theirs, reason):
    own = site.load()
    before = site.memory.read_bytes()
    with pytest.raises(IdentityError, match=reason):
        own.take(theirs.to_bytes(), PLAN)
    assert own.roster.version == 2
    assert site.memory.read_bytes() == before


def test_bytes_that_are_no_roster_are_refused(site):
    with pytest.raises(IdentityError, match="is no roster"):
        site.load().take(b"[" * 100_000, PLAN)


def test_a_roster_with_which_the_plans_masks_cannot_be_is_refused(site):
    plan = FederationPlan(rounds=2, quorum=2, masking=Masking("required", threshold=2))
    with pytest.raises(PlanError, match="threshold"):
        site.load().take(roster_of(*CARDS, EAST.card, version=3).to_bytes(), plan)
    assert site.load().roster.version == 2


def test_a_policy_that_pins_members_refuses_whom_it_does_not_name(site):
    pinned = roster_of(*CARDS).fingerprints
    own = site.load(SitePolicy(members=pinned))
    with pytest.raises(PlanRefusedError, match=r"member .east. has the fingerprint .* does not know the name"):
        own.take(roster_of(*CARDS, EAST.card, version=3).to_bytes(), PLAN)
    own.take(roster_of(NORTH.card, WEST.card, version=3).to_bytes(), PLAN)
    assert own.roster.version == 3


def test_a_policy_may_pin_names_alone_whose_keys_the_consortium_vouches_for(site):
    pinned = {**roster_of(*CARDS).fingerprints, "south": "signed"}
    own = site.load(SitePolicy(members=pinned))
    own.take(roster_of(NORTH.card, new_identity("south").card, WEST.card, version=3).to_bytes(), PLAN)
    with pytest.raises(PlanRefusedError, match="member 'west' has the fingerprint"):
        own.take(roster_of(NORTH.card, new_identity("west").card, version=4).to_bytes(), PLAN)
    with pytest.raises(PlanRefusedError, match="from a roster alone that a consortium has signed"):
        SitePolicy(members=pinned).check_members(roster_of(*CARDS).fingerprints, "north")


def test_a_site_finds_its_next_keys_when_the_roster_names_them_and_again_after_a_restart(site):
    renewed = new_identity("north")
    write_identity(renewed, site.folder / "keys" / "next")
    own = site.load()
    assert own.identity.card == NORTH.card
    _, key = own.take(roster_of(renewed.card, SOUTH.card, version=3).to_bytes(), PLAN)
    assert key.public_key() == renewed.signing_key.public_key()
    assert own.identity.card == renewed.card
    assert site.load().identity.card == renewed.card
    shutil.copy(site.folder / "keys" / "next" / "north.key", site.folder / "keys" / "north.key")
    shutil.rmtree(site.folder / "keys" / "next")
    assert site.load().identity.card == renewed.card


def test_new_keys_in_the_place_of_the_old_file_are_found_while_the_site_runs(site):
    own, renewed = site.load(), new_identity("north")
    for path in (site.folder / "keys").iterdir():
        path.unlink()
    write_identity(renewed, site.folder / "keys")
    own.take(roster_of(renewed.card, SOUTH.card, version=3).to_bytes(), PLAN)
    assert own.identity.card == load_identity(site.folder / "keys" / "north.key").card


def test_an_unsigned_roster_with_the_same_members_is_as_good_as_a_signed_one(site):
    own = site.load()
    members, _ = own.take(roster_of(*reversed(CARDS)).to_bytes(), PLAN)
    assert members.version == 2
    site.give(roster_of(*CARDS))
    shutil.rmtree(site.folder / "ledgers")
    own = site.load()
    members, _ = own.take(roster_of(*CARDS, version=7).to_bytes(), PLAN)
    assert members.version == 0
    with pytest.raises(IdentityError, match=r"the roster here is not signed.*it also names east"):
        own.take(roster_of(*CARDS, EAST.card, version=8).to_bytes(), PLAN)


def test_a_roster_that_cannot_be_kept_is_not_taken(site):
    own = site.load()
    memory = site.memory
    memory.unlink()
    memory.mkdir()
    (memory / "in the way").touch()
    with pytest.raises(StoreError, match="cannot be written"):
        own.take(roster_of(*CARDS, EAST.card, version=3).to_bytes(), PLAN)
    assert own.roster.version == 2
