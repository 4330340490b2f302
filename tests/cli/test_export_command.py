"""``lightning-fed export``: a model with its papers, which nobody can change unseen."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from lightning_fed.cli.main import main
from lightning_fed.coordinator.events import EventLog
from lightning_fed.coordinator.store import Store
from lightning_fed.plan import BestModel, ExamplePrivacy, FederationPlan, Privacy
from lightning_fed.privacy.accounting import DpSgd, epsilon
from lightning_fed.privacy.ledger import Budget, Ledger, Owner
from lightning_fed.privacy.ledger_lines import Release
from lightning_fed.transport.identity import new_identity, write_identity
from lightning_fed.transport.roster import Roster
from lightning_fed.update.global_model import GlobalModel, state_of
from lightning_fed.update.layout import layout_of
from lightning_fed.wire import hash_of

ROOT = Path(__file__).parents[2]
HOSTILE = "north | x |\n## Licence: [free](https://evil.example) <script>1</script>"


class Net(nn.Module):
    """Half of it in bfloat16, which NumPy does not know, and a weight with two names."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(4, 4)
        self.half = nn.Linear(4, 4, dtype=torch.bfloat16)
        self.decoder = nn.Linear(4, 4)
        self.decoder.weight = self.encoder.weight


@pytest.fixture
def federation(tmp_path, monkeypatch):
    """A store of three models and the federation's keys, in the current folder."""
    monkeypatch.chdir(tmp_path)
    plan = FederationPlan(
        name="wrists",
        rounds=3,
        metrics=["val_auroc"],
        best=BestModel("val_auroc", "max"),
        privacy=Privacy(example=ExamplePrivacy(epsilon=4.0)),
    )
    coordinator, north = new_identity("coordinator"), new_identity("north")
    for identity in (coordinator, north):
        write_identity(identity, "keys")
    Roster.of(coordinator.card, [north.card]).write("keys/roster.yaml")
    store = Store(Path("store"), plan, {})
    torch.manual_seed(0)
    for version in range(3):
        net = Net()
        store.save(GlobalModel.from_state(state_of(net), layout_of(net), version))
    store.close()
    events = EventLog(Path("store"))
    started = {"run": store.run, "plan_hash": plan.hash, "version": 0, "rounds": 3, "sites": ["north", HOSTILE]}
    events.write("started", {**started, "software": {"torch": "2.6.0"}})
    for number in (1, 2):
        events.write("round_finished", {"round": number, "participants": ["north", HOSTILE], "seconds": 1.0})
        values = {"val_auroc": 0.9 - number / 100}
        data = {"version": number, "sites": 2, "metrics": values, "counts": {"val_auroc": 2}, "not_finite": []}
        events.write("metrics", data)
    events.close()
    with Ledger.open(Path("north.jsonl"), Owner("north", north.signing_key), "", {"example": Budget(1e-5)}) as ledger:
        ledger.charge(Release(store.run, plan.hash, 1, 1, DpSgd(0.1, 1.0, 30)))
    return tmp_path


def export(*options, out="out"):
    assert main(["export", "store", "--out", out, *options]) == 0
    return Path(out)


def test_an_export_has_the_models_tensors_and_where_they_come_from(federation):
    out = export("--version", "best", "--license", "CC-BY-4.0", "--ledgers", "north.jsonl")
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md",
        "SHA256SUMS",
        "SHA256SUMS.sig",
        "model.safetensors",
        "provenance.json",
    ]
    stored, exported = (load_file(path) for path in ("store/models/000001.safetensors", out / "model.safetensors"))
    assert exported.keys() == stored.keys()
    assert {tensor.dtype for tensor in exported.values()} == {torch.float32, torch.bfloat16}
    assert all(torch.equal(exported[name], stored[name]) for name in stored)
    facts = json.loads((out / "provenance.json").read_text())
    assert facts["version"] == 1
    assert facts["metrics"] == {"val_auroc": 0.89}
    assert facts["license"] == "CC-BY-4.0"
    assert facts["software"] == {"torch": "2.6.0"}
    assert facts["tied"] == {"encoder.weight": ["decoder.weight"]}
    assert facts["stored_sha256"] == hashlib.sha256(Path("store/models/000001.safetensors").read_bytes()).hexdigest()
    (spent,) = facts["privacy"]
    assert (spent["ledger"], spent["releases"], spent["limit"]) == (None, 1, 4.0)
    assert spent["epsilon"] == epsilon([DpSgd(0.1, 1.0, 30)], 1e-5)
    assert hash_of(facts["plan"]) == facts["plan_hash"]
    with safe_open(out / "model.safetensors", framework="pt") as file:
        header = file.metadata()
    del facts["rounds"]
    assert header.keys() == {*facts, "format"}
    for name, value in facts.items():
        assert (header[name] if isinstance(value, str) else json.loads(header[name])) == value


def test_the_card_loads_the_model_as_it_says(federation, monkeypatch):
    card = (export() / "README.md").read_text()
    (snippet,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    names = {"MyModule": lambda *_: Net()}
    monkeypatch.chdir("out")
    exec(snippet, names)
    expected = load_file("../store/models/000002.safetensors")
    loaded = names["model"].state_dict()
    assert torch.equal(loaded["half.weight"], expected["half.weight"])
    assert torch.equal(loaded["decoder.weight"], expected["encoder.weight"])


@pytest.mark.parametrize(
    ("license", "front"),
    [
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("", {"license": "unknown"}),
        ("our own: ask us\n---", {"license": "other", "license_name": "our own: ask us\\n---"}),
    ],
)
def test_the_cards_first_lines_are_yaml_with_the_licence(federation, license, front):
    card = (export("--license", license) / "README.md").read_text()
    _, head, _ = card.split("---\n", 2)
    assert front.items() <= yaml.safe_load(head).items()


def test_sites_are_counted_unless_they_are_to_be_named_and_names_are_text(federation):
    out = export("--ledgers", "north.jsonl")
    for path in out.iterdir():
        assert b"north" not in path.read_bytes(), path.name
    assert "2 sites are in the rounds up to this model and are not named here" in (out / "README.md").read_text()
    card = (export("--name-sites", "--ledgers", "north.jsonl", out="named") / "README.md").read_text()
    assert json.loads(Path("named/provenance.json").read_text())["participants"][0] == "north"
    assert "\n| north | example | 1 |" in card
    assert r"north \| x \|\\n\#\# Licence: \[free\](https://evil.example) \<script\>1\</script\>" in card
    assert "## Licence" not in card.replace(r"\#\#", "")


def test_the_publishers_notes_stand_in_the_card(federation):
    Path("notes.md").write_text("For **research** on wrists of children.\n")
    card = (export("--notes", "notes.md") / "README.md").read_text()
    assert "## Notes of the publisher\n\nFor **research** on wrists of children.\n" in card
    assert "Not stated." not in card


def test_an_export_verifies_by_roster_and_by_card_and_with_the_usual_tools(federation, capsys):
    out = export()
    assert main(["export", "--verify", "out"]) == 0
    said = capsys.readouterr().out
    assert "global model 2 of run" in said
    assert "signed by 'coordinator'" in said
    assert main(["export", "--verify", "out", "--card", "keys/coordinator.pub", "--roster", "none"]) == 0
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=out, check=True)


def _changed(out):
    (out / "README.md").write_text((out / "README.md").read_text().replace("Apache", "apache") + " ")


def _changed_model(out):
    data = bytearray((out / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (out / "model.safetensors").write_bytes(data)


def _added(out):
    (out / "model.pt").write_bytes(b"x")


def _removed(out):
    (out / "provenance.json").unlink()


def _link(out):
    (out / "README.md").rename(out.parent / "elsewhere")
    (out / "README.md").symlink_to(out.parent / "elsewhere")


def _changed_with_its_sum(out):
    _changed(out)
    digest = hashlib.sha256((out / "README.md").read_bytes()).hexdigest()
    sums = (out / "SHA256SUMS").read_text()
    (out / "SHA256SUMS").write_text(re.sub(r"[0-9a-f]{64}  README.md", f"{digest}  README.md", sums))


def _signed_by_another(out):
    key = Ed25519PrivateKey.generate()
    (out / "SHA256SUMS.sig").write_bytes(key.sign((out / "SHA256SUMS").read_bytes()))


def _no_signature(out):
    (out / "SHA256SUMS.sig").unlink()


CHANGES = [
    (_changed, "README.md was changed after it was signed"),
    (_changed_model, "model.safetensors was changed after it was signed"),
    (_added, "not signed: model.pt"),
    (_removed, "missing: provenance.json"),
    (_link, "README.md is no plain file"),
    (_changed_with_its_sum, "is no signature of 'coordinator'"),
    (_signed_by_another, "is no signature of 'coordinator'"),
    (_no_signature, "SHA256SUMS.sig cannot be read"),
]


@pytest.mark.parametrize(("change", "said"), CHANGES, ids=[change.__name__ for change, _ in CHANGES])
def test_whatever_is_changed_is_found(federation, capsys, change, said):
    out = export()
    assert main(["export", "--verify", "out"]) == 0
    change(out)
    assert main(["export", "--verify", "out"]) == 1
    assert said in capsys.readouterr().err


def _truncated(folder):
    path = folder / "store/models/000002.safetensors"
    path.write_bytes(path.read_bytes()[:-5])


def _of_another_run(folder):
    path = folder / "store/models/000002.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"version":"2"', b'"version":"7"'))


def _edited_ledger(folder):
    path = folder / "north.jsonl"
    path.write_text(path.read_text().replace('"steps":30', '"steps":3'))


def _edited_log(folder):
    path = folder / "store/events.jsonl"
    path.write_text(path.read_text().replace('"rounds":3', '"rounds":4', 1))


def _not_empty(folder):
    (folder / "out").mkdir()
    (folder / "out" / "mine").touch()


def _a_file(folder):
    (folder / "out").touch()


REFUSED = [
    ([], _truncated, "global model store/models/000002.safetensors cannot be read"),
    ([], _of_another_run, "is of another version than this store"),
    (["--ledgers", "north.jsonl"], _edited_ledger, "was edited"),
    ([], _edited_log, "store/events.jsonl does not hold"),
    ([], _not_empty, "is there and not an empty folder"),
    ([], _a_file, "is there and not an empty folder"),
    (["--version", "9"], lambda _: None, "global model 9 is not in store"),
    (["--identity", "keys/north.key"], lambda _: None, "is not the key of the coordinator"),
    (["--notes", "none.md"], lambda _: None, "the notes none.md cannot be read"),
]


@pytest.mark.parametrize(("options", "spoil", "said"), REFUSED, ids=[said[-30:] for *_, said in REFUSED])
def test_what_cannot_be_exported_is_one_line_and_nothing_half_written(federation, capsys, options, spoil, said):
    spoil(federation)
    before = sorted(federation.rglob("*"))
    assert main(["export", "store", "--out", "out", *options]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
    assert sorted(federation.rglob("*")) == before


def test_a_model_of_a_run_that_was_extended_has_the_plan_of_its_time(federation, capsys):
    record = json.loads(Path("store/run.json").read_text())
    before = hash_of(record["plan"])
    record["plan"]["rounds"] = 5
    Path("store/run.json").write_text(json.dumps(record))
    events = EventLog(Path("store"))
    events.write("started", {"run": record["run"], "plan_hash": hash_of(record["plan"]), "version": 2, "rounds": 5})
    events.close()
    out = export()
    facts = json.loads((out / "provenance.json").read_text())
    assert (facts["rounds_planned"], facts["plan"]["rounds"], facts["plan_hash"]) == (3, 3, before)
    record["plan"]["quorum"] = 3
    Path("store/run.json").write_text(json.dumps(record))
    assert main(["export", "store", "--out", "other"]) == 1
    assert "is of another plan_hash than this store" in capsys.readouterr().err


def test_an_empty_folder_may_be_there(federation):
    Path("out").mkdir()
    export()
    assert main(["export", "--verify", "out"]) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["store"], "needs a store and a folder to write"),
        (["--verify", "out", "--out", "x"], "takes no store and no --out"),
        (["--verify", "store"], "Name the folder of an export"),
    ],
)
def test_a_command_line_that_means_nothing_is_told(federation, capsys, arguments, said):
    assert main(["export", *arguments]) == 1
    assert said in capsys.readouterr().err


def test_an_export_is_made_without_what_trains(federation):
    script = "import sys; from lightning_fed.cli.main import main; code = main(sys.argv[1:])"
    script += "; sys.exit(code or 'torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for arguments in (["store", "--out", "out"], ["--verify", "out"]):
        command = [sys.executable, "-c", script, "export", *arguments]
        subprocess.run(command, env=environment, check=True, timeout=120)
