"""Public names that wait until it is known which of Lightning's two packages a process uses.

``from lightning_fed import FederatedStrategy`` often stands above ``import pytorch_lightning as pl``, as import sorters
put it there: what is imported must not choose a package yet. The name is then bound to a :class:`Deferred`, and the
class is made when it is called, derived from or asked with ``isinstance``. Once a package of Lightning was imported,
names are imported at once and are the classes themselves.
"""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any, Union

from lightning_fed.lightning_api import is_package_known


def deferred(
    package: str,
    modules: Mapping[str, tuple[str, ...]],
    without_lightning: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
) -> Callable[[str], Any]:
    """A package's ``__getattr__`` (PEP 562), which imports names when they are asked for.

    Args:
        package: the package's name.
        modules: the names by the module, inside the package, that has them.
        without_lightning: the same for modules that do without Lightning: they are imported at once.
    """
    where = {name: f"{package}.{module}" for module, names in modules.items() for name in names}
    at_once = {name: f"{package}.{module}" for module, names in without_lightning.items() for name in names}

    def get(name: str) -> Any:
        if name not in where and name not in at_once:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if name in where and not is_package_known():
            return Deferred(where[name], name)
        found = getattr(import_module(where.get(name) or at_once[name]), name)
        setattr(sys.modules[package], name, found)
        return found

    return get


class Deferred:
    """Stands for a class or a function until it is used.

    Args:
        module: where it is defined.
        name: its name there.
    """

    def __init__(self, module: str, name: str) -> None:
        self.__module__ = module
        self.__name__ = self.__qualname__ = name

    def resolve(self) -> Any:
        """What this stands for; chooses a package of Lightning if none was chosen."""
        return getattr(import_module(self.__module__), self.__name__)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Make an instance, or call the function."""
        return self.resolve()(*args, **kwargs)

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self.resolve(),)

    def __instancecheck__(self, instance: Any) -> bool:
        return isinstance(instance, self.resolve())

    def __subclasscheck__(self, subclass: type) -> bool:
        return issubclass(subclass, self.resolve())

    def __or__(self, other: Any) -> Any:
        return Union[self, other]  # noqa: UP007 - this is what the operator gives

    def __ror__(self, other: Any) -> Any:
        return Union[other, self]  # noqa: UP007

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # of Python's own protocols it has what stands here
            raise AttributeError(name)
        return getattr(self.resolve(), name)

    def __repr__(self) -> str:
        return f"<{self.__module__}.{self.__name__}, not imported yet>"
