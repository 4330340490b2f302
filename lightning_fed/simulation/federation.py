"""The federation of a simulation: a coordinator's process here, and one for each site here or elsewhere, watched."""

import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from lightning_fed.protocol.terms import quorum_of
from lightning_fed.simulation.commands import command_of, write_configs
from lightning_fed.simulation.config import COORDINATOR, Simulation
from lightning_fed.simulation.display import Display
from lightning_fed.simulation.expansion import threads_each
from lightning_fed.simulation.folder import RunFolder
from lightning_fed.simulation.processes import Child, Running, stop
from lightning_fed.simulation.progress import EventTail, Progress

_LOOK_S = 0.2
"""How often events and processes are looked at."""

_LAST_WORDS_S = 30.0
"""How long a site that failed may take to end."""


def federate(simulation: Simulation, folder: RunFolder, display: Display, lock: int) -> bool:
    """Run the federation to its end; goes on from the newest global model in the folder.

    Args:
        simulation: what to run.
        folder: where.
        display: shows what happens.
        lock: the folder's lock, which the children hold too.

    Returns:
        Whether every process succeeded and the last round is done.
    """
    address = simulation.address or f"tcp://127.0.0.1:{_free_port()}"
    threads = threads_each(len(simulation.sites))

    def child(name: str, config: Path) -> Child:
        return Child(name, command_of(name, config), folder.log(name), threads=threads, keep_open=[lock])

    with ExitStack() as engine:
        start: Callable[[str, Path], Running] = child
        if simulation.engine == "ray":
            # Imported here: only who has asked for it needs Ray.
            from lightning_fed.simulation.ray_engine import ray_sites

            start = engine.enter_context(ray_sites(simulation, address, folder, display))
        configs = write_configs(simulation, address, folder)
        children: list[Running] = []
        try:
            children.append(child(COORDINATOR, configs.pop(COORDINATOR)))
            for site, config in configs.items():
                children.append(start(site, config))
            return _watch(children[0], children[1:], simulation, EventTail(folder.events), display)
        finally:
            # The coordinator first: it must not take the sites' leaving for failures, and they need not say goodbye.
            try:
                stop(children[:1])
            finally:
                stop(children[1:])


def progress_of(simulation: Simulation, folder: RunFolder) -> Progress:
    """What the folder's event log tells."""
    progress = Progress(simulation.sites)
    for event in EventTail(folder.events).new():
        progress.take(event)
    return progress


def _watch(
    coordinator: Running, sites: Sequence[Running], simulation: Simulation, tail: EventTail, display: Display
) -> bool:
    progress = Progress(simulation.sites)
    for event in tail.new():
        progress.take(event)
    # What an earlier call of this run left behind says nothing of the processes that were started now.
    progress.failing.clear()
    running = [coordinator, *sites]
    quorum = quorum_of(simulation.plan, len(sites))
    succeeded, deadline = True, 0.0
    with display:
        while running:
            # Looked at before the events are read, so that the last events of a process are never missed.
            ended = [child for child in running if child.exit_code is not None]
            events = tail.new()
            for event in events:
                progress.take(event)
            for child in ended:
                running.remove(child)
                succeeded &= child.exit_code == 0
                if child is not coordinator:
                    progress.sites[child.name] = "done" if child.exit_code == 0 else "failed"
                if child.exit_code != 0:
                    display.failed(child)
            display.take(events, progress)
            if coordinator not in running and coordinator.exit_code != 0:
                # A site whose failure made the coordinator give up may still be writing down why.
                failing = [child for child in running if child.name in progress.failing]
                deadline = deadline or time.monotonic() + _LAST_WORDS_S
                if not failing or time.monotonic() > deadline:
                    return False
            alive = [child for child in running if child is not coordinator]
            if coordinator in running and not progress.finished and len(alive) < quorum.updates:
                display.say(
                    f"{len(alive)} of {len(sites)} sites are left and {quorum.why}: the federation is stopped. Start "
                    "the same command again to go on from the last global model."
                )
                return False
            time.sleep(_LOOK_S)
    return succeeded and progress.finished


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
