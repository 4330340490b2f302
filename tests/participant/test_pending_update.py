"""What a site keeps on its disk before an update leaves, and when it goes on with that."""

import resource
import stat

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_fed.errors import ModelMismatchError, StoreError
from lightning_fed.participant.pending_update import PendingUpdate, PendingUpdateFile
from lightning_fed.update.error_feedback import ErrorFeedback

SIZE = 12


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledgers" / "north.jsonl.unsettled"


def file_of(path, run="run", site="north"):
    return PendingUpdateFile(path, run, site)


def sent(round, settled=0):
    """The state of a site that has sent 3 of 12 values in a round."""
    feedback = ErrorFeedback(SIZE)
    for number in filter(None, (settled, round)):
        support = np.arange(number % 5, number % 5 + 3)
        total = feedback.with_residual(np.arange(SIZE, dtype=np.float32))
        feedback.propose(number, total, support, total[support].copy())
        if number != round:
            feedback.settle(number, counted=True)
    return feedback


def test_an_error_feedback_goes_on_from_the_file_whether_the_round_counted_or_not(path):
    before = sent(5, settled=3)
    file_of(path).write(5, before.state_dict(), None)
    for counted in (True, False):
        kept = file_of(path).newer_than({}, SIZE)
        assert kept.round == 5
        assert kept.control is None
        again, whole = ErrorFeedback(SIZE), ErrorFeedback(SIZE)
        again.load_state_dict(kept.exchange)
        whole.load_state_dict(before.state_dict())
        assert again.pending_round == 5
        for each in (again, whole):
            each.settle(5, counted=counted)
        assert np.array_equal(again.residual, whole.residual)
        assert again.state_dict().keys() == whole.state_dict().keys()


def test_scaffolds_control_changes_only_if_the_round_counted(path):
    control, change = torch.arange(SIZE) / 7, torch.full((SIZE,), 0.25)
    file_of(path).write(5, {"change": change, "sent_round": 5}, control)
    kept = file_of(path).newer_than({}, SIZE)
    assert kept.exchange["sent_round"] == 5
    assert torch.equal(kept.settled_control(counted=False), control)
    assert torch.equal(kept.settled_control(counted=True), control + change)
    assert PendingUpdate(5, {}, None).settled_control(counted=True) is None


@given(st.integers(1, 9), st.integers(0, 9), st.integers(-1, 9))
def test_whichever_knows_of_the_later_round_is_gone_on_from(tmp_path_factory, round, version, settled):
    path = tmp_path_factory.mktemp("ledgers") / "kept"
    file_of(path).write(round, sent(round).state_dict(), None)
    found = file_of(path).newer_than({"version": version, "exchange": {"settled_round": settled}}, SIZE)
    assert (found is not None) == (round > max(version, settled))


@pytest.mark.parametrize("other", [{"run": "another"}, {"site": "south"}])
def test_the_file_of_another_run_or_site_is_left_alone(path, other):
    file_of(path).write(5, sent(5).state_dict(), None)
    assert file_of(path, **other).newer_than({}, SIZE) is None
    assert file_of(path).newer_than({}, SIZE) is not None


def test_without_a_file_there_is_nothing(path):
    assert file_of(path).newer_than({}, SIZE) is None


def test_only_the_owner_may_read_it_and_what_a_kill_left_half_written_goes(path):
    file_of(path).write(4, sent(4).state_dict(), None)
    half = path.with_name(f".{path.name}.4711")
    half.write_bytes(path.read_bytes()[:50])
    assert file_of(path).newer_than({}, SIZE).round == 4
    file_of(path).write(5, sent(5).state_dict(), None)
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "damage", [lambda data: data[:40], lambda data: b"", lambda data: data.replace(b"round", b"raund")]
)
def test_a_damaged_file_is_named_and_not_gone_on_from(path, damage):
    file_of(path).write(5, sent(5).state_dict(), None)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(StoreError, match=r"north.jsonl.unsettled cannot be read: .*delete it"):
        file_of(path).newer_than({}, SIZE)


def test_a_model_of_another_size_is_refused_with_both_numbers(path):
    file_of(path).write(5, sent(5).state_dict(), None)
    with pytest.raises(ModelMismatchError, match=r"of 12 values from this same run, and the model exchanges 13"):
        file_of(path).newer_than({}, 13)


def test_a_folder_that_cannot_be_made_or_written_is_an_error_and_the_older_file_stays(path):
    file_of(path).write(4, sent(4).state_dict(), None)
    path.with_name("a-file").touch()
    with pytest.raises(StoreError, match=r"a-file/deeper cannot be made: .*FederatedStrategy\(ledger=...\)"):
        file_of(path.with_name("a-file") / "deeper" / "kept").write(5, sent(5).state_dict(), None)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(StoreError, match="cannot be written to"):
            file_of(path).write(5, sent(5).state_dict(), None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(list(path.parent.iterdir())) == 2
    assert file_of(path).newer_than({}, SIZE).round == 4
