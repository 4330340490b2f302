"""Classes of other packages that a plan names by their import path.

A plan comes over the line, and an import runs code. So a site reads a plan only if its own policy names every foreign
class in it, see ``FederationPlan.from_bytes``; here, where the import happens, nothing is asked any more.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from importlib import metadata
from pkgutil import resolve_name
from typing import Any, TypeVar

import msgspec

from lightning_fed.errors import PlanError, did_you_mean

_T = TypeVar("_T")

_KEYS = {"class_path", "init_args", "version"}


def is_foreign(block: object) -> bool:
    """Whether a setting names a class by its import path."""
    return isinstance(block, Mapping) and "class_path" in block


def class_paths(settings: object) -> Iterator[str]:
    """Import paths of all foreign classes in a plan's settings, whatever their place."""
    if isinstance(settings, Mapping):
        if is_foreign(settings):
            yield str(settings["class_path"])
        settings = list(settings.values())
    if isinstance(settings, list):
        for value in settings:
            yield from class_paths(value)


def read_foreign(block: Mapping[str, object], base: type[_T], setting: str) -> _T:
    """An instance of the class that a block names.

    Args:
        block: ``class_path``, ``init_args`` (the class's settings) and, in a plan that came over the line, the
            ``version`` that the coordinator has.
        base: what the class must derive from.
        setting: the block's place in the plan, for messages.

    Raises:
        PlanError: the class cannot be found, is no dataclass or not of this kind, has no version, has another version
            than the block says, or has no such settings.
    """
    if unknown := sorted(block.keys() - _KEYS):
        raise PlanError(f"plan.{setting} has keys nobody knows: {unknown}. Known are {sorted(_KEYS)}.")
    path = str(block["class_path"])
    kind = _imported(path, setting)
    if not (isinstance(kind, type) and issubclass(kind, base) and hasattr(kind, "__dataclass_fields__")):
        raise PlanError(
            f"plan.{setting}: {path} is no dataclass that derives from {base.__name__}. Derive it from "
            f"lightning_fed.{base.__name__} and decorate it with @dataclass(frozen=True): its fields are its settings."
        )
    here, asked = _version(kind, setting), block.get("version")
    if asked not in (None, here):
        raise PlanError(
            f"plan.{setting}: the federation uses version {asked!r} of {path}, and {here!r} is installed here. Install "
            "the same version everywhere."
        )
    given = block.get("init_args") or {}
    if not isinstance(given, Mapping):
        raise PlanError(f"plan.{setting}.init_args = {given!r} must be settings by name. Change it in the plan.")
    return read_settings(kind, given, setting, path)


def read_settings(kind: type[_T], given: Mapping[str, object], setting: str, name: str) -> _T:
    """An instance of a dataclass from its settings.

    Args:
        kind: the dataclass.
        given: values by field.
        setting: the place in the plan, for messages.
        name: what the plan calls the class.

    Raises:
        PlanError: an unknown setting, or a value of the wrong type or out of its range.
    """
    known = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]  # all are dataclasses
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise PlanError(
            f"plan.{setting} has settings {unknown} that {name!r} does not know; it knows {sorted(known)}. "
            f"Remove them from the plan.{did_you_mean(unknown[0], known)}"
        )
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        raise PlanError(f"plan.{setting} of {name!r} cannot be read: {error}. Change it in the plan.") from error


def without_versions(settings: Any) -> Any:
    """A plan's settings without the versions of foreign classes, which are found anew where they are read."""
    if isinstance(settings, Mapping):
        kept = {key: without_versions(value) for key, value in settings.items()}
        return {key: value for key, value in kept.items() if key != "version"} if is_foreign(settings) else kept
    return [without_versions(value) for value in settings] if isinstance(settings, list) else settings


def foreign_block(one: Any, setting: str) -> dict[str, object]:
    """The block that names an instance's class and version, with every setting spelt out."""
    kind = type(one)
    settings = {field.name: getattr(one, field.name) for field in dataclasses.fields(kind)}
    path = f"{kind.__module__}.{kind.__qualname__}"
    return {"class_path": path, "init_args": settings, "version": _version(kind, setting)}


def _imported(path: str, setting: str) -> Any:
    try:
        return resolve_name(path)
    except (Exception, SystemExit) as error:  # an import runs code of others, which may raise anything
        raise PlanError(
            f"plan.{setting}: {path} cannot be imported: {error}. Install its package here, or correct class_path."
        ) from error


def _version(kind: type, setting: str) -> str:
    """The class's own ``version``, or that of the package that it was installed with."""
    if isinstance(own := vars(kind).get("version"), str):
        return own
    packages = metadata.packages_distributions().get(kind.__module__.split(".")[0], [])
    if not packages:
        raise PlanError(
            f"plan.{setting}: {kind.__module__}.{kind.__qualname__} belongs to no installed package and so has no "
            'version, which all sites must agree on. Give the class one: version: ClassVar[str] = "1".'
        )
    return metadata.version(packages[0])
