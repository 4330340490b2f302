"""MessagePack of a stranger does nothing to a decoder beyond its bounds, and never ends in an error of another kind."""

import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_fed.errors import PlanError, ProtocolError
from lightning_fed.masking import messages as masking
from lightning_fed.plan import FederationPlan
from lightning_fed.protocol import messages as m
from lightning_fed.update.layout import MAX_TENSORS, Layout, TensorSpec
from lightning_fed.wire import MAX_DEPTH, MAX_ELEMENTS, MAX_MESSAGE_BYTES, decoded

DECODERS = [
    m.decode_from_site,
    m.decode_from_coordinator,
    masking.decode_from_site,
    masking.decode_from_coordinator,
]

pack = msgspec.msgpack.encode
plain = msgspec.msgpack.Decoder()


def nested(levels: int, opening: bytes = b"\x91", innermost: bytes = b"\xc0") -> bytes:
    return opening * levels + innermost


HOSTILE = {
    "unknown key": b"\x81\xa2zz" + nested(1500),
    "unknown key of maps": b"\x81\xa2zz" + nested(1500, b"\x81\xa1z"),
    "instead of a message": nested(4000),
    "before the type": b"\x82\xa2zz" + nested(1500) + b"\xa4type\xa5Hello",
    "in a field": b"\x82\xa4type\xa4Join\xa6layout" + nested(1500),
    "in a field of a field": b"\x82\xa4type\xa4Join\xa6layout\x81\xa2zz" + nested(1500),
    "in the layout": b"\x82\xa4type\xa4Join\xa6layout\x81\xa9exchanged\x91\x95\xa1a\x90\xa1b\xc2" + nested(1500),
    "in the shares": b"\x82\xa4type\xa6Shares\xa6sealed\x81\xa1a" + nested(1500),
    "long headers": nested(1500, b"\xdc\x00\x01"),
    "longest headers": nested(1500, b"\xdf\x00\x00\x00\x01\xa1z"),
}


@pytest.mark.parametrize("decode", DECODERS)
@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_deep_nesting_is_a_protocol_error_at_every_decoder(decode, data):
    with pytest.raises(ProtocolError, match="levels"):
        decode(data)


def test_deep_nesting_inside_a_masking_step_is_a_protocol_error():
    outer = m.decode_from_site(m.encode(m.Masking("update", 1, 1, HOSTILE["unknown key"])))
    with pytest.raises(ProtocolError, match="levels"):
        masking.decode_from_site(outer.data)


def test_as_many_levels_as_are_allowed_can_be_read():
    assert decoded(plain, nested(MAX_DEPTH), "it")
    with pytest.raises(ProtocolError, match=f"above the limit of {MAX_DEPTH}"):
        decoded(plain, nested(MAX_DEPTH + 1), "it")


@pytest.mark.parametrize("decode", DECODERS)
@pytest.mark.parametrize(
    "data",
    [
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\x81\xa2zz\xdd" + (MAX_MESSAGE_BYTES - 10).to_bytes(4, "big") + b"\xc0" * (MAX_MESSAGE_BYTES - 10),
        b"\xdc\xff\xff" + (b"\xdc\xff\xff" + b"\x00" * 65535) * 63,
    ],
    ids=["array", "map", "four million", "sixty times 65,535"],
)
def test_more_elements_than_any_message_has_are_refused_before_they_are_decoded(decode, data):
    began = time.process_time()
    with pytest.raises(ProtocolError, match="elements"):
        decode(data)
    assert time.process_time() - began < 1.0


def test_as_many_elements_as_are_allowed_can_be_read():
    assert len(decoded(plain, pack([0] * MAX_ELEMENTS), "it")) == MAX_ELEMENTS


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats()
    | st.text()
    | st.binary()
    | st.builds(msgspec.msgpack.Ext, st.integers(1, 127), st.binary()),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(), inner, max_size=20),
    max_leaves=200,
)


@given(values)
def test_whatever_messagepack_can_say_is_walked_through_to_its_end(value):
    data = pack(value)
    try:
        assert pack(decoded(plain, data, "it")) == data
    except ProtocolError as error:
        assert "levels" in str(error)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_messagepack_are_a_protocol_error(data):
    for decode in DECODERS:
        with pytest.raises(ProtocolError):
            decode(data)


def a_join(tensors: int) -> m.Join:
    exchanged = tuple(TensorSpec(f"layers.{index}.weight", (8, 8, 3, 3), "float32") for index in range(tensors))
    frozen = tuple(TensorSpec(f"frozen.{index}.weight", (8, 8, 3, 3), "float32") for index in range(tensors))
    return m.Join(Layout(exchanged, frozen))


def test_a_layout_of_as_many_tensors_as_are_allowed_is_a_message():
    join = a_join(MAX_TENSORS)
    assert m.decode_from_site(m.encode(join)) == join


def test_a_layout_of_more_tensors_is_none():
    with pytest.raises(ProtocolError, match="cannot be read"):
        m.decode_from_site(m.encode(a_join(MAX_TENSORS + 1)))


@pytest.mark.parametrize(
    "spec",
    [
        TensorSpec("a", (2**63,) * 20, "float32"),
        TensorSpec("a", (1,) * 1000, "float32"),
        TensorSpec("a" * 100_000, (1,), "float32"),
        TensorSpec("a", (1,), "float32" * 100_000),
        TensorSpec("a", (-1,), "float32"),
    ],
    ids=["absurd sizes", "absurd dimensions", "an absurd name", "an absurd type", "a negative size"],
)
def test_a_tensor_that_no_model_has_is_no_part_of_a_message(spec):
    with pytest.raises(ProtocolError, match="cannot be read"):
        m.decode_from_site(m.encode(m.Join(Layout((spec,)))))


@pytest.mark.parametrize(
    "data",
    [
        b'{"algorithm": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"algorithm": {"name": ' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}}",
        b'{"zz": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"metrics": [' + b'"a",' * (1 << 20) + b'"a"]}',
        b'{"name": "\xff\xfe"}',
    ],
    ids=["algorithm", "settings of the algorithm", "an unknown key", "a million metrics", "no UTF-8"],
)
def test_a_plan_that_is_nested_without_end_or_endless_is_a_plan_error(data):
    with pytest.raises(PlanError):
        FederationPlan.from_bytes(data)
