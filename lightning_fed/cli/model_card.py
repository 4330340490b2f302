"""The model card of an export, in Markdown.

Sections after Mitchell et al. 2019, Model Cards for Model Reporting (arXiv 1810.03993); the YAML before them is what
Hugging Face's hub reads.
"""

import re
from pathlib import Path
from typing import Any

import msgspec
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lightning_fed.cli.plan_words import in_words, plan_of
from lightning_fed.cli.provenance import Provenance

_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~&!$^])")
_LICENCE_OF_THE_HUB = re.compile(r"[a-z0-9][a-z0-9.-]*")


def card_of(provenance: Provenance, notes: str, values: int | None) -> str:
    """The model card.

    Args:
        provenance: what is known of the model.
        notes: Markdown of whoever publishes it, on its use and its limits; taken as it stands.
        values: number of values that sites exchanged, if known.
    """
    environment = Environment(
        loader=PackageLoader("lightning_fed.cli"),
        autoescape=False,  # noqa: S701 - it is no HTML: ``finalize`` escapes for Markdown
        finalize=_markdown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    plan = plan_of(provenance.plan, Path(provenance.federation))
    return environment.get_template("model_card.md").render(
        of=provenance,
        front=Markup(_front(provenance)),  # noqa: S704
        words=in_words(plan),
        metrics=plan.metrics,
        settings=Markup(_fenced(provenance.plan)),  # noqa: S704
        notes=Markup(notes.strip()),  # noqa: S704
        values=values,
        most=max(provenance.privacy, key=lambda spent: spent.epsilon, default=None),
    )


def _markdown(value: Any) -> str:
    """Text of others as text; what is mark-up of ours passes."""
    return value if isinstance(value, Markup) else _MARKUP.sub(r"\\\1", str(value))


def _front(provenance: Provenance) -> str:
    named = provenance.license
    licence = {"license": "unknown"}
    if _LICENCE_OF_THE_HUB.fullmatch(named.lower()):
        licence = {"license": named.lower()}
    elif named:
        licence = {"license": "other", "license_name": named}
    front: dict[str, Any] = {**licence, "library_name": "lightning_fed"}
    front["tags"] = ["federated-learning", "pytorch-lightning", "lightning_fed"]
    if provenance.metrics:
        front["metrics"] = sorted(provenance.metrics)
    return yaml.safe_dump(front, sort_keys=False, allow_unicode=False)


def _fenced(settings: Any) -> str:
    # JSON has no line that begins with a backtick, so that nothing in it can end the block.
    return msgspec.json.format(msgspec.json.encode(settings)).decode()
