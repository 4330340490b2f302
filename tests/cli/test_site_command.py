"""``lightning-fed fit | test``: Lightning's own CLI, with modules of the current folder."""

import sys

import pytest
import torch
import yaml
from small_modules import Small

from lightning_fed.cli.lightning_cli import Modules
from lightning_fed.coordinator.store import Store
from lightning_fed.plan import ExamplePrivacy, FederationPlan, Privacy
from lightning_fed.privacy.layers import replace_layers
from lightning_fed.update.global_model import GlobalModel
from lightning_fed.update.layout import layout_of

TRAINER = {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
CONFIG = {
    "seed_everything": 1,
    "trainer": TRAINER,
    "model": {"class_path": "small_modules.Small", "init_args": {"width": 3}},
    "data": {"class_path": "small_modules.Numbers", "init_args": {"width": 3}},
}
PRIVATE = FederationPlan(privacy=Privacy(example=ExamplePrivacy(epsilon=8, replace_layers=True)))


def write(path, config=None, **sections):
    path.write_text(yaml.safe_dump({**CONFIG, **sections}))
    return path.name


def test_fit_trains_a_module_of_the_current_folder_and_can_be_started_again(lightning_fed, tmp_path):
    (tmp_path / "only_here.py").write_text("from small_modules import Small\nclass Here(Small): pass\n")
    config = write(tmp_path / "site.yaml", model={"class_path": "only_here.Here", "init_args": {"width": 3}})
    arguments = ("fit", "--config", config, "--trainer.logger", "false")
    assert lightning_fed(*arguments)[0] == 0
    assert lightning_fed(*arguments)[0] == 0
    saved = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert saved["model"]["class_path"] == "only_here.Here"


def test_test_takes_a_global_model_of_the_coordinators_store(lightning_fed, tmp_path):
    model = Modules({"model": CONFIG["model"], "seed_everything": 3}).model
    store = Store(tmp_path / "store", FederationPlan(), dict(model.hparams))
    store.save(GlobalModel.from_state(model.state_dict(), layout_of(model)))
    store.close()
    checkpoint = tmp_path / "store" / "models" / "000000.ckpt"
    loaded = Small.load_from_checkpoint(checkpoint)
    assert loaded.hparams.width == 3
    assert torch.equal(loaded.layer.weight, model.layer.weight)
    config = write(tmp_path / "site.yaml")
    code, out, _ = lightning_fed("test", "--config", config, "--ckpt_path", checkpoint, "--trainer.logger", "false")
    assert code == 0
    assert "test_loss" in out


def test_test_takes_a_global_model_whose_layers_the_sites_replaced(lightning_fed, tmp_path):
    (tmp_path / "normalised.py").write_text(
        "import torch\nfrom small_modules import Small\n"
        "class Normalised(Small):\n"
        "    def __init__(self, width: int = 4):\n"
        "        super().__init__(width)\n"
        "        self.layer = torch.nn.Sequential(torch.nn.BatchNorm1d(width), self.layer)\n"
    )
    section = {"class_path": "normalised.Normalised", "init_args": {"width": 4}}
    sys.path.insert(0, str(tmp_path))
    model = Modules({"model": section, "seed_everything": 3}).model
    replace_layers(model)
    store = Store(tmp_path / "store", PRIVATE, dict(model.hparams))
    store.save(GlobalModel.from_state(model.state_dict(), layout_of(model)))
    store.close()
    strategy = {
        "class_path": "lightning_fed.FederatedStrategy",
        "init_args": {"coordinator": "tcp://127.0.0.1:5790", "site": "north"},
    }
    data = {"class_path": "small_modules.Numbers"}
    trainer = {**TRAINER, "strategy": strategy, "logger": False}
    config = write(tmp_path / "site.yaml", model=section, data=data, trainer=trainer)
    code, out, err = lightning_fed("test", "--config", config, "--ckpt_path", "store/models/000000.ckpt")
    assert code == 0, err
    assert "test_loss" in out


@pytest.mark.parametrize(
    ("section", "named"),
    [
        ({"trainer": {"max_epoch": 1}}, "max_epoch'. Did you mean 'trainer.max_epochs'?"),
        ({"model": {"class_path": "small_modules.Small", "init_args": {"widht": 1}}}, "Did you mean 'width'?"),
        ({"data": {"class_path": "small_modules.Nmbers"}}, "Nmbers"),
        ({"trianer": {"max_epochs": 1}}, "trianer.max_epochs'. Did you mean 'trainer.max_epochs'?"),
    ],
)
def test_a_misspelt_key_is_named(lightning_fed, tmp_path, section, named):
    code, _, err = lightning_fed("fit", "--config", write(tmp_path / "site.yaml", **section))
    assert code == 2
    assert named in err[err.index("error:") :]


TOP_K = "lightning_fed.callbacks.TopKCompression"
MODEL_CHECKPOINT = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint"}


@pytest.mark.parametrize(
    ("section", "told"),
    [
        (
            {"callbacks": [MODEL_CHECKPOINT, {"class_path": TOP_K, "init_args": {"shar": 0.1}}]},
            f"Problem with given class_path '{TOP_K}':\n    Option 'shar' is not accepted. Did you mean 'share'?",
        ),
        ({"callbacks": [{"class_path": TOP_K, "init_args": {"share": "much"}}]}, "Expected a float. Got value: much"),
        (
            {"callbacks": {"class_path": f"{TOP_K}s"}},
            "no attribute 'TopKCompressions'. Did you mean 'TopKCompression'?",
        ),
        ({"callbacks": [{"class_pth": TOP_K}]}, "Option 'class_pth' is not accepted. Did you mean 'class_path'?"),
        ({"strategy": {"class_path": "lightning_fed.FederatedStrategy", "init_args": {"sit": "a"}}}, "mean 'site'?"),
        (
            {"strategy": {"class_path": "lightning_fed.FederatedStrategy", "init_args": {"site": 7}}},
            "Put it in quotes.",
        ),
        ({"max_epochs": "many"}, "Expected an int or null. Got value: many"),
    ],
)
def test_a_slip_in_a_config_is_told_in_a_few_lines_with_the_files_name(lightning_fed, tmp_path, section, told):
    code, _, err = lightning_fed("fit", "--config", write(tmp_path / "site.yaml", trainer={**TRAINER, **section}))
    assert code == 2
    message = err[err.index("lightning-fed fit: error: site.yaml: Parser key") :]
    assert told in message
    assert len(message.splitlines()) <= 6
    assert not any(dump in err for dump in ("usage:", "Subtypes", "Not a valid subclass"))


@pytest.mark.parametrize("command", ["fit", "coordinate", "simulate"])
def test_what_is_no_yaml_is_told_with_the_files_name_and_the_line(lightning_fed, tmp_path, command):
    (tmp_path / "slip.yaml").write_text("model: {class_path: a.B}\nplan: [1\nstore: s\n")
    code, _, err = lightning_fed(command, "--config", "slip.yaml")
    assert code == 2
    assert f"lightning-fed {command}: error: slip.yaml: " in err
    assert 'in "slip.yaml", line 3' in err
    assert "usage:" not in err


def test_a_missing_identity_is_one_line_and_exit_code_1(lightning_fed, tmp_path):
    strategy = {
        "class_path": "lightning_fed.FederatedStrategy",
        "init_args": {"coordinator": "tcp://127.0.0.1:5790", "site": "north"},
    }
    config = write(tmp_path / "site.yaml", trainer={**TRAINER, "strategy": strategy, "logger": False})
    code, _, err = lightning_fed("fit", "--config", config)
    assert code == 1
    assert (
        f"lightning-fed fit: the key file keys/north.key does not exist. Looked at {tmp_path / 'keys/north.key'}."
        in err
    )
    assert "The path comes from the default of identity" in err
    assert "Traceback" not in err


def test_the_modules_of_a_config_are_checked_without_making_them():
    made = Modules({**CONFIG, "data": {"class_path": "small_modules.Numbers"}}, check_only=True)
    assert not hasattr(made, "model")
    with pytest.raises(Exception, match="widht"):
        Modules({"model": {"class_path": "small_modules.Small", "init_args": {"widht": 1}}}, check_only=True)


def test_modules_of_equal_seed_start_from_equal_weights():
    first, second, other = (Modules({"model": CONFIG["model"], "seed_everything": s}).model for s in (5, 5, 6))
    assert torch.equal(first.layer.weight, second.layer.weight)
    assert not torch.equal(first.layer.weight, other.layer.weight)


def test_a_setting_that_the_strategy_needs_is_named_in_one_line(lightning_fed, tmp_path, monkeypatch):
    monkeypatch.delenv("LIGHTNING_FED_COORDINATOR", raising=False)
    strategy = {"class_path": "lightning_fed.FederatedStrategy", "init_args": {"site": "north"}}
    config = write(tmp_path / "site.yaml", trainer={**TRAINER, "strategy": strategy})
    code, _, err = lightning_fed("fit", "--config", config)
    assert code == 1
    assert "lightning-fed fit: FederatedStrategy needs coordinator=..." in err
    assert "Traceback" not in err
    assert "Subtypes" not in err
