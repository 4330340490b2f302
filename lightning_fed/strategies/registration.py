"""``strategy="federated"`` in the registries of both packages of Lightning, each when it is there."""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from lightning_fed.lightning_api import PACKAGES, serve

_NAME = "federated"
_REGISTRIES = {f"{package}.strategies": package for package in PACKAGES}


def register() -> None:
    """Register the strategy where Lightning was imported, and elsewhere as soon as it is."""
    for name in _REGISTRIES:
        if name in sys.modules:
            _register(sys.modules[name])
    if not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport())


class _AfterImport(MetaPathFinder):
    """Registers the strategy when a module with a registry was imported; finds nothing by itself."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in _REGISTRIES:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next((found for finder in others if (found := finder.find_spec(name, path, target))), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                _register(module)

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


def _register(module: ModuleType) -> None:
    package = _REGISTRIES[module.__name__]

    def federated(**settings: Any) -> Any:
        serve(package, f'the Trainer with strategy="{_NAME}"')
        from lightning_fed.strategies.federated import FederatedStrategy

        return FederatedStrategy(**settings)

    module.StrategyRegistry.register(
        _NAME,
        federated,
        description="Federated training; settings come from LIGHTNING_FED_* environment variables.",
        override=True,
    )
