"""The code in public docstrings runs, each piece after what it takes for granted."""

import importlib
import inspect
import re
import runpy
import textwrap
import types

import lightning as L
import pytest
import torch
from documents import ROOT
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed.callbacks import Ditto
from lightning_fed.callbacks.adapters import adapt, merged

DESCRIBED = (types.FunctionType, property, classmethod, staticmethod)
MODULES = runpy.run_path(str(ROOT / "docs" / "conf.py"))["PUBLIC_MODULES"]


class Line(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(2, 1)

    def training_step(self, batch, index):
        return self.net(batch[0]).square().mean()

    def validation_step(self, batch, index):
        self.log("val_loss", self.net(batch[0]).square().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Numbers(L.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.ones(8, 2)), batch_size=4)

    val_dataloader = train_dataloader


def _after_a_fit_with_ditto(tmp_path):
    ditto = Ditto(lam=0.1)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    trainer = L.Trainer(max_epochs=1, accelerator="cpu", callbacks=[ditto], default_root_dir=tmp_path, **quiet)
    model, datamodule = Line(), Numbers()
    trainer.fit(model, datamodule)
    return {"ditto": ditto, "trainer": trainer, "model": model, "datamodule": datamodule}


def _with_an_adapter(tmp_path):
    model, plain = Line(), Line()
    adapt(model.net, 1, "net")
    return {"model": model, "plain": plain, "merged": merged}


BEFORE = {"Ditto": _after_a_fit_with_ditto, "FederatedFinetuning": _with_an_adapter}


def _documented():
    """Public classes and functions, and the public methods of the former, by name."""
    for module in map(importlib.import_module, MODULES):
        for name in module.__all__:
            one = getattr(module, name)
            yield name, one
            if inspect.isclass(one) and one.__module__.startswith("lightning_fed"):
                parts = {key: part for key, part in vars(one).items() if not key.startswith("_")}
                yield from ((f"{name}.{key}", part) for key, part in parts.items() if type(part) in DESCRIBED)


def _pieces():
    """Literal blocks (behind ``::``), code-block directives and doctests of public docstrings."""
    found = {}
    for name, one in _documented():
        text = inspect.cleandoc(getattr(one, "__doc__", None) or "")
        for number, piece in enumerate(re.findall(r"(?:::|code-block:: \w+)\n\n((?:    .*\n?|\n)+)", text)):
            found[f"{name}-{number}"] = (name, textwrap.dedent(piece))
        if ">>> " in text:
            found[f"{name}-doctest"] = (name, text)
    return found


PIECES = _pieces()


def test_pieces_are_found_and_none_stands_in_a_form_that_is_not():
    assert {"Ditto-0", "FederatedFinetuning-0"} <= PIECES.keys()
    fenced = [name for name, one in _documented() if "```" in (getattr(one, "__doc__", None) or "")]
    assert not fenced, "write code in docstrings behind '::', as Sphinx reads it"


@pytest.mark.parametrize("piece", PIECES)
def test_a_docstrings_code_runs(piece, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name, code = PIECES[piece]
    assert ">>> " not in code, f"{name}: write code without '>>> ' behind '::'"
    assert name in BEFORE, f"{name} shows code: add to BEFORE in {__file__} what it takes for granted"
    exec(compile(code, name, "exec"), BEFORE[name](tmp_path))
