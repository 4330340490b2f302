"""The hyperparameters of the coordinator's model that a Lightning checkpoint can hold."""

import io
import pickle
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:  # a coordinator works with modules of both packages
    from lightning_fed.lightning_api import LightningModule


_PRINTED = "Unable to serialize instance "
"""What jsonargparse writes in the place of a thing that it has no text for."""


def loadable_hyperparameters(module: "LightningModule") -> tuple[dict[str, Any], list[str]]:
    """What of a module's hyperparameters comes back from a checkpoint as it was, and the names of the rest.

    Plain data do: numbers, texts, lists, dicts. A function, a ``functools.partial`` or an object of a class of one's
    own does not: it cannot be written, or ``torch.load`` refuses to make it (``weights_only``), or the command line's
    record of it is its printed form, which is a text and not the thing.
    """
    kept = {name: value for name, value in module.hparams.items() if not _is_printed(value) and _comes_back(value)}
    return kept, sorted(module.hparams.keys() - kept.keys())


def _is_printed(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(_PRINTED)


def _comes_back(value: Any) -> bool:
    file = io.BytesIO()
    try:
        torch.save(_plain(value), file)
        file.seek(0)
        torch.load(file, weights_only=True)
    except (pickle.PickleError, AttributeError, TypeError, RuntimeError):
        return False
    return True


def _plain(value: Any) -> Any:
    """With mappings of Lightning's own as dicts, which is how a checkpoint holds them."""
    return {key: _plain(each) for key, each in value.items()} if isinstance(value, Mapping) else value
