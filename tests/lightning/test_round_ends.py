"""A round ends where Lightning's own loops say so, validation follows, and who cannot end one says why."""

import warnings
from datetime import timedelta
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from one_site import SEED, Module, alone, assert_same, examples, loader, plain, plan
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from lightning_fed.errors import ConfigError
from lightning_fed.simulation.in_process import VirtualSite, federate_in_process


def training(outcome) -> list[tuple[Any, ...]]:
    """The lines of a trace that are not about validation, without the metrics that it leaves."""
    return [line[:5] for line in outcome.trace.lines if "validation" not in line[0]]


def unvalidated(module: Module, **settings):
    """Plain training without a validation; beside it nothing may draw numbers, which a validation does, too."""
    return plain(module, num_sanity_val_steps=0, check_val_every_n_epoch=10**6, **settings)


class Stream(IterableDataset):
    """24 examples, of which it may claim to have another number, or say nothing."""

    def __iter__(self):
        yield from examples(24)


class Claiming(Stream):
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count


class TwoOptimisers(Module):
    """Manual optimisation; the second optimiser steps in every ``every``-th batch."""

    def __init__(self, every: int = 1, inner: int = 1) -> None:
        super().__init__(dropout=0)
        self.automatic_optimization = False
        self.every, self.inner = every, inner

    def training_step(self, batch, batch_idx):
        first, second = self.optimizers()
        for optimizer in [first] * self.inner + ([second] if batch_idx % self.every == 0 else []):
            loss = nn.functional.mse_loss(self.net(batch[0]), batch[1])
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()

    def configure_optimizers(self):
        return torch.optim.SGD(self.net[0].parameters(), 0.05), torch.optim.Adam(self.net[3].parameters(), 0.004)


class Accumulating(TwoOptimisers):
    """Manual optimisation that steps in every second batch, and once in the epoch's last, whatever it is."""

    def training_step(self, batch, batch_idx):
        optimizer, _ = self.optimizers()
        self.manual_backward(nn.functional.mse_loss(self.net(batch[0]), batch[1]))
        if batch_idx % 2:
            optimizer.step()
            optimizer.zero_grad()


def test_steps_of_accumulated_batches_end_rounds_where_they_are_taken():
    # Five batches, two a step: Lightning steps after batches 2, 4, 5, 7, 9, 10, ...
    settings = {"accumulate_grad_batches": 2, "data": loader(40, shuffle=False)}
    for steps in (1, 2, 3, 4):
        federated = alone(plan(4, steps=steps), Module(dropout=0), **settings)
        assert [step for _, step in federated.trace.validations] == [steps * k for k in range(1, 5)]
        assert federated.version == 4
        assert training(federated) == training(unvalidated(Module(dropout=0), max_steps=4 * steps, **settings))


def test_steps_end_rounds_where_the_accumulation_changes_on_the_way():
    def grows():
        return [GradientAccumulationScheduler({0: 1, 1: 2, 2: 3})]

    data = loader(40, shuffle=False)
    federated = alone(plan(5, steps=2), Module(dropout=0), grows(), data=data)
    # An epoch of five batches is 5, 3 and then 2 steps.
    assert federated.trace.validations == [(0, 2), (0, 4), (1, 6), (1, 8), (2, 10)]
    assert training(federated) == training(unvalidated(Module(dropout=0), callbacks=grows(), data=data, max_steps=10))


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_a_step_of_two_optimisers_is_one_step(steps):
    data = loader(shuffle=False)
    federated = alone(plan(4, steps=steps), TwoOptimisers(), data=data)
    assert [step for _, step in federated.trace.validations] == [2 * steps * k for k in range(1, 5)]
    assert federated.version == 4
    assert training(federated) == training(unvalidated(TwoOptimisers(), data=data, max_steps=2 * 4 * steps))


def test_optimisers_that_step_at_their_own_pace_end_rounds_after_whole_batches():
    # Three steps of the first and, in each epoch's batches 1 and 3, one of the second: 4, 3, 4.
    federated = alone(plan(3, steps=2), TwoOptimisers(every=2, inner=3))
    assert [step for _, step in federated.trace.validations] == [7, 7 + 8, 7 + 8 + 7]
    assert federated.version == 3
    # One step in each epoch of three batches.
    rare = alone(plan(3, steps=1), Accumulating())
    assert rare.trace.validations == [(0, 1), (1, 2), (2, 3)]


@pytest.mark.parametrize("epochs", [1, 2])
def test_epochs_of_two_optimisers_are_plain_epochs(epochs):
    federated = alone(plan(2, epochs=epochs), TwoOptimisers())
    assert_same(federated, plain(TwoOptimisers(), max_epochs=2 * epochs, check_val_every_n_epoch=epochs))


@pytest.mark.parametrize("epochs", [1, 2])
@pytest.mark.parametrize(
    "data", [Stream(), Claiming(24), Claiming(16)], ids=["no length", "its length", "a smaller length"]
)
@pytest.mark.filterwarnings("ignore:Length of IterableDataset")
def test_an_iterable_data_set_ends_its_epochs_itself(data, epochs):
    federated = alone(plan(3, epochs=epochs), Module(), data=DataLoader(data, 8))
    other = plain(Module(), data=DataLoader(data, 8), max_epochs=3 * epochs, check_val_every_n_epoch=epochs)
    assert_same(federated, other)
    assert federated.version == len(federated.trace.validations) == 3


class Skipping(Module):
    """Skips the rest of the epoch after two of its three batches."""

    def on_train_batch_start(self, batch, batch_idx):
        return -1 if batch_idx == 2 else None


UNANNOUNCED = {
    "a larger length": (Module, lambda: DataLoader(Claiming(32), 8)),
    "the rest is skipped": (Skipping, lambda: loader(shuffle=False)),
}


@pytest.mark.parametrize("epochs", [1, 2])
@pytest.mark.parametrize("kind", UNANNOUNCED)
def test_an_epoch_counts_that_ends_before_its_last_batch_and_the_site_says_so(kind, epochs):
    module, data = UNANNOUNCED[kind]
    with pytest.warns(UserWarning, match="none of them was said to be the last"):
        federated = alone(plan(3, epochs=epochs), module(), data=data())
    assert_same(federated, plain(module(), data=data(), max_epochs=3 * epochs, check_val_every_n_epoch=epochs))
    assert federated.version == 3


@pytest.mark.parametrize("kind", UNANNOUNCED)
def test_steps_count_in_epochs_that_end_before_their_last_batch(kind):
    module, data = UNANNOUNCED[kind]
    with pytest.warns(UserWarning, match="none of them was said to be the last"):
        federated = alone(plan(3, steps=4), module(dropout=0), data=data())
    assert [step for _, step in federated.trace.validations] == [4, 8, 12]
    assert training(federated) == training(unvalidated(module(dropout=0), data=data(), max_steps=12))


def test_sites_with_such_epochs_are_in_every_round():
    sites = [
        VirtualSite("long", Module(), DataLoader(Claiming(32), 8)),
        VirtualSite("skips", Skipping(), loader(seed=2)),
        VirtualSite("plain", Module(), loader(seed=3)),
    ]
    with pytest.warns(UserWarning, match="none of them was said to be the last"):
        run = federate_in_process(plan(3, epochs=2, gather_s=5), sites, seed=SEED)
    done = [sorted(record.data["participants"]) for record in run.records if record.event == "round_finished"]
    assert done == [["long", "plain", "skips"]] * 3


class Never(Module):
    def on_train_batch_start(self, batch, batch_idx):
        return -1


@pytest.mark.parametrize("local", [{"epochs": 1}, {"epochs": 2}, {"steps": 3}], ids=str)
def test_an_epoch_without_a_batch_is_an_error(local):
    with pytest.raises(ConfigError, match="site 'site' cannot complete a round: epoch 0 ended without a single batch"):
        alone(plan(2, **local), Never())


@pytest.mark.parametrize("local", [{"epochs": 1}, {"epochs": 2}, {"steps": 3}], ids=str)
@pytest.mark.parametrize(
    "settings", [{"limit_train_batches": 0}, {"data": DataLoader(examples(0), 8)}], ids=["limit", "empty"]
)
@pytest.mark.filterwarnings("ignore:Total length of")
def test_a_site_without_data_is_an_error(local, settings):
    with pytest.raises(ConfigError, match="site 'site' has joined the federation and has nothing to train on"):
        alone(plan(2, **local), Module(), **settings)


@pytest.mark.parametrize("limit", [{"max_epochs": 0}, {"max_steps": 0}], ids=str)
def test_a_fit_that_is_over_before_it_begins_says_so(limit):
    with pytest.warns(
        UserWarning,
        match=r"site 'site' leaves without having trained: Trainer\(max_(epochs|steps)=0\).* if enough others are left"
        r".* leave max_\1 out",
    ):
        alone(plan(2, epochs=1), Module(), **limit)


def test_a_fit_that_ends_between_two_rounds_says_that_it_leaves_and_what_to_set():
    ended = r"Trainer\(max_epochs=1\) has ended the fit .* with global model 1 of 3: it leaves"
    with pytest.warns(UserWarning, match=f"{ended} .* if enough others are left.* leave max_epochs out"):
        alone(plan(3, epochs=1), Module(), max_epochs=1)


class Idle(TwoOptimisers):
    def training_step(self, batch, batch_idx):
        for optimizer in self.optimizers(use_pl_optimizer=False):
            optimizer.zero_grad()
            self.manual_backward(nn.functional.mse_loss(self.net(batch[0]), batch[1]))
            optimizer.step()


def test_optimisers_that_step_behind_lightnings_back_are_named():
    with pytest.warns(UserWarning, match="no optimiser has taken a step in an epoch of 3 batches"):
        federated = alone(plan(2, steps=3), Idle(), max_epochs=2)
    assert federated.trace.validations == []


@pytest.mark.parametrize(
    "limit", [{"limit_train_batches": 2}, {"limit_train_batches": 0.7}, {"overfit_batches": 2}], ids=str
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_limit_of_batches_ends_epochs(limit, stream):
    if stream and limit != {"limit_train_batches": 2}:
        pytest.skip("Lightning refuses it for a data set without a length")
    data = DataLoader(Stream(), 8) if stream else DataLoader(examples(24), 8)
    federated = alone(plan(3, epochs=2), Module(), data=data, **limit)
    assert_same(federated, plain(Module(), data=data, max_epochs=6, check_val_every_n_epoch=2, **limit))
    assert federated.version == 3


def test_data_that_are_loaded_anew_change_nothing():
    settings = {"reload_dataloaders_every_n_epochs": 1}
    federated = alone(plan(3, epochs=2), Module(), **settings)
    assert_same(federated, plain(Module(), max_epochs=6, check_val_every_n_epoch=2, **settings))
    assert alone(plan(3, steps=5), Module(), **settings).trace.validations == [(1, 5), (3, 10), (4, 15)]


class Iterated(Module):
    """Takes its batches from Lightning's iterator."""

    def training_step(self, dataloader_iter):
        batch, _, _ = next(dataloader_iter)
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])


@pytest.mark.parametrize("local", [{"epochs": 2}, {"steps": 5}], ids=str)
@pytest.mark.filterwarnings("ignore:.*dataloader_iter")
def test_a_module_that_iterates_itself_is_validated_after_rounds_alone(local):
    federated = alone(plan(3, **local), Iterated())
    assert federated.version == len(federated.trace.validations) == 3


class Stops(L.Callback):
    """Stops the fit after so many batches."""

    def __init__(self, batches: int) -> None:
        self.left = batches

    def on_train_batch_end(self, trainer, *args):
        self.left -= 1
        trainer.should_stop = self.left <= 0

    def state_dict(self):
        return {}


MIDDLE = [
    (plan(3, epochs=2), {"max_epochs": 3}, [], r"Trainer\(max_epochs=3\)"),
    (plan(3, epochs=2), {"max_steps": 8}, [], r"Trainer\(max_steps=8\)"),
    (plan(3, steps=5), {"max_steps": 8}, [], r"Trainer\(max_steps=8\)"),
    (plan(3, steps=5), {"max_epochs": 3}, [], r"Trainer\(max_epochs=3\)"),
    (plan(3, epochs=2), {}, [Stops(8)], "trainer.should_stop, set by .* a callback,"),
    (plan(3, steps=5), {}, [Stops(8)], "trainer.should_stop, set by .* a callback,"),
]


@pytest.mark.parametrize(("settings", "limit", "callbacks", "named"), MIDDLE, ids=lambda value: str(value)[:30])
def test_a_fit_that_ends_in_the_middle_of_a_round_says_so_and_keeps_the_global_model(settings, limit, callbacks, named):
    with pytest.warns(UserWarning, match=named + " has ended the fit of site 'site' in the middle of round 2, after"):
        federated = alone(settings, Module(), callbacks, **limit)
    assert federated.version == 1
    last = [line for line in federated.trace.lines if line[0] == "on_validation_end"]
    assert len(last) == 1, "only the global model is validated"
    assert federated.trace.lines[-1][0] == "on_train_end"
    assert federated.trace.lines[-1][3] == last[0][3], "the module holds the global model again"


def test_max_time_ends_a_fit_with_the_global_model():
    class Late(L.Callback):
        """The clock has run out after eight batches."""

        seen = 0

        def on_train_batch_start(self, trainer, *args):
            self.seen += 1
            if self.seen == 8:
                timer = next(c for c in trainer.callbacks if isinstance(c, L.pytorch.callbacks.Timer))
                timer._duration = 0.0

    with pytest.warns(UserWarning, match="max_time or a callback, has ended the fit .* in the middle of round 2"):
        federated = alone(plan(3, epochs=2), Module(), [Late()], max_time=timedelta(hours=1))
    assert federated.version == 1


def test_the_users_least_number_of_epochs_does_not_keep_a_site_training_alone():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for local in ({"epochs": 2}, {"steps": 5}):
            federated = alone(plan(2, **local), Module(), min_epochs=40)
            assert federated.version == 2
            assert federated.trainer.global_step == (12 if local == {"epochs": 2} else 10)
