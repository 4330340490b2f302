import math
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_fed.errors import BudgetExhaustedError, LedgerError, PlanError
from lightning_fed.privacy.accounting import DpSgd, epsilon
from lightning_fed.privacy.central import central_noise
from lightning_fed.privacy.discrete import distributed_noise
from lightning_fed.privacy.history import parse_history, read_history
from lightning_fed.privacy.ledger import Budget, Ledger, Owner
from lightning_fed.privacy.ledger_lines import Charged, Release, Torn
from lightning_fed.privacy.ledger_rows import ledger_rows
from lightning_fed.privacy.spending import Cost, Spent

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OWNER = Owner("st-marys", KEY)
BUDGETS = {"example": Budget(1e-5), "site": Budget(1e-6)}
SGD = DpSgd(0.01, 1.0, 10)
SHARES = distributed_noise(1.0, 1.0, 1e-4, 1000, 3)
SUM = central_noise(2.0, 1.0, 1e-4, 1000)


def release(number, mechanism=SGD):
    return Release("run-1", "ab" * 32, number, 1, mechanism)


def open_ledger(path, budgets=BUDGETS):
    return Ledger.open(path, OWNER, "wrists", budgets)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.jsonl"


@pytest.fixture
def charged(path):
    """A ledger of five releases of three mechanisms, and the number of bytes after each."""
    ends = [0]
    with open_ledger(path) as ledger:
        for number, mechanism in enumerate([SGD, SHARES, SGD, SUM, SGD], start=1):
            ledger.charge(release(number, mechanism))
            ends.append(path.stat().st_size)
    return ends


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """The bytes of a ledger of three releases."""
    path = tmp_path_factory.mktemp("original") / "ledger.jsonl"
    with open_ledger(path) as ledger:
        for number, mechanism in enumerate([SGD, SHARES, SGD], start=1):
            ledger.charge(release(number, mechanism))
    return path.read_bytes()


def test_a_charge_is_in_the_file_when_charge_returns_and_after_reopening(path, charged):
    with open_ledger(path) as ledger:
        assert ledger.epsilon("example") == pytest.approx(epsilon([SGD] * 3, 1e-5))
        assert ledger.epsilon("site", "outsider") == pytest.approx(epsilon([SHARES, SUM], 1e-6))
        after = ledger.charge(release(6))
        assert after == ledger.epsilon("example") == pytest.approx(epsilon([SGD] * 4, 1e-5))
    entries = read_history(path, "st-marys").entries
    assert [e.release.round for e in entries] == [1, 2, 3, 4, 5, 6]
    assert entries[-1].epsilon == after


def test_every_release_counts_whatever_run_it_was_in(path):
    with open_ledger(path) as ledger:
        ledger.charge(Release("first", "00", 1, 1, SGD))
    with open_ledger(path) as ledger:
        assert ledger.charge(Release("second", "11", 1, 1, SGD)) == pytest.approx(epsilon([SGD] * 2, 1e-5))


def test_the_budget_stops_before_the_release_that_would_pass_it_and_nothing_is_written(path):
    limit = epsilon([SGD] * 3, 1e-5)
    with open_ledger(path, {"example": Budget(1e-5, limit)}) as ledger:
        for number in (1, 2, 3):
            assert ledger.charge(release(number)) <= limit
        size = path.stat().st_size
        with pytest.raises(BudgetExhaustedError, match=r"'st-marys' stopped before round 4: .*max_epsilon") as error:
            ledger.charge(release(4))
        assert f"maximum of {limit:g}" in str(error.value)
        assert path.stat().st_size == size
        assert ledger.epsilon("example") <= limit


def test_units_have_budgets_of_their_own(path):
    with open_ledger(path, {"example": Budget(1e-5, 1e-3), "site": Budget(1e-6)}) as ledger:
        ledger.charge(release(1, SHARES))
        with pytest.raises(BudgetExhaustedError, match="example-level"):
            ledger.charge(release(1, SGD))


def test_a_release_of_a_unit_without_a_budget_is_refused(path):
    with open_ledger(path, {"example": Budget(1e-5)}) as ledger, pytest.raises(PlanError, match="no site-level budget"):
        ledger.charge(release(1, SUM))


@pytest.mark.filterwarnings("ignore:overflow")
def test_a_release_without_a_finite_epsilon_is_refused_even_without_a_limit(path):
    with open_ledger(path) as ledger, pytest.raises(BudgetExhaustedError):
        ledger.charge(release(1, DpSgd(1.0, 0.01, 10**305)))
    assert read_history(path).entries == ()


@pytest.mark.parametrize(("delta", "limit"), [(0.0, 1.0), (1.0, 1.0), (1e-5, 0.0), (1e-5, -1.0), (1e-5, math.nan)])
def test_a_budget_that_makes_no_sense_is_refused(delta, limit):
    with pytest.raises(PlanError):
        Budget(delta, limit)


def test_a_file_cut_at_any_byte_never_counts_less_than_what_was_acknowledged(path, charged):
    data = path.read_bytes()
    for cut in range(len(data) + 1):
        acknowledged = sum(end <= cut for end in charged) - 1
        history = parse_history(data[:cut], "ledger")
        assert len(history.entries) >= acknowledged
        inside = cut not in charged
        if inside and acknowledged:
            # The bytes of the release that was being written count as well.
            assert len(history.released) >= acknowledged + 1
        for unit, delta in (("example", 1e-5), ("site", 1e-6)):
            known = Spent(cost for entry in history.entries[:acknowledged] for cost in entry.release.costs)
            assert Spent(history.released).epsilon(unit, delta) >= known.epsilon(unit, delta)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
@pytest.mark.parametrize("line", [1, 3])
def test_torn_bytes_are_counted_once_kept_and_vouched_for_by_the_next_charge(path, charged, line, share):
    start, end = charged[line - 1], charged[line]
    torn = path.read_bytes()[: start + max(1, int(share * (end - start)))]
    path.write_bytes(torn)
    with open_ledger(path) as ledger:
        known = {"example": [SGD], "site": [SHARES]} if line == 3 else {"example": [], "site": []}
        assert ledger.epsilon("example") == pytest.approx(epsilon(known["example"] * 2, 1e-5))
        assert ledger.epsilon("site", "outsider") == pytest.approx(epsilon(known["site"] * 2, 1e-6))
        after = ledger.charge(release(9))
    assert path.read_bytes().startswith(torn)
    history = read_history(path, "st-marys")
    assert isinstance(history.entries[-2], Torn)
    assert isinstance(history.entries[-1], Charged)
    # The torn release counts beside the new one: as the new one itself where nothing else is known.
    assert after == pytest.approx(epsilon([SGD] * (3 if line == 3 else 2), 1e-5))
    with open_ledger(path) as ledger:
        assert ledger.epsilon("example") == pytest.approx(after)


def test_crashes_during_the_repair_of_a_crash_are_survived_at_every_byte(path, charged):
    torn = path.read_bytes()[:-40]
    path.write_bytes(torn)
    with open_ledger(path) as ledger:
        ledger.charge(release(9))
    repaired = path.read_bytes()
    spent = {cut: parse_history(repaired[:cut], "ledger").released for cut in range(len(torn), len(repaired) + 1)}
    assert all(len(released) >= 5 for released in spent.values())
    for cut in range(len(torn), len(repaired), 23):
        path.write_bytes(repaired[:cut])
        with open_ledger(path) as ledger:
            before = ledger.epsilon("example")
            assert ledger.charge(release(10)) > before
        read_history(path)


def test_a_line_that_lacks_only_its_line_break_counts_as_itself(path, charged):
    path.write_bytes(path.read_bytes()[:-1])
    with open_ledger(path) as ledger:
        ledger.charge(release(6))
    assert [e.release.round for e in read_history(path).entries] == [1, 2, 3, 4, 5, 6]


def test_zeros_that_a_file_system_left_count_as_torn(path, charged):
    with path.open("ab") as file:
        file.write(bytes(300) + b"\n")
    with open_ledger(path) as ledger:
        assert ledger.epsilon("example") == pytest.approx(epsilon([SGD] * 4, 1e-5))


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_any_changed_byte_is_seen_or_counted_as_torn(original, data):
    position = data.draw(st.integers(0, len(original) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda b: b != original[position]))
    edited = original[:position] + bytes([byte]) + original[position + 1 :]
    try:
        history = parse_history(edited, "ledger")
    except LedgerError as error:
        assert "line" in str(error)
        return
    # Only the end of the file can look like a crash; then nothing is cheaper than before.
    assert history.torn
    assert Spent(history.released).epsilon("example", 1e-5) >= epsilon([SGD] * 2, 1e-5)


def test_a_cheaper_release_written_over_a_dear_one_is_named_by_its_line(path, charged):
    edited = path.read_bytes().replace(b'"round":3', b'"round":8')
    path.write_bytes(edited)
    with pytest.raises(LedgerError, match=r"line 3 of the privacy ledger ledger\.jsonl was edited"):
        open_ledger(path)


def test_a_line_taken_out_is_noticed(path, charged):
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:1], *lines[2:]]))
    with pytest.raises(LedgerError, match=r"line 2 .* taken out"):
        open_ledger(path)


def test_torn_bytes_cannot_be_taken_out_or_changed_once_vouched_for(path, charged):
    torn = path.read_bytes()[:-40]
    path.write_bytes(torn)
    with open_ledger(path) as ledger:
        ledger.charge(release(9))
    repaired = path.read_bytes()
    for edited in (
        repaired.replace(torn[charged[4] :], b"", 1),
        repaired[: charged[4]] + repaired[len(torn) + 2 :],
        repaired.replace(torn[-30:], torn[-30:].upper(), 1),
    ):
        with pytest.raises(LedgerError, match="edited"):
            parse_history(edited, "ledger")


def test_a_ledger_of_another_site_or_data_set_is_refused(path):
    with Ledger.open(path, Owner("st-marys", KEY, "wrists-2024"), "wrists", BUDGETS) as ledger:
        ledger.charge(release(1))
    with pytest.raises(LedgerError, match=r"line 1 .* belongs to site 'st-marys', not to 'city'"):
        Ledger.open(path, Owner("city", KEY), "wrists", BUDGETS)
    with pytest.raises(LedgerError, match="belongs to data set 'wrists-2024', not to 'knees-2024'"):
        Ledger.open(path, Owner("st-marys", KEY, "knees-2024"), "wrists", BUDGETS)
    for data_set in ("", "wrists-2024"):
        with Ledger.open(path, Owner("st-marys", KEY, data_set), "wrists", BUDGETS) as ledger:
            assert ledger.epsilon("example") > 0


def test_two_at_once_are_refused_and_the_lock_ends_with_the_ledger(path):
    with open_ledger(path), pytest.raises(LedgerError, match="in use by another process"):
        open_ledger(path)
    with open_ledger(path) as ledger:
        ledger.charge(release(1))


def test_a_closed_ledger_cannot_be_charged(path):
    ledger = open_ledger(path)
    ledger.close()
    with pytest.raises(LedgerError, match="closed"):
        ledger.charge(release(1))


def test_a_folder_in_place_of_the_file_is_an_error_and_no_traceback(tmp_path):
    with pytest.raises(LedgerError, match="cannot be opened"):
        open_ledger(tmp_path)
    with pytest.raises(LedgerError, match="cannot be read"):
        read_history(tmp_path / "missing.jsonl")


def test_a_full_disk_stops_the_release_and_later_ones_too(path):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        ledger = open_ledger(path)
        ledger.charge(release(1))
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, resource.RLIM_INFINITY))
        said = []
        for number in (2, 3):
            try:
                ledger.charge(release(number))
            except LedgerError as error:
                said.append(str(error))
        os.write(write, msgspec.json.encode(said))
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    said = msgspec.json.decode(os.read(read, 10_000))
    os.close(read)
    assert "could not be written" in said[0]
    assert "nothing may be released" in said[1]
    with open_ledger(path) as ledger:
        # The 100 bytes that did reach the disk count.
        assert ledger.epsilon("example") == pytest.approx(epsilon([SGD] * 2, 1e-5))


def test_rows_show_each_release_its_mechanism_and_its_unit(path, charged):
    rows = ledger_rows(read_history(path))
    assert [(r.round, r.mechanism, r.unit) for r in rows] == [
        (1, "dp-sgd", "example"),
        (2, "distributed", "site"),
        (3, "dp-sgd", "example"),
        (4, "central", "site"),
        (5, "dp-sgd", "example"),
    ]
    assert [r.delta for r in rows] == [1e-5, 1e-6, 1e-5, 1e-6, 1e-5]
    assert rows[3].member_epsilon == pytest.approx(
        Spent([Cost("site", SHARES), Cost("site", SUM)]).epsilon("site", 1e-6)
    )
    assert rows[4].release_epsilon == pytest.approx(epsilon([SGD], 1e-5))
    assert rows[4].unit_epsilon == pytest.approx(epsilon([SGD] * 3, 1e-5))
    assert rows[3].mechanism_epsilon == pytest.approx(epsilon([SUM], 1e-6))
    assert rows[3].unit_epsilon == pytest.approx(epsilon([SHARES, SUM], 1e-6))


def test_rows_show_torn_bytes_as_releases_without_a_run(path, charged):
    path.write_bytes(path.read_bytes()[:-40])
    rows = ledger_rows(read_history(path))
    assert [(r.run, r.mechanism) for r in rows[4:]] == [("", "dp-sgd"), ("", "distributed")]
    with open_ledger(path) as ledger:
        assert rows[4].unit_epsilon == pytest.approx(ledger.epsilon("example"))
        ledger.charge(release(9))
        assert ledger_rows(read_history(path))[-1].unit_epsilon == pytest.approx(ledger.epsilon("example"))


@pytest.mark.chaos
def test_sigkill_at_any_instant_of_a_release_never_lets_the_ledger_under_count(tmp_path):
    # Three calls a charge (write, fsync, release), three charges, writes cut at several lengths; then thirty kills
    # from outside at moments nobody chose.
    orders = [(instant, cut) for instant in range(1, 10) for cut in ((0, 1, 150, 400) if instant % 3 == 1 else (0,))]
    orders += [(0, 1 + number % 7) for number in range(30)]
    folders = [tmp_path / f"{number}" for number in range(len(orders))]
    for folder in folders:
        folder.mkdir()
    text = "".join(f"{folder} {instant} {cut}\n" for folder, (instant, cut) in zip(folders, orders, strict=True))
    victim = Path(__file__).with_name("ledger_victim.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, str(victim)], input=text, capture_output=True, text=True, env=environment, timeout=60
    )
    assert done.returncode == 0, done.stderr
    releases = [int(line) for line in done.stdout.split()]
    assert len(releases) == len(orders)
    mechanism = DpSgd(0.01, 1.0, 10)
    for folder, released, (instant, _) in zip(folders, releases, orders, strict=True):
        assert released >= 0, "the victim ended by itself"
        if instant:
            assert released == (instant - 1) // 3
        with Ledger.open(folder / "ledger.jsonl", OWNER, "fed", {"example": Budget(1e-5)}) as ledger:
            counted = ledger.epsilon("example")
            assert counted >= epsilon([mechanism] * released, 1e-5) * (1 - 1e-12)
            after = ledger.charge(Release("again", "0" * 64, 1, 1, mechanism))
            assert after > epsilon([mechanism] * released, 1e-5)


@pytest.mark.parametrize("mode", [0o666, 0o620, 0o602])
def test_a_ledger_that_others_can_write_is_refused_with_the_command_that_mends_it(tmp_path, mode):
    path = tmp_path / "north.jsonl"
    Ledger.open(path, OWNER, "wrists", {"example": Budget(1e-5)}).close()
    path.chmod(mode)
    with pytest.raises(LedgerError, match=f"chmod 600 {path}"):
        Ledger.open(path, OWNER, "wrists", {"example": Budget(1e-5)})
    path.chmod(0o600)
    Ledger.open(path, OWNER, "wrists", {"example": Budget(1e-5)}).close()


def test_a_ledger_is_not_opened_through_a_link(tmp_path):
    (tmp_path / "north.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LedgerError, match="cannot be opened"):
        Ledger.open(tmp_path / "north.jsonl", OWNER, "wrists", {"example": Budget(1e-5)})
    assert not (tmp_path / "elsewhere").exists()
