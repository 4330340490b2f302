"""Writes docs/settings.md and docs/commands.md: every setting and every command's options, from what the code says.

``make reference``, or ``python docs/reference.py [--folder docs]``.
"""

import argparse
import dataclasses
import inspect
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from docstring_parser import parse

from lightning_fed.aggregation.registry import ALGORITHMS
from lightning_fed.cli.completion import parser_of
from lightning_fed.cli.coordinate import config_parser
from lightning_fed.cli.main import COMMANDS
from lightning_fed.cli.region import config_parser as region_parser
from lightning_fed.cli.schemas import schemas

# The class itself: the package's own name of it stands in for it until Lightning is there.
from lightning_fed.strategies.federated import FederatedStrategy

HERE = Path(__file__).parent
NOTE = "<!-- Written by `make reference` from the code's own descriptions; a test compares. -->"
PLAN_CLASSES = {
    "local": "LocalTraining",
    "masking": "Masking",
    "privacy": "Privacy",
    "privacy.example": "ExamplePrivacy",
    "privacy.site": "SitePrivacy",
    "compression": "Compression",
    "best": "BestModel",
    "statistics": "Statistics",
    "statistics.columns": "CountedColumn",
    "evaluation": "Evaluation",
}
"""Blocks of a plan, and the class that holds each one's settings."""

SETTINGS = """\
# Every setting

{note}

For whoever writes a plan, a policy or a config: each setting, what it means and what it is if you leave it out. Editors
complete and check the same settings by the schemas that `lightning-fed init` writes. Which of them go together is in
[Compositions](compositions.md); a plan whose parts do not is refused with the reason.
"""

COMMANDS_PAGE = """\
# Every command

{note}

Each command's `--help` says the same. `fit`, `validate`, `test` and `predict` are Lightning's own command line,
with the options of your module and your data: [From a script, or Lightning CLI](lightning-cli.md).
"""


def settings() -> str:
    """The page of settings."""
    made = {name.split(".")[0]: json.loads(text) for name, text in schemas().items()}
    kinds = made["coordinator"]["$defs"]
    parts = [
        SETTINGS.format(note=NOTE),
        "## The plan\n\nThe coordinator's, and the same for all: the block `plan:` of the coordinator's config.\n",
        _of_schema(kinds["FederationPlan"]),
    ]
    for block, kind in PLAN_CLASSES.items():
        parts += [f"### plan.{block}\n\n{_prose(kinds[kind]['description'])}\n", _of_schema(kinds[kind])]
    parts.append(
        "### plan.algorithm\n\nFedAvg unless named, as in `algorithm: {name: fedadam, server_lr: 0.01}`. What each "
        "gains where: [Heterogeneous hospitals](heterogeneity.md).\n"
    )
    parts += [_table(("name", "what it is", "settings"), (_algorithm(name) for name in ALGORITHMS))]
    policy = made["policy"]["$defs"]["SitePolicy"]
    parts += [
        "## A site's policy\n\nThe hospital's own: the file that `policy=` of the strategy names.\n",
        _of_schema(policy),
    ]
    strategy = _arguments(FederatedStrategy)
    parts += [
        "## The strategy of a site\n\nArguments of `FederatedStrategy`, and `init_args` in Lightning CLI.\n",
        _table(("argument", "meaning", "if left out"), strategy),
        "## The coordinator's config\n\nBeside `plan:`; each is an option of `lightning-fed coordinate`, too.\n",
        _of_parser(config_parser()),
        "## A region's config\n\nOf `lightning-fed region`: [Regions](regions.md).\n",
        _of_parser(region_parser()),
    ]
    region = made["region"]["$defs"]
    for block, kind in (("upstream", "Upstream"), ("level", "Level")):
        parts += [f"### {block}\n\n{_prose(region[kind]['description'])}\n", _of_schema(region[kind])]
    simulation = made["simulation"]["$defs"]
    parts += [
        "## A simulation's config\n\nOf `lightning-fed simulate`: [Simulate your own split](simulate.md).\n",
        _of_schema(simulation["Simulation"]),
    ]
    for title, kind in (("overrides", "SiteOverrides"), ("baselines", "Baselines"), ("ray", "OnRay")):
        parts += [f"### {title}\n\n{_prose(simulation[kind]['description'])}\n", _of_schema(simulation[kind])]
    return "\n".join(parts)


def commands() -> str:
    """The page of commands."""
    parts = [COMMANDS_PAGE.format(note=NOTE), _table(("command", "what it does"), _summaries())]
    for name, (_, text) in COMMANDS.items():
        parser = parser_of(name)
        if parser is not None:
            parts.append(f"## lightning-fed {name}\n\n{_prose(parser.description or text)}\n")
            parts += _of_command(parser, f"lightning-fed {name}")
    return "\n".join(parts)


def _summaries() -> Iterator[tuple[str, str]]:
    return ((f"`{name}`", _prose(text)) for name, (_, text) in COMMANDS.items())


def _of_command(parser: argparse.ArgumentParser, name: str) -> Iterator[str]:
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if any("--config" in action.option_strings for action in parser._actions):
        yield "Each setting of its config is an option, too: [Every setting](settings.md).\n"
    rows = [_option(action) for action in parser._actions if _is_shown(action)]
    if rows:
        yield _table(("argument", "meaning", "if left out"), rows)
    for action in below:
        said = {one.dest: one.help for one in action._get_subactions()}
        for word, one in action.choices.items():
            text = _prose(one.description or said.get(word) or "")
            yield f"### {name.removeprefix('lightning-fed ')} {word}\n\n{text}\n"
            yield from _of_command(one, f"{name} {word}")


def _is_shown(action: argparse.Action) -> bool:
    # What has no default to show is the file of a whole block, whose settings are shown one by one.
    hidden = argparse.SUPPRESS in (action.help, action.default)
    shown = not hidden and not isinstance(action, argparse._SubParsersAction)
    return shown and action.dest not in ("help", "print_config") and "." not in action.dest


def _option(action: argparse.Action) -> tuple[str, str, str]:
    names = (
        [each for each in action.option_strings if "_" not in each] or action.option_strings or [action.dest.upper()]
    )
    left_out = "must be given" if action.required or not action.option_strings else _default(action.default)
    return f"`{names[-1]}`", _prose(action.help or ""), left_out


def _of_parser(parser: argparse.ArgumentParser) -> str:
    rows = [
        (
            f"`{action.dest}`",
            _prose(action.help or ""),
            "must be given" if action.required else _default(action.default),
        )
        for action in parser._actions
        if _is_shown(action) and action.dest not in ("config", "plan")
    ]
    return _table(("setting", "meaning", "if left out"), rows)


def _of_schema(kind: Mapping[str, Any]) -> str:
    rows = [
        (f"`{name}`", _prose(one.get("description", "")), _values(one), _left_out(name, one, kind))
        for name, one in kind["properties"].items()
    ]
    return _table(("setting", "meaning", "values", "if left out"), rows)


def _left_out(name: str, one: Mapping[str, Any], kind: Mapping[str, Any]) -> str:
    if name in kind.get("required", ()):
        return "must be given"
    return _default(one.get("default"))


def _values(one: Mapping[str, Any]) -> str:
    if "enum" in one:
        return ", ".join(f"`{word}`" for word in one["enum"] if word is not None)
    if "anyOf" in one:
        return " or ".join(dict.fromkeys(_values(each) for each in one["anyOf"] if each.get("type") != "null"))
    if "$ref" in one or one.get("type") == "object":
        return "a block"
    if one.get("type") == "array":
        return "a list"
    names = {"integer": "a whole number", "number": "a number", "string": "text", "boolean": "`true`, `false`"}
    return names.get(str(one.get("type")), "anything")


def _default(value: object) -> str:
    if value is None or value in ([], {}, "") or not isinstance(value, (str, int, float, Path)):
        return ""
    return f"`{json.dumps(value) if isinstance(value, bool) else value}`"


def _algorithm(name: str) -> tuple[str, str, str]:
    kind = ALGORITHMS[name]
    said = {one.arg_name: one.description or "" for one in parse(inspect.getdoc(kind) or "").params}
    fields = [one for one in dataclasses.fields(kind) if one.init]
    given = [
        f"`{one.name}`{'' if one.default is dataclasses.MISSING else f' ({one.default})'}: {_prose(said[one.name])}"
        for one in fields
    ]
    return f"`{name}`", _prose(parse(inspect.getdoc(kind) or "").short_description or ""), "<br>".join(given)


def _arguments(kind: type) -> Iterator[tuple[str, str, str]]:
    said = {one.arg_name: one.description or "" for one in parse(inspect.getdoc(kind) or "").params}
    for name, one in inspect.signature(kind.__init__).parameters.items():
        needed = one.default is one.empty and one.kind is not one.VAR_KEYWORD
        left_out = "must be given" if needed else _default(one.default)
        if name in said:
            yield f"`{name}`", _prose(said[name]), left_out


def _prose(text: str) -> str:
    """A docstring's words in Markdown, on one line of a table."""
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", text).replace("``", "`")
    return " ".join(text.split()).replace("|", "\\|")


def _table(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    titles = list(titles)
    lines = [f"| {' | '.join(titles)} |", f"|{' --- |' * len(titles)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def main() -> None:
    """Write both pages."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--folder", type=Path, default=HERE)
    folder = options.parse_args().folder
    for name, text in {"settings": settings(), "commands": commands()}.items():
        (folder / f"{name}.md").write_text(text)


if __name__ == "__main__":
    main()
