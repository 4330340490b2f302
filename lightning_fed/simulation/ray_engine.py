"""``engine: ray``: the sites' processes on the workers of a Ray cluster.

The coordinator runs where ``simulate`` does. Each site is an actor that starts the process which the site would be on
one machine, so that plan, state machines and messages are the same; only where the process runs, and who starts it
again when its worker is lost, is Ray's business.
"""

import ipaddress
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any

import msgspec

from lightning_fed.aggregation.feddyn import FedDyn
from lightning_fed.aggregation.scaffold import Scaffold
from lightning_fed.errors import ConfigError
from lightning_fed.files import write_whole
from lightning_fed.plan import FederationPlan
from lightning_fed.simulation.commands import command_of
from lightning_fed.simulation.config import OnRay, Simulation
from lightning_fed.simulation.display import Display
from lightning_fed.simulation.folder import RunFolder
from lightning_fed.simulation.processes import how_it_ended
from lightning_fed.simulation.ray_worker import ORIGIN, SiteHost, SiteJob
from lightning_fed.transport.addresses import host_and_port

_LOOK_S = 1.0
"""Longest that an actor waits for its process to end before it answers."""

_PATIENCE_S = 20.0
"""After which it is said that the cluster has no room for a site yet."""

_KNOCK_S = 10.0
"""Longest that a cluster may take to answer at all."""

_KILL_S = 5.0
"""Longest that an actor may take to kill its process before it is killed itself."""

_INTERRUPTED = 130
"""Exit code of a site that was asked to end."""


@contextmanager
def ray_sites(
    simulation: Simulation, address: str, folder: RunFolder, display: Display
) -> Iterator[Callable[[str, Path], "RaySite"]]:
    """Connect to the cluster, and give what starts a site by its name and its config's path.

    Args:
        simulation: what to run.
        address: the coordinator's.
        folder: of the run, on this machine.
        display: says where sites run.

    Raises:
        ConfigError: Ray is not installed, the cluster cannot be reached, or its machines cannot reach the coordinator.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "engine: ray needs Ray, here and on every worker. Run: pip install 'lightning_fed[ray]'"
        ) from error
    if ray.is_initialized():
        raise ConfigError("this process is connected to Ray already. Call ray.shutdown() first.")
    _connect(ray, simulation.ray)
    try:
        _check_reach(ray, address)
        yield lambda site, config: RaySite(ray, simulation, _job(simulation, folder, site, config), display)
    finally:
        ray.shutdown()


class RaySite:
    """A site's process on whichever worker Ray has chosen; has the names of ``processes.Child``.

    When its worker is lost, or somebody kills its process, the site starts elsewhere, ``ray.restarts`` times. One that
    ends with an error of its own is not started again: it would fail again.

    Args:
        ray: the package.
        simulation: what runs.
        job: the site.
        display: says where it runs.
    """

    def __init__(self, ray: Any, simulation: Simulation, job: SiteJob, display: Display) -> None:
        self._ray = ray
        self._settings = simulation.ray
        self._personal = simulation.plan.personal
        self._job = job
        self._display = display
        self._restarts = 0
        self._code: int | None = None
        self._tail = ""
        self._ending = False
        self._place()

    @property
    def name(self) -> str:
        """The site's."""
        return self._job.site

    @property
    def log(self) -> str:
        """Where the output of its process is, behind the name of the worker."""
        return f"{self._host or 'not started'}:{self._job.log}"

    @property
    def exit_code(self) -> int | None:
        """None while it runs, waits for a worker or is about to start elsewhere."""
        if self._code is None:
            self._look()
        return self._code

    def tail(self) -> str:
        """Why it could not go on, or the end of what its last process wrote."""
        return self._tail

    def end(self, signum: signal.Signals = signal.SIGTERM) -> None:
        """Send its process a signal, if it still runs; it does not start elsewhere after that."""
        self._ending = True
        if self._code is not None:
            return
        if self._host is None:
            self._over(-signum)
            return
        ended = self._actor.end.remote(int(signum))
        if signum == signal.SIGKILL:
            # A worker that cannot be reached must not keep this process waiting.
            self._ray.wait([ended], timeout=_KILL_S)
            self._over(-signum)

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait until it has ended.

        Raises:
            subprocess.TimeoutExpired: it has not.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while (code := self.exit_code) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self.name, timeout_s or 0.0)
            self._ray.wait([self._asked], timeout=0.1)
        return code

    def _place(self) -> None:
        """Have Ray start the site where there is room."""
        options = {
            "num_cpus": self._settings.cpus_per_site,
            "num_gpus": self._settings.gpus_per_site,
            "scheduling_strategy": "SPREAD",
        }
        self._actor = self._ray.remote(SiteHost).options(**options).remote()
        self._asked = self._actor.start.remote(self._job)
        self._host: str | None = None
        self._told_by = time.monotonic() + _PATIENCE_S

    def _look(self) -> None:
        """Take in what the actor has answered, and ask again."""
        errors = self._ray.exceptions
        ready, _ = self._ray.wait([self._asked], timeout=0)
        if not ready:
            self._say_if_waiting()
            return
        try:
            answer = self._ray.get(self._asked)
        except errors.RayTaskError as error:
            self._fail(str(error.cause))
        except errors.RayActorError:
            self._lost("its worker is lost")
        except errors.RayError as error:
            self._fail(str(error))
        else:
            self._take(answer)

    def _take(self, answer: Any) -> None:
        if self._host is None:
            self._host, shared = answer
            self._display.say(f"{self.name}: runs on {self._host}")
            if not shared and not self._job.begun and self._job.keeps:
                self._display.say(
                    f"{self.name}: {self._host} does not share the run's folder {self._job.folder}, so the site will "
                    "not start on another machine should its worker be lost"
                )
            self._job = msgspec.structs.replace(self._job, begun=True)
        elif answer is not None:
            code, self._tail = answer
            if (code < 0 or code == _INTERRUPTED) and not self._ending:
                self._lost(f"its process {how_it_ended(code)}")
            else:
                self._over(code)
            return
        self._asked = self._actor.look.remote(_LOOK_S)

    def _lost(self, why: str) -> None:
        self._ray.kill(self._actor)
        if self._ending:
            self._over(-signal.SIGTERM)
        elif self._restarts >= self._settings.restarts:
            self._fail(f"{why}, and it has started elsewhere {self._restarts} times (ray.restarts)")
        elif self._personal and self._host is not None:
            self._fail(
                f"{why}, and with it what training has made of its own tensors (plan.personal = {self._personal}), "
                "which no other worker has"
            )
        else:
            self._restarts += 1
            self._display.say(f"{self.name}: {why}; starts elsewhere")
            self._place()

    def _fail(self, why: str) -> None:
        self._tail = f"{self._tail}\n{why}".strip()
        self._over(1)

    def _over(self, code: int) -> None:
        self._code = code
        # Its part of the worker is free for others.
        self._ray.kill(self._actor)

    def _say_if_waiting(self) -> None:
        if self._host is None and time.monotonic() > self._told_by:
            self._told_by = float("inf")
            self._display.say(
                f"{self.name}: no worker has room for it yet (cores: {self._settings.cpus_per_site:g}, GPUs: "
                f"{self._settings.gpus_per_site:g}); it waits for one"
            )


def _connect(ray: Any, settings: OnRay) -> None:
    _knock(settings.address)
    # Ray tells its makers how it is used unless it is told not to; of a cluster that is there, who started it decides.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=settings.address,
            runtime_env=settings.runtime_env or None,
            log_to_driver=False,
            logging_level="warning",
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"the Ray cluster (ray.address = {settings.address}) cannot be used: {error}. Start it, or correct the "
            "address."
        ) from error
    finally:
        # Ray's would end this process before it has ended the sites.
        signal.signal(signal.SIGTERM, before)


def _knock(address: str | None) -> None:
    """Refuse at once a cluster that does not answer: Ray itself would try for five minutes."""
    host, _, port = (address or "").rpartition(":")
    if not host or not port.isdecimal():
        return  # auto, local, or whatever Ray makes of it
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"nothing answers at ray.address = {address}: {error}. Start the cluster (ray start --head), or correct "
            "the address."
        ) from error


def _check_reach(ray: Any, address: str) -> None:
    """Refuse a coordinator that only this machine reaches if the cluster has others."""
    own = ray.util.get_node_ip_address()
    others = sorted({node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]} - {own})
    if others and _only_here(host_and_port(address)[0]):
        raise ConfigError(
            f"sites on the worker {others[0]} cannot reach a coordinator at {address}. Say where it listens, and open "
            f"that port to the workers: --address tcp://{own}:5790."
        )


def _only_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(socket.gethostbyname(host) if ":" not in host else host).is_loopback
    except OSError:
        return False  # a name that the workers may know


def _job(simulation: Simulation, folder: RunFolder, site: str, config: Path) -> SiteJob:
    origin, begun = _origin(folder.site(site))
    files = (folder.keys / f"{site}.key", folder.keys / "roster.yaml", config)
    return SiteJob(
        site=site,
        home=None if "working_dir" in simulation.ray.runtime_env else str(Path.cwd()),
        command=command_of(site, config),
        files={str(path): path.read_bytes() for path in files},
        folder=str(folder.site(site)),
        log=str(folder.log(site)),
        threads=max(1, int(simulation.ray.cpus_per_site)),
        origin=origin,
        begun=begun,
        keeps=_kept_by_sites(simulation.plan),
    )


def _origin(folder: Path) -> tuple[str, bool]:
    """What says that a site's folder is of this run, and whether the site has begun.

    It is written here first: a worker that finds it shares the run's folder.
    """
    begun, file = folder.exists(), folder / ORIGIN
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(file, token_hex(16).encode())
    return file.read_text(), begun


def _kept_by_sites(plan: FederationPlan) -> list[str]:
    """What each site writes into its folder and must not forget, in words that follow "does not know"."""
    kept = []
    if plan.masking.mode != "off":
        kept.append("which masked sums it has let be opened")
    if plan.privacy.example or plan.privacy.site:
        kept.append("what it has spent of its privacy")
    if plan.compression.method != "none":
        kept.append("what it has not sent of its updates")
    if isinstance(plan.aggregation, Scaffold | FedDyn):
        kept.append(f"its own correction ({plan.algorithm['name']})")
    return kept
