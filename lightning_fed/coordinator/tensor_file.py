"""Safetensors files that are written from the tensors' own memory.

The library writes them only after it has copied all tensors behind each other, which takes several times as long as the
writing, or into a file that it names itself.
"""

import sys
from collections.abc import Mapping
from typing import BinaryIO

import msgspec
import torch
from safetensors.torch import save
from torch import Tensor

from lightning_fed.errors import StoreError

_LENGTH_BYTES, _ALIGNED = 8, 8
"""The length of the head, and what the head is filled up to with spaces: so that values lie at whole addresses."""


def write_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], file: BinaryIO) -> None:
    """Write a safetensors file.

    Args:
        tensors: by name; dense and on the CPU.
        metadata: for whoever opens it.
        file: what it is written to.

    Raises:
        OSError: the disk does not take it.
        StoreError: a machine whose numbers begin with their highest byte.
    """
    if sys.byteorder != "little":
        raise StoreError("models are stored on machines with little-endian numbers only. Run the coordinator on one.")
    # The library names the dtypes: it is asked about tensors of the same names without values.
    without_values = {name: torch.empty(0, dtype=tensor.dtype) for name, tensor in tensors.items()}
    head = msgspec.json.decode(save(without_values, dict(metadata) or None)[_LENGTH_BYTES:].rstrip())
    # The largest values first, so that each lies at a multiple of its size.
    names = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    begin = 0
    for name in names:
        end = begin + tensors[name].nbytes
        head[name] |= {"shape": list(tensors[name].shape), "data_offsets": [begin, end]}
        begin = end
    written = msgspec.json.encode(head)
    written += b" " * (-len(written) % _ALIGNED)
    file.write(len(written).to_bytes(_LENGTH_BYTES, "little") + written)
    for name in names:
        # As bytes, as numpy has no bfloat16; a tensor without axes has none to see as others.
        file.write(tensors[name].detach().reshape(-1).view(torch.uint8).numpy().data)
