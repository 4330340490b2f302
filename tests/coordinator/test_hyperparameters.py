"""What a global model's checkpoint keeps of the model's arguments."""

import functools
from pathlib import Path

import lightning as L
import torch
from torch import nn

from lightning_fed.cli.lightning_cli import Modules
from lightning_fed.coordinator.hyperparameters import loadable_hyperparameters

LEAKY = functools.partial(nn.LeakyReLU, 0.1)


class Arguments(L.LightningModule):
    def __init__(
        self,
        width: int = 3,
        activation=LEAKY,
        key=lambda x: x,
        widths: dict | None = None,
        name: str = "net",
        root: Path = Path("scans"),
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(width, 1), activation())


def test_plain_data_are_kept_and_the_rest_is_named():
    kept, left_out = loadable_hyperparameters(Arguments(5, widths={"a": [1, 2.5, None]}))
    assert kept == {"width": 5, "widths": {"a": [1, 2.5, None]}, "name": "net"}
    assert left_out == ["activation", "key", "root"]


def test_the_command_lines_print_of_a_default_is_left_out():
    model = Modules({"model": {"class_path": "test_hyperparameters.Arguments", "init_args": {"width": 4}}}).model
    kept, left_out = loadable_hyperparameters(model)
    assert kept["width"] == 4 and kept["name"] == "net"
    assert kept["root"] == "scans"  # which the command line makes a path again
    assert left_out == ["activation", "key"]


def test_a_checkpoint_with_what_is_kept_can_be_loaded(tmp_path):
    model = Arguments(4, name="other")
    kept, _ = loadable_hyperparameters(model)
    path = tmp_path / "model.ckpt"
    checkpoint = {
        "state_dict": model.state_dict(),
        "hyper_parameters": kept,
        "pytorch-lightning_version": L.__version__,
    }
    torch.save(checkpoint, path)
    loaded = Arguments.load_from_checkpoint(path)
    assert loaded.hparams.name == "other" and torch.equal(loaded.net[0].weight, model.net[0].weight)
