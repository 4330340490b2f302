"""Scripts of both of Lightning's packages: ``import lightning`` and ``import pytorch_lightning as pl``.

Each in a process of its own, as a process is served in one of them.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from modules import Plain

from lightning_fed.lightning_api import PACKAGES

# Imports as a sorter leaves them: this package stands above pytorch_lightning, and below lightning.
ABOVE = {"lightning.pytorch": "import lightning.pytorch as pl", "pytorch_lightning": ""}
BELOW = {"lightning.pytorch": "", "pytorch_lightning": "import pytorch_lightning as pl"}

MODULE = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

class Plain(pl.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

    def training_step(self, batch, batch_idx):
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", nn.functional.mse_loss(self.net(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.05)

def data(seed):
    x = torch.randn(24, 4, generator=torch.Generator().manual_seed(seed))
    return DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=8)

QUIET = dict(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
"""

SITE = """
{above}
from lightning_fed import FederatedStrategy
from lightning_fed.callbacks import AdaBN
{below}
import json, sys
{module}
arguments = json.loads(sys.argv[1])
stop = pl.callbacks.EarlyStopping("val_loss", patience=3)
save = pl.callbacks.ModelCheckpoint(arguments.pop("folder"), filename="best", monitor="val_loss")
if "named" in sys.argv:
    trainer = pl.Trainer(strategy="federated", callbacks=[stop, save], **QUIET)
else:
    trainer = pl.Trainer(strategy=FederatedStrategy(**arguments), callbacks=[stop, save], **QUIET)
model = Plain()
trainer.fit(model, data(int(sys.argv[2])), data(99))
torch.save(model.state_dict(), sys.argv[3])
assert isinstance(trainer.strategy, FederatedStrategy)
assert isinstance(trainer.strategy, pl.strategies.Strategy)
print([callback.__class__.__name__ for callback in trainer.callbacks])
"""


def python(code, *arguments, **environment):
    """A process that runs a script; gives its exit code, output and errors."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    variables = {**os.environ, **environment}
    result = subprocess.run(command, capture_output=True, text=True, timeout=200, env=variables, check=False)
    return result.returncode, result.stdout, result.stderr


def script(package, code, **fields):
    return code.format(above=ABOVE[package], below=BELOW[package], module=MODULE, **fields)


def train(here, package, name, seed, *options, **environment):
    arguments = {key: str(value) for key, value in here.strategy_arguments(name).items()}
    arguments["patience_s"] = 60.0
    arguments["folder"] = str(here.folder / name)
    if "named" in options:
        environment = {
            "LIGHTNING_FED_COORDINATOR": here.address,
            "LIGHTNING_FED_SITE": name,
            "LIGHTNING_FED_IDENTITY": arguments["identity"],
            "LIGHTNING_FED_ROSTER": arguments["roster"],
            **environment,
        }
    state = here.folder / f"{name}.pt"
    code, out, err = python(script(package, SITE), json.dumps(arguments), seed, state, *options, **environment)
    assert code == 0, err
    assert (here.folder / name / "best.ckpt").exists()
    return torch.load(state, weights_only=True), out


def test_sites_of_both_packages_train_one_model(federation):
    here = federation(rounds=2)
    coordinator = here.coordinate(Plain)
    with ThreadPoolExecutor(2) as pool:
        runs = [
            pool.submit(train, here, package, name, seed)
            for seed, (package, name) in enumerate(zip(PACKAGES, here.sites, strict=True))
        ]
        (first, _), (second, _) = (run.result() for run in runs)
    assert coordinator.result() == "finished"
    end = here.model(2)
    for state in (first, second):
        assert all(torch.equal(state[name], end[name]) for name in end)


def test_strategy_federated_by_name_in_the_package_that_is_imported_later(federation, monkeypatch, tmp_path):
    here = federation(sites=1, rounds=2)
    coordinator = here.coordinate(Plain)
    monkeypatch.chdir(tmp_path)
    state, _ = train(here, "pytorch_lightning", here.sites[0], 1, "named")
    assert coordinator.result() == "finished"
    assert all(torch.equal(state[name], tensor) for name, tensor in here.model(2).items())


@pytest.mark.parametrize(
    ("imports", "trainer"),
    [
        ("import lightning.pytorch\nimport pytorch_lightning", "pytorch_lightning"),
        ("import pytorch_lightning\nimport lightning.pytorch", "lightning.pytorch"),
    ],
)
def test_a_trainer_of_the_other_package_says_what_to_do(imports, trainer):
    code = f"{imports}\nfrom lightning_fed import FederatedStrategy\n" + (
        f"{trainer}.Trainer(strategy=FederatedStrategy('tcp://127.0.0.1:1', 'north'), accelerator='cpu', logger=False)"
    )
    exit_code, _, err = python(code)
    assert exit_code == 1
    assert f"set LIGHTNING_FED_PACKAGE={trainer} or import {trainer} before" in err.splitlines()[-1]
    # What it says helps.
    exit_code, _, err = python(code, LIGHTNING_FED_PACKAGE=trainer)
    assert exit_code == 0, err


MIXED = """
import pytorch_lightning
import lightning.pytorch as pl
from lightning_fed import FederatedStrategy
from lightning_fed.errors import ConfigError
from lightning_fed.callbacks import DifferentialPrivacy
import os
os.environ.update(LIGHTNING_FED_COORDINATOR="tcp://127.0.0.1:1", LIGHTNING_FED_SITE="north")
{module}
class Own(pl.Callback):
    pass
class OwnStopping(pl.callbacks.EarlyStopping):
    pass
"""


@pytest.mark.parametrize(
    ("fit", "said"),
    [
        ('pl.Trainer(strategy="federated", **QUIET)', 'the Trainer with strategy="federated" belongs to lightning.py'),
        ("pl.Trainer(callbacks=[DifferentialPrivacy(noise_multiplier=1)], **QUIET)", "the Trainer of this fit belongs"),
        (
            "pytorch_lightning.Trainer(callbacks=[OwnStopping('val_loss')], strategy=FederatedStrategy(), **QUIET)",
            "the callback OwnStopping of this fit belongs to lightning.pytorch",
        ),
        # One that derives from Callback alone works: the fit comes as far as this site's missing key.
        (
            "pytorch_lightning.Trainer(callbacks=[Own()], strategy=FederatedStrategy(), **QUIET)",
            "the key file keys/north.key does not exist",
        ),
    ],
)
def test_what_belongs_to_the_other_package_is_named(fit, said, tmp_path):
    own = "pl" if fit.startswith("pl.") else "pytorch_lightning"
    code = MIXED.format(module=MODULE.replace("pl.LightningModule", f"{own}.LightningModule"))
    code += f"\nimport os\nos.chdir({str(tmp_path)!r})\n{fit}.fit(Plain(), data(1), data(2))"
    exit_code, _, err = python(code)
    assert exit_code == 1
    assert said in err.splitlines()[-1]
