import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from masked_sum import names_of, until_masked

from lightning_fed.errors import FederationError, ProtocolError
from lightning_fed.masking import Terms
from lightning_fed.masking import messages as m
from lightning_fed.masking.terms import Context, canonical
from lightning_fed.wire import MAX_MESSAGE_BYTES

fields = st.lists(st.one_of(st.binary(max_size=20), st.text(max_size=10), st.integers(0, 2**63)), max_size=4)


@given(one=st.tuples(st.text(max_size=8), fields), other=st.tuples(st.text(max_size=8), fields))
def test_canonical_bytes_differ_when_any_field_does(one, other):
    def plain(record):
        label, values = record
        as_bytes = [
            v.to_bytes(8, "big") if isinstance(v, int) else v.encode() if isinstance(v, str) else v for v in values
        ]
        return label, as_bytes

    assert (canonical(one[0], *one[1]) == canonical(other[0], *other[1])) == (plain(one) == plain(other))


def test_every_part_of_the_context_counts():
    base = Context("thorax", "ab", 1, 0)
    others = [
        Context("abdomen", "ab", 1, 0),
        Context("thorax", "cd", 1, 0),
        Context("thorax", "ab", 2, 0),
        Context("thorax", "ab", 1, 1),
        Context("thorax", "ab", 1, 0, "votes"),
        Context("thoraxa", "b", 1, 0),
    ]
    assert len({context.to_bytes() for context in [base, *others]}) == 7


@given(data=st.binary(max_size=200))
@settings(max_examples=200)
def test_hostile_bytes_end_in_a_protocol_error(data):
    for decode in (m.decode_from_site, m.decode_from_coordinator):
        with pytest.raises(ProtocolError, match="a masking message"):
            decode(data)


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_flipped_byte_in_any_message_is_refused_or_ends_in_a_named_error(data):
    run = until_masked(4, Terms(3, 3))
    run.sign()
    name = names_of(4)[1]
    site = run.sites[name]
    raw = bytearray(m.encode(run.signatures[name]))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(FederationError):
        site.reveal(m.decode_from_coordinator(bytes(raw)))
    assert site.phase.name == "SIGNED"


def test_unknown_fields_wrong_lengths_and_negative_rounds_are_refused():
    good = {"type": "Signed", "round": 1, "attempt": 0, "purpose": "update", "signature": bytes(64)}
    assert m.decode_from_site(msgspec.msgpack.encode(good)) == m.Signed(1, 0, "update", bytes(64))
    for change in ({"more": 1}, {"signature": bytes(63)}, {"round": -1}, {"purpose": ""}, {"type": "Cohort"}):
        with pytest.raises(ProtocolError, match="cannot be read"):
            m.decode_from_site(msgspec.msgpack.encode(good | change))


def test_messages_above_the_limit_are_neither_made_nor_read():
    with pytest.raises(ProtocolError, match="above the limit"):
        m.decode_from_coordinator(bytes(MAX_MESSAGE_BYTES + 1))
    with pytest.raises(ProtocolError, match="The cohort is too large"):
        m.encode(m.Shares(1, 0, "update", {f"site-{i}": bytes(256) for i in range(20_000)}))


def test_a_reveal_does_not_print_its_seed_or_shares():
    reveal = m.Reveal(1, 0, "update", bytes(16), {"a": bytes(16)}, {})
    assert repr(reveal) == "Reveal(self_shares of 1 sites, key_shares of 0 sites)"


@pytest.mark.parametrize("length", [0, 15, 17])
def test_an_own_seed_of_a_wrong_length_cannot_be_read(length):
    reveal = m.Reveal(1, 0, "update", bytes(length), {}, {})
    with pytest.raises(ProtocolError, match="cannot be read"):
        m.decode_from_site(m.encode(reveal))
