"""JSON schemas of the configs that ``lightning-fed init`` writes, so that editors complete and check them.

They lie with the templates, because making them imports torch, which takes seconds. ``python -m
lightning_fed.cli.schemas`` makes them anew.
"""

from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
from docstring_parser import parse

from lightning_fed.cli.coordinate import config_parser
from lightning_fed.plan import FederationPlan
from lightning_fed.policy import SitePolicy
from lightning_fed.simulation.config import Simulation

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_NO_SETTINGS = ("help", "config", "print_config", "plan")


def schemas() -> dict[str, bytes]:
    """The schema of each config, as JSON, by its file's name."""
    kinds = {"policy": SitePolicy, "simulation": Simulation}
    made = {name: _explained(msgspec.json.schema(kind)) for name, kind in kinds.items()}
    made["coordinator"] = _coordinator()
    return {
        f"{name}.schema.json": msgspec.json.format(msgspec.json.encode({"$schema": _DIALECT, **schema}), indent=1)
        + b"\n"
        for name, schema in made.items()
    }


def _coordinator() -> dict[str, Any]:
    plan = _explained(msgspec.json.schema(FederationPlan))
    helps = {action.dest: action.help for action in config_parser()._actions if "." not in action.dest}
    return {
        "type": "object",
        "properties": {
            **{name: {"description": text} for name, text in helps.items() if name not in _NO_SETTINGS},
            "plan": {"$ref": plan["$ref"], "description": "what all sites agree on"},
        },
        "additionalProperties": False,
        "$defs": plan["$defs"],
    }


def _explained(schema: dict[str, Any]) -> dict[str, Any]:
    """Gives each setting its own line of the docstring, and refuses settings that nobody knows, as the parsers do."""
    for kind in schema["$defs"].values():
        docstring = parse(kind["description"])
        kind["description"] = docstring.short_description
        kind["additionalProperties"] = False
        for setting in kind["properties"].values():
            # Only msgspec 0.23 and later give these, and they tell an editor nothing.
            if setting.get("default") in ([], {}):
                del setting["default"]
        for setting in docstring.params:
            kind["properties"][setting.arg_name]["description"] = " ".join((setting.description or "").split())
    return schema


def main() -> None:
    """Write the schemas to their place among the templates."""
    for name, content in schemas().items():
        Path(str(files("lightning_fed.cli") / "templates" / name)).write_bytes(content)


if __name__ == "__main__":
    main()
