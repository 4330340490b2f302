"""``lightning-fed roster`` and locked keys at the command line."""

import pytest

from lightning_fed.transport.card import load_card
from lightning_fed.transport.identity import load_identity
from lightning_fed.transport.passphrase import FILE_VARIABLE, VARIABLE
from lightning_fed.transport.roster import Roster


@pytest.fixture
def consortium(lightning_fed):
    """Keys of a federation and its consortium, and an unsigned roster of two sites."""
    for name in ("consortium", "coordinator", "north", "south", "east"):
        lightning_fed("keys", "new", name)
    lightning_fed("keys", "roster", "keys/coordinator.pub", "keys/north.pub", "keys/south.pub")

    def call(command, *arguments):
        return lightning_fed("roster", command, "keys/roster.yaml", *arguments, "--key", "keys/consortium.key")

    return call


def test_a_roster_is_signed_and_each_change_is_a_version_that_may_follow(consortium, lightning_fed, tmp_path):
    path = tmp_path / "keys" / "roster.yaml"
    code, out, _ = consortium("sign")
    first = Roster.load(path)
    assert (code, first.version, "Give it to every member, once" in out) == (0, 1, True)
    code, out, _ = consortium("add", "keys/east.pub")
    second = Roster.load(path)
    assert (code, second.version, list(second.sites)) == (0, 2, ["north", "south", "east"])
    assert f"added    east  {load_card(tmp_path / 'keys' / 'east.pub').fingerprint}" in out
    lightning_fed("keys", "new", "north", "--folder", "new")
    code, out, _ = consortium("rotate", "new/north.pub")
    third = Roster.load(path)
    assert (code, third.version, third.sites["north"]) == (0, 3, load_card(tmp_path / "new" / "north.pub"))
    assert "rotated  north" in out
    code, out, _ = consortium("remove", "south", "east")
    fourth = Roster.load(path)
    assert (code, fourth.version, list(fourth.sites)) == (0, 4, ["north"])
    assert "Put it in the place of the coordinator's roster" in out
    for earlier, later in ((first, second), (second, third), (third, fourth)):
        earlier.check_successor(later, "it")


def test_show_says_which_version_it_is_and_who_has_signed_it_in_a_form_that_a_policy_takes(
    consortium, lightning_fed, tmp_path
):
    consortium("sign")
    _, out, _ = lightning_fed("keys", "show", "keys/roster.yaml")
    consortium_card = load_card(tmp_path / "keys" / "consortium.pub")
    assert out.startswith("# version 1, signed by consortium, whose fingerprint is\n# " + consortium_card.fingerprint)


@pytest.mark.parametrize(
    ("command", "arguments", "reason"),
    [
        ("add", ["keys/north.pub"], "'north' is in keys/roster.yaml already"),
        ("remove", ["nroth"], "Did you mean 'north'?"),
        ("remove", ["coordinator"], "is the coordinator, without whom"),
        ("remove", ["north", "south"], "at least one site"),
        ("rotate", ["keys/east.pub"], "'east' is not in keys/roster.yaml"),
        ("rotate", ["keys/north.pub"], "has these keys in keys/roster.yaml already"),
    ],
)
def test_a_change_that_makes_no_sense_is_refused_and_nothing_is_written(
    consortium, tmp_path, command, arguments, reason
):
    consortium("sign")
    before = (tmp_path / "keys" / "roster.yaml").read_bytes()
    code, out, err = consortium(command, *arguments)
    assert (code, out) == (1, "")
    assert reason in err
    assert (tmp_path / "keys" / "roster.yaml").read_bytes() == before


def test_another_key_than_the_consortiums_changes_nothing(consortium, lightning_fed, tmp_path):
    consortium("sign")
    before = (tmp_path / "keys" / "roster.yaml").read_bytes()
    code, _, err = lightning_fed("roster", "add", "keys/roster.yaml", "keys/east.pub", "--key", "keys/coordinator.key")
    assert code == 1
    assert "is another key, which no member would take a change from" in err
    assert (tmp_path / "keys" / "roster.yaml").read_bytes() == before


def test_the_coordinators_own_key_cannot_sign_a_roster(consortium, lightning_fed):
    code, _, err = lightning_fed("roster", "sign", "keys/roster.yaml", "--key", "keys/coordinator.key")
    assert code == 1
    assert "is that of member 'coordinator', who could then change the roster alone" in err


def test_the_consortiums_key_may_be_locked(lightning_fed, tmp_path):
    (tmp_path / "passphrase").write_text("kept in a safe\n")
    lightning_fed("keys", "new", "consortium", "--passphrase-file", "passphrase")
    for name in ("coordinator", "north"):
        lightning_fed("keys", "new", name)
    lightning_fed("keys", "roster", "keys/coordinator.pub", "keys/north.pub")
    sign = ("roster", "sign", "keys/roster.yaml", "--key", "keys/consortium.key")
    code, _, err = lightning_fed(*sign)
    assert code == 1
    assert "keys/consortium.key are locked with a passphrase, and none was given" in err
    assert lightning_fed(*sign, "--passphrase-file", "passphrase")[0] == 0
    assert Roster.load(tmp_path / "keys" / "roster.yaml").version == 1


def test_keys_lock_and_unlock_change_the_file_and_not_the_keys(lightning_fed, tmp_path):
    key = tmp_path / "keys" / "north.key"
    lightning_fed("keys", "new", "north")
    (tmp_path / "one").write_text("one")
    (tmp_path / "two").write_text("two")
    card = load_identity(key).card
    assert lightning_fed("keys", "lock", "keys/north.key", "--passphrase-file", "one")[0] == 0
    assert lightning_fed("keys", "show", "keys/north.key")[0] == 1
    assert lightning_fed("keys", "lock", key, "--old-file", "one", "--passphrase-file", "two")[0] == 0
    assert lightning_fed("keys", "unlock", "keys/north.key", "--passphrase-file", "one")[0] == 1
    assert lightning_fed("keys", "unlock", "keys/north.key", "--passphrase-file", "two")[0] == 0
    assert load_identity(key).card == card


def test_a_script_locks_a_key_with_the_passphrase_of_its_environment(lightning_fed, tmp_path, monkeypatch):
    (tmp_path / "words").write_text("words")
    for name, variable, value in (("north", FILE_VARIABLE, str(tmp_path / "words")), ("south", VARIABLE, "words")):
        monkeypatch.setenv(variable, value)
        assert lightning_fed("keys", "new", name, "--lock")[0] == 0
        monkeypatch.delenv(variable)
        assert load_identity(tmp_path / "keys" / f"{name}.key", lambda _: b"words").name == name
