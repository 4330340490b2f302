"""The logs of a real federation, whose coordinator was killed in the middle, and what is found once one was changed."""

import io
import json
import random
import shutil
from collections import Counter
from contextlib import redirect_stdout

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from modules import Plain, train
from processes import Federation

from lightning_fed.audit.checks import check, heads_in
from lightning_fed.audit.lines import STARTED, Name, Writer
from lightning_fed.audit.log import AuditLog
from lightning_fed.cli import audit
from lightning_fed.plan import ExamplePrivacy, FederationPlan, Masking, Privacy
from lightning_fed.privacy.history import read_history
from lightning_fed.transport.identity import load_identity, new_identity

ROUNDS = 4
SITE = "site-1"


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A masked and private federation; its coordinator dies after a round, with half a line on the disk."""
    plan = FederationPlan(
        rounds=ROUNDS,
        quorum=3,
        gather_s=30.0,
        metrics=["val_loss"],
        masking=Masking("required", bits=32, bound=256.0),
        privacy=Privacy(example=ExamplePrivacy(noise_multiplier=0.8, delta=1e-2)),
    )
    here = Federation(tmp_path_factory.mktemp("audit"), plan, ["site-0", SITE, "site-2"])
    coordinator = here.coordinate(Plain)
    sites = [here.site(name, train, Plain, seed, 24, 8, None, 0.05) for seed, name in enumerate(here.sites)]
    here.wait_for("round_finished")
    coordinator.kill()
    with (here.store / "events.jsonl").open("ab") as file:
        file.write(b'{"time": "2026-01-01T00:00:00.000+00:00", "event": "round_fin')
    coordinator = here.coordinate(Plain)
    for site in sites:
        site.result()
    assert coordinator.result() == "finished"
    return here


@pytest.fixture
def here(ran, tmp_path):
    """A copy of what it has left, to be changed."""
    shutil.copytree(ran.folder, tmp_path / "here")
    copy = object.__new__(Federation)
    copy.__dict__.update(ran.__dict__, folder=tmp_path / "here", store=tmp_path / "here" / "store")
    copy.keys = copy.folder / "keys"
    return copy


def events_file(here):
    return here.store / "events.jsonl"


def sent_file(here, site=SITE):
    return here.folder / site / "ledger.jsonl.sent"


def verify(*paths, roster=None):
    """What is said, and the exit code."""
    output = io.StringIO()
    options = ["--roster", str(roster)] if roster else []
    with redirect_stdout(output):
        code = audit.run(["audit", "verify", *map(str, paths), *options])
    return output.getvalue(), code


def lines_of(path):
    return path.read_bytes().splitlines(keepends=True)


def entries_of(path):
    return [json.loads(line) for line in lines_of(path)]


def write_anew(path, writer, entries):
    """All lines once more, in a chain of their own that holds, as the log's own writer can make it."""
    path.unlink()
    log = AuditLog(path, writer)
    for entry in entries:
        if entry["event"] != STARTED:
            log.append(entry["event"], {key: v for key, v in entry.items() if key not in ("time", "event", "chain")})
    log.close()


def coordinator_of(here, run=None):
    return Writer(Name("coordinator", run or here.events("started")[0]["run"]), secret(here, "coordinator"))


def secret(here, name):
    return load_identity(here.keys / f"{name}.key").signing_key


def test_the_logs_of_a_run_with_a_kill_hold_and_fit_each_other(ran):
    said, code = verify(ran.store, *(sent_file(ran, site) for site in ran.sites), roster=ran.keys / "roster.yaml")
    assert code == 0, said
    lines = len(lines_of(events_file(ran)))
    assert f"all {lines} lines hold" in said
    # One chain, through the kill; of each model there was a head for every site, and the last says that it is over.
    chains = [entry for entry in entries_of(events_file(ran)) if entry["event"] == STARTED]
    assert len(chains) == 1
    for site in ran.sites:
        held = heads_in(sent_file(ran, site).read_bytes())
        assert len(held) >= ROUNDS + 1
        # The last one holds for all that was said of the last model, too.
        last = [number for number, e in enumerate(entries_of(events_file(ran)), 1) if e["event"] == "metrics"]
        assert held[-1].head.line > last[-1]
        assert f"that {site} was given" in said
        assert len([one for one in heads_in(events_file(ran).read_bytes()) if one.log.of == site]) >= ROUNDS


def test_a_site_s_log_has_all_that_left_it_and_nothing_of_what_it_said(ran):
    entries = entries_of(sent_file(ran))
    sent = [entry for entry in entries if entry["event"] == "sent"]
    kinds = Counter(entry["message"] for entry in sent)
    assert {"Hello", "Join", "Fetch", "LedgerHead", "Offer", "Chunk", "Masking", "Leave"} <= kinds.keys()
    assert kinds["Hello"] == 2  # once to each coordinator
    steps = {entry["step"] for entry in sent if entry["message"] == "Masking"}
    assert steps == {"Advertise", "Shares", "Masked", "Signed", "Reveal"}
    whole = [entry for entry in sent if entry["message"] == "Chunk" and entry["whole"]]
    assert {entry["round"] for entry in whole} == {*range(1, ROUNDS + 1)}
    offers = [entry for entry in sent if entry["message"] == "Offer"]
    assert {entry["offered"] for entry in offers} == {entry["bytes"] for entry in whole}
    ledger = read_history(ran.folder / SITE / "ledger.jsonl").entries
    assert offers[-1]["epsilon"]["example"] == pytest.approx(ledger[-1].epsilon)
    # Kinds, rounds, sizes and hashes: no other field, and no number that training gave.
    named = {"time", "event", "chain", "message", "step", "purpose", "round", "attempt", "stream", "offered", "bytes"}
    assert set().union(*sent) - named == {"sha256", "epsilon", "chunks", "whole"}


def test_the_officer_s_page_shows_each_line_and_what_it_comes_to(ran):
    output = io.StringIO()
    with redirect_stdout(output):
        assert audit.run(["audit", "show", str(ran.folder / SITE)]) == 0
    said = output.getvalue()
    lines = len(lines_of(sent_file(ran)))
    assert f"all {lines} lines hold" in said
    assert all(f"{number:>6}  " in said for number in range(1, lines + 1))
    assert "Masking, Reveal (update)" in said
    assert "1 Chunk of update" in said
    assert "left the site: " in said


def test_a_changed_byte_is_found_in_its_line_wherever_it_is(here):
    content = events_file(here).read_bytes()
    draw = random.Random(3)
    for place in [draw.randrange(len(content) - 1) for _ in range(150)]:
        changed = bytearray(content)
        changed[place] ^= 1 << draw.randrange(8)
        # A line break is the end of the line before it.
        assert check(bytes(changed)).fault.line == content[:place].count(b"\n") + 1, place


def test_a_changed_byte_is_named(here):
    content = events_file(here).read_bytes()
    events_file(here).write_bytes(content.replace(b'"round_finished","round":2', b'"round_finished","round":3'))
    line = content[: content.index(b'"round_finished","round":2')].count(b"\n") + 1
    said, code = verify(here.store, sent_file(here))
    assert code == 1
    assert f"events.jsonl: line {line} does not hold: it was changed" in said


def test_a_dropped_line_is_found_at_its_place_and_the_last_one_by_the_heads(here):
    lines = lines_of(events_file(here))
    for gone in range(len(lines) - 1):
        assert check(b"".join(lines[:gone] + lines[gone + 1 :])).fault.line == gone + 1
    assert check(b"".join(lines[:-1])).fault is None


def test_swapped_lines_are_found_at_the_first_of_them(here):
    lines = lines_of(events_file(here))
    for first in range(len(lines) - 1):
        swapped = [*lines[:first], lines[first + 1], lines[first], *lines[first + 2 :]]
        assert check(b"".join(swapped)).fault.line == first + 1


def test_a_tail_that_was_cut_off_is_found_by_a_site_s_heads_and_not_without(here):
    lines = lines_of(events_file(here))
    kept = next(number for number, entry in enumerate(entries_of(events_file(here)), 1) if entry["event"] == "finished")
    events_file(here).write_bytes(b"".join(lines[: kept - 1]))
    said, code = verify(here.store)
    assert code == 0
    assert "only the other side's log can show" in said
    said, code = verify(here.store, sent_file(here))
    assert code == 1
    assert f"events.jsonl: line {kept} does not hold: it is missing: the end was cut off" in said


def test_a_forged_signature_is_found(here):
    lines = lines_of(events_file(here))
    entry = json.loads(lines[9])
    forged = Ed25519PrivateKey.generate().sign(b"whatever").hex()
    lines[9] = lines[9].replace(entry["chain"]["signature"].encode(), forged.encode())
    events_file(here).write_bytes(b"".join(lines))
    said, code = verify(here.store)
    assert code == 1
    assert "line 10 does not hold" in said


def test_a_log_that_somebody_else_has_written_is_found_by_the_roster_and_by_the_heads(here):
    writer = Writer(coordinator_of(here).log, new_identity("coordinator").signing_key)
    write_anew(events_file(here), writer, entries_of(events_file(here)))
    assert verify(here.store)[1] == 0
    said, code = verify(here.store, roster=here.keys / "roster.yaml")
    assert code == 1
    assert "line 1 does not hold: it begins a chain with the key" in said
    assert verify(here.store, sent_file(here))[1] == 1


def without_refusals(entries):
    kept = [entry for entry in entries if not (entry["event"] == "update_accepted" and entry["round"] == 2)]
    assert len(kept) < len(entries)
    return kept


def test_a_log_that_the_coordinator_has_written_anew_is_found_by_a_site_s_heads(here):
    first = next(i for i, e in enumerate(entries_of(events_file(here)), 1) if e.get("round") == 2)
    held = [one.head.line for one in heads_in(sent_file(here).read_bytes())]
    write_anew(events_file(here), coordinator_of(here), without_refusals(entries_of(events_file(here))))
    assert verify(here.store, roster=here.keys / "roster.yaml")[1] == 0
    said, code = verify(here.store, sent_file(here))
    assert code == 1
    # Every salt is another one, so already the first head does not fit.
    assert f"line {held[0]} does not hold: it is not the one that was there before" in said
    assert held[0] < first


def test_a_log_that_is_written_anew_from_a_line_on_is_found_from_the_first_head_behind_it(here):
    lines, entries = lines_of(events_file(here)), entries_of(events_file(here))
    changed = next(number for number, e in enumerate(entries, 1) if e["event"] == "update_accepted" and e["round"] == 3)
    events_file(here).write_bytes(b"".join(lines[: changed - 1]))
    log = AuditLog(events_file(here), coordinator_of(here))
    for entry in entries[changed:]:
        log.append(entry["event"], {k: v for k, v in entry.items() if k not in ("time", "event", "chain")})
    log.close()
    assert verify(here.store)[1] == 0
    held = [one.head.line for one in heads_in(sent_file(here).read_bytes())]
    before, behind = max(line for line in held if line < changed), min(line for line in held if line >= changed)
    said, code = verify(here.store, sent_file(here))
    assert code == 1
    assert f"line {behind} does not hold" in said
    assert f"lines {before + 1} to {behind} were rewritten" in said


def test_a_log_that_is_passed_off_as_another_run_s_has_nobody_who_speaks_for_it(here):
    write_anew(events_file(here), coordinator_of(here, run="another"), entries_of(events_file(here)))
    said, code = verify(here.store, sent_file(here))
    assert code == 1
    assert "holds no head of it" in said


def test_a_site_that_writes_its_own_log_anew_is_found_by_the_coordinator_s(here):
    entries = [entry for entry in entries_of(sent_file(here)) if entry.get("message") != "Withdraw"]
    write_anew(sent_file(here), Writer(Name("site", SITE), secret(here, SITE)), entries)
    assert verify(sent_file(here))[1] == 0
    said, code = verify(here.store, sent_file(here))
    assert code == 1
    assert f"{sent_file(here).name}: line " in said
    assert "which the coordinator was given" in said


def test_a_site_cannot_hold_what_the_coordinator_has_not_signed(here):
    entries = entries_of(sent_file(here))
    (position, head), *_ = [(i, e) for i, e in enumerate(entries, 1) if e["event"] == "log_head"]
    head["digest"] = "ab" * 32
    write_anew(sent_file(here), Writer(Name("site", SITE), secret(here, SITE)), entries)
    said, code = verify(here.store, sent_file(here))
    assert code == 1
    assert f"{sent_file(here).name}: line {position} does not hold: it holds a head" in said
    assert "has not signed" in said
