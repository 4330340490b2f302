import io
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lightning_fed.errors import ModelMismatchError, ProtocolError
from lightning_fed.update.error_feedback import EF21, ErrorFeedback
from lightning_fed.update.fixed_point import FixedPoint, decode_sum, encode
from lightning_fed.update.quantisation import dequantise, quantise
from lightning_fed.update.topk import largest

SIZE = 12
UPDATES = hnp.arrays(np.float32, SIZE, elements=st.floats(-(2.0**100), 2.0**100, width=32))
WHOLE = hnp.arrays(np.float32, SIZE, elements=st.integers(-1000, 1000))


def send(feedback, number, update, count, counted=True):
    """One round with float32 values; what arrives at the coordinator."""
    total = feedback.with_residual(update)
    support = largest(total, count)
    sent = total[support].copy()
    feedback.propose(number, total, support, sent)
    feedback.settle(number, counted=counted)
    arrived = np.zeros(SIZE, dtype=np.float32)
    if counted:
        arrived[support] = sent
    return arrived


@given(st.lists(UPDATES, min_size=1, max_size=4), st.integers(1, SIZE))
def test_what_is_sent_plus_what_stays_is_what_was_there_bit_for_bit(updates, count):
    feedback = ErrorFeedback(SIZE)
    for number, update in enumerate(updates):
        there = feedback.with_residual(update)
        arrived = send(feedback, number, update, count)
        # Bit for bit up to the sign of zero, which a sum with +0 loses.
        assert (arrived + feedback.residual).tobytes() == (there + np.float32(0)).tobytes()
        assert not (arrived * feedback.residual).any()


def restarted(feedback):
    """Through a checkpoint's bytes, as Lightning writes them."""
    buffer = io.BytesIO()
    torch.save(feedback.state_dict(), buffer)
    buffer.seek(0)
    again = type(feedback)(SIZE)
    again.load_state_dict(torch.load(buffer, weights_only=True))
    return again


@given(
    st.lists(st.tuples(WHOLE, st.sampled_from(["counted", "late", "retried", "skipped"]), st.booleans()), max_size=8)
)
def test_over_any_history_all_counted_updates_are_sent_or_still_there_once(history):
    feedback = ErrorFeedback(SIZE)
    arrived, owed = np.zeros(SIZE), np.zeros(SIZE)
    for number, (update, event, restart) in enumerate(history):
        if event != "skipped":
            for attempt in range(2 if event == "retried" else 1):
                total = feedback.with_residual(update)
                support = largest(total, 3)
                sent = total[support].copy()
                feedback.propose(number, total, support, sent)
                if restart and attempt == 0:
                    feedback = restarted(feedback)
            if event != "late":
                owed += update
                arrived[support] += sent
            feedback.settle(number, counted=event != "late")
            feedback.settle(number, counted=True)
        assert np.array_equal(arrived + feedback.residual, owed)


@given(
    st.lists(st.tuples(WHOLE, st.sampled_from(["counted", "late", "retried", "skipped"]), st.booleans()), max_size=8)
)
def test_over_any_history_a_site_knows_what_has_arrived_of_it_and_sends_the_difference_to_that(history):
    feedback = EF21(SIZE)
    arrived = np.zeros(SIZE)
    for number, (update, event, restart) in enumerate(history):
        if event != "skipped":
            for attempt in range(2 if event == "retried" else 1):
                total = feedback.with_residual(update)
                assert np.array_equal(arrived + total, update)
                support = largest(total, 3)
                sent = total[support].copy()
                feedback.propose(number, total, support, sent)
                if restart and attempt == 0:
                    feedback = restarted(feedback)
            if event != "late":
                arrived[support] += sent
            feedback.settle(number, counted=event != "late")
            feedback.settle(number, counted=True)
        assert np.array_equal(arrived, -feedback.residual)


@pytest.mark.parametrize(("kind", "norm"), [(ErrorFeedback, 5.0), (EF21, 4.0)])
def test_the_norm_of_what_was_not_sent_is_that_of_all_rounds_or_of_the_last_one(kind, norm):
    feedback = kind(2)
    for number, update in enumerate(([9.0, 1.0], [9.0, 4.0]), start=1):
        total = feedback.with_residual(np.array(update, np.float32))
        feedback.propose(number, total, np.array([0]), total[[0]].copy())
        feedback.settle(number, counted=True)
    assert feedback.unsent_norm == norm


def test_a_site_that_skips_rounds_keeps_its_residual():
    feedback = ErrorFeedback(SIZE)
    send(feedback, 0, np.arange(SIZE, dtype=np.float32), 3)
    before = feedback.residual.copy()
    for number in range(1, 5):
        feedback.settle(number, counted=True)
        feedback.settle(number, counted=False)
    assert np.array_equal(feedback.residual, before)


def test_a_round_that_did_not_count_leaves_the_residual_as_it_was():
    feedback = ErrorFeedback(SIZE)
    send(feedback, 0, np.arange(SIZE, dtype=np.float32), 3)
    before = feedback.residual.copy()
    send(feedback, 1, np.ones(SIZE, dtype=np.float32), 3, counted=False)
    assert np.array_equal(feedback.residual, before)


def test_a_settled_round_cannot_be_counted_twice():
    feedback = ErrorFeedback(SIZE)
    send(feedback, 4, np.ones(SIZE, dtype=np.float32), 3)
    with pytest.raises(ProtocolError, match="round 4 is settled"):
        send(feedback, 4, np.ones(SIZE, dtype=np.float32), 3)


def test_a_restart_between_upload_and_answer_neither_loses_nor_doubles_what_was_sent():
    feedback = ErrorFeedback(SIZE)
    total = feedback.with_residual(np.arange(SIZE, dtype=np.float32))
    support = largest(total, 3)
    feedback.propose(0, total, support, total[support].copy())
    for counted, expected in ((True, [*range(SIZE - 3), 0, 0, 0]), (False, [0] * SIZE)):
        site = restarted(feedback)
        site.settle(0, counted=counted)
        assert site.residual.tolist() == expected


@given(
    hnp.arrays(np.float32, SIZE, elements=st.floats(-2, 2, width=32)), st.sampled_from(["ring", "int8", "int4", "bf16"])
)
def test_what_quantisation_and_saturation_cut_off_stays_in_the_residual(total, how):
    support = largest(total, 5)
    values = total[support]
    if how == "ring":
        code = FixedPoint(8, 8, 1.0)
        sent = decode_sum(encode(values, code)[0], code, 1)
        step = code.step
    else:
        sent = dequantise(quantise(values, how), how, 5)
        step = float(np.abs(values).max())
    feedback = ErrorFeedback(SIZE)
    feedback.propose(0, feedback.with_residual(total), support, sent)
    feedback.settle(0, counted=True)
    for value, got, stays in zip(values, sent, feedback.residual[support], strict=True):
        value, got, stays = (Fraction(float(x)) for x in (value, got, stays))
        if got == 0 or value / 2 <= got <= value * 2 or value * 2 <= got <= value / 2:
            assert got + stays == value
        else:
            assert abs(got + stays - value) <= max(Fraction(step), abs(value)) / 2**24
    rest = np.setdiff1d(np.arange(SIZE), support)
    assert np.array_equal(feedback.residual[rest], total[rest])


def test_an_update_or_checkpoint_of_another_model_is_refused():
    feedback = ErrorFeedback(SIZE)
    with pytest.raises(ModelMismatchError, match="13 values"):
        feedback.with_residual(np.zeros(13, dtype=np.float32))
    with pytest.raises(ModelMismatchError, match="residual"):
        feedback.load_state_dict(ErrorFeedback(13).state_dict())


def test_saved_state_does_not_change_with_the_live_residual():
    feedback = ErrorFeedback(SIZE)
    state = feedback.state_dict()
    send(feedback, 0, np.ones(SIZE, dtype=np.float32), 3)
    feedback.residual += 1
    assert not state["residual"].any()
