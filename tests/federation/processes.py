"""Real federations for the tests: a coordinator and sites, each a process of its own, over loopback sockets."""

import io
import json
import logging
import multiprocessing
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lightning_fed.coordinator.service import Coordinator
from lightning_fed.errors import FederationError
from lightning_fed.plan import FederationPlan
from lightning_fed.transport.identity import load_identity, new_identity, write_identity
from lightning_fed.transport.roster import Roster

# Forked from a server that has imported everything: a process is there in a tenth of a second instead of in seconds.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["lightning_fed.participant.round_loop", "modules", "processes", "lightning_fed.coordinator.service"]
)

PATIENCE_S = 120


class Program:
    """A function in a process of its own; its result or its error comes back."""

    def __init__(self, target: Callable[..., Any], *args: Any) -> None:
        self._receiver, sender = _CONTEXT.Pipe(duplex=False)
        self.process = _CONTEXT.Process(target=_report, args=(sender, target, *args), daemon=True)
        self.process.start()
        sender.close()

    def result(self) -> Any:
        """Wait for the end; an error is raised here, as its kind and text."""
        assert self._receiver.poll(PATIENCE_S), "the process gave no result in time"
        kind, value = self._receiver.recv()
        self.process.join(PATIENCE_S)
        if kind == "error":
            raise AssertionError(value)
        return torch.load(io.BytesIO(value), weights_only=False)

    def error(self) -> str:
        """Wait for the end, which must be an error: its kind and text."""
        assert self._receiver.poll(PATIENCE_S), "the process gave no result in time"
        kind, value = self._receiver.recv()
        self.process.join(PATIENCE_S)
        assert kind == "error", "the process ended without an error"
        return value

    def ended(self) -> tuple[str, Any] | None:
        """``result`` or ``error``, and which; None while the process is still at work. Without waiting."""
        gone = self.process.exitcode is not None
        try:
            if self._receiver.poll():
                kind, value = self._receiver.recv()
                self.process.join(PATIENCE_S)
                return kind, value if kind == "error" else torch.load(io.BytesIO(value), weights_only=False)
        except EOFError:
            self.process.join(PATIENCE_S)
            gone = True
        return ("error", f"exit code {self.process.exitcode}") if gone else None

    def kill(self) -> None:
        """SIGKILL: no goodbye, no clean-up."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join(PATIENCE_S)

    def stop_clock(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)


def _report(sender: Any, target: Callable[..., Any], *args: Any) -> None:
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    try:
        result = io.BytesIO()
        torch.save(target(*args), result)
        # As bytes: torch would otherwise share memory with a process that has ended when the test looks.
        sender.send(("result", result.getvalue()))
    except BaseException as error:  # noqa: BLE001 - the test looks at it
        text = f"{type(error).__name__}: {error}"
        sender.send(("error", text if isinstance(error, FederationError) else text + "\n" + traceback.format_exc()))


class Federation:
    """Keys, a roster, a store and an address; starts the processes of one federation.

    Args:
        folder: where everything is written.
        plan: the plan.
        sites: names of the sites.
    """

    def __init__(self, folder: Path, plan: FederationPlan, sites: list[str]) -> None:
        self.folder = folder
        self.plan = plan
        self.sites = sites
        self.keys = folder / "keys"
        self.store = folder / "store"
        self.address = f"tcp://127.0.0.1:{free_port()}"
        identities = [new_identity(name) for name in ["coordinator", *sites]]
        for identity in identities:
            write_identity(identity, self.keys)
        self.roster = Roster.of(identities[0].card, [identity.card for identity in identities[1:]])
        self.roster.write(self.keys / "roster.yaml")

    def coordinate(self, module: Callable[[], Any] | None = None) -> Program:
        """Start the coordinator."""
        return Program(_coordinate, self.plan, self.address, self.keys, self.store, module)

    def site(self, name: str, program: Callable[..., Any], *args: Any) -> Program:
        """Start ``program(strategy_arguments, folder, *args)`` as a site."""
        arguments = self.strategy_arguments(name)
        (self.folder / name).mkdir(exist_ok=True)
        return Program(program, arguments, self.folder / name, *args)

    def strategy_arguments(self, name: str) -> dict[str, Any]:
        return {
            "coordinator": self.address,
            "site": name,
            "identity": self.keys / f"{name}.key",
            "roster": self.keys / "roster.yaml",
            "patience_s": 60.0,
            "ledger": self.folder / name / "ledger.jsonl",
        }

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        path = self.store / "events.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        events = [{k: v for k, v in json.loads(line).items() if k != "chain"} for line in lines]
        return [event for event in events if kind in (None, event["event"])]

    def wait_for(self, kind: str, count: int = 1, **values: Any) -> dict[str, Any]:
        """Wait until the event log holds ``count`` events of a kind with these values; return the last."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            found = [e for e in self.events(kind) if all(e.get(key) == value for key, value in values.items())]
            if len(found) >= count:
                return found[-1]
            time.sleep(0.02)
        raise AssertionError(f"no {kind} {values} within {PATIENCE_S} s: {self.events()}")

    def model(self, version: int) -> dict[str, torch.Tensor]:
        """The state dict of a stored global model."""
        path = self.store / "models" / f"{version:06d}.ckpt"
        deadline = time.monotonic() + 20
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        return torch.load(path, weights_only=True)["state_dict"]


def _coordinate(plan: FederationPlan, address: str, keys: Path, store: Path, module: Any) -> str:
    coordinator = Coordinator(
        plan,
        address=address,
        identity=load_identity(keys / "coordinator.key"),
        roster=Roster.load(keys / "roster.yaml"),
        store=store,
        initial=module() if module else None,
    )
    coordinator.run()
    return "finished"


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def assert_same(state, expected, atol=0.0):
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(state[name].float(), tensor.float(), rtol=0, atol=atol, msg=name)
