"""The configuration of a simulation: one YAML for the coordinator, every site and the baselines."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_fed.cli.parser import NamesNearest, converted, without_choices
from lightning_fed.errors import ConfigError, did_you_mean
from lightning_fed.plan import FederationPlan
from lightning_fed.protocol.terms import quorum_of

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
class Simulation:
    """A federation on this machine.

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


def read_config(arguments: Sequence[str]) -> Simulation:
    """Read ``--config FILE`` and single settings behind it; exits with a message that names a misspelt key.

    Raises:
        ConfigError: sites and settings contradict each other.
        PlanError: a value of the plan that no federation can run with.
    """
    parser = NamesNearest(
        prog="lightning-fed simulate", description="Run a coordinator and all sites of a federation on this machine."
    )
    parser.add_argument("--config", action="config", help="YAML file with the keys below")
    parser.add_class_arguments(Simulation)
    without_choices(parser)
    options = parser.parse_args(list(arguments))
    del options["config"]
    return converted(options.as_dict(), Simulation)
