"""The configuration of a simulation: one YAML for the coordinator, every site and the baselines."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lightning_fed.cli.parser import NamesNearest, converted, without_choices
from lightning_fed.errors import ConfigError, did_you_mean
from lightning_fed.plan import FederationPlan
from lightning_fed.protocol.terms import quorum_of
from lightning_fed.transport.addresses import host_and_port

COORDINATOR = "coordinator"
"""The coordinator's name in keys, file names and messages; no site may have it."""

Settings = dict[str, Any]


@dataclass(frozen=True)
class SiteOverrides:
    """What one site has differently; merged into the settings that all sites share.

    Args:
        model: keys of ``model``.
        data: keys of ``data``.
        trainer: keys of ``trainer``.
    """

    model: Settings = field(default_factory=dict)
    data: Settings = field(default_factory=dict)
    trainer: Settings = field(default_factory=dict)


@dataclass(frozen=True)
class Baselines:
    """What the federated model is compared with, on the pooled test data.

    Args:
        metric: name of the logged test metric to compare.
        pooled: the data module (``class_path``, ``init_args``) over all sites' data: centralised training trains on it,
            and every model is tested on it.
    """

    metric: str
    pooled: Settings


@dataclass(frozen=True)
class OnRay:
    """The Ray cluster of ``engine: ray``, and what of it a site gets.

    Args:
        address: where the cluster is, like ``10.0.0.4:6379`` or ``auto``; when not given, the one that ``RAY_ADDRESS``
            names or that this machine belongs to, else Ray starts one on this machine.
        cpus_per_site: processor cores that Ray sets aside for a site, or a part of one.
        gpus_per_site: GPUs that Ray sets aside for a site, or a part of one: with 0.25 four sites share a GPU.
        restarts: how often a site is started again whose worker is lost or whose process is killed.
        runtime_env: what Ray prepares on each worker, in Ray's own words, such as ``{working_dir: .}``.

    Raises:
        ConfigError: an amount is negative, or a site would get nothing at all.
    """

    address: str | None = None
    cpus_per_site: float = 1.0
    gpus_per_site: float = 0.0
    restarts: int = 3
    runtime_env: Settings = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("cpus_per_site", "gpus_per_site", "restarts"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"ray.{name} = {getattr(self, name)} must be 0 or more.")
        if self.gpus_per_site > 1 and not float(self.gpus_per_site).is_integer():
            raise ConfigError(
                f"ray.gpus_per_site = {self.gpus_per_site} is more than one GPU and no whole number, which Ray does "
                "not give. Round it up, or share one GPU (below 1)."
            )
        if not self.cpus_per_site + self.gpus_per_site:
            raise ConfigError("ray gives a site no part of a core or GPU. Set ray.cpus_per_site, 1.0 unless set.")
        if str(self.address).startswith("ray://"):
            raise ConfigError(
                f"ray.address = {self.address} is Ray's client, and the coordinator has to run within the cluster's "
                "network. Call simulate on a machine of the cluster, with address: auto."
            )


@dataclass(frozen=True)
class Simulation:
    """A federation on this machine, or with its sites on a Ray cluster.

    ``{site}`` is replaced by the site's name in every text of ``model``, ``data`` and ``trainer``.

    Args:
        run: folder of this run: keys, logs, the store and the sites' own files.
        sites: the sites' names.
        plan: the federation plan.
        model: the LightningModule as in a site's config: ``class_path`` and ``init_args``.
        data: the LightningDataModule, likewise.
        trainer: any settings of Lightning's Trainer.
        overrides: what single sites have differently, by the site's name.
        seed: of the initial model and of every site.
        baselines: what to compare the federated model with; nothing when not given.
        engine: what runs the sites: ``processes`` of this machine, or a ``ray`` cluster.
        address: where the coordinator listens on this machine and the sites reach it, like ``tcp://10.0.0.4:5790``; a
            free port that only this machine reaches when not given.
        ray: the cluster of ``engine: ray``.

    Raises:
        ConfigError: sites and settings contradict each other.
    """

    run: str
    sites: list[str]
    plan: FederationPlan
    model: Settings
    data: Settings
    trainer: Settings = field(default_factory=dict)
    overrides: dict[str, SiteOverrides] = field(default_factory=dict)
    seed: int = 0
    baselines: Baselines | None = None
    engine: Literal["processes", "ray"] = "processes"
    address: str | None = None
    ray: OnRay = field(default_factory=OnRay)

    def __post_init__(self) -> None:
        if not self.run:
            raise ConfigError("run is empty. Name a folder for this run's files, like runs/fracture.")
        if doubled := [site for site, count in Counter(self.sites).items() if count > 1]:
            raise ConfigError(f"sites names {doubled[0]!r} more than once. Give each site its own name.")
        if COORDINATOR in self.sites:
            raise ConfigError(f"a site cannot be named {COORDINATOR!r}. Choose another name.")
        if unknown := sorted(self.overrides.keys() - set(self.sites)):
            raise ConfigError(
                f"overrides names {unknown[0]!r}, which is none of the sites {self.sites}."
                f"{did_you_mean(unknown[0], self.sites)}"
            )
        if self.plan.quorum > len(self.sites):
            raise ConfigError(
                f"plan.quorum = {self.plan.quorum} cannot be reached by the {len(self.sites)} sites {self.sites}. "
                "Lower the quorum or add sites."
            )
        quorum_of(self.plan, len(self.sites))
        if self.address is not None:
            host, port = host_and_port(self.address)
            if host == "*" or not port:
                raise ConfigError(
                    f"address = {self.address} names no one place that sites could reach. Write this machine's own "
                    "name or address and a port, like tcp://10.0.0.4:5790."
                )


Form = Literal["shell", "torchrun", "slurm"]
"""What commands are printed for."""


def read_config(arguments: Sequence[str]) -> Simulation:
    """Read ``--config FILE`` and single settings behind it; exits with a message that names a misspelt key.

    Raises:
        ConfigError: sites and settings contradict each other.
        PlanError: a value of the plan that no federation can run with.
    """
    return read_options(arguments)[0]


def config_parser() -> NamesNearest:
    """Return the parser of the command's options and of its config, which have the same names."""
    parser = NamesNearest(
        prog="lightning-fed simulate", description="Run a coordinator and all sites of a federation on this machine."
    )
    parser.add_argument("--config", action="config", help="YAML file with the keys below")
    parser.add_argument(
        "--commands",
        type=Form | None,
        default=None,
        help="run nothing, and print the commands that run coordinator and sites: for a shell on each machine, with "
        "torchrun, or as a batch script for Slurm",
    )
    parser.add_class_arguments(Simulation)
    without_choices(parser)
    return parser


def read_options(arguments: Sequence[str]) -> tuple[Simulation, Form | None]:
    """As ``read_config``, with what commands are to be printed for instead of running the simulation."""
    options = config_parser().parse_args(list(arguments))
    del options["config"]
    form: Form | None = options.pop("commands")
    return converted(options.as_dict(), Simulation), form
