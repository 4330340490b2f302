"""The file in which a site keeps what it has signed: nothing lost, nothing faked, nothing passed over."""

import fcntl
import os
import resource
import signal
import stat

import pytest

from lightning_fed.errors import StoreError
from lightning_fed.participant.signed_sums_file import SignedSumsFile
from lightning_fed.protocol.site.signed_sums import SignedSum


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledgers" / "north.jsonl.signed"


def signed(round, sites=("north", "south", "west")):
    return SignedSum("thorax", "run", "update", round, "ab" * 32, f"{round:064x}", tuple(sites))


def file_of(path, site="north"):
    return SignedSumsFile(path, site)


def written(path, *rounds):
    file = file_of(path)
    file.read()
    for round in rounds:
        file.write(signed(round))
    return path.read_bytes()


def test_what_was_written_is_read_again_in_its_order_and_by_the_owner_alone(path):
    assert file_of(path).read() == ()
    written(path, 1, 2)
    written(path, 3)
    assert file_of(path).read() == (signed(1), signed(2), signed(3))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    assert len(path.read_bytes()) < 3 * 350


def test_a_last_line_that_a_crash_tore_anywhere_loses_and_fakes_nothing(path):
    data = written(path, 1, 2)
    first = data.index(b"\n") + 1
    for end in [first, *range(first + 1, len(data), 11), len(data) - 1]:
        path.write_bytes(data[:end])
        file = file_of(path)
        assert file.read() == (signed(1),)
        file.write(signed(3))
        assert file_of(path).read() == (signed(1), signed(3))


def test_any_damage_within_the_file_is_named_with_its_line_and_the_cure(path):
    data = written(path, 1, 2, 3)
    for place in range(0, len(data) - 1, 7):
        damaged = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        path.write_bytes(damaged)
        with pytest.raises(StoreError, match=r"line [123] of .*north.jsonl.signed cannot be read: .*Put a copy of it"):
            file_of(path).read()
        assert path.read_bytes() == damaged, "what is there stays for whoever looks into it"


@pytest.mark.parametrize("content", [b'{"federation": "thorax"}\n', b"\n", bytes(100) + b"\n", b"\xff\xfe\n"])
def test_another_kind_of_file_is_not_taken_for_it(path, content):
    written(path)
    path.write_bytes(content)
    with pytest.raises(StoreError, match="line 1"):
        file_of(path).read()


def test_another_sites_file_is_named(path):
    written(path, 1)
    with pytest.raises(StoreError, match=r"belongs to site 'north', and this is 'south'.*ledger="):
        file_of(path, "south").read()


@pytest.mark.parametrize("mode", [0o644, 0o620, 0o602])
def test_a_file_that_others_can_read_or_change_is_refused_with_its_mode(path, mode):
    written(path, 1)
    path.chmod(mode)
    with pytest.raises(StoreError, match=rf"mode {mode:o}.*chmod 600"):
        file_of(path).read()


def test_a_planted_link_is_not_followed(path):
    written(path, 1)
    elsewhere = path.with_name("elsewhere")
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    with pytest.raises(StoreError, match="cannot be read"):
        file_of(path).read()


def test_a_second_process_of_the_site_is_noticed_by_the_first(path):
    written(path, 1)
    first, second = file_of(path), file_of(path)
    first.read()
    second.read()
    second.write(signed(2))
    with pytest.raises(StoreError, match="trains once at a time"):
        first.write(signed(3))
    assert file_of(path).read() == (signed(1), signed(2))


def test_a_file_that_was_put_back_or_taken_away_during_a_fit_is_noticed(path):
    data = written(path, 1, 2)
    file = file_of(path)
    file.read()
    path.write_bytes(data[: data.index(b"\n") + 1])
    with pytest.raises(StoreError, match="was changed"):
        file.write(signed(3))
    path.unlink()
    with pytest.raises(StoreError, match="was changed"):
        file.write(signed(3))


def test_a_full_disk_is_an_error_and_what_was_there_stays(path):
    before = written(path, 1, 2)
    file = file_of(path)
    file.read()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 40, limits[1]))
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(StoreError, match="cannot be written"):
            file.write(signed(3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before
    file.write(signed(3))
    assert len(file_of(path).read()) == 3


def test_a_folder_that_cannot_be_made_is_an_error(path):
    path.parent.mkdir()
    path.with_name("a-file").touch()
    with pytest.raises(StoreError, match=r"cannot be made: .*FederatedStrategy\(ledger=...\)"):
        file_of(path.with_name("a-file") / "deeper" / "kept").read()


@pytest.mark.parametrize("until", [3, 20, 50])
def test_a_process_killed_at_any_moment_has_on_the_disk_what_it_was_told_was_written(path, until):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        file = file_of(path)
        file.read()
        for round in range(1, 100_000):
            file.write(signed(round))
            os.write(writer, b".")
        os._exit(0)
    os.close(writer)
    told = 0
    while told < until:
        told += len(os.read(reader, 1))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while data := os.read(reader, 4096):
        told += len(data)
    os.close(reader)
    entries = file_of(path).read()
    assert [entry.round for entry in entries] == list(range(1, len(entries) + 1))
    assert told <= len(entries) <= told + 1


def test_nobody_is_kept_from_the_file_between_two_lines(path):
    """A lock for the whole fit would be inherited by a data loader's workers, and outlive a killed site with them."""
    file = file_of(path)
    file.read()
    file.write(signed(1))
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert [entry.round for entry in file_of(path).read()] == [1]
