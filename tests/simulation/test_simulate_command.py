"""``lightning-fed simulate`` with real processes: its results, a site's crash, Ctrl-C and what follows."""

import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import psutil
import pytest
import tiny_modules
import torch
from tiny_modules import Numbers, Tiny

from lightning_fed.errors import ConfigError
from lightning_fed.simulation.config import read_config
from lightning_fed.simulation.study import check

pytestmark = [pytest.mark.slow, pytest.mark.chaos, pytest.mark.timeout(600)]


@pytest.fixture
def simulate(tmp_path, environment):
    """Start ``lightning-fed simulate``; whatever a failed test leaves running is ended."""
    started = []

    def start(config, *arguments, **variables):
        command = [sys.executable, "-m", "lightning_fed.cli.main", "simulate", "--config", config, *arguments]
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            env={**environment, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # A shell starts its background jobs deaf to Ctrl-C, and what they start inherits that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)


def output_of(process):
    output, _ = process.communicate()
    return process.returncode, output


def wait_for(process, text):
    """Read a running process's lines up to the first one with a text in it."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return
    raise AssertionError(f"{text!r} did not appear in:\n{''.join(lines)}")


def events_of(folder, kind):
    lines = (folder / "run" / "store" / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def test_modules_of_the_other_package_train_as_well(simulate, tiny, tmp_path):
    source = Path(tiny_modules.__file__).read_text()
    assert "from lightning.pytorch import" in source
    (tmp_path / "pl_modules.py").write_text(
        source.replace("from lightning.pytorch import", "from pytorch_lightning import")
    )
    config = tiny(
        model={"class_path": "pl_modules.Tiny"},
        data={"class_path": "pl_modules.Numbers", "init_args": {"site": "{site}"}},
        baselines={"metric": "test_loss", "pooled": {"class_path": "pl_modules.Numbers"}},
    )
    code, output = output_of(simulate(config))
    assert code == 0, output
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [sorted(row["participants"]) for row in results["rounds"]] == [["north", "south"]] * 2
    assert None not in results["baselines"].values()


@pytest.mark.parametrize(
    ("section", "lacking"),
    [
        ("model", "Untested (model) has no test_step"),
        ("data", "NoTestData (data) has no test_dataloader"),
        ("plan", "plan.personal = ['layer.bias'] keeps tensors of it at the sites"),
    ],
)
def test_baselines_that_cannot_be_tested_are_refused_before_anything_trains(simulate, tiny, tmp_path, section, lacking):
    (tmp_path / "untested.py").write_text(
        "from lightning.pytorch import LightningDataModule, LightningModule\n"
        "from tiny_modules import Numbers, Tiny\n"
        "class Untested(Tiny):\n    test_step = LightningModule.test_step\n"
        "class NoTestData(Numbers):\n    test_dataloader = LightningDataModule.test_dataloader\n"
    )
    sections = {"model": {"class_path": "untested.Untested"}} if section == "model" else {}
    pooled = "untested.NoTestData" if section == "data" else "tiny_modules.Numbers"
    if section == "plan":
        sections = {"plan": {"rounds": 2, "personal": ["layer.bias"]}}
    code, output = output_of(
        simulate(tiny(**sections, baselines={"metric": "test_loss", "pooled": {"class_path": pooled}}))
    )
    assert code == 1
    assert lacking in output
    assert not (tmp_path / "run").exists()


def test_two_sites_train_together_and_are_compared_with_training_alone(simulate, tiny, tmp_path):
    config = tiny(baselines={"metric": "test_loss", "pooled": {"class_path": "tiny_modules.Numbers"}})
    code, output = output_of(simulate(config))
    assert code == 0, output
    # A metric that the model does not log is found out by the test that needs no training.
    assert output.index("federated: tests") < output.index("site-north: trains")

    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [row["number"] for row in results["rounds"]] == [1, 2]
    for row in results["rounds"]:
        assert sorted(row["participants"]) == ["north", "south"]
        assert row["metrics"]["val_loss"] > 0
        # Five float32 values go up from each of two sites, and down to each.
        assert min(row["bytes_up"], row["bytes_down"]) >= 2 * 5 * 4
        assert f"{row['metrics']['val_loss']:.4f}" in output

    model = Tiny.load_from_checkpoint(tmp_path / "run" / "store" / "models" / "000002.ckpt")
    x, y = Numbers().data.tensors
    with torch.no_grad():
        expected = torch.nn.functional.mse_loss(model.layer(x), y).item()
    baselines = results["baselines"]
    assert baselines["federated"] == pytest.approx(expected, rel=1e-5)
    assert baselines["local"].keys() == {"north", "south"}
    assert baselines["local_mean"] == pytest.approx(sum(baselines["local"].values()) / 2)
    # Each site's data hide half of what the pooled test asks for.
    assert baselines["pooled"] < baselines["federated"] < baselines["local_mean"]
    for value in (*baselines["local"].values(), *(baselines[name] for name in ("local_mean", "federated", "pooled"))):
        assert f"{value:.4f}" in output

    again, output = output_of(simulate(config))
    assert again == 0
    assert "is complete (2 rounds), so nothing is trained. To begin anew, give another folder (--run" in " ".join(
        output.split()
    )
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == results
    assert len(events_of(tmp_path, "started")) == 1

    other, output = output_of(simulate(config, "--plan.rounds", "3"))
    assert other == 1
    assert "the folder run holds a run with another plan.rounds: it was 2 and is 3" in output


def test_under_a_plan_with_privacy_it_is_said_that_the_baselines_train_without(simulate, tiny, tmp_path):
    config = tiny(
        # The federated model has other layers than the module, and is tested with them.
        model={"class_path": "tiny_modules.Normalised"},
        plan={"rounds": 1, "gather_s": 60, "privacy": {"example": {"noise_multiplier": 1.0, "replace_layers": True}}},
        baselines={"metric": "test_loss", "pooled": {"class_path": "tiny_modules.Numbers"}},
    )
    code, output = output_of(simulate(config))
    assert code == 0, output
    assert "each site alone and all data in one place train WITHOUT it" in output
    assert "north alone, no privacy" in output
    assert "all sites, federated, with privacy" in output
    assert json.loads((tmp_path / "run" / "results.json").read_text())["baselines"]["private"] is True
    # As it says: only the sites of the federation had a ledger to write to.
    ledgers = sorted(path.relative_to(tmp_path / "run") for path in (tmp_path / "run").rglob("ledger*.jsonl"))
    assert {path.parent.name for path in ledgers} == {"north", "south"}


def test_a_sites_crash_is_shown_with_its_traceback_and_the_others_finish(simulate, tiny, tmp_path):
    config = tiny(
        sites=["north", "south", "west"],
        model={"class_path": "tiny_modules.Crashing"},
        plan={"rounds": 3, "quorum": 2, "gather_s": 120, "round_deadline_s": 120},
    )
    code, output = output_of(simulate(config, TINY_CRASHES="west"))
    assert code == 1
    assert "west ended with exit code 1" in output
    assert "Traceback (most recent call last)" in output
    assert "RuntimeError: the disk of this site is on fire" in output
    finished = events_of(tmp_path, "round_finished")
    assert [event["round"] for event in finished] == [1, 2, 3]
    assert sorted(finished[0]["participants"]) == ["north", "south", "west"]
    assert sorted(finished[-1]["participants"]) == ["north", "south"]


def test_a_crash_that_leaves_too_few_sites_is_shown_too(simulate, tiny, tmp_path):
    config = tiny(model={"class_path": "tiny_modules.Crashing"}, plan={"rounds": 3, "quorum": 2})
    code, output = output_of(simulate(config, TINY_CRASHES="south"))
    assert code == 1
    assert "RuntimeError: the disk of this site is on fire" in output
    assert [event["round"] for event in events_of(tmp_path, "round_finished")] == [1]


def test_the_federation_is_stopped_when_too_many_sites_were_killed(simulate, tiny):
    process = simulate(tiny(plan={"rounds": 1000, "quorum": 2}))
    wait_for(process, "round 1 done")
    (south,) = [c for c in psutil.Process(process.pid).children() if "run/configs/south.yaml" in c.cmdline()]
    south.kill()
    code, output = output_of(process)
    assert code == 1
    assert "south was ended by SIGKILL" in output
    assert "1 of 2 sites are left and plan.quorum is 2: the federation is stopped" in output


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_site_says_so_and_nothing_outlives_a_run_that_is_killed(simulate, tiny, tmp_path, signum):
    process = simulate(tiny(plan={"rounds": 1000, "quorum": 1, "local": {"epochs": 20}, "gather_s": 120}))
    wait_for(process, "round 1 done")
    children = psutil.Process(process.pid).children(recursive=True)
    (south,) = [child for child in children if "run/configs/south.yaml" in child.cmdline()]
    south.send_signal(signum)
    wait_for(process, "south ended with exit code 130")
    assert [(event["site"], event["reason"]) for event in events_of(tmp_path, "site_left")] == [
        ("south", "interrupted")
    ]
    assert "Traceback" not in (tmp_path / "run" / "logs" / "south.log").read_text()
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interruption_ends_every_process_and_the_same_command_goes_on(simulate, tiny, tmp_path, signum):
    # Rounds long enough to be interrupted in the middle of the run.
    config = tiny(plan={"rounds": 20, "local": {"epochs": 60}, "gather_s": 120})
    process = simulate(config)
    wait_for(process, "round 2 done")
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) == 3
    process.send_signal(signum)
    code, output = output_of(process)
    assert code == 130, output
    assert "Traceback" not in output
    assert [child for child in children if child.is_running()] == []
    if signum != signal.SIGINT:
        return

    keys = {path.name: path.read_bytes() for path in (tmp_path / "run" / "keys").glob("*.key")}
    code, output = output_of(simulate(config))
    assert code == 0, output
    first, second = events_of(tmp_path, "started")
    assert first["run"] == second["run"]
    assert second["version"] >= 2
    finished = Counter(event["round"] for event in events_of(tmp_path, "round_finished"))
    assert max(finished.values()) == 1
    assert set(range(1, 21)) - finished.keys() <= {second["version"]}
    assert {path.name: path.read_bytes() for path in (tmp_path / "run" / "keys").glob("*.key")} == keys


@pytest.mark.parametrize(
    ("section", "named"),
    [
        ({"trainer": {"acelerator": "cpu"}}, "acelerator'. Did you mean 'accelerator'"),
        ({"model": {"class_path": "tiny_modules.Tiny", "init_args": {"lrr": 1}}}, "Did you mean 'lr'"),
        ({"model": {"class_path": "tiny_modules.Tyni"}}, "Tyni"),
        ({"data": {"class_path": "tiny_modules.Numbers", "init_args": {"sites": "a"}}}, "sites"),
        ({"overrides": {"south": {"trainer": {"max_epoch": 1}}}}, "Did you mean 'max_epochs'"),
        ({"baselines": {"metric": "m", "pooled": {"class_path": "tiny_modules.Nombers"}}}, "Nombers"),
    ],
)
def test_a_misspelt_key_of_the_sites_is_named_before_anything_starts(tiny, section, named):
    with pytest.raises(ConfigError, match=named):
        check(read_config(["--config", str(tiny(**section))]))


@pytest.mark.parametrize(
    ("section", "named"),
    [
        ({"sed": 3}, "'sed' is not accepted. Did you mean 'seed'?"),
        ({"plan": {"rouns": 3}}, "'rouns'. Did you mean 'rounds'?"),
        ({"overrides": {"south": {"modl": {"a": 1}}}}, "Did you mean 'model'?"),
        ({"baselines": {"metrik": "m", "pooled": {}}}, "Did you mean 'metric'?"),
        ({"sites": "north"}, "sites"),
    ],
)
def test_a_misspelt_key_of_the_simulation_is_named(tiny, capsys, section, named):
    with pytest.raises(SystemExit):
        read_config(["--config", str(tiny(**section))])
    error = capsys.readouterr().err
    assert named in error[error.index("error:") :]


@pytest.mark.parametrize(
    ("option", "nearest"), [("--trainr", "--trainer"), ("--plan.local.epocs", "--plan.local.epochs")]
)
def test_a_misspelt_option_is_answered_with_the_nearest_one(tiny, capsys, option, nearest):
    with pytest.raises(SystemExit):
        read_config(["--config", str(tiny()), option, "3"])
    assert f"unrecognized arguments: {option} 3. Did you mean '{nearest}'?" in capsys.readouterr().err


def test_overrides_of_a_misspelt_site_name_the_nearest_one(tiny):
    with pytest.raises(ConfigError, match="Did you mean 'south'"):
        read_config(["--config", str(tiny(overrides={"suth": {"trainer": {"max_epochs": 1}}}))])


def test_a_good_config_passes_the_check(tiny):
    check(read_config(["--config", str(tiny())]))
