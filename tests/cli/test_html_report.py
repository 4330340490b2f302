"""``lightning-fed report --html``: the page that is shown around."""

import hashlib
import json
import os
import re
import subprocess
import sys
from base64 import b64encode
from pathlib import Path

import html5lib
import pytest
import torch
from browser import chromium
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from plotly.offline import get_plotlyjs

from lightning_fed.audit.checks import HEAD
from lightning_fed.audit.lines import Name, Writer
from lightning_fed.audit.log import AuditLog
from lightning_fed.cli.chronicle import read_chronicle
from lightning_fed.cli.main import main
from lightning_fed.cli.plan_words import in_words, plan_of
from lightning_fed.coordinator.events import EventLog
from lightning_fed.coordinator.store import Store
from lightning_fed.plan import (
    BestModel,
    Compression,
    ExamplePrivacy,
    FederationPlan,
    LocalTraining,
    Masking,
    Privacy,
    SitePrivacy,
)
from lightning_fed.privacy.accounting import DpSgd
from lightning_fed.privacy.ledger import Budget, Ledger, Owner
from lightning_fed.privacy.ledger_lines import Release
from lightning_fed.update.global_model import GlobalModel
from lightning_fed.update.layout import Layout, TensorSpec

ROOT = Path(__file__).parents[2]
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SITE_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
HOSTILE = "</script><script>window.owned=1</script><a href='https://evil.example'>x</a>"
PLOTLY = "here is plotly.js"
HTML = "{http://www.w3.org/1999/xhtml}"


@pytest.fixture
def run(tmp_path):
    """A store of two rounds with troubles, whose sites and reasons are named by somebody who means harm."""
    plan = FederationPlan(
        name="wrists",
        rounds=3,
        metrics=["val_auroc", "<b>loss</b>"],
        best=BestModel("val_auroc", "max"),
        privacy=Privacy(example=ExamplePrivacy(epsilon=4.0)),
    )
    folder = tmp_path / "store"
    store = Store(folder, plan, {})
    layout = Layout((TensorSpec("weight", (500, 2), "float32"),))
    for version in range(3):
        store.save(GlobalModel(version, layout, torch.full((1000,), float(version)), {}))
    store.close()
    events = EventLog(folder, store.run, KEY)
    sites = ["north", "south", HOSTILE]
    software = {"torch": "2.6.0"}
    events.write(
        "started",
        {"run": "ab", "plan_hash": plan.hash, "version": 0, "rounds": 3, "sites": sites, "software": software},
    )
    for number in (1, 2):
        events.write("round_started", {"round": number, "attempt": 1, "cohort": sites})
        events.write("update_accepted", {"round": number, "site": "north"})
        events.write("update_refused", {"round": number, "site": HOSTILE, "reason": f"NaN in {HOSTILE}"})
        done = {"round": number, "participants": ["north", "south"], "bytes_up": 3000, "bytes_down": 9000}
        events.write("round_finished", {**done, "seconds": 1.5, "saturated": 0})
        values = {"val_auroc": 0.9 - number / 100, "<b>loss</b>": 0.5}
        counts = dict.fromkeys(values, 2)
        events.write("metrics", {"version": number, "sites": 2, "metrics": values, "counts": counts, "not_finite": []})
    events.write("round_failed", {"round": 3, "attempt": 1, "reason": "the quorum was not reached"})
    events.close()
    ledger = tmp_path / "north.jsonl"
    heads = []
    with Ledger.open(ledger, Owner("north", KEY), "wrists", {"example": Budget(1e-5)}) as open_ledger:
        for number in (1, 2):
            open_ledger.charge(Release("run-1", plan.hash, number, 1, DpSgd(0.1, 1.0, 30)))
            heads.append(json.loads(ledger.read_text().splitlines()[-1])["hash"])
    return folder, ledger, heads


def page_of(*paths, out):
    assert main(["report", *map(str, paths), "--html", str(out)]) == 0
    return out.read_text(encoding="utf-8")


def parsed(text):
    """The page as a browser would parse it; anything that is no valid HTML is an error."""
    # Not the library's five million characters, which end no script: that takes long, and is not ours.
    assert text.count(get_plotlyjs()) == 1
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=True).parse(text.replace(get_plotlyjs(), PLOTLY))


def words(document):
    for element in list(document.iter()):
        if element.tag in (f"{HTML}script", f"{HTML}style"):
            element.text = ""
    return " ".join(" ".join(document.itertext()).split())


def test_the_page_says_what_happened(run, tmp_path):
    text = words(parsed(page_of(*run[:2], out=tmp_path / "page.html")))
    for part in (
        "2 of 3 rounds",
        "0.8900 best val_auroc, model 1",
        "1 attempts that gave no model",
        "2 updates refused or withdrawn",
        "round 3 failed: the quorum was not reached",
        "a site sent 1.5 kB in all; its update as plain float32 would be 4.0 kB for 1,000 values. That is 2.67 times",
        "differential privacy by DP-SGD with epsilon at most 4",
        "torch 2.6.0",
        "the header of global model 2 names this run, plan and version",
        "✓ the privacy ledger north.jsonl of north: each line follows",
        "lines hold, each follows from the one before; signed by 03a107bff3ce10be",
    ):
        assert part in text, part
    sha256 = hashlib.sha256((run[0] / "models" / "000002.safetensors").read_bytes()).hexdigest()
    assert sha256 in text
    assert "✗" not in text


@pytest.mark.parametrize(("screen", "terminal"), [(True, True), (False, True), (True, False)])
def test_the_page_is_opened_from_a_terminal_on_a_machine_with_a_screen_and_only_there(run, tmp_path, screen, terminal):
    page, opened, browser = tmp_path / "page.html", tmp_path / "opened", tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nprintf %s "$1" > {opened}\n')
    browser.chmod(0o700)
    here = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    master, slave = os.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "lightning_fed.cli.main", "report", str(run[0]), "--html", str(page), "--open"],
        env={**here, "BROWSER": f"{browser} %s", **({"DISPLAY": ":0"} if screen else {})},
        stdout=slave if terminal else subprocess.PIPE,
        check=False,
    )
    os.close(slave)
    os.close(master)
    assert done.returncode == 0
    assert page.exists()
    assert (opened.read_text() if opened.exists() else None) == (page.as_uri() if screen and terminal else None)


def test_open_without_a_page_is_refused(run, capsys):
    assert main(["report", str(run[0]), "--open"]) == 1
    assert "Add --html FILE" in capsys.readouterr().err


def test_the_page_is_one_valid_file_that_refers_to_no_other(run, tmp_path):
    document = parsed(page_of(*run[:2], out=tmp_path / "page.html"))
    for element in document.iter():
        assert element.tag not in {f"{HTML}{name}" for name in ("link", "iframe", "object", "embed", "img", "base")}
        for name, value in element.attrib.items():
            assert not name.startswith("on"), name
            if name in ("src", "href", "srcset", "action", "data"):
                assert value.startswith("#"), value
    for style in document.iter(f"{HTML}style"):
        assert "url(" not in style.text
        assert "@import" not in style.text


def test_names_and_reasons_of_others_stay_text_and_no_script_of_theirs_can_run(run, tmp_path):
    document = parsed(page_of(*run[:2], out=tmp_path / "page.html"))
    scripts = [script for script in document.iter(f"{HTML}script") if script.get("type") != "application/json"]
    (policy,) = [meta for meta in document.iter(f"{HTML}meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    texts = [script.text for script in scripts]
    assert len(texts) == 2
    assert texts[0] == PLOTLY
    digests = [b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (get_plotlyjs(), texts[1])]
    assert policy.get("content").startswith("default-src 'none'")
    allowed = policy.get("content").split("script-src ")[1].split()
    assert allowed == [f"'sha256-{digest}'" for digest in digests]
    figures = [json.loads(each.text) for each in document.iter(f"{HTML}script") if each not in scripts]
    # Plotly takes some tags in labels as mark-up, so that they are spelt out there.
    assert len(figures) == 6
    assert "<a" not in re.sub("<br>|<extra></extra>", "", json.dumps(figures))
    (heat,) = [figure["data"][0] for figure in figures if figure["data"] and figure["data"][0]["type"] == "heatmap"]
    assert any(name.startswith("&lt;/script&gt;") for name in heat["y"])
    assert words(document).count(HOSTILE) >= 3


def test_phases_of_a_round_are_what_lies_between_its_events(tmp_path):
    Store(tmp_path, FederationPlan(), {}).close()
    lines = [
        ("00", "round_started", {"attempt": 1, "cohort": ["a", "b"]}),
        ("03", "round_failed", {"attempt": 1, "reason": "late"}),
        ("04", "round_started", {"attempt": 2, "cohort": ["a", "b"]}),
        ("09", "update_accepted", {"site": "a"}),
        ("20", "update_accepted", {"site": "b"}),
        ("22", "round_finished", {"participants": ["a", "b"]}),
    ]
    entries = [
        {"time": f"2026-11-29T10:00:{second}.000+00:00", "event": event, "round": 1, **data}
        for second, event, data in lines
    ]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    (account,) = read_chronicle(tmp_path).rounds
    assert list(account.phases.values()) == [4.0, 5.0, 11.0, 2.0]


def test_a_log_of_anothers_making_is_passed_over_where_it_is_wrong_and_that_is_said(run, tmp_path):
    broken = [
        {"event": "round_finished", "round": "x", "participants": 3},
        {"event": "metrics", "version": -1},
        {"event": "site_late", "site": "north"},
        {"event": "started"},
        {"event": ["started"]},
        {"event": "round_failed", "round": {}, "reason": ["<i>"]},
        {"event": "site_joined", "site": 5},
    ]
    with (run[0] / "events.jsonl").open("a") as log:
        log.writelines(json.dumps(each) + "\n" for each in broken)
        log.write("not JSON\n")
    text = words(parsed(page_of(run[0], out=tmp_path / "page.html")))
    assert re.search(r"✗ \d lines of the event log are none that this version can read", text)


@pytest.mark.parametrize(
    ("told", "verdict"), [("all", "has all 2 lines that the coordinator was told of"), ("another", "lacks 1 lines")]
)
def test_a_ledger_is_compared_with_what_the_coordinator_was_told_of_it(run, tmp_path, told, verdict):
    heads = run[2] if told == "all" else [run[2][0], "ab" * 32]
    events = EventLog(run[0], read_chronicle(run[0]).run, KEY)
    for head in heads:
        events.write("ledger_anchored", {"site": "north", "head": head})
    events.close()
    text = words(parsed(page_of(*run[:2], out=tmp_path / "page.html")))
    assert f"the privacy ledger north.jsonl of north {verdict}" in text
    assert ("✗" in text) == (told == "another")


@pytest.mark.parametrize("log", ["edited", "cut", "as it was"])
def test_the_logs_of_both_sides_are_held_against_each_other(run, tmp_path, log):
    run_id = read_chronicle(run[0]).run
    events = AuditLog(run[0] / "events.jsonl", Writer(Name("coordinator", run_id), KEY))
    site = AuditLog(tmp_path / "north.jsonl.sent", Writer(Name("site", "north"), SITE_KEY))
    held = {
        "log": "coordinator",
        "of": run_id,
        "line": events.head.line,
        "key": KEY.public_key().public_bytes_raw().hex(),
    }
    site.append(HEAD, {**held, "digest": events.head.digest.hex(), "signature": events.head.signature.hex()})
    for each in (events, site):
        each.close()
    path = run[0] / "events.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    if log == "edited":
        path.write_bytes(b"".join(lines).replace(b'"bytes_up":3000', b'"bytes_up":3001'))
    if log == "cut":
        path.write_bytes(b"".join(lines[:-1]))
    text = words(parsed(page_of(run[0], tmp_path / "north.jsonl.sent", out=tmp_path / "page.html")))
    said = {
        "edited": "of the event log does not hold: it was changed",
        "cut": "of the event log does not hold: it is missing: the end was cut off",
        "as it was": "the event log is as the site's log north.jsonl.sent was told while it was written, 1 times",
    }
    assert said[log] in text


def test_a_model_of_another_run_is_a_cross(run, tmp_path):
    models = run[0] / "models"
    (models / "000002.safetensors").write_bytes(
        (models / "000002.safetensors").read_bytes().replace(b'"version":"2"', b'"version":"7"')
    )
    text = words(parsed(page_of(run[0], out=tmp_path / "page.html")))
    assert "✗ the header of global model 2 names another version" in text


@pytest.mark.parametrize("what", ["rounds", "quorum"])
def test_a_plan_may_differ_from_that_of_an_earlier_start_in_its_rounds_alone(run, tmp_path, what):
    record = json.loads((run[0] / "run.json").read_text())
    record["plan"][what] = 7
    (run[0] / "run.json").write_text(json.dumps(record))
    text = words(parsed(page_of(run[0], out=tmp_path / "page.html")))
    if what == "rounds":
        assert "✓ each start in the event log names run.json's plan, with 3, 7 rounds, one after the other" in text
        assert "✓ the header of global model 2 names this run" in text
    else:
        assert "✗ the event log names plans of other hashes than that of run.json" in text
        assert "✗ the header of global model 2 names another plan_hash" in text


def test_a_simulations_comparison_is_shown_if_it_belongs_to_the_plan(run, tmp_path):
    plan_hash = read_chronicle(run[0]).plan_hash
    compared = {"metric": "test_auroc", "local": {"north": 0.7}, "federated": 0.9, "pooled": 0.91, "private": True}
    results = tmp_path / "results.json"
    for wanted, belongs in ((plan_hash, True), ("00", False)):
        results.write_text(json.dumps({"plan_hash": wanted, "baselines": {**compared, "local_mean": 0.7}}))
        text = words(parsed(page_of(run[0], out=tmp_path / "page.html")))
        assert ("Only the federated training kept the plan's privacy" in text) == belongs


@pytest.mark.parametrize("empty", ["no log", "no round"])
def test_a_run_that_has_not_begun_has_a_page(tmp_path, empty):
    Store(tmp_path / "store", FederationPlan(), {}).close()
    if empty == "no round":
        log = EventLog(tmp_path / "store")
        log.write("started", {"run": "ab", "version": None, "rounds": 3, "sites": ["north"]})
        log.close()
    text = words(parsed(page_of(tmp_path / "store", out=tmp_path / "page.html")))
    assert "0 of 10 rounds" in text
    assert "Faults and interventions None." in text


def test_what_cannot_be_written_is_one_line_and_leaves_nothing(run, tmp_path, capsys, monkeypatch):
    assert main(["report", str(run[0]), str(run[0]), "--html", str(tmp_path / "page.html")]) == 1
    assert "2 folders are named. Name one store" in capsys.readouterr().err
    assert main(["report", str(run[0]), "--html", str(tmp_path / "no" / "page.html")]) == 1
    assert "is no folder" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    assert main(["report", str(run[0]), "--html", str(tmp_path / "page.html")]) == 1
    assert "pip install 'lightning_fed[report]'" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["north.jsonl", "store"]


def test_the_page_is_made_without_what_trains(run, tmp_path):
    script = "import sys; from lightning_fed.cli.main import main; code = main(sys.argv[1:])"
    script += "; sys.exit(code or 'torch' in sys.modules)"
    # A ledger's accountant is another's and brings torch with it.
    arguments = ["report", str(run[0]), "--html", str(tmp_path / "page.html")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", script, *arguments], env=environment, check=True, timeout=120)


WORDS = [
    (FederationPlan(rounds=30, local=LocalTraining(steps=50)), "30 rounds; in each, a site trains 50 optimiser steps"),
    (FederationPlan(local=LocalTraining(optimizer_state="reset", proximal=0.1)), "(FedProx, mu = 0.1)"),
    (
        FederationPlan(quorum=3, cohort_size=8),
        "8 ready sites are drawn and asked to train. It needs at least 3 updates",
    ),
    (FederationPlan(round_deadline_s=90), "closes after 90 s"),
    (FederationPlan(algorithm={"name": "fedadam"}), "fedadam (beta1 = 0.9, "),
    (FederationPlan(masking=Masking("off")), "Each site's update, by name: masks are off."),
    (FederationPlan(quorum=4, masking=Masking(colluding=1)), "even if 1 site should collude"),
    (FederationPlan(), "No differential privacy was promised."),
    (FederationPlan(privacy=Privacy(example=ExamplePrivacy(noise_multiplier=1.1))), "noise of 1.1 clipping norms"),
    (FederationPlan(privacy=Privacy(site=SitePrivacy())), "each site adds its share of the noise under the masks"),
    (FederationPlan(compression=Compression("vote", share=0.01)), "The 1 % of the values that most sites"),
    (FederationPlan(masking=Masking("off"), compression=Compression("topk")), "A value is written as int8."),
    (FederationPlan(personal=["normalisation"]), "never exchanged: normalisation."),
    (
        FederationPlan(metrics=["val_f1"], best=BestModel("val_f1", "max", patience=5)),
        "The best model is the one of the largest val_f1. Training ends once 5 models in a row were no better.",
    ),
]


@pytest.mark.parametrize(("plan", "said"), WORDS, ids=[said[:30] for _, said in WORDS])
def test_a_plan_is_told_in_words(plan, said, tmp_path):
    told = in_words(plan_of(json.loads(plan.to_bytes()), tmp_path))
    assert any(said in text for _, text in told), told


@pytest.fixture
def browser():
    with chromium(pytest.skip) as found:
        yield found


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390], ids=["desktop", "phone"])
def test_a_browser_draws_every_chart_asks_nobody_for_anything_and_runs_nothing_of_others(run, tmp_path, browser, width):
    page_of(*run[:2], out=tmp_path / "page.html")
    view = browser.new_page(viewport={"width": width, "height": 900})
    asked, said = [], []
    view.on("request", lambda request: asked.append(request.url))
    view.on("console", lambda message: said.append(message.text))
    view.on("pageerror", lambda error: said.append(str(error)))
    address = (tmp_path / "page.html").as_uri()
    view.goto(address)
    charts = view.locator(".chart")
    assert charts.count() == 6
    view.wait_for_function("[...document.querySelectorAll('.chart')].every(c => c.querySelector('.main-svg'))")
    assert asked == [address]
    assert said == []
    assert view.evaluate("window.owned") is None
    assert view.locator("svg a").count() == 0
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    for index in range(6):
        box = charts.nth(index).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
    assert "north" in view.locator("#participation svg .yaxislayer-above").first.text_content()


@pytest.mark.browser
def test_what_plotly_writes_of_a_hostile_name_is_the_name(run, tmp_path, browser):
    page_of(*run[:2], out=tmp_path / "page.html")
    view = browser.new_page()
    view.goto((tmp_path / "page.html").as_uri())
    view.wait_for_selector("#participation .main-svg")
    assert HOSTILE in view.locator("#participation .yaxislayer-above").first.text_content()
