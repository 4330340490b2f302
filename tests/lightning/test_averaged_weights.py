"""Averages of weights at a site: what would stand in the global model's place is refused, the rest is as it was."""

from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, StochasticWeightAveraging, WeightAveraging
from one_site import SEED, Module, Near, alone, assert_same, loader, plain, plan, same
from torch import nn

from lightning_fed.callbacks.round_callback import RoundCallback
from lightning_fed.errors import ConfigError
from lightning_fed.simulation.in_process import VirtualSite, federate_in_process


class Own(EMAWeightAveraging):
    """A user's own kind of it."""


@pytest.mark.parametrize("callback", [WeightAveraging, EMAWeightAveraging, Own])
def test_an_average_that_would_be_validated_instead_of_the_global_model_is_refused(callback):
    with pytest.raises(ConfigError, match=f"^{callback.__name__} validates and stores this site's own average"):
        alone(plan(2, epochs=1), Module(), [callback()])


class Normalised(Module):
    """With BatchNorm, whose statistics the last pass of SWA sets."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(Near(4, 8), nn.BatchNorm1d(8, affine=False), nn.Tanh(), Near(8, 1))


class Rounds(RoundCallback):
    """The rounds that a site trained, and what it sent."""

    def __init__(self) -> None:
        self.ended: list[int] = []

    def on_round_end(self, trainer: Any, pl_module: Any, round: int) -> None:
        self.ended.append(round)


def parameters(module: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in module.parameters()]


@pytest.mark.parametrize("epochs", [1, 2])
def test_the_last_pass_of_swa_sets_batchnorm_and_is_no_round(epochs):
    rounds = Rounds()
    federated = alone(plan(3, epochs=epochs), Normalised(), [StochasticWeightAveraging(0.002, 0.5), rounds])
    settings = {"max_epochs": 3 * epochs, "check_val_every_n_epoch": epochs}
    other = plain(Normalised(), [StochasticWeightAveraging(0.002, 0.5), Rounds()], **settings)
    assert rounds.ended == [1, 2, 3]
    assert federated.trainer.current_epoch == 3 * epochs + 1
    # Running averages that begin at zero are not exact while rounds last; the pass counts them anew.
    lines = [line[:5] for line in federated.trace.lines]
    assert lines == [line[:5] for line in other.trace.lines]
    same(dict(federated.module.state_dict()), dict(other.module.state_dict()), "weights")


@pytest.mark.parametrize("module", [Module, Normalised])
def test_a_site_that_leaves_earlier_averages_as_without_a_federation(module):
    """The pass comes in a federation that goes on, and must not wait for its next round."""
    rounds = Rounds()
    swa = StochasticWeightAveraging(0.002, 2)
    federated = alone(plan(6, epochs=1), module(), [swa, rounds], max_epochs=4)
    assert rounds.ended == [1, 2, 3, 4]
    other = plain(module(), [StochasticWeightAveraging(0.002, 2), Rounds()], max_epochs=4)
    assert [line[:5] for line in federated.trace.lines] == [line[:5] for line in other.trace.lines]
    if module is Module:
        assert_same(federated, other)


def test_what_is_validated_and_stored_at_the_rounds_ends_is_the_global_model_beside_swa(tmp_path):
    class Validated(L.Callback):
        def __init__(self) -> None:
            self.seen: list[list[torch.Tensor]] = []

        def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
            if not trainer.sanity_checking:
                self.seen.append(parameters(pl_module))

    records = [Validated(), Validated()]
    saved = ModelCheckpoint(tmp_path, save_top_k=-1, every_n_epochs=1)
    sites = [
        VirtualSite("averages", Module(), loader(), [StochasticWeightAveraging(0.002, 2), records[0], saved]),
        VirtualSite("other", Module(), loader(seed=2), [records[1]]),
    ]
    federate_in_process(plan(4, epochs=2), sites, seed=SEED, enable_checkpointing=None)
    assert len(records[0].seen) == len(records[1].seen) == 4
    for mine, theirs in zip(records[0].seen, records[1].seen, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
    stored = sorted(tmp_path.glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    assert len(stored) == 4
    for path, seen in zip(stored, records[0].seen, strict=True):
        state = torch.load(path, weights_only=False)["state_dict"]
        assert all(torch.equal(a, b) for a, b in zip(state.values(), seen, strict=True))
    # After the federation the site that asked for it has the average of its own.
    assert not torch.equal(sites[0].module.net[0].weight, sites[1].module.net[0].weight)
