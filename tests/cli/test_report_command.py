"""``lightning-fed report``: what people and regulators read."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lightning_fed.cli.main import main
from lightning_fed.coordinator.events import EventLog
from lightning_fed.coordinator.store import Store
from lightning_fed.plan import BestModel, ExamplePrivacy, FederationPlan, Privacy
from lightning_fed.privacy.accounting import DpSgd, epsilon
from lightning_fed.privacy.ledger import Budget, Ledger, Owner
from lightning_fed.privacy.ledger_lines import Release

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@pytest.fixture
def run(tmp_path):
    """A store with two rounds, one of them with a trouble, and a site's ledger."""
    plan = FederationPlan(
        name="wrists",
        metrics=["val_auroc"],
        privacy=Privacy(example=ExamplePrivacy(noise_multiplier=1.0)),
    )
    store = Store(tmp_path / "store", plan, {})
    store.close()
    events = EventLog(tmp_path / "store")
    quorum = {"quorum": 4, "quorum_why": "the threshold of the masks is 4, above plan.quorum = 2"}
    events.write("started", {"run": "ab12", "plan_hash": "00", "version": 0, "rounds": 2, **quorum})
    for site in ("north", "south"):
        events.write("site_joined", {"site": site})
    events.write("update_refused", {"round": 1, "site": "south", "reason": "4 NaN values in 'head.weight'"})
    for number in (1, 2):
        finished = {"round": number, "participants": ["north"], "seconds": 1.5, "bytes_up": 2000, "bytes_down": 3000}
        events.write("round_finished", finished)
        events.write("metrics", {"version": number, "sites": 1, "metrics": {"val_auroc": 0.8 + number / 100}})
    events.write("stood_still", {"what": "global model 2", "reason": "No space left on device", "seconds": 6.2})
    events.write("finished", {"version": 2})
    events.close()
    ledger = tmp_path / "north.jsonl"
    with Ledger.open(ledger, Owner("north", KEY), "wrists", {"example": Budget(1e-5)}) as open_ledger:
        for number in (1, 2):
            open_ledger.charge(Release("run-1", plan.hash, number, 1, DpSgd(0.1, 1.0, 30)))
    return tmp_path / "store", ledger


def test_a_report_shows_rounds_metrics_troubles_and_what_was_promised(run, capsys):
    assert main(["report", str(run[0])]) == 0
    out = capsys.readouterr().out
    for part in ("wrists", "0.8100", "0.8200", "2.0 kB", "1/2", "4 NaN values in 'head.weight'", "status: finished"):
        assert part in out
    assert "stood still for 6.2 s until global model 2 could be written: No space left on device" in out
    assert "the coordinator learns only sums" in out
    assert "a round needs 4 updates (the threshold of the masks is 4, above plan.quorum = 2)" in out
    assert "noise_multiplier 1.0" in out


def test_a_report_shows_what_a_ledger_says_of_each_release_and_of_all_so_far(run, capsys):
    assert main(["report", str(run[1])]) == 0
    out = capsys.readouterr().out
    one, both = (epsilon([DpSgd(0.1, 1.0, steps)], 1e-5) for steps in (30, 60))
    assert out.count(f"{one:.4g}") >= 3
    assert f"example level: epsilon {both:.4g} at delta 1e-05 after all releases" in out
    assert "north in wrists" in out


def test_several_paths_make_one_report(run, capsys):
    assert main(["report", *map(str, run)]) == 0
    out = capsys.readouterr().out
    assert "status: finished" in out
    assert "last hash" in out


@pytest.mark.parametrize("what", ["missing", "empty folder", "edited"])
def test_what_is_no_run_and_no_sound_ledger_is_one_line_and_exit_code_1(run, tmp_path, capsys, what):
    path = tmp_path / "other"
    if what == "empty folder":
        path.mkdir()
    if what == "edited":
        path.write_text(run[1].read_text().replace('"steps":30', '"steps":3'))
    assert main(["report", str(path)]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("lightning-fed report: ")
    assert len(captured.err.splitlines()) == 1
    assert {
        "missing": "it does not exist. Name a coordinator's store",
        "empty folder": "not a coordinator's store",
        "edited": "was edited",
    }[what] in (captured.err)


HOSTILE = "[/nope] [bold red]x[/] :skull: \x1b[2J\x1b]0;owned\x07 \x9b31m \u202e\r\nstatus: finished"


def test_what_a_site_said_reaches_the_terminal_as_text(tmp_path, capsys):
    Store(tmp_path, FederationPlan(), {}).close()
    events = EventLog(tmp_path)
    events.write("site_joined", {"site": "north"})
    events.write("update_refused", {"round": 1, "site": "north", "reason": HOSTILE})
    events.write("site_refused", {"site": "north", "reason": HOSTILE})
    events.write("round_failed", {"round": 1, "attempt": 1, "reason": HOSTILE})
    events.close()
    assert main(["report", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert all(line.isprintable() for line in out.split("\n"))
    assert out.count("[/nope] [bold red]x[/] :skull: \\x1b[2J") == 4
    assert not any(line.startswith("status: finished") for line in out.split("\n"))


def test_what_the_operator_did_is_in_the_report(tmp_path, capsys):
    Store(tmp_path, FederationPlan(), {}).close()
    events = EventLog(tmp_path)
    events.write("steered", {"action": "drop", "site": "north", "user": "ana", "uid": 1000})
    events.close()
    assert main(["report", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "north" in out
    assert "ana" in out


def test_a_ledger_of_another_site_reaches_the_terminal_as_text(tmp_path, capsys):
    ledger = tmp_path / "north.jsonl"
    with Ledger.open(ledger, Owner("\x1b[2Jnorth", KEY), "[/nope]", {"example": Budget(1e-5)}) as open_ledger:
        open_ledger.charge(Release("[red]\x1b", "hash", 1, 1, DpSgd(0.1, 1.0, 30)))
    assert main(["report", str(ledger)]) == 0
    out = capsys.readouterr().out
    assert all(line.isprintable() for line in out.split("\n"))
    assert "\\x1b[2Jnorth in [/nope]" in out
    assert "[red]\\x1b" in out


def test_the_best_model_is_named_by_its_path_alone_and_by_the_metrics_alone(tmp_path, capsys):
    plan = FederationPlan(metrics=["val_auroc"], best=BestModel("val_auroc", "max"))
    Store(tmp_path / "store", plan, {}).close()
    events = EventLog(tmp_path / "store")
    assert main(["report", "--best", str(tmp_path / "store")]) == 1
    assert "no site has reported a finite val_auroc" in capsys.readouterr().err
    events.write("finished", {"version": 3, "away": []})
    for version, value in ((1, 0.8), (2, 0.9), (3, 0.85)):
        data = {"version": version, "sites": 2, "metrics": {"val_auroc": value}, "counts": {"val_auroc": 2}}
        events.write("metrics", data)
    events.close()
    path = tmp_path / "store" / "models" / "000002.ckpt"
    assert main(["report", "--best", str(tmp_path / "store")]) == 1
    assert "global model 2 is not in" in capsys.readouterr().err
    path.touch()
    assert main(["report", "--best", str(tmp_path / "store")]) == 0
    assert capsys.readouterr().out == f"{path}\tval_auroc 0.9\n"
    record = tmp_path / "store" / "run.json"
    record.write_text(record.read_text().replace('"mode": "max"', '"mode": "most"'))
    assert main(["report", "--best", str(tmp_path / "store")]) == 1
    assert "plan.best of" in capsys.readouterr().err


def test_a_plan_that_names_no_metric_has_no_best_model(run, capsys):
    assert main(["report", "--best", str(run[0])]) == 1
    assert "does not say which global model is the best. Add plan.best" in capsys.readouterr().err
