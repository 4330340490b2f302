"""With which software a coordinator runs: whoever is shown a model asks for it later."""

import platform
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = ("lightning_fed", "torch", "lightning", "pytorch_lightning", "safetensors")


def software() -> dict[str, str]:
    """Versions by name: of Python, and of the packages that make a global model, as far as they are installed."""
    return {"python": platform.python_version()} | {name: number for name in _PACKAGES if (number := _version(name))}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""  # one of Lightning's two packages is enough
