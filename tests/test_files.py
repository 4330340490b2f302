"""Files are written whole, and not where somebody else wants them."""

import errno
import os

import pytest

from lightning_fed.coordinator.events import EventLog
from lightning_fed.coordinator.store import Store
from lightning_fed.errors import FederationError, StoreError
from lightning_fed.files import read_json, write_whole
from lightning_fed.plan import FederationPlan
from lightning_fed.transport.identity import new_identity
from lightning_fed.transport.roster import Roster


def test_a_link_that_was_planted_where_the_temporary_file_was_guessed_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    folder = tmp_path / "store"
    folder.mkdir()
    # The name that was used before: it only held the process's number.
    (folder / f".run.json.{os.getpid()}").symlink_to(victim)
    write_whole(folder / "run.json", b"content")
    assert victim.read_bytes() == b"precious"
    assert (folder / "run.json").read_bytes() == b"content"
    assert not (folder / "run.json").is_symlink()


def test_a_link_in_the_file_s_own_place_is_replaced_and_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "run.json").symlink_to(victim)
    write_whole(tmp_path / "run.json", b"content")
    assert victim.read_bytes() == b"precious"
    assert (tmp_path / "run.json").read_bytes() == b"content"


def test_nothing_is_left_behind_and_names_differ(tmp_path, monkeypatch):
    names = []
    unlink = type(tmp_path).unlink
    monkeypatch.setattr(type(tmp_path), "unlink", lambda self, **how: names.append(self.name) or unlink(self, **how))
    for _ in range(2):
        write_whole(tmp_path / "a", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert len(set(names)) == 2


def test_of_a_content_that_cannot_be_written_to_its_end_nothing_is_left_and_the_older_file_stays(tmp_path):
    write_whole(tmp_path / "a", b"older")

    def half(file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StoreError, match=r"a cannot be written to .*: No space left on device.* Make room on the disk"):
        write_whole(tmp_path / "a", half)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"older"


def test_a_roster_is_not_written_through_a_planted_link(tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / ".roster.yaml.tmp").symlink_to(victim)
    Roster.of(new_identity("coordinator").card, [new_identity("north").card]).write(tmp_path / "roster.yaml")
    assert victim.read_bytes() == b"precious"
    assert "north" in Roster.load(tmp_path / "roster.yaml").sites


def test_a_store_whose_lock_is_a_link_is_refused_and_what_it_points_to_stays(tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / ".lock").symlink_to(victim)
    with pytest.raises(StoreError, match="link"):
        Store(folder, FederationPlan(), {})
    assert victim.read_bytes() == b"precious"


def test_an_event_log_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "events.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="link"):
        EventLog(tmp_path)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("hostile", ["\x1b[2J", "\x9b31m", "\u202e", "\r", "\x07", "\x1b]0;owned\x07"])
def test_the_text_of_an_error_does_nothing_to_a_terminal_whoever_is_quoted_in_it(hostile):
    text = str(FederationError(f"site 'north' said {hostile}.\nAsk it."))
    assert all(line.isprintable() for line in text.split("\n"))
    assert text.startswith("site 'north' said \\")
    assert text.endswith(".\nAsk it.")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, r" has no table.json: make one first\."),
        (b"{", r"table.json cannot be read: .*\. Make it again\."),
        (b'{"a": "text"}', r"table.json cannot be read: Expected `int`.*\. Make it again\."),
        (b'{"a": "\xff"}', r"table.json cannot be read: .*\. Make it again\."),
        (b"[" * 100_000, r"table.json cannot be read: .*\. Make it again\."),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_what_to_do(tmp_path, content, told):
    if content is not None:
        (tmp_path / "table.json").write_bytes(content)
    with pytest.raises(StoreError, match=told):
        read_json(tmp_path / "table.json", dict[str, int], "make one first.", "Make it again.")
    (tmp_path / "table.json").write_bytes(b'{"a": 1}')
    assert read_json(tmp_path / "table.json", dict[str, int], "", "") == {"a": 1}
