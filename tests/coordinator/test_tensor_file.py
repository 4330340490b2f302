"""What is written from the tensors' own memory is what the library reads."""

import io
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load

from lightning_fed.coordinator.tensor_file import write_tensors

DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.complex64,
    torch.float8_e4m3fn,
)


def written(tensors, metadata) -> bytes:
    file = io.BytesIO()
    write_tensors(tensors, metadata, file)
    return file.getvalue()


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    bits = [tensor.reshape(-1).view(torch.uint8) for tensor in (one, other)]
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(*bits)


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(lambda name: name != "__metadata__"),
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 5), max_size=3), st.integers(0, 2**32 - 1)),
        max_size=6,
    ),
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), st.text(max_size=8), max_size=3),
)
@settings(max_examples=150, deadline=None)
def test_the_library_reads_every_tensor_to_the_last_bit(drawn, metadata):
    tensors = {}
    for name, (dtype, shape, seed) in drawn.items():
        generator = torch.Generator().manual_seed(seed)
        # Whole numbers fit every dtype.
        tensors[name] = torch.randint(0, 2, shape, generator=generator).to(dtype)
    read = load(written(tensors, metadata))
    assert read.keys() == tensors.keys()
    assert all(same(read[name], tensor) for name, tensor in tensors.items())


def test_what_is_said_beside_the_tensors_and_values_that_are_no_numbers_come_back(tmp_path):
    tensors = {
        "weight": torch.tensor([[float("nan"), float("-inf")], [-0.0, 1e-45]]),
        "num_batches_tracked": torch.tensor(7),
    }
    with (tmp_path / "a").open("wb") as file:
        write_tensors(tensors, {"run": "a", "bounds": "[4.0]"}, file)
    with safe_open(tmp_path / "a", framework="pt") as opened:
        assert opened.metadata() == {"run": "a", "bounds": "[4.0]"}
        assert all(same(opened.get_tensor(name), tensor) for name, tensor in tensors.items())


def test_a_tensor_that_is_not_one_row_of_memory_is_written_as_it_reads():
    across = torch.arange(6.0).reshape(2, 3).T
    assert same(load(written({"a": across}, {}))["a"], across.contiguous())


def test_a_parameter_is_written_though_it_wants_a_gradient():
    parameter = torch.nn.Parameter(torch.ones(3))
    assert same(load(written({"a": parameter}, {}))["a"], torch.ones(3))


def test_what_the_disk_says_is_passed_on():
    with Path("/dev/full").open("wb", buffering=0) as full, pytest.raises(OSError, match="No space left"):
        write_tensors({"a": torch.ones(3)}, {}, full)
