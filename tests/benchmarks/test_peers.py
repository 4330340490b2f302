"""`make bench-peers` without the peers: our own drivers, what is seen of processes, and the table."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

PEERS = Path(__file__).parents[2] / "benchmarks/peers"
# Alone in a process, as everywhere: what it looks at, and ends, is every child of the process that it runs in.
LOOK = r"""
import json, sys
from pathlib import Path
from process_tree import NotMeasuredError, Roles, run
try:
    roles = Roles(site=r"site-\d$", coordinator="hub$")
    seen, printed = run(sys.argv[3:], {}, Path(sys.argv[1]), roles, float(sys.argv[2]))
    start, end = seen.processor[0][0], seen.processor[-1][0]
    used = {role: seen.processor_between(start, end, role) for role in ("coordinator", "site")}
    print(json.dumps({"used": used, "peak": seen.peak_mb, "printed": printed}))
except NotMeasuredError as error:
    print(json.dumps({"error": str(error)}))
"""
# A hub that works for a processor second beside two sites, of which one holds 200 MB; all are still there when it has.
PARENT = """
import subprocess, sys, time
children = [subprocess.Popen([sys.executable, "-c", sys.argv[1], name]) for name in ("hub", "site-0", "site-1")]
print(max(child.wait() for child in children))
"""
CHILD = """
import sys, time
name = sys.argv[1]
held = b"x" * (200_000_000 if name == "site-1" else 1)
while name == "hub" and time.process_time() < 1:
    pass
time.sleep(1)
"""


def compare(*arguments, timeout=240):
    return subprocess.run(
        [sys.executable, PEERS / "compare.py", *arguments], capture_output=True, text=True, timeout=timeout
    )


def looked_at(folder, limit_s, *command):
    asked = [sys.executable, "-c", LOOK, folder, str(limit_s), sys.executable, *command]
    environment = os.environ | {"PYTHONPATH": str(PEERS)}
    answer = subprocess.run(asked, capture_output=True, text=True, env=environment, timeout=240, check=True)
    return json.loads(answer.stdout)


@pytest.mark.slow
def test_our_own_row_of_processes_has_every_figure(tmp_path):
    out = tmp_path / "rows.json"
    setting = ("--sites", "2", "--params", "10000", "--in-process", "--rounds", "20")
    ran = compare("--systems", "ours", *setting, "--json", str(out))
    assert ran.returncode == 0, ran.stderr
    (row,) = json.loads(out.read_text())
    assert (row["why_not"], row["rounds"]) == (None, 20)
    assert row["seconds"] > 0
    assert min(row["coordinator_mb"], row["site_mb"]) > 50
    assert min(row["coordinator_cpu_s"], row["sites_cpu_s"]) > 0
    # The model down and an update of 4 bytes a value up, and less than half as much again beside.
    assert row["bytes_per_site"] > 2 * 40_000
    assert row["bytes_per_site"] < 3 * 40_000 or "beside what else" in ran.stdout
    assert "lightning_fed: a process each" in ran.stdout


@pytest.mark.slow
def test_our_own_row_of_one_process_says_what_one_process_has(tmp_path):
    out = tmp_path / "rows.json"
    setting = ("--sites", "--in-process", "3", "--cohort", "2", "--rounds", "5")
    ran = compare("--systems", "ours-in-process", *setting, "--json", str(out))
    assert ran.returncode == 0, ran.stderr
    (row,) = json.loads(out.read_text())
    assert (row["why_not"], row["bytes_per_site"], row["site_mb"], row["sites_cpu_s"]) == (None,) * 4
    assert row["seconds"] > 0
    assert row["coordinator_mb"] > 50
    assert "small CNN, 2" in ran.stdout


def test_what_is_not_measured_is_in_the_table_with_the_reason(tmp_path):
    asked = ("--sites", "2", "--params", "10000", "--in-process", "--environments", str(tmp_path))
    ran = compare("--systems", "ours", "pfl", "--limit-s", "0.5", *asked)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("not measured") == 2
    assert "lightning_fed: not done in 0 s" in ran.stdout
    assert f"pfl-research: there is no {tmp_path}/pfl/bin/python: run make bench-peers" in ran.stdout


def test_processor_seconds_and_memory_belong_to_the_process_that_used_them(tmp_path):
    seen = looked_at(tmp_path, 200, "-c", PARENT, CHILD)
    assert seen["printed"].strip() == "0"
    assert seen["used"]["coordinator"] > 0.8
    assert seen["used"]["site"] < seen["used"]["coordinator"]
    # The one site that has most, not both.
    assert 200 < seen["peak"]["site"] < 300
    assert seen["peak"]["coordinator"] < 100


def test_nothing_is_left_of_a_run_that_reaches_its_limit(tmp_path):
    # Its child is no child of it when it ends, and does not end when asked.
    orphan = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    parent = (
        "import os, subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {orphan!r}], start_new_session=True)\n"
        "open('child', 'w').write(str(child.pid))\n"
        "time.sleep(600)\n"
    )
    seen = looked_at(tmp_path, 3, "-c", parent)
    assert seen == {"error": "not done in 3 s"}
    assert not psutil.pid_exists(int((tmp_path / "child").read_text()))


def test_a_run_that_fails_says_its_last_line(tmp_path):
    seen = looked_at(tmp_path, 200, "-c", "import sys; sys.exit('no such site')")
    assert seen == {"error": "failed with 1: no such site"}
