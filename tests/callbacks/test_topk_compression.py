"""A site's own smaller share: which plans it goes with, what it logs, and where there is no federation."""

import lightning as L
import pytest
import yaml
from round_fits import Regression, fitted, loader, same, trainer_of
from torch import nn

from lightning_fed.callbacks import TopKCompression
from lightning_fed.errors import ConfigError
from lightning_fed.plan import Compression, FederationPlan, LocalTraining, Masking
from lightning_fed.simulation.in_process import VirtualSite, federate_in_process

OFF, ON = Masking("off"), Masking("required", bits=32, bound=4096.0)


def plan(compression, masking=OFF, rounds=3, **changes):
    return FederationPlan(rounds=rounds, quorum=2, masking=masking, compression=compression, **changes)


class Small(Regression):
    """Without batch statistics and dropout."""

    def __init__(self):
        super().__init__()
        self.body[1] = self.body[3] = nn.Identity()


class Look(L.Callback):
    """What a logger would get at each epoch's end, and the residual then."""

    def __init__(self):
        self.seen, self.residuals = [], []

    def on_train_epoch_end(self, trainer, pl_module):
        self.seen.append({k: float(v) for k, v in trainer.callback_metrics.items() if "loss" not in k})
        self.residuals.append(float(trainer.callbacks[0].state_dict()["exchange"]["residual"].norm()))


def run(plan, *callbacks):
    sites = [VirtualSite(f"site-{index}", Small(), loader(index), own) for index, own in enumerate(callbacks)]
    return federate_in_process(plan, sites)


@pytest.mark.parametrize("share", [0, -0.1, 1.5, float("nan"), float("inf")])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ConfigError, match=rf"TopKCompression\(share={share}\) is not possible.*above 0 and at most 1"):
        TopKCompression(share)


def test_a_larger_share_than_the_plans_is_refused_with_both_numbers():
    with pytest.raises(ConfigError, match=r"share=0.2\) would send more than .* = 0.1 allows.*at most 0.1"):
        run(plan(Compression("topk", share=0.1)), [], [TopKCompression(0.2)])


@pytest.mark.parametrize("method", ["none", "randomk", "vote"])
@pytest.mark.parametrize("masking", [OFF, ON], ids=["clear", "masked"])
def test_a_plan_that_chooses_the_coordinates_is_refused_and_the_lines_that_it_is_told_to_have_are_taken(
    method, masking
):
    callback = TopKCompression(0.05)
    with pytest.raises(ConfigError) as refused:
        run(plan(Compression(method, share=0.1, block=4), masking), [], [callback])
    text = str(refused.value)
    assert f"compression.method = {method!r}" in text
    assert ("masks cancel only where all sites send the same coordinates" in text) == (masking is ON)
    # BaseLoader: the word off is a boolean to plain YAML.
    told = yaml.load(text[text.index("plan:") :], Loader=yaml.BaseLoader)["plan"]
    compression = Compression(told["compression"]["method"], float(told["compression"]["share"]))
    assert run(plan(compression, Masking(**told.get("masking", {"mode": "off"})), 1), [], [callback]).model.version == 1


def test_each_round_logs_the_bytes_as_sent_and_the_norm_of_what_stayed():
    look, narrow, wide = Look(), Look(), TopKCompression(0.5)
    run(plan(Compression("topk", 0.5, "float32")), [wide, look], [TopKCompression(0.05), narrow])
    assert [set(seen) for seen in look.seen] == [{"federated_round", "upload_bytes", "residual_norm"}] * 3
    for one in (look, narrow):
        assert [seen["residual_norm"] for seen in one.seen] == pytest.approx(one.residuals)
        assert min(one.residuals) > 0
    # Of 49 values 25 and 3, each of four bytes, and their coordinates; 8 bytes say how many they are.
    for wide_round, narrow_round in zip(look.seen, narrow.seen, strict=True):
        assert 8 + 4 * 25 < wide_round["upload_bytes"] <= 8 + 4 * 25 + 2 + 8
        assert 8 + 4 * 3 < narrow_round["upload_bytes"] <= 8 + 4 * 3 + 2 + 3


def test_several_rounds_in_an_epoch_log_their_mean():
    look = Look()
    run(plan(Compression("topk", 0.5, "float32"), local=LocalTraining(steps=1)), [TopKCompression(0.2), look], [])
    assert len(look.seen) == 1
    assert 8 + 4 * 10 < look.seen[0]["upload_bytes"] <= 8 + 4 * 10 + 2 + 7


def test_without_a_federation_there_is_nobody_to_send_to():
    with pytest.raises(ConfigError, match=r"nobody to send to.*FederatedStrategy.*leave the callback out"):
        fitted(Regression(), [TopKCompression(0.1)])


def test_a_dry_run_and_what_is_not_training_go_without_a_federation():
    assert same(fitted(Regression(), [TopKCompression(0.1)], fast_dev_run=2), fitted(Regression(), fast_dev_run=2))
    trainer_of([TopKCompression(0.1)]).validate(Regression(), loader(), verbose=False)
