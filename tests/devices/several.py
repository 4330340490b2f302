"""Sites with several devices: a coordinator in a thread, and for each site a program that Lightning multiplies."""

import json
import multiprocessing
import os
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler, TensorDataset
from torchmetrics.classification import BinaryAccuracy

from lightning_fed import FederatedStrategy, FederationPlan
from lightning_fed.coordinator.service import Coordinator
from lightning_fed.errors import FederationError
from lightning_fed.transport.identity import load_identity, new_identity, write_identity
from lightning_fed.transport.roster import Roster

PATIENCE_S = 120.0

# Forked from a server that has imported everything: a process is there in a tenth of a second instead of in seconds.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["several", "lightning_fed.participant.round_loop"])


def examples(seed: int, count: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 4, generator=generator)
    return TensorDataset(x, x @ torch.tensor([[1.0], [-2.0], [0.5], [3.0]]) + 0.1 * seed)


def loader(data: Dataset, batch_size: int, devices: int) -> DataLoader:
    """Batches that are the same, whether one device or several train on each: Lightning shuffles so for several."""
    sampler = DistributedSampler(data, 1, 0) if devices == 1 else None
    return DataLoader(data, batch_size // devices, sampler=sampler)


def halves() -> DataLoader:
    """Batches for each of two processes that were started one by one, of data that Lightning divides."""
    return DataLoader(examples(0, 24), 4)


def node(rank: int, launcher: str, port: int) -> dict[str, str]:
    """What torchrun or Slurm put into the environment of the one process of a node."""
    if launcher == "torchrun":
        own = {"RANK": rank, "LOCAL_RANK": 0, "GROUP_RANK": rank, "WORLD_SIZE": 2, "TORCHELASTIC_RUN_ID": "a"}
    else:
        own = {
            "SLURM_NTASKS": 2,
            "SLURM_NTASKS_PER_NODE": 1,
            "SLURM_NNODES": 2,
            "SLURM_JOB_ID": 7,
            "SLURM_JOB_NAME": "site",
            "SLURM_NODELIST": "localhost",
            "SLURM_PROCID": rank,
            "SLURM_NODEID": rank,
            "SLURM_LOCALID": 0,
        }
    return {name: str(value) for name, value in {**own, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items()}


class Module(L.LightningModule):
    """A small regression; ``options`` says what a test needs of it."""

    def __init__(self, batch_norm: bool = False, optimizer: str = "sgd") -> None:
        super().__init__()
        self.save_hyperparameters()
        torch.manual_seed(0)
        normalisation = [nn.BatchNorm1d(8)] if batch_norm else []
        self.net = nn.Sequential(nn.Linear(4, 8), *normalisation, nn.Tanh(), nn.Linear(8, 1))
        self.val_accuracy = BinaryAccuracy()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = nn.functional.mse_loss(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        out = self(batch[0])
        self.log("val_loss", nn.functional.mse_loss(out, batch[1]))
        self.val_accuracy.update(out > 0, (batch[1] > 0).long())
        self.log("val_accuracy", self.val_accuracy)

    def configure_optimizers(self) -> Any:
        if self.hparams["optimizer"] == "adam":
            return torch.optim.Adam(self.parameters(), 0.01)
        return torch.optim.SGD(self.parameters(), 0.05)


class Witness(L.Callback):
    """Writes down what one of a site's processes has, whenever it validates and in the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._validated: list[dict[str, Tensor]] = []

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._validated.append({name: t.detach().clone() for name, t in pl_module.state_dict().items()})

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        kept = {
            "validated": self._validated,
            "callbacks": {type(callback).__name__: callback.state_dict() for callback in trainer.callbacks},
            "state": {name: t.detach().clone() for name, t in pl_module.state_dict().items()},
            "strategy": type(trainer.strategy).__name__,
            "steps": trainer.global_step,
        }
        torch.save(kept, self._path.with_name(f"{self._path.name}-{trainer.global_rank}.pt"))


def fit(
    settings: dict[str, Any],
    folder: Path,
    devices: int = 2,
    count: int = 24,
    module: Callable[[], L.LightningModule] = Module,
    callbacks: Callable[[], list[L.Callback]] = list,
    data: Callable[[], Any] | None = None,
    **trainer: Any,
) -> None:
    """A site's script: the same for one device and for several."""
    # Lightning shuffles by the seed that it finds in the environment, which another test may have left there.
    L.seed_everything(0, verbose=False)
    site = settings["site"]
    several = {"start_method": "fork"} if devices > 1 and settings.get("local") != "fsdp" else {}
    L.Trainer(
        strategy=FederatedStrategy(**{**several, **settings}),
        accelerator="cpu",
        devices=devices,
        callbacks=[*callbacks(), Witness(folder / site)],
        **{
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": folder,
            **trainer,
        },
    ).fit(
        module(),
        data() if data else loader(examples(int(site[-1]), count), 8, devices),
        DataLoader(examples(99, 16), 16 // devices),
    )


class Site:
    """A script in a process of its own, which may have processes of its own, too."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._receiver, sender = _CONTEXT.Pipe(duplex=False)
        self.process = _CONTEXT.Process(target=_run, args=(sender, args, options))
        self.process.start()
        sender.close()

    def end(self) -> str | None:
        """Wait for the end; the text of the error, if there was one."""
        if not self._receiver.poll(PATIENCE_S):
            self.process.kill()
            raise AssertionError("the site did not end in time")
        text = self._receiver.recv()
        self.process.join(PATIENCE_S)
        assert self.process.exitcode == 0
        return text

    def send(self, signum: signal.Signals) -> None:
        os.kill(self.process.pid, signum)


def _run(sender: Any, args: Any, options: Any) -> None:
    torch.set_num_threads(1)
    os.environ.update(options.pop("environment", {}))
    try:
        options.pop("script", fit)(*args, **options)
        sender.send(None)
    except BaseException:  # noqa: BLE001 - SystemExit, too: the test looks at it
        sender.send(traceback.format_exc())


class Here:
    """One federation on this machine.

    Args:
        folder: for keys, the store and whatever sites write.
        plan: the plan.
        sites: names of the sites, which end with a digit.
        initial: the coordinator's model, if it has one.
    """

    def __init__(
        self, folder: Path, plan: FederationPlan, sites: tuple[str, ...], initial: L.LightningModule | None = None
    ) -> None:
        self.folder, self.sites = folder, sites
        self._store = folder / "store"
        identities = [new_identity(name) for name in ("coordinator", *sites)]
        for identity in identities:
            write_identity(identity, folder / "keys")
        roster = Roster.of(identities[0].card, [identity.card for identity in identities[1:]])
        roster.write(folder / "keys" / "roster.yaml")
        self._coordinator = Coordinator(
            plan,
            address="tcp://127.0.0.1:0",
            identity=load_identity(folder / "keys" / "coordinator.key"),
            roster=roster,
            store=self._store,
            initial=initial,
        )
        self.error: FederationError | None = None
        self._thread = threading.Thread(target=self._coordinate, daemon=True)
        self._thread.start()

    def _coordinate(self) -> None:
        try:
            self._coordinator.run()
        except FederationError as error:
            self.error = error

    def settings(self, site: str, **more: Any) -> dict[str, Any]:
        """Arguments of the site's FederatedStrategy, all of them fit for JSON."""
        return {
            "coordinator": self._coordinator.address,
            "site": site,
            "identity": str(self.folder / "keys" / f"{site}.key"),
            "roster": str(self.folder / "keys" / "roster.yaml"),
            "patience_s": 20.0,
            "ledger": str(self.folder / f"{site}.jsonl"),
            **more,
        }

    def site(self, name: str, strategy: Mapping[str, Any] | None = None, **options: Any) -> Site:
        """Start a site's script; ``strategy`` holds further arguments of its FederatedStrategy."""
        return Site(self.settings(name, **(strategy or {})), self.folder, **options)

    def nodes(
        self, name: str, strategy: Mapping[str, Any] | None = None, launcher: str = "torchrun", **options: Any
    ) -> list[Site]:
        """Start a site's script in each of two processes, as torchrun or Slurm does it instead of Lightning."""
        port = free_port()
        together = {"num_nodes": 2, "devices": 1, "data": halves, **options}
        return [self.site(name, strategy, environment=node(rank, launcher, port), **together) for rank in range(2)]

    def fit(self, **options: Any) -> None:
        """Have every site train to the federation's end."""
        sites = [self.site(name, **options) for name in self.sites]
        for text in [site.end() for site in sites]:
            assert text is None, text
        self.wait()

    def wait(self) -> None:
        """Wait for the federation's end, which must be a good one."""
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive() and self.error is None, self.error

    def ranks(self, site: str) -> list[dict[str, Any]]:
        """What the witnesses of a site's processes wrote down."""
        return [torch.load(path, weights_only=False) for path in sorted(self.folder.glob(f"{site}-*.pt"))]

    def events(self, kind: str, **values: Any) -> list[dict[str, Any]]:
        path = self._store / "events.jsonl"
        events = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [e for e in events if e["event"] == kind and all(e.get(name) == one for name, one in values.items())]

    def wait_for(self, kind: str, **values: Any) -> dict[str, Any]:
        return until(lambda: next(iter(self.events(kind, **values)), None), f"{kind} {values}")

    def model(self, version: int) -> dict[str, Tensor]:
        return torch.load(self._store / "models" / f"{version:06d}.ckpt", weights_only=True)["state_dict"]


def errors(sites: list[Site]) -> list[str]:
    """The errors that all of these have ended with: each its traceback, which ends with the error's text."""
    texts = [site.end() for site in sites]
    assert None not in texts, texts
    return [text.rstrip() for text in texts if text]


def until(found: Callable[[], Any], what: str) -> Any:
    """Wait until something is there."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if one := found():
            return one
        time.sleep(0.02)
    raise AssertionError(f"no {what} within {PATIENCE_S} s")


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def farthest(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference of two states."""
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
