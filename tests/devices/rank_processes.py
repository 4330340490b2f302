"""Sites of several processes, started as torchrun starts them, and a coordinator in a thread; over real sockets."""

import json
import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lightning_fed.coordinator.service import Coordinator
from lightning_fed.errors import FederationError
from lightning_fed.plan import FederationPlan, LocalTraining, Masking
from lightning_fed.transport.identity import Roster, load_identity, new_identity, write_identity

# Forked from a server that has imported everything: a process is there in a tenth of a second instead of in seconds.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["lightning_fed.participant.round_loop", "trained_on_ranks", "rank_processes"])

PATIENCE_S = 100
NAMES = ("site-0", "site-1")


def plan(rounds: int = 2, epochs: int | None = None, steps: int | None = None, **settings: Any) -> FederationPlan:
    local = LocalTraining(epochs=epochs, steps=steps)
    return FederationPlan(**{"rounds": rounds, "local": local, "masking": Masking("off"), "quorum": 2, **settings})


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Rank:
    """One process of a site."""

    def __init__(self, environment: dict[str, str], target: Callable[..., Any], *arguments: Any) -> None:
        self._receiver, sender = _CONTEXT.Pipe(duplex=False)
        self.process = _CONTEXT.Process(target=_report, args=(sender, environment, target, *arguments), daemon=True)
        self.process.start()
        sender.close()

    def outcome(self) -> tuple[str, Any]:
        """Wait for the end: ``("result", None)``, or ``("error", kind and text)``."""
        assert self._receiver.poll(PATIENCE_S), "the process did not end in time"
        outcome = self._receiver.recv()
        self.process.join(PATIENCE_S)
        return outcome

    def send(self, signum: signal.Signals) -> None:
        os.kill(self.process.pid, signum)


def _report(sender: Any, environment: dict[str, str], target: Callable[..., Any], *arguments: Any) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    try:
        target(*arguments)
        sender.send(("result", None))
    except BaseException as error:  # noqa: BLE001 - the test looks at it
        text = f"{type(error).__name__}: {error}"
        sender.send(("error", text if isinstance(error, FederationError) else text + "\n" + traceback.format_exc()))


class Federation:
    """Keys, a roster and a running coordinator.

    Args:
        folder: where everything is written.
        plan: the plan.
        sites: their names.
    """

    def __init__(self, folder: Path, plan: FederationPlan, sites: tuple[str, ...] = NAMES) -> None:
        self.folder = folder
        identities = [new_identity(name) for name in ("coordinator", *sites)]
        for identity in identities:
            write_identity(identity, folder / "keys")
        Roster.of(identities[0].card, [one.card for one in identities[1:]]).write(folder / "keys" / "roster.yaml")
        self._coordinator = Coordinator(
            plan,
            address="tcp://127.0.0.1:0",
            identity=load_identity(folder / "keys" / "coordinator.key"),
            roster=Roster.load(folder / "keys" / "roster.yaml"),
            store=folder / "store",
        )
        self.address = self._coordinator.address
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._coordinator.run()
        except FederationError as error:
            self.error = error

    def arguments(self, site: str) -> dict[str, Any]:
        """The one changed line at a site."""
        return {
            "coordinator": self.address,
            "site": site,
            "identity": self.folder / "keys" / f"{site}.key",
            "roster": self.folder / "keys" / "roster.yaml",
            "ledger": self.folder / site / "ledger.jsonl",
            "patience_s": 20.0,
        }

    def site(self, site: str, target: Callable[..., Any], *arguments: Any, devices: int) -> list[Rank]:
        """Start the processes of a site: ``target(strategy_arguments, trainer_arguments, *arguments)``."""
        trainer = {"devices": devices, "default_root_dir": self.folder / site}
        agreed = {
            "OMP_NUM_THREADS": "1",
            "TORCHELASTIC_RUN_ID": site,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
            "WORLD_SIZE": str(devices),
            "GROUP_RANK": "0",
        }
        return [
            Rank({**agreed, "RANK": rank, "LOCAL_RANK": rank}, target, self.arguments(site), trainer, *arguments)
            for rank in map(str, range(devices))
        ]

    def events(self, kind: str) -> list[dict[str, Any]]:
        path = self.folder / "store" / "events.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [event for event in map(json.loads, lines) if event["event"] == kind]

    def wait_for(self, kind: str, count: int = 1) -> dict[str, Any]:
        """Wait until the event log holds so many events of a kind; return the last."""
        deadline = time.monotonic() + PATIENCE_S
        while len(self.events(kind)) < count:
            assert time.monotonic() < deadline, f"no {kind} within {PATIENCE_S} s"
            time.sleep(0.02)
        return self.events(kind)[-1]

    def model(self, version: int) -> dict[str, torch.Tensor]:
        """The state dict of a stored global model."""
        path = self.folder / "store" / "models" / f"{version:06d}.ckpt"
        return torch.load(path, weights_only=True)["state_dict"]

    def wait(self) -> None:
        """Wait for the federation's end."""
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()


def outcomes(ranks: list[Rank]) -> list[tuple[str, Any]]:
    """How the processes end."""
    return [rank.outcome() for rank in ranks]


def errors(ranks: list[Rank]) -> list[str]:
    """What the processes fail with, which must all do so."""
    found = outcomes(ranks)
    assert {kind for kind, _ in found} == {"error"}, found
    return [value for _, value in found]
