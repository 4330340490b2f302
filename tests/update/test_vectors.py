import numpy as np
import pytest
import torch

from lightning_fed.errors import UpdateRefusedError
from lightning_fed.update.clipping import clip_by_norm
from lightning_fed.update.fixed_point import FixedPoint, encode
from lightning_fed.update.quantisation import quantise
from lightning_fed.update.topk import largest
from lightning_fed.update.vote import block_energies

ENTRANCES = {
    "clip": lambda values: clip_by_norm(values, 1.0),
    "encode": lambda values: encode(values, FixedPoint(16, 3, 1.0)),
    "select": lambda values: largest(values, 1),
    "energies": lambda values: block_energies(values, 2),
    "quantise": lambda values: quantise(values, "int8"),
}


@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize(
    "values",
    [np.ones(4), np.ones((2, 2), dtype=np.float32), np.ones(8, dtype=np.float32)[::2], np.ones(4, dtype=np.int32)],
    ids=["float64", "matrix", "strided", "int32"],
)
def test_anything_but_a_flat_float32_vector_is_refused(entrance, values):
    with pytest.raises(UpdateRefusedError, match="contiguous row of float32"):
        ENTRANCES[entrance](values)


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_a_tensor_of_a_flattened_model_passes_without_a_copy_and_unchanged(entrance):
    tensor = torch.linspace(-1, 1, 1000)
    before = tensor.clone()
    ENTRANCES[entrance](tensor.numpy())
    assert torch.equal(tensor, before)
