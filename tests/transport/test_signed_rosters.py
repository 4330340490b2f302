"""Rosters that a consortium has signed: what is accepted in the place of an older one."""

import dataclasses

import msgspec
import pytest

from lightning_fed.errors import IdentityError
from lightning_fed.transport.identity import new_identity
from lightning_fed.transport.roster import Roster

COORDINATOR, NORTH, SOUTH, CONSORTIUM = (new_identity(name) for name in ("coordinator", "north", "south", "consortium"))
UNSIGNED = Roster.of(COORDINATOR.card, [NORTH.card, SOUTH.card])


def test_a_signed_roster_reads_back_with_its_version_and_signature(tmp_path):
    UNSIGNED.signed_by(CONSORTIUM, 3).write(tmp_path / "roster.yaml")
    roster = Roster.load(tmp_path / "roster.yaml")
    assert (roster.version, roster.consortium) == (3, CONSORTIUM.card)
    assert roster == UNSIGNED.signed_by(CONSORTIUM, 3)
    assert Roster.from_bytes(roster.to_bytes(), "there") == roster


def _swap_names(content):
    content["sites"][0]["name"], content["sites"][1]["name"] = "south", "north"


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(version=4),
        lambda content: content["sites"].pop(),
        lambda content: content["coordinator"].update(signing=SOUTH.card.signing_public.hex()[::-1]),
        lambda content: content["sites"][0].update(curve=new_identity("x").curve_public.decode()),
        lambda content: content["sites"].append(
            {
                "name": "own",
                "curve": (own := new_identity("own")).curve_public.decode(),
                "signing": own.card.signing_public.hex(),
            }
        ),
        lambda content: content["consortium"].update(signing=new_identity("x").card.signing_public.hex()),
        lambda content: content["consortium"].update(name="another"),
        lambda content: content.update(signature=content["signature"][2:]),
        lambda content: content.update(signature=""),
        lambda content: content.update(signature="zz"),
        lambda content: content.update(version=-1),
        lambda content: content.pop("consortium"),
        _swap_names,
    ],
)
def test_a_roster_that_was_changed_after_it_was_signed_is_refused(tmp_path, change):
    content = msgspec.yaml.decode(UNSIGNED.signed_by(CONSORTIUM, 3).to_bytes())
    change(content)
    (tmp_path / "roster.yaml").write_bytes(msgspec.yaml.encode(content))
    with pytest.raises(IdentityError, match="signature"):
        Roster.load(tmp_path / "roster.yaml")


def test_the_order_of_the_sites_is_not_what_is_signed(tmp_path):
    content = msgspec.yaml.decode(UNSIGNED.signed_by(CONSORTIUM, 3).to_bytes())
    content["sites"].reverse()
    assert Roster.from_bytes(msgspec.yaml.encode(content), "there").version == 3


def test_a_newer_roster_of_the_same_consortium_may_follow_and_the_same_again():
    second = UNSIGNED.signed_by(CONSORTIUM, 2)
    third = Roster.of(COORDINATOR.card, [NORTH.card, new_identity("east").card]).signed_by(CONSORTIUM, 3)
    second.check_successor(second, "it")
    second.check_successor(third, "it")
    assert second.changes(third) == {"added": ["east"], "removed": ["south"], "rotated": []}


@pytest.mark.parametrize(
    ("present", "newer", "reason"),
    [
        (UNSIGNED, UNSIGNED.signed_by(CONSORTIUM, 1), "the roster here is not signed"),
        (UNSIGNED.signed_by(CONSORTIUM, 1), UNSIGNED, "it is not signed"),
        (UNSIGNED.signed_by(CONSORTIUM, 1), UNSIGNED.signed_by(new_identity("other"), 2), "another consortium"),
        (UNSIGNED.signed_by(CONSORTIUM, 1), UNSIGNED.signed_by(new_identity("consortium"), 2), "another consortium"),
        (UNSIGNED.signed_by(CONSORTIUM, 3), UNSIGNED.signed_by(CONSORTIUM, 2), "is version 2, and version 3"),
        (
            UNSIGNED.signed_by(CONSORTIUM, 3),
            Roster.of(COORDINATOR.card, [NORTH.card]).signed_by(CONSORTIUM, 3),
            "has signed two of them",
        ),
    ],
)
def test_any_other_roster_may_not(present, newer, reason):
    with pytest.raises(IdentityError, match=reason):
        present.check_successor(newer, "it")


def test_a_members_key_cannot_be_the_consortiums(tmp_path):
    posing = dataclasses.replace(COORDINATOR, card=dataclasses.replace(COORDINATOR.card, name="consortium"))
    with pytest.raises(IdentityError, match="is that of member 'coordinator'"):
        UNSIGNED.signed_by(posing, 1)


def test_members_with_the_same_names_and_keys_have_the_same_digest_whoever_has_signed():
    signed = UNSIGNED.signed_by(CONSORTIUM, 5)
    rotated = Roster.of(COORDINATOR.card, [new_identity("north").card, SOUTH.card])
    assert UNSIGNED.members.digest == signed.members.digest != rotated.members.digest
    assert (UNSIGNED.members.version, signed.members.version) == (0, 5)
