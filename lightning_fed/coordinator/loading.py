"""A stored global model as a module again."""

import warnings
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from torch import nn

from lightning_fed.coordinator.recorded import checkpoint_of
from lightning_fed.errors import ModelMismatchError, StoreError
from lightning_fed.privacy.layers import replace_layers
from lightning_fed.update.buffers import is_storable

if TYPE_CHECKING:  # a coordinator works with modules of both packages
    from lightning_fed.lightning_api import LightningModule

_Module = TypeVar("_Module", bound="LightningModule")


def load_global_model(
    path: str | Path, module: type[_Module], version: int | Literal["best"] | None = None, **arguments: Any
) -> _Module:
    """A module with the weights of a global model of the coordinator's store.

    Does what ``module.load_from_checkpoint`` does, and beyond it what the sites did: layers that the plan's
    ``replace_layers`` replaced are replaced before the weights are loaded. Tensors that stay at the sites
    (``plan.personal``) are as a new module has them, and named in a warning.

    Args:
        path: the coordinator's store, like ``runs/federation``, or one ``.ckpt`` file of it.
        module: its class.
        version: which global model of the store: its number, or ``"best"`` by the plan's ``best``; the newest when not
            given. Not with a file, which is one.
        arguments: of the class, where they are not its defaults and the file does not hold them: so it is if the
            coordinator was given no ``model:``, and for what is no plain data.

    Raises:
        StoreError: there is no such file or version, or it is no checkpoint that can be read without running code from
            it; or the best is asked for, and the plan names none or nobody has measured one yet.
        ModelMismatchError: it does not belong to the class, or not with these arguments.
    """
    path = Path(path)
    if path.is_dir():
        path = checkpoint_of(path, version)
    elif version is not None:
        raise StoreError(
            f"version = {version!r} needs a store, and {path} is no folder. Name the store, or no version."
        )
    _read(path)
    try:
        with warnings.catch_warnings():
            # Loosely, for the layers that are not replaced yet; what counts is loaded below.
            warnings.filterwarnings("ignore", message="Found keys that are")
            made = module.load_from_checkpoint(path, map_location="cpu", strict=False, **arguments)
    except (RuntimeError, TypeError) as error:
        raise ModelMismatchError(
            f"{path} cannot be loaded into {module.__name__}: {error}. Give the arguments that the sites make it with: "
            f"load_global_model(path, {module.__name__}, name=value). A coordinator that is given model: keeps them."
        ) from error
    if own := load_weights(made, path):
        warnings.warn(
            f"{own[:4]}, {len(own)} in all, are not in {path.name}: they stay at the sites, or are no plain tensors. "
            "They are as a new module has them.",
            stacklevel=2,
        )
    return made


def load_weights(model: nn.Module, path: Path) -> list[str]:
    """Load the ``state_dict`` of a Lightning checkpoint into a module, whose layers are replaced if the sites' were.

    Returns:
        Names of what of a global model is the sites' own, or is no plain tensor, and so is not in the file.

    Raises:
        StoreError: there is no such file, or it is no checkpoint that can be read without running code from it.
        ModelMismatchError: it belongs to another module.
    """
    content = _read(path)
    federation = content.get("federation", {})
    if federation.get("replace_layers"):
        replace_layers(model)
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    plain = {name for name, tensor in tensors if is_storable(tensor)}
    try:
        lacking, unknown = model.load_state_dict(content["state_dict"], strict=False)
    except RuntimeError as error:
        raise _mismatch(model, path, str(error)) from error
    own = [name for name in lacking if federation and (name in federation.get("personal", ()) or name not in plain)]
    if wrong := [*sorted(set(lacking) - set(own)), *unknown]:
        raise _mismatch(model, path, f"{wrong[:4]}, {len(wrong)} in all, are in one of the two alone.")
    return own


def _mismatch(model: nn.Module, path: Path, why: str) -> ModelMismatchError:
    return ModelMismatchError(
        f"the checkpoint {path} does not belong to {type(model).__name__}: {why} Name the right one, or change the "
        "model's init_args."
    )


def _read(path: Path) -> dict[str, Any]:
    if not zipfile.is_zipfile(path):
        raise StoreError(f"the checkpoint {path} is missing or is no checkpoint. Name a Lightning .ckpt file.")
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        content["state_dict"].keys()
    except (OSError, RuntimeError, KeyError, TypeError, AttributeError, UnpicklingError) as error:
        raise StoreError(f"the checkpoint {path} cannot be read: {error}. Name a Lightning .ckpt file.") from error
    return content
