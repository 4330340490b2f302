"""The sum that a region has sent up last outlives the process, and is given back for its own round alone."""

import pytest
import torch

from lightning_fed.errors import StoreError
from lightning_fed.protocol.coordinator.actions import SendUp
from lightning_fed.region.sum_file import SumFile

SUM = SendUp(3, torch.tensor([0.5, -1.25, 3e-7]), 123_456_789, ("a", "b"))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "sum.safetensors"


def test_the_same_comes_back_to_the_last_bit(path):
    SumFile(path, "run").write(SUM)
    kept = SumFile(path, "run").read(3, 3)
    assert (kept.round, kept.examples, kept.participants) == (3, 123_456_789, ("a", "b"))
    assert torch.equal(kept.mean, SUM.mean)
    assert path.stat().st_mode & 0o077 == 0


def test_a_sum_of_another_round_or_run_is_none(path):
    file = SumFile(path, "run")
    assert file.read(1, 3) is None
    file.write(SUM)
    assert file.read(4, 3) is None
    assert SumFile(path, "other").read(3, 3) is None


@pytest.mark.parametrize("content", [b"", b"{}", b"\x08\0\0\0\0\0\0\0{}      ", b"\xff" * 100])
def test_a_damaged_file_is_named(path, content):
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"sum\.safetensors cannot be read: .* remove it"):
        SumFile(path, "run").read(3, 3)


def test_a_sum_of_another_model_is_named(path):
    SumFile(path, "run").write(SUM)
    with pytest.raises(StoreError, match="holds 3 values and the model exchanges 4"):
        SumFile(path, "run").read(3, 4)
