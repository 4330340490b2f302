"""Which accountant counted a ledger's line, and what a ledger is worth that the former one wrote."""

import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lightning_fed.cli.main import main
from lightning_fed.errors import BudgetExhaustedError
from lightning_fed.privacy.accounting import ORDERS, DpSgd, epsilon, epsilon_from_rdp
from lightning_fed.privacy.discrete import distributed_noise
from lightning_fed.privacy.history import read_history
from lightning_fed.privacy.ledger import Budget, Ledger, Owner
from lightning_fed.privacy.ledger_lines import Release

# Three rounds of eight steps, as lightning_fed 0.1.0 wrote them down when it counted by Rényi divergences alone.
RDP_LEDGER = Path(__file__).with_name("rdp_ledger.jsonl")
OWNER = Owner("st-marys", Ed25519PrivateKey.from_private_bytes(bytes(range(32))), "wrists-2024")
ROUND = DpSgd(0.19519, 0.823, 8)
OTHER = DpSgd(0.19519, 0.9, 8)
DELTA = 1e-3


@pytest.fixture
def path(tmp_path):
    return Path(shutil.copy(RDP_LEDGER, tmp_path / "ledger.jsonl"))


def opened(path, max_epsilon=1e6):
    budget = Budget(DELTA, max_epsilon)
    return Ledger.open(path, OWNER, "wrists", {"example": budget, "site": budget})


def release(number, mechanism=ROUND, units=()):
    return Release("run-1", "ab" * 32, number, 1, mechanism, units)


def by_rdp(mechanisms):
    return epsilon_from_rdp(sum(one.rdp(ORDERS) for one in mechanisms), DELTA)


def test_a_ledger_that_was_counted_by_rdp_is_read_and_counted_again_by_pld(path, capsys):
    written = read_history(path, "st-marys", "wrists-2024").entries
    assert [entry.accountant for entry in written] == ["rdp"] * 3
    assert written[-1].epsilon == pytest.approx(7.99, abs=0.01)
    with opened(path) as ledger:
        assert ledger.epsilon("example") == pytest.approx(6.66, abs=0.01)
        charged = ledger.charge(release(4))
    assert charged == epsilon([ROUND] * 4, DELTA) < by_rdp([ROUND] * 4)
    entries = read_history(path).entries
    assert entries[:3] == written
    assert entries[3].accountant == "pld"
    assert main(["report", str(path)]) == 0
    out = capsys.readouterr().out
    assert "3 of format 2 (rdp)" in out
    assert "1 of format 2 (pld)" in out


def test_other_noise_after_results_were_seen_brings_the_whole_ledger_back_to_rdp(path):
    with opened(path) as ledger:
        assert ledger.charge(release(4, OTHER)) == pytest.approx(by_rdp([ROUND] * 3 + [OTHER]), rel=1e-12)
    assert read_history(path).entries[-1].accountant == "rdp"


def test_a_line_tells_that_its_units_were_counted_by_different_accountants(path):
    with opened(path) as ledger:
        ledger.charge(release(4, distributed_noise(2.0, 1.0, 1e-6, 1000, 3), ("site", "example")))
    assert read_history(path).entries[-1].accountant == "pld+rdp"


@pytest.mark.parametrize("others", [(), (OTHER,)])
def test_releases_go_on_until_the_maximum_and_never_past_it(tmp_path, others):
    path, limit, done = tmp_path / "ledger.jsonl", 9.0, list(others)
    with opened(path, limit) as ledger:
        for one in others:
            ledger.charge(release(0, one))
        with pytest.raises(BudgetExhaustedError, match="above this site's maximum of 9"):
            for number in range(1, 30):
                ledger.charge(release(number))
                done.append(ROUND)
        assert ledger.epsilon("example") <= limit
    count = by_rdp if others else lambda mechanisms: epsilon(mechanisms, DELTA)
    assert len(done) > 3
    assert count(done) <= limit < count([*done, ROUND])
