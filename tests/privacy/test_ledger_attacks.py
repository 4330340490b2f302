"""What a plan, a file and an editor can do to a site's budget."""

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lightning_fed.cli.main import main
from lightning_fed.errors import BudgetExhaustedError, LedgerError
from lightning_fed.privacy.accounting import DpSgd, epsilon
from lightning_fed.privacy.discrete import distributed_noise
from lightning_fed.privacy.history import read_history
from lightning_fed.privacy.ledger import Budget, Ledger, Owner, sign_ledger
from lightning_fed.privacy.ledger_lines import Charged, Release, Torn, line_of
from lightning_fed.privacy.ledger_rows import ledger_rows
from lightning_fed.privacy.spending import Cost, Spent
from lightning_fed.transport.identity import new_identity, write_identity

KEY, OTHER = (Ed25519PrivateKey.from_private_bytes(bytes([fill] * 32)) for fill in (1, 2))
OWNER = Owner("st-marys", KEY)
SGD = DpSgd(0.01, 1.0, 10)
CHEAP = DpSgd(0.01, 900.0, 1)
SHARES = distributed_noise(1.0, 1.0, 1e-6, 1000, 2)

OLD_LINES = (
    b'{"entry":{"delta":0.00001,"epsilon":1.0353059344178024,"federation":"wrists","kind":"charged","release":{"at'
    b'tempt":1,"mechanism":{"mechanism":"dp-sgd","noise_multiplier":1.0,"sample_rate":0.01,"steps":10},"plan":"aba'
    b'babababababababababababababababababababababababababababababab","round":1,"run":"run-1"},"site":"st-marys"},"'
    b'hash":"4004be6c92719db2907210c9d70d6f678651ad591f2a2190d0122d782b43c3a9"}\n'
    b'{"entry":{"delta":0.00001,"epsilon":4.729518972990514,"federation":"wrists","kind":"charged","release":{"att'
    b'empt":1,"mechanism":{"mechanism":"distributed","sensitivity":10001.873724037338,"shares":3,"sigma":5773.5026'
    b'91896258,"size":1000},"plan":"abababababababababababababababababababababababababababababababab","round":2,"r'
    b'un":"run-1"},"site":"st-marys"},"hash":"806ee1a2bd50289af13e37a5436f3254590cd1ed1a6fc6d3fd55738dd1d70fa5"}\n'
)


def release(number, mechanism=SGD, units=()):
    return Release("run-1", "ab" * 32, number, 1, mechanism, units)


def open_ledger(path, owner=OWNER, federation="wrists", max_epsilon=None):
    budget = Budget(1e-5) if max_epsilon is None else Budget(1e-5, max_epsilon)
    return Ledger.open(path, owner, federation, {"example": budget, "site": budget})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.jsonl"


@pytest.fixture
def spent(path):
    """A ledger of three releases."""
    with open_ledger(path) as ledger:
        for number in (1, 2, 3):
            ledger.charge(release(number))
    return path


def rewritten(entries, key=None):
    """The bytes of a ledger whose every release has become a cheap one, its chain worked out anew."""
    data, head = b"", "0" * 64
    for entry in entries:
        cheap = msgspec.structs.replace(entry.release, mechanism=CHEAP)
        line, head = line_of(msgspec.structs.replace(entry, release=cheap, epsilon=0.01), head, key)
        data += line
    return data


def old_format(entries):
    """Bytes as the first version wrote them: no salt, no signature, no totals."""
    data, head = b"", "0" * 64
    for entry in entries:
        line, head = line_of(entry, head)
        data += line
    return data


def test_a_ledger_rewritten_without_the_sites_key_is_refused(spent):
    entries = read_history(spent).entries
    assert ledger_rows(read_history(spent))[-1].unit_epsilon > 0.5
    for key, how in ((None, "is not signed"), (OTHER, "is signed by the key")):
        spent.write_bytes(rewritten(entries, key))
        # Nothing is wrong with the chain itself.
        assert ledger_rows(read_history(spent))[-1].unit_epsilon < 0.1
        with pytest.raises(LedgerError, match=f"{how}.*not signed by the present key of 'st-marys'"):
            open_ledger(spent)


def test_a_ledger_rewritten_in_the_old_format_is_refused_too(spent):
    old = [Charged("wrists", "st-marys", release(number, CHEAP), 1e-5, 0.01) for number in (1, 2, 3)]
    spent.write_bytes(old_format(old))
    with pytest.raises(LedgerError, match=r"is not signed.*lightning-fed ledger sign"):
        open_ledger(spent)


def test_a_line_with_the_sites_key_and_another_lines_signature_is_named(spent):
    first, second, third = spent.read_bytes().splitlines()
    swapped = second.split(b'"signature"')[0] + b'"signature"' + first.split(b'"signature"')[1]
    spent.write_bytes(b"\n".join([first, swapped, third, b""]))
    with pytest.raises(LedgerError, match=r"line 2 .* is not signed by the key that it names"):
        open_ledger(spent)


def test_an_older_copy_lacks_the_line_that_was_noted_elsewhere(spent):
    copy = spent.read_bytes()
    with open_ledger(spent) as ledger:
        ledger.charge(release(4))
        noted = ledger.history.head
    with open_ledger(spent) as ledger:
        ledger.charge(release(5))
        assert ledger.holds(noted)
    spent.write_bytes(copy)
    with open_ledger(spent) as ledger:
        # It is sound in itself, which is why somebody else has to remember.
        assert not ledger.holds(noted)
        ledger.charge(release(4))
        assert not ledger.holds(noted)


def test_the_hash_of_the_same_release_is_another_one_in_each_ledger(tmp_path):
    heads = set()
    for number in range(8):
        with open_ledger(tmp_path / f"{number}.jsonl") as ledger:
            ledger.charge(release(1))
            heads.add(ledger.history.head)
    assert len(heads) == 8


def test_another_federations_name_does_not_start_a_new_budget(spent):
    limit = epsilon([SGD] * 3, 1e-5)
    with open_ledger(spent, federation="knees", max_epsilon=limit) as ledger:
        assert ledger.epsilon("example") == pytest.approx(limit)
        with pytest.raises(BudgetExhaustedError, match="example-level"):
            ledger.charge(release(1))


def test_a_release_at_site_level_is_paid_for_by_each_example_at_twice_the_distance(path):
    with open_ledger(path) as ledger:
        for number in (1, 2):
            ledger.charge(release(number, SHARES, ("site", "example")))
        twice_as_far = msgspec.structs.replace(SHARES, sensitivity=2 * SHARES.sensitivity)
        assert ledger.epsilon("example", "outsider") == pytest.approx(epsilon([twice_as_far] * 2, 1e-5))
        assert ledger.epsilon("site", "outsider") == pytest.approx(epsilon([SHARES] * 2, 1e-5))
    assert [(row.round, row.unit) for row in ledger_rows(read_history(path))] == [
        (1, "site"),
        (1, "example"),
        (2, "site"),
        (2, "example"),
    ]


def test_a_release_at_site_level_is_stopped_by_the_examples_budget_and_nothing_is_written(spent):
    size = spent.stat().st_size
    quiet = distributed_noise(200.0, 1.0, 1e-6, 1000, 2)
    limit = 1.01 * Spent(Cost("example", one) for one in [SGD, SGD, SGD, quiet]).epsilon("example", 1e-5)
    with (
        open_ledger(spent, max_epsilon=limit) as ledger,
        pytest.raises(BudgetExhaustedError, match=r"example-level epsilon .*released about each example of it, too"),
    ):
        for number in range(4, 200):
            ledger.charge(release(number, quiet, ("site", "example")))
    assert ledger_rows(read_history(spent))[-1].member_epsilon <= limit
    assert spent.stat().st_size > size


def test_the_budget_is_held_against_a_site_that_knows_its_own_share(path):
    outside, member = (
        Spent([Cost("site", SHARES)] * 10).epsilon("site", 1e-5, reader) for reader in ("outsider", "member")
    )
    with (
        open_ledger(path, max_epsilon=(outside + member) / 2) as ledger,
        pytest.raises(
            BudgetExhaustedError, match="against a site that takes part, and knows its own share of the noise"
        ),
    ):
        for number in range(1, 11):
            ledger.charge(release(number, SHARES))
    totals = read_history(path).entries[-1].totals["site"]
    assert totals["outsider"] < totals["member"] <= (outside + member) / 2


def test_a_ledger_of_the_old_format_is_read_and_its_site_level_releases_count_for_examples(path):
    old = [
        Charged("wrists", "st-marys", Release("one", "aa", 1, 1, SHARES), 1e-6, 1.0),
        Charged("wrists", "st-marys", Release("two", "bb", 1, 1, SGD), 1e-5, 1.0),
        Charged("wrists", "st-marys", Release("two", "bb", 1, 1, SHARES), 1e-5, 1.0),
    ]
    path.write_bytes(old_format(old))
    # DP-SGD has paid for the examples in the second run, and nobody in the first.
    assert read_history(path).written == [
        Cost("site", SHARES),
        Cost("example", SHARES),
        Cost("example", SGD),
        Cost("site", SHARES),
    ]
    assert [(row.unit, row.delta) for row in ledger_rows(read_history(path))][:2] == [("site", 1e-6), ("example", 1e-6)]


def test_the_bytes_that_the_first_version_wrote_still_verify(path):
    # Written by lightning_fed 0.1.0 before lines were signed.
    path.write_bytes(OLD_LINES)
    entries = read_history(path, "st-marys").entries
    assert [entry.release.round for entry in entries] == [1, 2]
    assert [type(entry.release.mechanism).__name__ for entry in entries] == ["DpSgd", "DistributedNoise"]


def test_a_ledger_is_signed_by_hand_once_and_trains_on_counting_all_that_it_held(path, tmp_path, capsys):
    identity = new_identity("st-marys")
    secret, _ = write_identity(identity, tmp_path / "keys")
    path.write_bytes(OLD_LINES[:-30])
    owner = Owner("st-marys", identity.signing_key)
    with pytest.raises(LedgerError, match="is not signed"):
        open_ledger(path, owner)
    counted = Spent(read_history(path).released)
    assert main(["ledger", "sign", str(path), "--identity", str(secret)]) == 0
    assert "signed by st-marys" in capsys.readouterr().out
    history = read_history(path)
    assert isinstance(history.entries[1], Torn)
    assert history.signer == identity.card.signing_public.hex()
    with open_ledger(path, owner) as ledger:
        assert ledger.epsilon("example") == pytest.approx(counted.epsilon("example", 1e-5))
        ledger.charge(release(3))
    assert main(["report", str(path)]) == 0
    out = capsys.readouterr().out
    assert "of format 1" in out
    assert "1 of format 2 (pld)" in out
    assert f"signed by the Ed25519 key {history.signer}" in out


def test_a_ledger_that_was_edited_or_is_not_there_cannot_be_signed(spent, tmp_path):
    spent.write_bytes(spent.read_bytes().replace(b'"round":2', b'"round":7'))
    with pytest.raises(LedgerError, match=r"line 2 .* was edited"):
        sign_ledger(spent, KEY)
    with pytest.raises(LedgerError, match="no privacy ledger"):
        sign_ledger(tmp_path / "none.jsonl", KEY)
    assert not (tmp_path / "none.jsonl").exists()
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(LedgerError, match="holds no line"):
        sign_ledger(tmp_path / "empty.jsonl", KEY)
