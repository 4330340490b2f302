import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lightning_fed.errors import PlanError, ProtocolError, UpdateRefusedError
from lightning_fed.update.quantisation import CHUNK, dequantise, quantise, value_bytes
from lightning_fed.update.rounding import BLOCK

FORMATS = ["float32", "bf16", "int8", "int4"]
STEPS = {"int8": 127, "int4": 7}
VECTORS = hnp.arrays(
    np.float32, st.integers(0, 3 * CHUNK), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
)


@given(VECTORS)
def test_float32_values_survive_bit_for_bit(values):
    assert dequantise(quantise(values, "float32"), "float32", values.size).tobytes() == values.tobytes()


@given(VECTORS, st.sampled_from(FORMATS))
def test_the_number_of_bytes_is_known_before(values, kind):
    assert len(quantise(values, kind)) == value_bytes(values.size, kind)


@given(VECTORS, st.sampled_from(["int8", "int4"]))
def test_a_quantised_value_is_within_one_step_of_its_chunk(values, kind):
    decoded = dequantise(quantise(values, kind), kind, values.size)
    for start in range(0, values.size, CHUNK):
        chunk = values[start : start + CHUNK].astype(np.float64)
        scale = np.abs(chunk).max()
        error = np.abs(decoded[start : start + CHUNK] - chunk)
        assert error.max() <= scale / STEPS[kind] * (1 + 1e-5) + 1e-44
        assert np.abs(decoded[start : start + CHUNK]).max() <= scale


@given(VECTORS)
def test_a_bf16_value_is_a_neighbour_and_never_infinite(values):
    decoded = dequantise(quantise(values, "bf16"), "bf16", values.size)
    lower = values.view(np.uint32) & np.uint32(0xFFFF_0000)
    step_up = np.minimum((lower & np.uint32(0x7FFF_FFFF)) + np.uint32(0x1_0000), np.uint32(0x7F7F_0000))
    upper = step_up | (lower & np.uint32(0x8000_0000))
    exact = values.view(np.uint32) == lower
    assert ((decoded.view(np.uint32) == lower) | (~exact & (decoded.view(np.uint32) == upper))).all()


@settings(max_examples=20)
@given(st.sampled_from(["bf16", "int8", "int4"]), st.floats(-1, 1, width=32), st.sampled_from([1e-30, 1.0, 1e30]))
def test_quantisation_has_no_bias(kind, share, scale):
    count = 100 * CHUNK
    values = np.full(count, share * scale, dtype=np.float32)
    values[::CHUNK] = scale  # the largest of each chunk, which sets its step
    errors = dequantise(quantise(values, kind), kind, count).astype(np.float64) - values
    errors = np.delete(errors, np.s_[::CHUNK])
    step = scale / STEPS[kind] if kind != "bf16" else abs(float(values[1])) * 2.0**-7
    # Hoeffding: each error lies within one step; false alarm 1e-9. 2^-17 step is the grid of the random bits.
    allowed = step * (math.sqrt(math.log(2 / 1e-9) / (2 * errors.size)) + 2.0**-16) + abs(scale) * 1e-7
    assert abs(errors.mean()) <= allowed


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("values", [[0.0] * 1000, [3.0] * 1000, [1e-45], [-3.4e38, 3.4e38], [7.0], [0.0, 1e-45]])
def test_extreme_vectors_keep_their_largest_magnitude(kind, values):
    values = np.array(values, dtype=np.float32)
    decoded = dequantise(quantise(values, kind), kind, values.size)
    relative = 0.01 if kind == "bf16" else 1e-6
    if kind == "bf16":
        values, decoded = values[np.abs(values) > 1e-38], decoded[np.abs(values) > 1e-38]
    np.testing.assert_allclose(decoded, values, rtol=relative)


def test_long_vectors_use_the_scale_of_their_own_chunk():
    values = np.repeat(np.arange(1, 2 * BLOCK // CHUNK + 4, dtype=np.float32), CHUNK)[:-5]
    for kind in ("int8", "int4"):
        np.testing.assert_allclose(dequantise(quantise(values, kind), kind, values.size), values, rtol=1e-6)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_nan_or_infinity_is_refused(kind, bad):
    with pytest.raises(UpdateRefusedError):
        quantise(np.array([1.0, bad], dtype=np.float32), kind)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("surplus", [-1, 1])
def test_a_wrong_number_of_bytes_is_refused_by_name(kind, surplus):
    with pytest.raises(ProtocolError, match=f"take {value_bytes(600, kind)} bytes"):
        dequantise(bytes(value_bytes(600, kind) + surplus), kind, 600)


@pytest.mark.parametrize("scale", [math.nan, math.inf, -1.0])
def test_a_damaged_scale_is_refused(scale):
    data = np.array([scale], dtype="<f4").tobytes() + bytes(4)
    with pytest.raises(ProtocolError, match="scale"):
        dequantise(data, "int8", 4)


@pytest.mark.parametrize("kind", ["float32", "bf16"])
def test_a_nan_from_the_wire_is_refused(kind):
    with pytest.raises(ProtocolError, match="NaN"):
        dequantise(b"\xff" * value_bytes(1, kind), kind, 1)


def test_an_unknown_format_is_refused():
    with pytest.raises(PlanError, match="int8"):
        value_bytes(3, "int3")
