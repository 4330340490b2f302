"""Spectral normalisation's singular vectors, worked out anew for weights that came from elsewhere.

Miyato et al. 2018, Spectral Normalization for Generative Adversarial Networks, ICLR, arXiv 1802.05957: a layer divides
its weight W by ``u^T W v``, which is W's spectral norm as long as u and v are W's first singular vectors. They follow
from W, so they are neither averaged (means of unit vectors are shorter) nor carried over to other weights: each side
finds them by power iteration for the weights that it has.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

_PARAMETRISED = re.compile(r"^(.*parametrizations\.[^.]+)\.0\._u$")
_HOOKED = re.compile(r"^(.*)_u$")

_ITERATIONS = 100
_SETTLED = 1e-6


class SpectralNames(NamedTuple):
    """Names of one layer's weight and of its left and right singular vector."""

    weight: str
    u: str
    v: str


def spectral_layers(names: Iterable[str]) -> Iterator[SpectralNames]:
    """The layers under spectral normalisation, by the names of a module's tensors.

    Both of torch's are known, ``torch.nn.utils.parametrizations.spectral_norm`` and the older one of
    ``torch.nn.utils``. Where other parametrisations come before it, the weight that it sees is no tensor of the state;
    such a layer is left out.
    """
    there = set(names)
    if not any(name.endswith("_u") for name in there):
        return
    for name in sorted(there):
        if found := _PARAMETRISED.match(name):
            layer = SpectralNames(f"{found[1]}.original", name, f"{found[1]}.0._v")
        elif found := _HOOKED.match(name):
            layer = SpectralNames(f"{found[1]}_orig", name, f"{found[1]}_v")
        else:
            continue
        if there.issuperset(layer):
            yield layer


def singular_vectors(weight: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """First singular vectors of a weight, from those of a weight that it has moved away from.

    Args:
        weight: any floating dtype, two dimensions or more, as the layer holds it.
        u: shape ``(rows,)``; which of the weight's dimensions the rows are follows from the lengths.
        v: shape ``(columns,)``.

    Returns:
        New u and v, of unit length, same shapes and dtypes.
    """
    matrices = [weight.detach().movedim(dim, 0).flatten(1).float() for dim in range(weight.ndim)]
    matrices = [matrix for matrix in matrices if matrix.shape == (len(u), len(v))]
    if not matrices:
        return u, v
    left, right = u.float(), v.float()
    # Lengths may fit several dimensions; only in the right one the vectors are anything like singular.
    matrix = max(matrices, key=lambda each: float(left @ each @ right))
    norm = float(left @ matrix @ right)
    for _ in range(_ITERATIONS):
        right = torch.nn.functional.normalize(matrix.mT @ left, dim=0)
        left = torch.nn.functional.normalize(matrix @ right, dim=0)
        before, norm = norm, float(left @ matrix @ right)
        if abs(norm - before) <= _SETTLED * abs(norm):
            break
    return left.to(u.dtype), right.to(v.dtype)


def refreshed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The singular vectors of all layers under spectral normalisation in a state, by name; the state is left alone."""
    found: dict[str, Tensor] = {}
    for layer in spectral_layers(tensors):
        vectors = singular_vectors(*(tensors[name] for name in layer))
        found[layer.u], found[layer.v] = vectors
    return found
