"""``lightning-fed keys`` and the command's own help."""

import textwrap

import pytest

from lightning_fed import SitePolicy
from lightning_fed.transport.identity import load_identity
from lightning_fed.transport.roster import Roster


@pytest.fixture
def secrets_of():
    def secrets(path):
        identity = load_identity(path)
        return identity.curve_secret.decode(), identity.signing_key.private_bytes_raw().hex()

    return secrets


def test_new_keys_and_a_roster_of_them_are_made_by_the_documented_commands(lightning_fed, tmp_path):
    for name in ("coordinator", "north", "south"):
        assert lightning_fed("keys", "new", name)[0] == 0
    code, out, _ = lightning_fed("keys", "roster", "keys/coordinator.pub", "keys/north.pub", "keys/south.pub")
    assert code == 0
    roster = Roster.load(tmp_path / "keys" / "roster.yaml")
    assert (roster.coordinator.name, list(roster.sites)) == ("coordinator", ["north", "south"])
    for card in (roster.coordinator, *roster.sites.values()):
        assert card.fingerprint in out


@pytest.mark.parametrize("suffix", ["key", "pub"])
def test_show_prints_the_public_part_and_the_fingerprint_only(lightning_fed, tmp_path, secrets_of, suffix):
    _, made, _ = lightning_fed("keys", "new", "north")
    identity = load_identity(tmp_path / "keys" / "north.key")
    code, out, _ = lightning_fed("keys", "show", f"keys/north.{suffix}")
    assert code == 0
    assert identity.card.fingerprint in out
    assert identity.curve_public.decode() in out
    for secret in secrets_of(tmp_path / "keys" / "north.key"):
        assert secret not in out + made


def test_show_lists_the_members_of_a_roster_as_a_policy_takes_them(lightning_fed, tmp_path):
    lightning_fed("keys", "new", "coordinator")
    lightning_fed("keys", "new", "north")
    lightning_fed("keys", "roster", "keys/coordinator.pub", "keys/north.pub")
    _, out, _ = lightning_fed("keys", "show", "keys/roster.yaml")
    (tmp_path / "policy.yaml").write_text("members:\n" + textwrap.indent(out, "  "))
    roster = Roster.load(tmp_path / "keys" / "roster.yaml")
    policy = SitePolicy.load(tmp_path / "policy.yaml")
    assert policy.members == roster.fingerprints
    policy.check_members(roster.fingerprints, "north")


def test_a_second_identity_of_the_same_name_is_one_line_and_exit_code_1(lightning_fed):
    lightning_fed("keys", "new", "north")
    code, out, err = lightning_fed("keys", "new", "north")
    assert (code, out) == (1, "")
    assert err.startswith("lightning-fed keys: keys/north.pub exists. Keys are never overwritten")
    assert len(err.splitlines()) == 1


def test_a_misspelt_option_is_named(lightning_fed):
    code, _, err = lightning_fed("keys", "new", "north", "--foldr", "keys")
    assert code == 2
    assert "--foldr keys. Did you mean '--folder'?" in err


def test_help_lists_every_command(lightning_fed):
    code, out, _ = lightning_fed("--help")
    assert code == 0
    for command in ("keys", "coordinate", "simulate", "fit", "validate", "test", "predict"):
        assert f"\n    {command} " in out


def test_an_unknown_command_is_named(lightning_fed):
    code, _, err = lightning_fed("kyes")
    assert code == 2
    assert "'kyes'" in err
