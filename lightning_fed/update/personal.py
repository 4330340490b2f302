"""Which tensors of a model are a site's own: they never leave it, and sites may differ in their shapes.

Arivazhagan et al. 2019, Federated Learning with Personalization Layers, arXiv 1912.00818 (FedPer: the head is named by
a pattern such as ``head.*``); Li et al. 2021, FedBN: Federated Learning on Non-IID Features via Local Batch
Normalization, ICLR, arXiv 2102.07623 (``normalisation``); Andreux et al. 2020, Siloed Federated Learning for
Multi-Centric Histopathology Datasets, arXiv 2008.07424 (SiloBN, ``statistics``).
"""

import difflib
import fnmatch
from collections.abc import Sequence

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from lightning_fed.errors import ModelMismatchError
from lightning_fed.update.aliases import aliases

NORMALISATION = "normalisation"
"""All parameters and buffers of torch's normalisation layers: batch, synchronised batch, instance, group, layer and
RMS normalisation, with their subclasses. FedBN's paper keeps those of BatchNorm; a scanner's contrast and brightness
sit in the scale and shift of the others just as well."""

STATISTICS = "statistics"
"""Running mean, variance and count of batch and instance normalisation; scale and shift are still exchanged."""

_NORMALISATIONS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def personal_names(module: nn.Module, patterns: Sequence[str]) -> frozenset[str]:
    """Names of the tensors that stay at the site, among those of ``module.state_dict()``.

    Args:
        module: the model.
        patterns: shell patterns of names (``head.*``), or one of the words ``normalisation`` and ``statistics``. A
            tensor with several names (tied weights) is personal under all of them if one matches, and so is every
            other tensor that shares its memory.

    Raises:
        ModelMismatchError: a pattern matches nothing: what was meant to stay would leave. Lists names near it.
    """
    if not patterns:
        return frozenset()
    tensors = module.state_dict(keep_vars=True).keys()
    own: set[str] = set()
    for pattern in patterns:
        matching = [name for name in tensors if _matches(module, name, pattern)]
        if not matching:
            near = difflib.get_close_matches(pattern, tensors, n=4, cutoff=0.0)
            raise ModelMismatchError(
                f"no tensor of the model matches the personal pattern {pattern!r}; names near it are {near}. Patterns "
                f"are shell patterns such as 'head.*', or the words {NORMALISATION!r} and {STATISTICS!r}."
            )
        own.update(matching)
    registered = {
        *(name for name, _ in module.named_parameters(remove_duplicate=False)),
        *(name for name, _ in module.named_buffers(remove_duplicate=False)),
    }
    known_as = aliases(module, registered)
    found: set[str] = set()
    while found != own:
        found = set(own)
        own.update(other for name in found & registered for other in known_as[name] if other in tensors)
    return frozenset(own)


def _matches(module: nn.Module, name: str, pattern: str) -> bool:
    if pattern not in (NORMALISATION, STATISTICS):
        return fnmatch.fnmatchcase(name, pattern)
    owner, _, tensor = name.rpartition(".")
    layer = module.get_submodule(owner)
    if pattern == NORMALISATION:
        return isinstance(layer, _NORMALISATIONS)
    return isinstance(layer, _NormBase) and tensor in layer._buffers
