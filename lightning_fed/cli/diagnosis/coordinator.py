"""What of a coordinator's config needs its plan and its model."""

import dataclasses
from pathlib import Path

import msgspec
from jsonargparse import ArgumentError, Namespace

from lightning_fed.cli.coordinate import initial_of, read_config
from lightning_fed.cli.diagnosis.findings import Findings
from lightning_fed.cli.diagnosis.site_settings import mapping_in
from lightning_fed.cli.diagnosis.terms import check_quorum
from lightning_fed.cli.diagnosis.volume import check_coordinator_line, check_coordinator_memory
from lightning_fed.coordinator.disk import bytes_free, bytes_taken, shortage
from lightning_fed.coordinator.extension import wanted_extension
from lightning_fed.coordinator.recorded import read_run, rounds_configured, stored_versions
from lightning_fed.coordinator.retention import versions_in
from lightning_fed.errors import FederationError
from lightning_fed.participant.plan_callbacks import check_model
from lightning_fed.plan import FederationPlan
from lightning_fed.privacy.layers import replace_layers
from lightning_fed.transport.roster import Roster
from lightning_fed.update.layout import Layout, layout_of
from lightning_fed.update.model_digest import layout_digest


def check_training(findings: Findings, config_path: Path, roster: Roster | None, line_mbit: float | None) -> None:
    """Look at the plan, the initial model, the store, and what rounds will take."""
    try:
        planned = mapping_in(config_path).get("plan")
        counts = isinstance(planned, dict) and bool(planned.get("statistics") or planned.get("evaluation"))
        config = read_config(["--config", str(config_path)], exits=False, counts=counts)
    except (ArgumentError, FederationError) as error:
        findings.fail("config", str(error))
        return
    findings.ok("config", f"{config_path} can be read.")
    plan: FederationPlan = config.plan
    findings.ok("plan", f"{plan.name!r}, {plan.rounds} rounds ({plan.hash[:12]}). Its parts go together.")
    if roster is not None:
        check_quorum(findings, plan, roster)
    if plan.counted:
        what, command = ("statistics", "statistics") if plan.statistics else ("evaluation", "evaluate")
        findings.skip(
            "model",
            f"the plan counts and trains nothing (plan.{what}): there is no model, and store, disk, memory and line "
            "are not checked.",
            f"Start it with: lightning-fed {command} coordinate",
        )
        return
    plan, newest = _check_store(findings, config.store, plan)
    layout = _check_initial(findings, config)
    if layout is None:
        return
    _check_disk(findings, config, plan, layout, newest)
    if roster is not None:
        check_coordinator_memory(findings, plan, layout, roster)
        check_coordinator_line(findings, plan, layout, roster, line_mbit)


def _check_store(findings: Findings, store: Path, plan: FederationPlan) -> tuple[FederationPlan, int | None]:
    """The plan with the rounds that the run will have, and the version of the newest global model.

    No version if there is no model, or the store cannot be used.
    """
    if not (store / "run.json").exists():
        findings.ok("store", f"{store} is new.")
        return plan, None
    with findings.of("store"):
        run, settings = read_run(store)
        recorded = int(settings["rounds"])
        # A run goes on under a plan that differs in its rounds alone.
        if settings != _as_stored(dataclasses.replace(plan, rounds=recorded)):
            differing = sorted(name for name, value in _as_stored(plan).items() if settings.get(name) != value)
            findings.fail(
                "store",
                f"{store} belongs to another plan (differing: {', '.join(differing)}).",
                "Choose a new folder; to go on from this store's model, name its newest .ckpt as the checkpoint.",
            )
            return plan, None
        epsilon = plan.privacy.example.epsilon if plan.privacy.example else None
        extension = wanted_extension(store, recorded, rounds_configured(store), plan.rounds, epsilon)
        rounds = extension.rounds if extension else recorded
        versions = stored_versions(store)
        newest = versions[-1] if versions else None
        left = rounds - (newest or 0)
        extended = f" It has {rounds} rounds by now; the config says {plan.rounds}." if rounds != plan.rounds else ""
        findings.ok(
            "store", f"{store} is that of run {run}; newest global model: {newest}, {left} rounds to come.{extended}"
        )
        return dataclasses.replace(plan, rounds=rounds), newest
    return plan, None


def _as_stored(plan: FederationPlan) -> dict[str, object]:
    settings: dict[str, object] = msgspec.json.decode(plan.to_bytes())
    return settings


def _check_initial(findings: Findings, config: Namespace) -> Layout | None:
    plan: FederationPlan = config.plan
    try:
        module = initial_of(config)
        if module is None:
            findings.warn(
                "model",
                "the config names no model: the first site is asked for its untrained one, which sites that require "
                "masks do not give. What depends on the model is not checked.",
                "model: {class_path: ...}",
            )
            return None
        module.configure_model()
        if plan.privacy.example and plan.privacy.example.replace_layers:
            replace_layers(module)
        layout = layout_of(module, plan.personal)
        check_model(plan, layout)
    except FederationError as error:
        findings.fail("model", str(error))
        return None
    except Exception as error:  # noqa: BLE001 - the config names code of others, and what that raises is the finding
        findings.fail("model", f"{type(error).__name__}: {error}", "Mend the module, or its arguments in the config.")
        return None
    findings.ok(
        "model",
        f"{layout.size:,} values in {len(layout.exchanged)} tensors; its fingerprint is {layout_digest(layout).hex()}.",
    )
    return layout


def _check_disk(
    findings: Findings, config: Namespace, plan: FederationPlan, layout: Layout, newest: int | None
) -> None:
    folder: Path = config.store.absolute() / "models"
    # Both formats hold the exchanged values; a stored model says how much else there is.
    each, there = 2 * 4 * layout.size, 0
    if newest is not None:
        each = max(each, 2 * bytes_taken(folder / f"{newest:06d}.safetensors"))
        there = len(versions_in(folder))
    rounds = plan.rounds - (newest or 0)
    while not folder.exists():
        folder = folder.parent
    models = None
    if config.keep is not None:
        models = config.keep.models_to_come(rounds, -1 if newest is None else newest, there, best=plan.best is not None)
    free = bytes_free(folder)
    short = shortage(rounds, each, free, models)
    if short is None:
        findings.ok("disk", f"{folder} has room for the {rounds} rounds to come.")
    else:
        findings.fail("disk", f"the disk of {folder} {short}")
