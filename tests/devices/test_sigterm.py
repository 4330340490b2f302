"""A SIGTERM to one process of a site, as torchrun or an impatient user sends it, ends all of its processes."""

import signal
from functools import partial
from pathlib import Path

import pytest
from several import Here, Site, errors, examples, until
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed import FederationPlan, LocalTraining
from lightning_fed.plan import Masking


class CountedOut(TensorDataset):
    """Says when it is divided among processes: Lightning handles SIGTERM by then, and training has not begun."""

    marker: Path

    def __len__(self) -> int:
        self.marker.touch()
        return super().__len__()


def counted_out(marker: Path) -> DataLoader:
    data = CountedOut(*examples(0, 24).tensors)
    data.marker = marker
    return DataLoader(data, 4)


def plan(**settings) -> FederationPlan:
    return FederationPlan(**{"rounds": 2, "masking": Masking("off"), "quorum": 2, **settings})


def all_interrupted(here: Here, nodes: list[Site]) -> bool:
    left = here.wait_for("site_left")
    said = errors(nodes)
    return left["reason"] == "interrupted" and all(text.endswith("SIGTERMException") for text in said)


def test_in_training_all_processes_stop_at_the_same_batch(tmp_path):
    here = Here(tmp_path, plan(rounds=100_000, local=LocalTraining(steps=1), quorum=1), ("site-0",))
    nodes = here.nodes("site-0")
    here.wait_for("round_finished", round=3)
    nodes[1].send(signal.SIGTERM)
    assert all_interrupted(here, nodes)


@pytest.mark.parametrize("rank", [0, 1])
def test_while_the_first_process_waits_for_the_other_sites_all_stop_waiting(tmp_path, rank):
    here = Here(tmp_path, plan(local=LocalTraining(epochs=1)), ("site-0", "site-1"))
    nodes = here.nodes("site-0", data=partial(counted_out, tmp_path / "handled"))
    until((tmp_path / "handled").exists, "process that handles signals")
    nodes[rank].send(signal.SIGTERM)
    assert all_interrupted(here, nodes)
