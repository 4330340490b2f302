"""A federation's plan in plain words, for readers who are no programmers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from lightning_fed.errors import StoreError, printable

# Classes of their own, and not those of ``lightning_fed.plan``, which import torch and look for the classes that a plan
# names: whoever only reads a plan must import nothing.


class _Local(msgspec.Struct):
    epochs: int | None = None
    steps: int | None = None
    optimizer_state: str = "keep"
    proximal: float = 0.0


class _Masking(msgspec.Struct):
    mode: str = "required"
    bits: int = 16
    colluding: int = 0


class _Example(msgspec.Struct):
    epsilon: float | None = None
    noise_multiplier: float | None = None
    clipping_norm: float = 1.0
    delta: float = 1e-5
    replace_layers: bool = False


class _Site(msgspec.Struct):
    mechanism: str = "distributed"
    noise_multiplier: float = 1.0
    clipping_norm: float = 1.0
    delta: float = 1e-5
    quantile: float | None = None


class _Privacy(msgspec.Struct):
    example: _Example | None = None
    site: _Site | None = None


class _Compression(msgspec.Struct):
    method: str = "none"
    share: float = 0.01
    values: str | dict[str, Any] = "int8"
    feedback: str = "residual"


class NamesBest(msgspec.Struct):
    """By which metric the best model is named."""

    metric: str
    mode: Literal["min", "max"]
    patience: int | None = None


class Plan(msgspec.Struct):
    """What of a stored plan is told in words; see ``lightning_fed.FederationPlan``."""

    name: str = "federation"
    rounds: int = 10
    local: _Local = msgspec.field(default_factory=_Local)
    algorithm: dict[str, Any] = {}
    personal: list[str] = []
    masking: _Masking = msgspec.field(default_factory=_Masking)
    privacy: _Privacy = msgspec.field(default_factory=_Privacy)
    compression: _Compression = msgspec.field(default_factory=_Compression)
    quorum: int = 2
    cohort_size: int | None = None
    round_deadline_s: float = 3600.0
    max_attempts: int = 3
    max_examples: int = 1_000_000
    max_faults: int = 3
    metrics: list[str] = []
    best: NamesBest | None = None


def plan_of(settings: Mapping[str, Any], folder: Path) -> Plan:
    """The plan of a store, from what ``read_run`` read.

    Raises:
        StoreError: it is no plan.
    """
    try:
        return msgspec.convert(_printable(settings), Plan)
    except (msgspec.ValidationError, RecursionError) as error:
        raise StoreError(f"the plan in run.json of {folder} cannot be read: {error}. Restore run.json.") from error


def in_words(plan: Plan) -> list[tuple[str, str]]:
    """Each part of the plan as a heading and a sentence or two."""
    parts = [
        ("Training", _training(plan)),
        ("Who takes part", _cohort(plan)),
        ("How updates become a model", _algorithm(plan)),
        ("What the coordinator sees", _masking(plan)),
        ("What is promised about patients and hospitals", _privacy(plan)),
        ("What is sent", _compression(plan)),
        ("What is reported", _metrics(plan)),
    ]
    if plan.personal:
        names = ", ".join(plan.personal)
        parts.insert(3, ("What stays at each site", f"These parts of the model are never exchanged: {names}."))
    return parts


def _training(plan: Plan) -> str:
    local = plan.local
    each = _many(local.steps, "optimiser step") if local.steps else _many(local.epochs or 1, "epoch")
    kept = {"keep": "Optimisers go on where they were", "reset": "Optimisers begin anew with each global model"}
    text = f"{_many(plan.rounds, 'round')}; in each, a site trains {each} on its own data. "
    text += kept.get(local.optimizer_state, f"Optimiser state: {local.optimizer_state}") + "."
    if local.proximal:
        text += f" Each step is pulled back to the global model (FedProx, mu = {local.proximal:g})."
    return text


def _cohort(plan: Plan) -> str:
    who = "all sites that are ready are"
    if plan.cohort_size is not None:
        who = f"{_many(plan.cohort_size, 'ready site')} are drawn and"
    return (
        f"In each round {who} asked to train. It needs at least {_many(plan.quorum, 'update')}, and closes after "
        f"{_duration(plan.round_deadline_s)} with those that are there. A round that fails is tried up to "
        f"{_many(plan.max_attempts, 'time')}; a site that is late {_many(plan.max_faults, 'time')} pauses for five "
        "rounds."
    )


def _algorithm(plan: Plan) -> str:
    settings = dict(plan.algorithm)
    name = settings.pop("name", None) or settings.pop("class_path", "fedavg")
    rest = ", ".join(f"{key} = {value}" for key, value in settings.items() if value is not None)
    text = f"{name}" + (f" ({rest})" if rest else "") + ". "
    return text + f"No site counts with more than {plan.max_examples:,} examples in a round."


def _masking(plan: Plan) -> str:
    if plan.masking.mode != "required":
        return (
            "Each site's update, by name: masks are off. On the way it is encrypted, and the coordinator can read it."
        )
    text = "Only sums. Each update is hidden under masks that cancel in the sum over the sites of a round (secure "
    text += "aggregation), so no single update, number of examples or metric is seen"
    if plan.masking.colluding:
        text += f", even if {_many(plan.masking.colluding, 'site')} should collude with the coordinator"
    return text + "."


def _privacy(plan: Plan) -> str:
    texts = []
    if example := plan.privacy.example:
        noise = f"noise of {example.noise_multiplier} clipping norms"
        goal = f"epsilon at most {example.epsilon:g}" if example.epsilon is not None else noise
        texts.append(
            f"For every single training example, at every site: differential privacy by DP-SGD with {goal}, "
            f"delta = {example.delta:g}, gradients clipped to norm {example.clipping_norm:g}."
            + (" Layers that cannot be trained so were replaced." if example.replace_layers else "")
        )
    if site := plan.privacy.site:
        who = {
            "distributed": "each site adds its share of the noise under the masks",
            "central": "the coordinator adds the noise and is trusted for that",
        }
        texts.append(
            f"For everything that one site contributes: differential privacy, {who.get(site.mechanism, site.mechanism)}"
            f"; noise multiplier {site.noise_multiplier:g}, delta = {site.delta:g}."
        )
    return " ".join(texts) or "No differential privacy was promised."


def _compression(plan: Plan) -> str:
    compression = plan.compression
    share = f"{100 * compression.share:.3g} %"
    how = {
        "none": "Every value of an update.",
        "topk": f"The {share} of each site's values that changed most.",
        "randomk": f"The same random {share} of the values at all sites.",
        "vote": f"The {share} of the values that most sites, under the masks, name among those that changed most.",
    }
    text = how.get(compression.method, compression.method)
    if compression.method != "none":
        made_up = {
            "residual": "is added to the site's next update",
            "ef21": "goes on as it was last known, and a site sends the difference to that (EF21), all counting alike",
        }
        text += f" What is not sent {made_up.get(compression.feedback, compression.feedback)}."
    if plan.masking.mode == "required":
        return f"{text} A value takes {plan.masking.bits} bits under its mask."
    if compression.method != "none" and isinstance(compression.values, str):
        return f"{text} A value is written as {compression.values}."
    return text


def _metrics(plan: Plan) -> str:
    if not plan.metrics:
        return "No metric."
    text = f"Of each global model: {', '.join(plan.metrics)}, as a mean over the sites; nothing else."
    if plan.best:
        which = {"min": "smallest", "max": "largest"}[plan.best.mode]
        text += f" The best model is the one of the {which} {plan.best.metric}."
        if plan.best.patience:
            text += f" Training ends once {_many(plan.best.patience, 'model')} in a row were no better."
    return text


def _many(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:g} s"
    return f"{seconds / 60:.3g} minutes" if seconds < 7200 else f"{seconds / 3600:.3g} hours"


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(key): _printable(each) for key, each in value.items()}
    return [_printable(each) for each in value] if isinstance(value, list) else value
