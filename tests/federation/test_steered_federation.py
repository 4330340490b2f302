"""An operator steers a federation of real processes by ``lightning-fed admin``."""

import os
import pwd
import stat

import pytest
import torch
from modules import Plain, train

from lightning_fed.cli.main import main
from lightning_fed.plan import Masking

MASKS = {"required": Masking(bits=32, bound=256.0), "off": Masking("off")}


def user() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name


def admin(here, *command: object) -> int:
    return main(["admin", str(here.store), *map(str, command)])


def started(here, names, slow_s=0.1):
    return [here.site(name, train, Plain, here.sites.index(name), 24, 8, None, slow_s) for name in names]


@pytest.mark.slow
@pytest.mark.parametrize("mode", MASKS)
def test_a_pause_outlives_the_coordinator_and_an_end_that_was_asked_for_is_one_for_all(federation, capsys, mode):
    here = federation(sites=3, rounds=100, masking=MASKS[mode])
    coordinator = here.coordinate(Plain)
    sites = started(here, here.sites)
    here.wait_for("round_started", round=2)
    assert admin(here, "pause") == 0
    assert "Sites stay connected and wait." in capsys.readouterr().out
    paused_in = [event["round"] for event in here.events("round_started")][-1]
    here.wait_for("round_finished", round=paused_in)
    assert main(["status", str(here.store)]) == 0
    assert f"paused by {user()}" in capsys.readouterr().out
    coordinator.kill()
    again = here.coordinate(Plain)
    assert here.wait_for("started", paused_by=user())["version"] == paused_in
    here.wait_for("site_joined", count=6)
    assert admin(here, "resume") == 0
    here.wait_for("round_finished", round=paused_in + 1)
    last = here.wait_for("round_started", round=paused_in + 2)["round"] + 2
    assert admin(here, "stop-after", last) == 0
    results = [site.result() for site in sites]
    assert again.result() == "finished"
    assert [event["round"] for event in here.events("round_finished")] == list(range(1, last + 1))
    assert all(site.process.exitcode == 0 for site in sites)
    assert [event["reason"] for event in here.events("site_left")] == ["done"] * 3
    for result in results:
        assert all(torch.equal(result["state"][name], tensor) for name, tensor in here.model(last).items())
    steered = [(event["action"], event["user"], event["uid"]) for event in here.events("steered")]
    assert steered == [(action, user(), os.geteuid()) for action in ("pause", "resume", "stop-after")]
    # Between the two coordinators nothing was begun.
    kinds = [event["event"] for event in here.events()]
    first, second = (index for index, kind in enumerate(kinds) if kind == "started")
    assert "round_started" not in kinds[second : kinds.index("steered", second)]
    assert kinds[first:second].count("round_started") == paused_in


@pytest.mark.slow
@pytest.mark.parametrize("mode", MASKS)
def test_a_dropped_site_ends_with_the_reason_and_comes_back_when_it_is_admitted(federation, capsys, mode):
    here = federation(sites=4, rounds=100, quorum=3, masking=MASKS[mode])
    coordinator = here.coordinate(Plain)
    sites = started(here, here.sites)
    here.wait_for("round_started", round=2)
    assert admin(here, "drop", "site-1", "--reason", "its scanner is being repaired") == 0
    reason = "SiteDroppedError: the coordinator's operator has taken site 'site-1' out of the federation (its scanner"
    assert reason in sites[1].error()
    assert admin(here, "drop", "site-2") == 1
    assert "a round needs 3 sites, and without 'site-2' 2 would be left" in capsys.readouterr().err
    (refused,) = started(here, ["site-1"])
    assert reason in refused.error()
    without = here.wait_for("site_refused", site="site-1")
    assert without["reason"].endswith("start it again.")
    assert admin(here, "admit", "site-1") == 0
    sites[1] = started(here, ["site-1"])[0]
    here.wait_for("site_joined", count=2, site="site-1")
    newest = here.events("round_started")[-1]["round"]
    joined_for = here.wait_for("round_started", round=newest + 1)
    assert set(joined_for["cohort"]) == set(here.sites)
    assert admin(here, "stop-after", newest + 1) == 0
    for site in sites:
        site.result()
    assert coordinator.result() == "finished"
    finished = here.events("round_finished")
    assert [event["round"] for event in finished] == list(range(1, newest + 2))
    dropped_at, admitted_at = (here.events().index(event) for event in here.events("steered")[:2])
    between = [event for event in here.events()[dropped_at:admitted_at] if event["event"] == "round_started"]
    assert all("site-1" not in event["cohort"] for event in between)


@pytest.mark.slow
def test_the_socket_is_for_the_coordinators_user_alone_also_where_its_path_is_too_long_for_one(federation):
    here = federation(sites=2, rounds=100, name="x" * 120)
    coordinator = here.coordinate(Plain)
    here.wait_for("started")
    assert admin(here, "pause") == 0
    folder = here.store / "admin"
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, folder / "socket")] == [0o700, 0o600]
    coordinator.kill()
    assert (folder / "socket").exists()
    assert admin(here, "resume") == 1
    again = here.coordinate(Plain)
    here.wait_for("started", count=2)
    assert admin(here, "resume") == 0
    again.kill()
