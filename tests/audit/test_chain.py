"""A log goes on after a crash, says where a chain begins, and hands out no head that a power cut could take back."""

import json
import os
import subprocess
import sys
import textwrap

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lightning_fed.audit.checks import Held, check, check_heads, check_held, heads_in
from lightning_fed.audit.lines import Head, Name, Writer
from lightning_fed.audit.log import AuditLog
from lightning_fed.errors import StoreError

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
LOG = Name("coordinator", "run")
WRITER = Writer(LOG, KEY)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "log"


def write(path, count=3, writer=WRITER, first=0):
    log = AuditLog(path, writer)
    for number in range(first, first + count):
        log.append("counted", {"number": number}, sync=True)
    log.close()
    return log


def starts(path):
    return [chain.start for chain in check(path.read_bytes()).chains]


def test_a_log_goes_on_with_one_chain_however_often_it_is_opened(path):
    for time in range(3):
        write(path, first=3 * time)
    checked = check(path.read_bytes())
    assert (checked.lines, checked.fault, len(checked.chains)) == (10, None, 1)
    assert [json.loads(line).get("number") for line in path.read_bytes().splitlines()] == [None, *range(9)]


@pytest.mark.parametrize("torn", [b"{", b'{"event":"counted","number":3,"chain":{"line":5', bytes(512), b"\xff" * 4096])
def test_what_a_crash_has_cut_short_is_cut_off_and_the_chain_goes_on(path, torn):
    write(path)
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    write(path, first=3)
    assert path.read_bytes().startswith(whole)
    checked = check(path.read_bytes())
    assert (checked.lines, checked.fault, len(checked.chains)) == (7, None, 1)


def test_each_cut_of_a_log_can_be_gone_on_with(path):
    write(path, count=2)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        write(path, count=1)
        checked = check(path.read_bytes())
        assert (checked.fault, len(checked.chains)) == (None, 1), length


def test_lines_that_a_power_cut_has_left_as_zeros_are_cut_off(path):
    """Nobody has heard of them: they were not on the disk, and so no head of them was given away."""
    write(path, count=4)
    *_, third, fourth, fifth = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(path.read_bytes()[: -len(third + fourth + fifth)] + bytes(len(third)) + fourth[10:] + fifth)
    write(path, count=1)
    checked = check(path.read_bytes())
    assert (checked.lines, checked.fault, len(checked.chains)) == (3, None, 1)


def test_the_lines_of_an_older_version_stay_and_are_fixed_from_the_first_chain_on(path):
    path.write_bytes(b'{"time":"2026-01-01","event":"started"}\n{"event":"round_fin\n')
    write(path)
    checked = check(path.read_bytes())
    assert (checked.lines, checked.fault, checked.chains[0].first) == (6, None, 3)
    assert "older version" in starts(path)[0].reason
    changed = path.read_bytes().replace(b"2026-01-01", b"2025-01-01")
    # Which of the older lines it was, none can say.
    assert check(changed).fault.line == 3


def test_a_chain_s_first_line_that_was_changed_is_named_also_behind_older_ones(path):
    path.write_bytes(b'{"event":"started"}\n')
    write(path)
    older, start, *lines = path.read_bytes().splitlines(keepends=True)
    for place in range(len(start) - 1):
        changed = start[:place] + bytes([start[place] ^ 1]) + start[place + 1 :]
        assert check(b"".join([older, changed, *lines])).fault.line == 2, place
    assert check(b"".join([older, *lines])).fault.line == 2


def test_a_line_that_was_changed_stays_found_though_the_log_goes_on_behind_it(path):
    write(path)
    path.write_bytes(path.read_bytes().replace(b'"number":1', b'"number":7'))
    for time in range(2):
        write(path, count=1, first=3 + time)
    checked = check(path.read_bytes())
    assert checked.fault.line == 3
    # One new chain, and not another at each start; its first line fixes what is before it, as wrong as it is.
    assert (len(checked.chains), checked.chains[1].first, checked.lines) == (2, 5, 7)
    assert "line 4 does not hold" in starts(path)[1].reason


def test_another_key_begins_a_chain_of_its_own(path):
    write(path)
    write(path, writer=Writer(LOG, Ed25519PrivateKey.generate()))
    checked = check(path.read_bytes())
    assert checked.fault is None
    assert [chain.first for chain in checked.chains] == [1, 5]
    taken_out = path.read_bytes().splitlines(keepends=True)
    assert check(b"".join(taken_out[4:])).fault.line == 1


def test_a_log_without_a_key_is_chained_and_gives_no_head(path):
    assert write(path, writer=Writer(LOG)).head is None
    checked = check(path.read_bytes())
    assert (checked.lines, checked.fault, checked.chains[0].start.key) == (4, None, "")
    lines = path.read_bytes().splitlines(keepends=True)
    assert check(b"".join([lines[0], *lines[2:]])).fault.line == 2
    assert check(path.read_bytes().replace(b'"number":1', b'"number":7')).fault.line == 4


def test_nobody_without_a_key_goes_on_with_a_signed_log(path):
    write(path)
    write(path, writer=Writer(LOG))
    assert check(path.read_bytes()).fault.line == 5


def test_a_signed_chain_has_no_line_without_a_signature(path):
    write(path)
    *lines, last = path.read_bytes().splitlines(keepends=True)
    signature = json.loads(last)["chain"]["signature"]
    path.write_bytes(b"".join([*lines, last.replace(f',"signature":"{signature}"'.encode(), b"")]))
    assert check(path.read_bytes()).fault.line == 4


def test_a_head_is_of_a_line_that_is_on_the_disk(path, monkeypatch):
    on_disk, sync = {}, os.fsync

    def noted(descriptor):
        sync(descriptor)
        on_disk["content"] = path.read_bytes()

    monkeypatch.setattr(os, "fsync", noted)
    log = AuditLog(path, WRITER)
    for number in range(6):
        log.append("counted", {"number": number}, sync=number % 3 == 2)
        checked = check(on_disk["content"])
        assert checked.digests[log.head.line] == log.head.digest
        assert log.head.line == checked.lines
    log.close()
    # After a kill the kernel has lines that the disk has not: they are on it before their head is known.
    again = AuditLog(path, WRITER)
    assert check(on_disk["content"]).digests[again.head.line] == again.head.digest
    assert again.head.line == 7
    again.close()


def test_what_the_disk_does_not_take_is_not_in_the_log_and_can_be_tried_again(path, monkeypatch):
    log = AuditLog(path, WRITER)
    head, write_some = log.head, os.write

    def fails(descriptor, data):
        write_some(descriptor, data[:20])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(os, "write", fails)
        with pytest.raises(OSError, match="No space"):
            log.append("counted", {"number": 0}, sync=True)
    assert log.head == head
    log.append("counted", {"number": 0}, sync=True)
    log.close()
    assert [json.loads(line).get("number") for line in path.read_bytes().splitlines()] == [None, 0]
    assert check(path.read_bytes()).fault is None


def test_two_processes_of_one_writer_write_one_chain(path):
    script = f"""
        import sys
        from pathlib import Path
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from lightning_fed.audit.lines import Name, Writer
        from lightning_fed.audit.log import AuditLog
        key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
        log = AuditLog(Path({str(path)!r}), Writer(Name("coordinator", "run"), key))
        for number in range(200):
            log.append("counted", {{"who": sys.argv[1]}})
        log.close()
    """
    running = [subprocess.Popen([sys.executable, "-c", textwrap.dedent(script), who]) for who in "ab"]
    assert [process.wait(60) for process in running] == [0, 0]
    checked = check(path.read_bytes())
    assert (checked.lines, checked.fault, len(checked.chains)) == (401, None, 1)


def test_a_link_is_not_followed_and_a_folder_that_is_not_there_is_told(tmp_path):
    (tmp_path / "log").symlink_to(tmp_path / "elsewhere")
    for path in (tmp_path / "log", tmp_path / "away" / "log"):
        with pytest.raises(StoreError, match="cannot be opened"):
            AuditLog(path, WRITER)


def test_a_head_holds_for_its_log_its_line_and_its_key_alone(path):
    head, key = write(path).head, KEY.public_key().public_bytes_raw()
    assert head.is_signed(LOG, key)
    assert not head.is_signed(Name("coordinator", "another run"), key)
    assert not head.is_signed(Name("site", "run"), key)
    assert not Head(head.line + 1, head.digest, head.signature).is_signed(LOG, key)
    assert not head.is_signed(LOG, bytes(32))
    assert not head.is_signed(LOG, b"no key")


def test_what_somebody_has_a_log_quote_is_no_place_in_a_chain(path):
    log = AuditLog(path, WRITER)
    quoted = '"}},"chain":{"line":2,"salt":"' + "0" * 32 + '","previous":"' + "0" * 64 + '"}}\n{"event":"chain_started"'
    log.append("site_refused", {"reason": quoted, "event_": "log_head"})
    log.append("site_refused", {"reason": '"event":"log_head"', "event_": '"event":"chain_started"'})
    log.close()
    checked = check(path.read_bytes())
    assert (checked.lines, checked.fault, len(checked.chains)) == (3, None, 1)
    assert heads_in(path.read_bytes()) == []


def test_heads_are_held_against_the_log_that_they_are_of(path):
    log = AuditLog(path, WRITER)
    public = KEY.public_key().public_bytes_raw().hex()
    held = [Held(LOG, log.head, public, 5)]
    for number in range(4):
        log.append("counted", {"number": number}, sync=True)
        held.append(Held(LOG, log.head, public, 6 + number))
    log.close()
    checked = check(path.read_bytes())
    assert check_held(held) is None
    assert check_heads(checked, held, "north") is None
    cut = check(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
    assert check_heads(cut, held, "north").line == 4
    assert "the end was cut off" in check_heads(cut, held, "north").why
    of_others = [Held(Name("coordinator", "another"), one.head, one.key, one.line) for one in held]
    assert check_heads(cut, of_others, "north") is None
    assert check_held(of_others).line == 5
