"""Key files that are locked with a passphrase."""

import stat

import msgspec
import pytest

from lightning_fed.errors import IdentityError
from lightning_fed.transport.identity import load_identity, new_identity, rewrite_identity, write_identity
from lightning_fed.transport.passphrase import passphrase_of


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    identity = new_identity("north")
    path, _ = write_identity(identity, tmp_path_factory.mktemp("keys"), b"correct horse")
    return identity, path


def test_the_file_holds_no_key_in_the_clear_and_opens_with_the_passphrase(locked):
    identity, path = locked
    content = path.read_text()
    assert identity.curve_secret.decode() not in content
    assert identity.signing_key.private_bytes_raw().hex() not in content
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    opened = load_identity(path, lambda key: b"correct horse")
    assert (opened.card, opened.curve_secret) == (identity.card, identity.curve_secret)


def test_a_wrong_passphrase_is_one_clear_line_about_the_file(locked):
    with pytest.raises(IdentityError, match=r"does not open the keys in .*north\.key"):
        load_identity(locked[1], lambda key: b"correct mule")


def test_a_missing_passphrase_says_where_it_may_be_put(locked, monkeypatch):
    monkeypatch.delenv("LIGHTNING_FED_PASSPHRASE", raising=False)
    monkeypatch.delenv("LIGHTNING_FED_PASSPHRASE_FILE", raising=False)
    with pytest.raises(IdentityError, match=r"north\.key are locked.*passphrase_file.*LIGHTNING_FED_PASSPHRASE"):
        load_identity(locked[1])


def test_the_environment_gives_the_passphrase_or_names_its_file(locked, tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_FED_PASSPHRASE", "correct horse")
    assert load_identity(locked[1]).name == "north"
    (tmp_path / "passphrase").write_text("correct horse\n")
    monkeypatch.setenv("LIGHTNING_FED_PASSPHRASE", "of another file")
    monkeypatch.setenv("LIGHTNING_FED_PASSPHRASE_FILE", str(tmp_path / "passphrase"))
    assert load_identity(locked[1]).name == "north"


@pytest.mark.parametrize("content", [b"", b"\n", b"x" * 2000])
def test_a_file_without_a_passphrase_is_refused(locked, tmp_path, content):
    (tmp_path / "passphrase").write_bytes(content)
    with pytest.raises(IdentityError, match="holds no passphrase"):
        passphrase_of(locked[1], tmp_path / "passphrase")


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(name="south"),
        lambda content: content["locked"].update(data=content["locked"]["data"][:-2] + "00"),
        lambda content: content["locked"].update(nonce="00" * 12),
        lambda content: content["locked"].update(salt="00" * 16),
        lambda content: content["locked"].update(data="no hexadecimal text"),
        lambda content: content["locked"].update(data=""),
        lambda content: content["locked"].update(nonce=""),
    ],
)
def test_a_changed_file_is_refused_without_a_word_of_the_keys(locked, tmp_path, change):
    identity, path = locked
    content = msgspec.yaml.decode(path.read_bytes())
    change(content)
    changed = tmp_path / "north.key"
    changed.write_bytes(msgspec.yaml.encode(content))
    changed.chmod(0o600)
    with pytest.raises(IdentityError, match=r"[Rr]estore") as caught:
        load_identity(changed, lambda key: b"correct horse")
    assert identity.curve_secret.decode() not in str(caught.value)


def test_keys_are_locked_and_unlocked_in_place(tmp_path):
    identity = new_identity("north")
    path, _ = write_identity(identity, tmp_path)
    rewrite_identity(identity, path, b"first")
    rewrite_identity(load_identity(path, lambda key: b"first"), path, b"second")
    assert load_identity(path, lambda key: b"second").card == identity.card
    with pytest.raises(IdentityError, match="does not open"):
        load_identity(path, lambda key: b"first")
    rewrite_identity(identity, path, None)
    assert load_identity(path).card == identity.card
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
