"""JSON schemas of the configs that ``lightning-fed init`` writes, so that editors complete and check them.

They lie with the templates, because making them imports torch, which takes seconds. ``python -m
lightning_fed.cli.schemas`` makes them anew.
"""

from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
from docstring_parser import parse

from lightning_fed.cli import coordinate, region
from lightning_fed.cli.parser import NamesNearest
from lightning_fed.plan import FederationPlan
from lightning_fed.plan.level import Level
from lightning_fed.policy import SitePolicy
from lightning_fed.region.upstream import Upstream
from lightning_fed.simulation.config import Simulation

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_NO_SETTINGS = ("help", "config", "print_config")


def schemas() -> dict[str, bytes]:
    """The schema of each config, as JSON, by its file's name."""
    kinds = {"policy": SitePolicy, "simulation": Simulation}
    made = {name: _explained(msgspec.json.schema(kind)) for name, kind in kinds.items()}
    made["coordinator"] = _config_of(coordinate.config_parser(), {"plan": (FederationPlan, "what all sites agree on")})
    upstream, level = "the coordinator above, of which this region is a site", "what holds among this region's sites"
    made["region"] = _config_of(region.config_parser(), {"upstream": (Upstream, upstream), "level": (Level, level)})
    return {
        f"{name}.schema.json": msgspec.json.format(msgspec.json.encode({"$schema": _DIALECT, **schema}), indent=1)
        + b"\n"
        for name, schema in made.items()
    }


def _config_of(parser: NamesNearest, blocks: dict[str, tuple[type, str]]) -> dict[str, Any]:
    """The schema of a config that a command's parser reads, with these blocks of settings."""
    inner = {name: _explained(msgspec.json.schema(kind, schema_hook=_path)) for name, (kind, _) in blocks.items()}
    helps = {action.dest: action.help for action in parser._actions if "." not in action.dest}
    known = {name: {"description": text} for name, text in helps.items() if name not in (*_NO_SETTINGS, *blocks)}
    referred = {name: {"$ref": schema["$ref"], "description": blocks[name][1]} for name, schema in inner.items()}
    return {
        "type": "object",
        "properties": {**known, **referred},
        "additionalProperties": False,
        "$defs": {name: kind for schema in inner.values() for name, kind in schema["$defs"].items()},
    }


def _path(kind: type) -> dict[str, Any]:
    if kind is not Path:
        raise NotImplementedError(kind)
    return {"type": "string"}


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
