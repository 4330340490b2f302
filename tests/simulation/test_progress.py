"""From event lines to rows of a table."""

import io
import json

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from lightning_fed.coordinator.events import EventLog
from lightning_fed.simulation.progress import EventTail, Progress, Round, line_of
from lightning_fed.simulation.results import Comparison
from lightning_fed.simulation.tables import comparison_table, live_view, rounds_table, row_of

EVENTS = [
    {"event": "started", "run": "ab12", "plan_hash": "00", "version": 0, "rounds": 2},
    {"event": "site_joined", "site": "north"},
    {"event": "site_joined", "site": "south"},
    {"event": "round_started", "round": 1, "attempt": 1, "cohort": ["north", "south"]},
    {"event": "update_accepted", "round": 1, "site": "north"},
    {"event": "update_refused", "round": 1, "site": "south", "reason": "tensor a holds a NaN"},
    {"event": "round_failed", "round": 1, "attempt": 1, "reason": "1 of 2 updates"},
    {"event": "round_started", "round": 1, "attempt": 2, "cohort": ["north", "south"]},
    {
        "event": "round_finished",
        "round": 1,
        "participants": ["north", "south"],
        "seconds": 1.25,
        "bytes_up": 2_000_000,
        "bytes_down": 500,
    },
    {"event": "metrics", "version": 1, "sites": 2, "metrics": {"val_loss": 0.51234}},
    {"event": "site_lost", "site": "south"},
]


def progress_after(events) -> Progress:
    progress = Progress(["north", "south"])
    for event in events:
        progress.take({"time": "2026-01-01T00:00:00.000+00:00", **event})
    return progress


def text_of(renderable) -> str:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(renderable)
    return console.export_text()


def test_events_become_a_row_of_the_rounds_table():
    progress = progress_after(EVENTS)
    assert list(progress.rounds) == [1]
    row = row_of(progress.rounds[1], ["val_loss", "val_auroc"])
    assert row == ["1", "2/2", "1.2", "2.0 MB", "500 bytes", "0.5123", "-"]


def test_a_round_is_of_the_sites_that_the_roster_had_then():
    progress = progress_after([*EVENTS, {"event": "roster_changed", "version": 2, "sites": ["north"]}])
    assert row_of(progress.rounds[1], [])[1] == "2/2"


def test_the_line_of_metrics_says_how_many_sites_had_one_that_some_had_not():
    event = {"event": "metrics", "version": 2, "sites": 3, "metrics": {"val_auroc": 0.75}}
    assert line_of(event) == "global model 2: val_auroc 0.7500"
    event |= {"counts": {"val_auroc": 2, "val_dice": 0}, "not_finite": ["val_auroc", "val_dice"]}
    assert line_of(event) == (
        "global model 2: val_auroc 0.7500, val_auroc is finite at 2 of 3 sites, val_dice is finite at 0 of 3 sites"
    )


def test_the_state_of_each_site_follows_its_events():
    states = [progress_after(EVENTS[: count + 1]).sites for count in range(len(EVENTS))]
    assert states[0] == {"north": "starting", "south": "starting"}
    assert states[3]["south"] == "trains round 1"
    assert states[4]["north"] == "sent its update of round 1"
    assert states[5]["south"] == "its update of round 1 was refused: tensor a holds a NaN"
    assert states[8] == {"north": "has global model 1", "south": "has global model 1"}
    assert states[10] == {"north": "has global model 1", "south": "lost"}


def test_a_site_that_leaves_with_an_error_is_failing_until_the_coordinator_starts_again():
    left = [{"event": "site_left", "site": "north", "reason": "done"}]
    left += [{"event": "site_left", "site": "south", "reason": "failed"}]
    assert progress_after([*EVENTS, *left]).failing == {"south"}
    assert progress_after([*EVENTS, *left, EVENTS[0]]).failing == set()


def test_a_site_whose_own_trainer_has_ended_is_shown_as_such():
    left = {"event": "site_left", "site": "north", "reason": "stopped"}
    assert "its own fit has ended" in progress_after([*EVENTS, left]).sites["north"]


def test_metrics_that_come_before_their_round_is_done_are_kept():
    assert progress_after([EVENTS[9], EVENTS[8]]).rounds[1].metrics == {"val_loss": 0.51234}


def test_a_run_that_was_resumed_is_unfinished_until_it_finishes_again():
    events = [*EVENTS, {"event": "stopped", "reason": "quorum"}]
    assert progress_after(events).status == "stopped: quorum"
    resumed = progress_after([*events, {**EVENTS[0], "version": 1}])
    assert resumed.status == "waiting for sites"
    assert not resumed.finished
    assert list(resumed.rounds) == [1]
    assert resumed.sites == {"north": "starting", "south": "starting"}
    assert progress_after([*events, EVENTS[0], {"event": "finished", "version": 2}]).finished


def test_an_event_of_a_kind_or_site_nobody_knows_changes_nothing():
    progress = progress_after(
        [*EVENTS, {"event": "moon_phase", "site": "north"}, {"event": "site_joined", "site": "x"}]
    )
    assert progress.sites == progress_after(EVENTS).sites


def test_each_event_that_says_something_has_a_line():
    lines = [line_of(event) for event in EVENTS]
    assert lines[0] == "run ab12: global model 0 of 2 rounds"
    assert lines[4] is None
    assert lines[7] == "round 1 begins, attempt 2: north, south"
    assert lines[8] == "round 1 done by north, south in 1.2 s, 2.0 MB up, 500 bytes down"
    assert lines[9] == "global model 1: val_loss 0.5123"
    assert [line is None for line in lines].count(True) == 1


def test_the_line_of_a_newer_roster_says_who_has_gone_and_whose_values_have_not():
    event = {"event": "roster_changed", "version": 2, "sites": ["north"], "removed": ["south"]}
    assert line_of(event) == "version 2 of the roster holds now: removed south"
    assert "the last values of south go on to move the model" in line_of({**event, "still_counted": ["south"]})


def test_tail_reads_what_the_coordinators_log_writes(tmp_path):
    tail = EventTail(tmp_path / "events.jsonl")
    assert tail.new() == []
    log = EventLog(tmp_path)
    assert [event["event"] for event in tail.new()] == ["chain_started"]
    log.write("site_joined", {"site": "north"})
    assert [(event["event"], event["site"]) for event in tail.new()] == [("site_joined", "north")]
    assert tail.new() == []
    log.write("finished", {"version": 2})
    log.close()
    assert [event["event"] for event in tail.new()] == ["finished"]


@given(st.lists(st.integers(0, 10**6), max_size=8), st.data())
def test_tail_gives_every_event_once_however_the_file_grows(tmp_path_factory, numbers, data):
    path = tmp_path_factory.mktemp("tail") / "events.jsonl"
    content = b"".join(json.dumps({"event": "e", "n": number}).encode() + b"\n" for number in numbers)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=5)))
    tail, seen = EventTail(path), []
    for start, end in zip([0, *cuts], [*cuts, len(content)], strict=True):
        with path.open("ab") as file:
            file.write(content[start:end])
        seen += [event["n"] for event in tail.new()]
    assert seen == numbers


def test_a_line_that_a_crash_cut_short_is_passed_over(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"event": "started", "rou\n{"event": "finished"}\n')
    assert EventTail(path).new() == [{"event": "finished"}]


def test_tables_show_rounds_sites_and_the_comparison():
    live = text_of(live_view(progress_after(EVENTS), ["val_loss"]))
    assert "0.5123" in live
    assert "lost" in live
    comparison = text_of(comparison_table(Comparison("test_auroc", {"north": 0.7, "south": 0.8}, 0.9, 0.91)))
    for value in ("0.7000", "0.8000", "0.7500", "0.9000", "0.9100"):
        assert value in comparison
    assert "-" in text_of(rounds_table([Round(1)], []))


def test_under_a_plan_with_privacy_every_row_of_the_comparison_says_which_training_kept_it():
    values = ("test_auroc", {"north": 0.7, "south": 0.8}, 0.9, 0.91)
    lines = text_of(comparison_table(Comparison(*values, private=True))).splitlines()
    for row in ("north alone", "south alone", "one site alone, mean", "all data in one place"):
        assert any(f"{row}, no privacy" in line for line in lines)
    assert any("all sites, federated, with privacy" in line for line in lines)
    assert "privacy" not in text_of(comparison_table(Comparison(*values)))


def test_there_is_no_mean_over_sites_of_which_one_failed():
    comparison = Comparison("test_auroc", {"north": 0.7, "south": None}, 0.9, None)
    assert comparison.local_mean is None
    assert text_of(comparison_table(comparison)).count("failed") == 3


def test_the_line_of_a_version_says_how_late_its_updates_came():
    finished = {"event": "round_finished", "round": 7, "participants": ["north", "south", "west"], "seconds": 1.0}
    line = line_of({**finished, "staleness": {"north": 0, "south": 1, "west": 4}})
    assert line.startswith("round 7 done by north, south (1 version late), west (4 versions late) in 1.0 s")
    assert line_of({**finished, "staleness": "?"}).startswith("round 7 done by north, south, west in")
