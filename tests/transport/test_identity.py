"""Keys, cards and rosters: what is written, what is refused, and that secrets show up nowhere."""

import hashlib
import os
import stat
import time
import traceback
from pathlib import Path

import msgspec
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st
from zmq.utils import z85

from lightning_fed.errors import IdentityError
from lightning_fed.protocol import messages as m
from lightning_fed.transport.card import PublicCard, load_card
from lightning_fed.transport.identity import _SecretFile, key_file_of, load_identity, new_identity, write_identity
from lightning_fed.transport.roster import Roster

ALLOWED = st.text("abzABZ019-_.", min_size=1, max_size=64)


def test_written_identity_reads_back_with_the_same_keys(tmp_path):
    identity = new_identity("st-marys")
    secret, card = write_identity(identity, tmp_path / "keys")
    loaded = load_identity(secret)
    assert (secret.name, card.name) == ("st-marys.key", "st-marys.pub")
    assert loaded.card == identity.card == load_card(card)
    assert loaded.curve_secret == identity.curve_secret
    assert zmq.curve_public(loaded.curve_secret) == loaded.curve_public
    loaded.signing_key.public_key().verify(identity.signing_key.sign(b"round 1"), b"round 1")


def test_secret_file_and_its_folder_belong_to_the_owner_alone(tmp_path):
    before = os.umask(0)
    try:
        secret, card = write_identity(new_identity("north"), tmp_path / "keys")
    finally:
        os.umask(before)
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert stat.S_IMODE(card.stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700


@pytest.mark.parametrize("kept", ["north.key", "north.pub"])
def test_an_existing_file_is_kept_and_nothing_is_written_beside_it(tmp_path, kept):
    (tmp_path / kept).write_bytes(b"older")
    with pytest.raises(IdentityError, match=rf"{kept} exists.*never overwritten"):
        write_identity(new_identity("north"), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {kept: b"older"}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o777])
def test_a_key_file_that_others_can_read_is_refused_with_the_command_that_mends_it(tmp_path, mode):
    secret, _ = write_identity(new_identity("north"), tmp_path)
    secret.chmod(mode)
    with pytest.raises(IdentityError, match=f"chmod 600 {secret}"):
        load_identity(secret)


def test_text_of_an_identity_shows_no_secret():
    identity = new_identity("north")
    shown = f"{identity!r} {identity} {Roster.of(identity.card, [new_identity('s').card])!r}"
    assert identity.curve_secret.decode() not in shown
    assert identity.signing_key.private_bytes_raw().hex() not in shown
    assert "north" in shown


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text + "more: 1\n",
        lambda text: text.replace("curve_secret: ", "curve_secret: !unknown "),
        lambda text: text.replace("curve_secret: ", "curve_secret: x"),
        lambda text: text.replace("signing_secret: ", "signing_secret: 0"),
        lambda text: text.replace("name: north", "name: ../north"),
        lambda text: text.replace("name: north\n", ""),
    ],
    ids=["unknown key", "unknown tag", "CURVE key too long", "signing key too long", "name with a slash", "no name"],
)
def test_a_damaged_key_file_is_refused_without_quoting_the_keys(tmp_path, spoil):
    identity = new_identity("north")
    secret, _ = write_identity(identity, tmp_path)
    text = secret.read_text()
    assert spoil(text) != text
    secret.write_text(spoil(text))
    with pytest.raises(IdentityError) as caught:
        load_identity(secret)
    shown = "".join(traceback.format_exception(caught.value, chain=True))
    for key in (identity.curve_secret.decode(), identity.signing_key.private_bytes_raw().hex()):
        assert not [key[start : start + 8] for start in range(len(key) - 7) if key[start : start + 8] in shown]


def test_a_missing_key_file_names_the_place_and_the_setting_before_it_says_how_keys_are_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(IdentityError) as caught:
        load_identity(*key_file_of(None, "north")[:1], setting=key_file_of(None, "north")[1])
    said = str(caught.value)
    parts = [str(tmp_path / "keys" / "north.key"), "comes from the default of identity", "lightning-fed keys new NAME"]
    assert [said.index(part) for part in parts] == sorted(said.index(part) for part in parts)
    monkeypatch.setenv("LIGHTNING_FED_IDENTITY", "there.key")
    assert key_file_of(None, "north") == (Path("there.key"), "the environment variable LIGHTNING_FED_IDENTITY")
    assert key_file_of("here.key", "north") == (Path("here.key"), "identity")


def test_a_key_file_is_not_taken_for_a_card(tmp_path):
    secret, _ = write_identity(new_identity("north"), tmp_path)
    with pytest.raises(IdentityError, match="is no public card"):
        load_card(secret)


@given(ALLOWED)
def test_every_allowed_name_makes_an_identity(name):
    assert new_identity(name).name == name


@pytest.mark.parametrize("name", ["", "a" * 65, "a/b", "a b", "ä", "a\n", "a\0b", "٣"])
def test_other_names_are_refused(name):
    with pytest.raises(IdentityError, match="letters, digits"):
        new_identity(name)


def test_roster_reads_back_and_finds_a_site_by_its_key(tmp_path):
    coordinator, north, south = (new_identity(name) for name in ("coordinator", "north", "south"))
    Roster.of(coordinator.card, [north.card, south.card]).write(tmp_path / "keys" / "roster.yaml")
    roster = Roster.load(tmp_path / "keys" / "roster.yaml")
    assert roster.coordinator == coordinator.card
    assert dict(roster.sites) == {"north": north.card, "south": south.card}
    assert roster.site_of(south.curve_public) == "south"
    assert roster.site_of(coordinator.curve_public) is None
    assert roster.site_of(new_identity("north").curve_public) is None


def test_roster_file_holds_public_parts_only(tmp_path):
    members = [new_identity(name) for name in ("coordinator", "north")]
    Roster.of(members[0].card, [members[1].card]).write(tmp_path / "roster.yaml")
    text = (tmp_path / "roster.yaml").read_text()
    for member in members:
        assert member.curve_secret.decode() not in text
        assert member.signing_key.private_bytes_raw().hex() not in text


def test_roster_refuses_a_name_or_a_key_that_occurs_twice():
    coordinator, north, other = (new_identity(name).card for name in ("coordinator", "north", "north"))
    south = new_identity("south").card
    with pytest.raises(IdentityError, match="same name, one is 'north'"):
        Roster.of(coordinator, [north, other])
    with pytest.raises(IdentityError, match="same name, one is 'coordinator'"):
        Roster.of(coordinator, [new_identity("coordinator").card])
    stolen = type(south)("south", north.curve_public, south.signing_public)
    with pytest.raises(IdentityError, match="same CURVE key, one is 'north'"):
        Roster.of(coordinator, [north, stolen])
    forged = type(south)("south", south.curve_public, north.signing_public)
    with pytest.raises(IdentityError, match="same signing key"):
        Roster.of(coordinator, [north, forged])


def test_roster_without_sites_is_refused():
    with pytest.raises(IdentityError, match="at least one site"):
        Roster.of(new_identity("coordinator").card, [])


def test_roster_file_with_an_invalid_key_names_whose_card_it_is(tmp_path):
    path = tmp_path / "roster.yaml"
    Roster.of(new_identity("coordinator").card, [new_identity("north").card]).write(path)
    content = msgspec.yaml.decode(path.read_bytes())
    content["sites"][0]["signing"] = "00ff"
    path.write_bytes(msgspec.yaml.encode(content))
    with pytest.raises(IdentityError, match="card of 'north' holds no valid public keys"):
        Roster.load(path)


def test_fingerprint_differs_when_any_part_of_the_card_does():
    card, other = new_identity("north").card, new_identity("north").card
    kind = type(card)
    variants = {
        card.fingerprint,
        kind("south", card.curve_public, card.signing_public).fingerprint,
        kind("north", other.curve_public, card.signing_public).fingerprint,
        kind("north", card.curve_public, other.signing_public).fingerprint,
    }
    assert len(variants) == 4


def test_fingerprint_is_the_whole_sha_256_of_name_and_keys_in_groups_that_can_be_read_out():
    card = new_identity("north").card
    content = b"north\0" + z85.decode(card.curve_public) + b"\0" + card.signing_public
    assert card.fingerprint.replace(" ", "") == hashlib.sha256(content).hexdigest()
    assert [[len(group) for group in line.split(" ")] for line in card.fingerprint.split("  ")] == [[4] * 4] * 4


def test_nothing_that_holds_a_secret_key_shows_it_in_its_text_form(tmp_path):
    identity = new_identity("north")
    secret, _ = write_identity(identity, tmp_path)
    keys = identity.curve_secret.decode(), identity.signing_key.private_bytes_raw().hex()
    content = msgspec.yaml.decode(secret.read_bytes(), type=_SecretFile)
    assert all(key in secret.read_text() for key in keys)
    for held in (content, identity, [content], {"identity": identity}):
        for shown in (repr(held), str(held), f"{held}"):
            assert not any(key in shown for key in keys)


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        "a: " * 100_000,
        "name: &a x\ncurve: *a\nsigning: *a\n",
        "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n<<: [*c, *c]\n",
        "name: x\n" + "#" * (2 << 20),
        "{" * 50 + "}" * 50,
    ],
    ids=["lists", "maps", "aliases", "laughs", "long", "flow"],
)
def test_a_card_that_is_nested_long_or_refers_to_itself_is_refused(tmp_path, content):
    card = tmp_path / "north.pub"
    card.write_text(content)
    began = time.process_time()
    with pytest.raises(IdentityError, match="no public card"):
        load_card(card)
    assert time.process_time() - began < 2.0


def test_a_roster_of_ten_thousand_sites_is_read_and_fits_a_message(tmp_path):
    coordinator = new_identity("coordinator")
    keys = hashlib.shake_256(b"keys").digest(64 * 10_000)
    sites = [
        PublicCard(f"site-{index:05d}", z85.encode(keys[64 * index :][:32]), keys[64 * index + 32 :][:32])
        for index in range(10_000)
    ]
    roster = Roster.of(coordinator.card, sites)
    roster.write(tmp_path / "roster.yaml")
    assert Roster.load(tmp_path / "roster.yaml") == roster
    welcome = m.Welcome("run", bytes(1 << 20), 1, roster.members.document)
    assert m.decode_from_coordinator(m.encode(welcome)) == welcome
