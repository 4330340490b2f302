"""From one simulation's settings to the settings of each process: pure functions on plain dicts."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_fed.errors import ConfigError
from lightning_fed.foreign import without_versions
from lightning_fed.simulation.config import Settings, Simulation, SiteOverrides

_STRATEGY = "lightning_fed.FederatedStrategy"
_LENGTH = ("max_epochs", "max_steps", "min_epochs", "min_steps", "max_time")


def deep_merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Settings:
    """``base`` with ``over`` laid on top: dicts are merged, everything else is replaced.

    Where ``over`` names another ``class_path``, that section is replaced as a whole: arguments of the one class mean
    nothing to the other.
    """
    if over.get("class_path", base.get("class_path")) != base.get("class_path"):
        return dict(over)
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = deep_merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def for_site(settings: Any, site: str) -> Any:
    """The same settings with ``{site}`` replaced by the site's name in every text."""
    if isinstance(settings, str):
        return settings.replace("{site}", site)
    if isinstance(settings, Mapping):
        return {key: for_site(value, site) for key, value in settings.items()}
    if isinstance(settings, list):
        return [for_site(value, site) for value in settings]
    return settings


def site_settings(simulation: Simulation, site: str) -> Settings:
    """A site's ``model``, ``data``, ``trainer`` and ``seed_everything``, still without the federation."""
    overrides = simulation.overrides.get(site, SiteOverrides())
    sections = {
        name: deep_merge(getattr(simulation, name), getattr(overrides, name)) for name in ("model", "data", "trainer")
    }
    return {"seed_everything": simulation.seed, **for_site(sections, site)}


def site_config(simulation: Simulation, site: str, address: str, folder: Path, keys: Path) -> Settings:
    """The config of ``lightning-fed fit`` for one site.

    Args:
        simulation: the simulation.
        site: the site's name.
        address: where the coordinator listens.
        folder: the site's own folder, for checkpoints and logs.
        keys: folder of identities and roster.

    Raises:
        ConfigError: ``trainer.strategy`` cannot be combined with the federation.
    """
    settings = site_settings(simulation, site)
    own = settings["trainer"].get("strategy", {"class_path": _STRATEGY})
    if not isinstance(own, Mapping) or own.get("class_path") != _STRATEGY:
        raise ConfigError(
            f"trainer.strategy = {own!r} cannot be simulated. Leave it out, or give further settings of {_STRATEGY} "
            "as class_path and init_args."
        )
    # A simulated site must not be charged to the ledger of a real one of that name, nor to another run's.
    default: Settings = {"class_path": _STRATEGY, "init_args": {"ledger": str(folder / "ledger.jsonl")}}
    if simulation.plan.foreign_classes:
        # Here the sites and the coordinator are one person, who named the classes.
        default["init_args"]["policy"] = {"foreign_classes": simulation.plan.foreign_classes}
    strategy = {
        "init_args": {
            "coordinator": address,
            "site": site,
            "identity": str(keys / f"{site}.key"),
            "roster": str(keys / "roster.yaml"),
        }
    }
    merged = deep_merge(deep_merge(default, own), strategy)
    return {**settings, "trainer": {**_logged(settings["trainer"], folder), "strategy": merged}}


def coordinator_config(simulation: Simulation, address: str, store: Path, keys: Path) -> Settings:
    """The config of ``lightning-fed coordinate``."""
    return {
        "address": address,
        "identity": str(keys / "coordinator.key"),
        "roster": str(keys / "roster.yaml"),
        "store": str(store),
        # On its way through YAML a version such as "1.10" would become a number.
        "plan": without_versions(dataclasses.asdict(simulation.plan)),
        "model": for_site(simulation.model, "coordinator"),
        "seed": simulation.seed,
    }


def alone_config(simulation: Simulation, site: str | None, folder: Path) -> Settings:
    """Settings to train without the federation, as long as a site trains within it.

    Args:
        simulation: the simulation; ``baselines`` must be there.
        site: the site whose own data are trained on; None for the pooled data.
        folder: for checkpoints and logs.
    """
    assert simulation.baselines is not None
    settings = site_settings(simulation, site or "pooled")
    if site is None:
        settings["data"] = simulation.baselines.pooled
    trainer = {key: value for key, value in settings["trainer"].items() if key not in ("strategy", *_LENGTH)}
    local, rounds = simulation.plan.local, simulation.plan.rounds
    # A training that is counted in steps must not end at Lightning's default number of epochs.
    length = {"max_epochs": rounds * local.epochs} if local.epochs else {"max_epochs": -1}
    if local.steps:
        length["max_steps"] = rounds * local.steps
    return {**settings, "trainer": {**_logged(_sending_nothing(trainer), folder), **length}}


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_each(processes: int) -> int:
    """Threads that each of so many processes may use, so that together they have one for each core."""
    return max(1, cores() // max(1, processes))


def _sending_nothing(trainer: Settings) -> Settings:
    """A Trainer's settings without the callback that is about what is sent, and refuses a fit that sends nothing."""
    if not trainer.get("callbacks"):
        return trainer
    callbacks = trainer["callbacks"] if isinstance(trainer["callbacks"], list) else [trainer["callbacks"]]
    return {**trainer, "callbacks": [one for one in callbacks if not _is_topk(one)]}


def _is_topk(callback: Any) -> bool:
    # The parser also takes a class's bare name.
    return isinstance(callback, Mapping) and str(callback.get("class_path")).split(".")[-1] == "TopKCompression"


def _logged(trainer: Settings, folder: Path) -> Settings:
    """A Trainer's settings for a process whose output goes to a file, where a progress bar is in the way."""
    return {"default_root_dir": str(folder), "enable_progress_bar": False, **trainer}
