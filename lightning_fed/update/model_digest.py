"""One hash of all that a site's training starts from, so that no two sites of a sum can have started differently."""

import msgspec
import torch
from blake3 import blake3
from torch import Tensor

from lightning_fed.update.layout import Layout

DIGEST_BYTES = 32
"""Of BLAKE3, five times as fast as SHA-256."""


def layout_digest(layout: Layout) -> bytes:
    """Hash of what is exchanged, frozen and tied: names, shapes and dtypes in their order, 32 bytes.

    Names of personal tensors are left out. They are a site's own, and the patterns that choose them are in the plan.
    """
    return blake3(msgspec.msgpack.encode((layout.exchanged, layout.frozen, layout.tied))).digest()


def fixed_digest(layout: Layout, frozen: bytes | memoryview) -> bytes:
    """Hash of what stays the same from round to round, 32 bytes.

    Args:
        layout: the model's layout.
        frozen: safetensors bytes of the frozen parameters as they were loaded; empty when nothing is frozen.
    """
    return blake3(layout_digest(layout) + blake3(frozen).digest()).digest()


def model_digest(fixed: bytes, values: memoryview, control: memoryview) -> bytes:
    """Hash of a global model, 32 bytes; its version is no part of it, so that the same model is the same whenever.

    Args:
        fixed: ``fixed_digest``.
        values: the exchanged values, buffers among them, little-endian float32, ``4 * P`` bytes.
        control: the control variate that goes with them, as many bytes; empty if the algorithm has none.
    """
    return blake3(fixed + blake3(values).digest() + blake3(control).digest()).digest()


def tensor_digest(tensor: Tensor) -> bytes:
    """Hash of a dense tensor's shape, dtype and bits, 32 bytes, on whatever device it is."""
    # A copy: numpy would fix the size of storage that it shares, and observers of quantisation resize theirs.
    data = tensor.detach().to("cpu", copy=True).contiguous().reshape(-1).view(torch.uint8).numpy()
    hashed = blake3(data.data)
    hashed.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    return hashed.digest()
