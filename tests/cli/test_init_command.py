"""``lightning-fed init``: what it writes is accepted, trains, and takes the place of nothing."""

import os
import pty
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import msgspec
import pytest
import yaml

from lightning_fed import SitePolicy
from lightning_fed.cli.coordinate import read_config
from lightning_fed.cli.schemas import schemas
from lightning_fed.errors import PlanRefusedError
from lightning_fed.transport.card import load_card
from lightning_fed.transport.identity import load_identity
from lightning_fed.transport.roster import Roster

ROOT = Path(__file__).parents[2]
TEMPLATES = ROOT / "lightning_fed" / "cli" / "templates"

SITE = ("--role", "site", "--folder", "st-marys", "--name", "st-marys")
KEYS = ["keys/st-marys.key", "keys/st-marys.pub"]
SITE_FILES = ["README.md", "site.yaml", "policy.yaml", "policy.schema.json", "model.py", *KEYS]


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.slow
def test_a_simulation_from_an_empty_folder_reaches_its_last_round(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def call(*arguments, cwd):
        command = [sys.executable, "-m", "lightning_fed.cli.main", *arguments]
        run = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240)
        assert run.returncode == 0, run.stdout + run.stderr
        return run.stdout

    call("init", "--role", "simulation", "--folder", "mine", cwd=tmp_path)
    folder = tmp_path / "mine"
    command, snippet = re.findall(r"```\w*\n(.*?)```", (folder / "README.md").read_text(), flags=re.DOTALL)
    assert "round 2 done by east, north, south" in call(*command.split()[1:], cwd=folder)
    subprocess.run([sys.executable, "-c", snippet], cwd=folder, env=environment, check=True, timeout=120)
    call("report", "runs/first/store", "--html", "report.html", cwd=folder)
    page = (folder / "report.html").read_text()
    assert "the header of global model 2 names this run, plan and version" in page
    assert f"torch {version('torch')}" in page
    keys = ("--identity", "runs/first/keys/coordinator.key", "--roster", "runs/first/keys/roster.yaml")
    call("export", "runs/first/store", "--out", "export", *keys, cwd=folder)
    assert "global model 2 of run" in call("export", "--verify", "export", *keys, cwd=folder)


def test_the_written_coordinator_and_sites_are_accepted_and_know_each_other(lightning_fed, tmp_path, monkeypatch):
    assert lightning_fed("init", "--role", "coordinator", "--folder", "hub")[0] == 0
    for name in ("st-marys", "no", "123"):
        assert lightning_fed("init", "--role", "site", "--folder", f"sites/{name}", "--name", name)[0] == 0
        (tmp_path / "sites" / name / "keys" / f"{name}.pub").rename(tmp_path / "hub" / "keys" / f"{name}.pub")
    hub = tmp_path / "hub"
    monkeypatch.chdir(hub)
    command = re.search(r"lightning-fed (keys roster .*)", (hub / "README.md").read_text())[1]
    command = command.replace("north", "st-marys").replace("south", "no").replace("west", "123")
    assert lightning_fed(*command.split())[0] == 0
    monkeypatch.syspath_prepend(str(hub))
    config = read_config(["--config", "coordinator.yaml"])
    assert load_identity(config.identity).name == "coordinator"
    roster = Roster.load(config.roster)
    assert len(roster.sites) == config.plan.quorum
    for name in roster.sites:
        monkeypatch.chdir(tmp_path / "sites" / name)
        code, out, err = lightning_fed("fit", "--config", "site.yaml", "--print_config")
        assert code == 0, err
        assert "SITE_NAME" not in out + Path("README.md").read_text()
        assert re.search(r"^ +site: '?([\w-]+)'?$", out, flags=re.MULTILINE)[1] == name
        roster.check_own(load_identity(f"keys/{name}.key").card, Path("roster.yaml"))
        policy = SitePolicy.load("policy.yaml")
        policy.check_plan(config.plan, name)
        assert policy.members == {}


def test_the_written_policy_is_held_against_a_plan_as_its_readme_says(lightning_fed, tmp_path, monkeypatch):
    for role, folder in (("policy", "policy"), ("site", "north"), ("site", "south"), ("coordinator", "hub")):
        name = () if role == "coordinator" else ("--name", "st-marys" if role == "policy" else folder)
        assert lightning_fed("init", "--role", role, "--folder", folder, *name)[0] == 0
    assert files_in(tmp_path / "policy") == ["README.md", "policy.schema.json", "policy.yaml"]
    cards = [f"{member}/keys/{member}.pub" for member in ("north", "south")]
    made = ("keys", "roster", "hub/keys/coordinator.pub", *cards, "--out", "policy/roster.yaml")
    assert lightning_fed(*made)[0] == 0
    (tmp_path / "hub" / "coordinator.yaml").rename(tmp_path / "policy" / "coordinator.yaml")
    monkeypatch.chdir(tmp_path / "policy")
    readme = Path("README.md").read_text()
    assert "SITE_NAME" not in readme
    hold, show = re.findall(r"```\n *lightning-fed (.*?)\n *```", readme)
    code, out, err = lightning_fed(*hold.split())
    assert code == 0, out + err
    assert "allows the plan 'first' of 30 rounds" in out
    assert "No differential privacy was promised." in out
    nobody = lightning_fed(*hold.split(), "--roster", "roster.yaml")
    assert nobody[0] == 1
    assert "policy does not know the name" in nobody[1]
    pinned = lightning_fed(*show.split())[1]
    policy = Path("policy.yaml").read_text()
    lines = [line for line in pinned.splitlines() if re.fullmatch(r"[\w-]+: [0-9a-f ]+", line)]
    assert len(lines) == 3
    Path("policy.yaml").write_text(policy.replace("members: {}", "members:\n  " + "\n  ".join(lines)))
    code, out, err = lightning_fed(*hold.split(), "--roster", "roster.yaml")
    assert "everybody in the roster is pinned" in out, out + err
    # For the coordinator to mend, which the officer sees too.
    (cross,) = [line for line in out.splitlines() if line.startswith("✗")]
    assert cross.split()[1] == "quorum"
    assert code == 1


@pytest.mark.parametrize("there", SITE_FILES)
@pytest.mark.parametrize("link", [False, True])
def test_what_is_there_is_refused_by_its_name_and_nothing_is_written(lightning_fed, tmp_path, there, link):
    path = tmp_path / "st-marys" / there
    path.parent.mkdir(parents=True)
    if link:
        path.symlink_to("nowhere")
    else:
        path.write_text("mine")
    code, out, err = lightning_fed("init", *SITE)
    assert (code, out) == (1, "")
    assert f"st-marys/{there} exists" in err
    assert len(err.splitlines()) == 1
    assert link or path.read_text() == "mine"
    assert files_in(tmp_path) == ([] if link else [f"st-marys/{there}"])


def test_what_fails_on_the_way_leaves_nothing(lightning_fed, tmp_path):
    (tmp_path / "st-marys").mkdir()
    (tmp_path / "st-marys" / "keys").write_text("mine")  # the last of all that is written goes below this
    code, _, err = lightning_fed("init", *SITE)
    assert code == 1
    assert "st-marys/keys" in err
    assert files_in(tmp_path) == ["st-marys/keys"]


def test_folders_that_a_failure_made_needless_go_again(lightning_fed, tmp_path):
    long = "n" * 250  # a folder may be named so, and the file name.key with a dot and more may not
    code, _, err = lightning_fed("init", "--role", "simulation", "--folder", f"a/b/{long}/{'n' * 300}")
    assert code == 1
    assert "Nothing was left behind" in err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_files_is_written_to(lightning_fed, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert lightning_fed("init", "--role", "site", "--folder", ".", "--name", "st-marys")[0] == 0
    assert files_in(tmp_path) == sorted([*SITE_FILES, "notes.txt"])
    assert (tmp_path / "keys").stat().st_mode & 0o077 == 0
    assert load_card(tmp_path / "keys" / "st-marys.pub") == load_identity(tmp_path / "keys" / "st-marys.key").card


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--role is missing"),
        (("--role", "site", "--folder", "x"), "--name is missing"),
        (("--role", "simulation"), "--folder is missing"),
        (("--role", "site", "--folder", "x", "--name", "../up"), "'../up' must be"),
        (("--role", "site", "--folder", "x", "--name", "coordinator"), "cannot be named 'coordinator'"),
        (("--role", "simulation", "--folder", "x", "--name", "y"), "--name is a site's"),
        (("--role", "policy", "--folder", "x", "--name", "../up"), "'../up' must be"),
    ],
)
def test_what_is_missing_or_wrong_is_one_line_where_nobody_can_be_asked(tmp_path, arguments, words):
    command = [sys.executable, "-m", "lightning_fed.cli.main", "init", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        command, cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 1
    assert words in run.stderr
    assert len(run.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_terminal_is_asked_for_what_is_missing(tmp_path):
    here, there = pty.openpty()
    os.write(here, b"site\nmine\nst-marys\n")
    command = [sys.executable, "-m", "lightning_fed.cli.main", "init"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    try:
        subprocess.run(command, cwd=tmp_path, env=environment, stdin=there, stdout=there, check=True, timeout=60)
    finally:
        os.close(here)
        os.close(there)
    assert files_in(tmp_path / "mine") == sorted(SITE_FILES)


def test_the_templates_say_what_the_documented_configs_say():
    """Two places, as the configs are not in the wheel: what is changed in one is changed in the other."""

    def other_lines(config, template, allowed):
        old, new = ((ROOT / "configs" / config).read_text(), (TEMPLATES / template).read_text())
        lines = sorted(set(new.splitlines()) ^ set(old.splitlines()))
        return [line for line in lines if not re.match(rf"# yaml-language-server: |# .* --config |{allowed}", line)]

    assert other_lines("policy.yaml", "policy.yaml", "never") == []
    allowed = r"  class_path: (model|examples)\.|  name: "
    assert other_lines("federation.yaml", "coordinator.yaml", allowed) == []
    settings = r"site|identity|policy|init_args: \{dirpath|batch_size|root"
    allowed = rf" +({settings}|class_path: (model|examples|lightning_fed)\.)"
    assert other_lines("site.yaml", "site.yaml", allowed) == []


def test_the_stored_schemas_are_those_of_the_settings_as_they_are():
    stored = {path.name: path.read_bytes() for path in TEMPLATES.glob("*.json")}
    assert stored == schemas(), "run: python -m lightning_fed.cli.schemas"


def beyond(schema, part, value, at=""):
    """The settings of a value that a part of a schema does not know, or has no word for."""
    if "anyOf" in part:
        return min((beyond(schema, choice, value, at) for choice in part["anyOf"]), key=len)
    part = schema["$defs"][part["$ref"].rsplit("/", 1)[1]] if "$ref" in part else part
    if value not in part.get("enum", [value]):
        return [at]
    if "properties" not in part or not isinstance(value, dict):
        return []
    known, found = part["properties"], []
    for name, inner in value.items():
        found += beyond(schema, known[name], inner, f"{at}.{name}") if name in known else [f"{at}.{name}"]
    return found


@pytest.mark.parametrize("name", ["coordinator", "policy", "simulation"])
def test_a_template_names_the_schema_that_it_keeps(name):
    text = (TEMPLATES / f"{name}.yaml").read_text()
    assert text.startswith(f"# yaml-language-server: $schema={name}.schema.json\n")
    schema = msgspec.json.decode((TEMPLATES / f"{name}.schema.json").read_bytes())
    assert beyond(schema, schema, yaml.safe_load(text)) == []
    wrong = {"plan": {"masking": {"mode": "of"}, "nobody": 1}} if name != "policy" else {"masking": "of", "nobody": 1}
    assert len(beyond(schema, schema, wrong)) == 2


def test_the_baselines_that_a_template_shows_are_ones_that_its_schema_knows():
    text = (TEMPLATES / "simulation.yaml").read_text()
    written, shown = text.split("\n# baselines:\n")
    config = yaml.safe_load(f"{written}\nbaselines:\n{re.sub('^# ', '', shown, flags=re.MULTILINE)}")
    schema = msgspec.json.decode((TEMPLATES / "simulation.schema.json").read_bytes())
    assert beyond(schema, schema, config) == []
    assert config["baselines"].keys() == schema["$defs"]["Baselines"]["properties"].keys()


def test_the_evaluation_that_the_templates_show_is_one_that_a_policy_which_shows_it_allows(tmp_path):
    coordinator, policy = (TEMPLATES / "coordinator.yaml").read_text(), (TEMPLATES / "policy.yaml").read_text()
    around, _, rest = coordinator.partition("model:")
    shown = re.search(r"^# plan:\n(#   .*\n)+", rest, flags=re.MULTILINE)[0]
    (tmp_path / "coordinator.yaml").write_text(around + re.sub(r"^# ", "", shown, flags=re.MULTILINE))
    plan = read_config(["--config", str(tmp_path / "coordinator.yaml")], counts=True).plan
    assert plan.evaluation.models == ["global", "local"]
    with pytest.raises(PlanRefusedError, match="this site allows no evaluation"):
        SitePolicy.load(TEMPLATES / "policy.yaml").check_plan(plan, "north")
    for shown, written in (
        ("# evaluation: totals", "evaluation: totals"),
        ("# statistics: [age, view]", "statistics: [label, age]"),
        ("# min_count: 10", "min_count: 10"),
    ):
        assert shown in policy
        policy = policy.replace(shown, written)
    (tmp_path / "policy.yaml").write_text(policy)
    SitePolicy.load(tmp_path / "policy.yaml").check_plan(plan, "north")
