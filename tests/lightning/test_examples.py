"""Sites are weighed by the examples that their loaders gave out, whatever a batch looks like."""

import lightning as L
import pytest
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch import nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, SequentialSampler, TensorDataset

from lightning_fed.errors import ConfigError
from lightning_fed.participant.examples import ExampleCount, count_loaders, counted
from lightning_fed.plan import FederationPlan, LocalTraining, Masking
from lightning_fed.simulation.in_process import QUIET, VirtualSite, federate_in_process

VALUES = TensorDataset(torch.arange(19.0).view(-1, 1))


class Constant(L.LightningModule):
    """Moves its one weight by ``step`` at each step, whatever the data."""

    def __init__(self, step: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.step = step

    def training_step(self, batch, batch_idx):
        return -self.step * self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1.0)


class Counting(L.Callback):
    """Counts as a site does, in a fit without a federation."""

    def __init__(self):
        self.count = ExampleCount("here")
        self.examples = []

    def setup(self, trainer, pl_module, stage):
        count_loaders(trainer)

    def on_train_epoch_start(self, trainer, pl_module):
        self.count.begin_epoch(trainer)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.examples.append(self.count.of(trainer, batch))


def counts(loader, module=None, epochs=1, **settings):
    counting = Counting()
    trainer = L.Trainer(callbacks=[counting], max_epochs=epochs, **{**QUIET, **settings})
    trainer.fit(module or Constant(0.0), loader)
    return counting.examples


def unstacked(examples):
    return [torch.zeros(3, 8, 8) for _ in examples], [{"boxes": torch.zeros(2, 4)} for _ in examples]


def time_first(examples):
    return torch.zeros(12, len(examples), 5)


def packed(examples):
    return pack_sequence([torch.zeros(length + 1, 5) for length in reversed(range(len(examples)))])


def words(examples):
    return ["word"] * len(examples)


class Opaque:
    """As a graph's batch: it has no length and no first dimension that means anything."""

    def __init__(self, examples):
        self.nodes = torch.zeros(31, 2)


@pytest.mark.parametrize("collate", [None, unstacked, time_first, packed, words, Opaque])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_says_how_many_examples_a_batch_holds(collate, workers):
    loader = DataLoader(VALUES, 8, collate_fn=collate, num_workers=workers)
    assert counts(loader, epochs=2) == [8, 8, 3, 8, 8, 3]


class Stream(IterableDataset):
    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        yield from range(worker.id if worker else 0, 19, worker.num_workers if worker else 1)


@pytest.mark.parametrize("collate", [None, time_first, Opaque])
@pytest.mark.parametrize(("workers", "expected"), [(0, [8, 8, 3]), (2, [8, 8, 2, 1])])
def test_a_stream_of_examples_is_counted_where_they_are_collated(collate, workers, expected):
    assert counts(DataLoader(Stream(), 8, collate_fn=collate, num_workers=workers), epochs=2) == expected * 2


def test_a_batch_sampler_of_ones_own_decides():
    sampler = [[0, 1, 2, 3], [4], [5, 6]]
    assert counts(DataLoader(VALUES, batch_sampler=sampler, collate_fn=time_first), epochs=2) == [4, 1, 2] * 2


@pytest.mark.parametrize("stream", [False, True])
def test_workers_that_were_there_before_do_not_hide_what_is_given_out(stream):
    loader = DataLoader(Stream() if stream else VALUES, 8, collate_fn=unstacked, num_workers=1, persistent_workers=True)
    assert len(list(loader)) == 3
    assert counts(loader, epochs=2) == [8, 8, 3, 8, 8, 3]


class ByLists(Dataset):
    def __getitem__(self, indices):
        return torch.zeros(12, len(indices), 5)


def test_a_sampler_of_lists_decides_where_nothing_is_collated():
    sampler = BatchSampler(SequentialSampler(range(19)), 8, drop_last=False)
    assert counts(DataLoader(ByLists(), sampler=sampler, batch_size=None)) == [8, 8, 3]
    assert counts(DataLoader(ByLists(), sampler=torch.arange(19).split(8), batch_size=None)) == [8, 8, 3]


@pytest.mark.parametrize("sampler", [["alpha", "be"], [(1, 2), (3, 4)], [1, 2]])
def test_the_length_of_a_key_is_no_number_of_examples(sampler):
    with pytest.raises(ConfigError, match="cannot tell how many examples"):
        counts(DataLoader(Keyed(), sampler=sampler, batch_size=None))


class Keyed(Dataset):
    def __getitem__(self, key):
        return torch.zeros(12, 4, 5), torch.zeros(4)


class InPairs(DataLoader):
    """Joins two batches to one, as a subclass may that iterates in its own way."""

    def __iter__(self):
        batches = super().__iter__()
        for batch in batches:
            yield torch.cat([batch, next(batches)])


def test_a_loader_that_iterates_in_its_own_way_is_not_taken_for_torchs():
    with pytest.warns(UserWarning, match="does not say of how many"):
        assert counts(InPairs(range(8), batch_sampler=[[0], [1, 2], [3, 4], [5, 6, 7]])) == [3, 5]


def test_batches_that_were_not_trained_on_do_not_count():
    def broken(examples):
        return None if 8 in examples else torch.zeros(12, len(examples))

    class Skipping(Constant):
        def on_train_batch_start(self, batch, batch_idx):
            return -1 if batch_idx == 2 else None

    assert counts(DataLoader(range(19), 8, collate_fn=broken), epochs=2) == [8, 0, 3] * 2
    loader = DataLoader(range(19), batch_sampler=[[0], [1, 2], [3, 4, 5], [6, 7, 8, 9]], num_workers=1)
    assert counts(loader, Skipping(0.0), epochs=3) == [1, 2] * 3


class Taking(Constant):
    """Takes its batches itself, several in a step."""

    def __init__(self, batches):
        super().__init__(0.0)
        self.batches = batches

    def training_step(self, dataloader_iter):
        for _ in range(self.batches):
            next(dataloader_iter)
        return self.weight.sum()


class TakingAndSaying(Taking):
    def examples_in_batch(self, batch):
        return 2


@pytest.mark.parametrize(("batches", "expected"), [(1, [8, 8, 8, 6]), (2, [16, 14])])
def test_batches_that_a_step_takes_itself_all_count(batches, expected):
    loader = DataLoader(range(30), 8, collate_fn=time_first)
    assert counts(loader, Taking(batches), epochs=2) == expected * 2


def test_a_steps_several_batches_are_not_judged_by_the_last():
    with pytest.raises(ConfigError, match="taken 2 batches from its dataloader_iter"):
        counts(DataLoader(range(30), 8), TakingAndSaying(2))
    assert counts(DataLoader(range(30), 8), TakingAndSaying(1)) == [2, 2, 2, 2]


@pytest.mark.parametrize("settings", [{"accumulate_grad_batches": 2}, {"overfit_batches": 2}, {}])
def test_whatever_is_set_each_batch_counts_once(settings):
    loader = DataLoader(VALUES, 8, shuffle="overfit_batches" not in settings, drop_last=True, collate_fn=time_first)
    assert counts(loader, epochs=2, **settings) == [8, 8] * 2


class Growing(L.Callback):
    """Doubles the batch size after each epoch, by the sampler that it finds."""

    def on_train_epoch_end(self, trainer, pl_module):
        sampler = trainer.train_dataloader.batch_sampler
        assert isinstance(sampler, BatchSampler)
        sampler.batch_size *= 2


def test_a_callback_finds_the_sampler_that_was_given():
    counting = Counting()
    trainer = L.Trainer(callbacks=[counting, Growing()], max_epochs=3, **QUIET)
    trainer.fit(Constant(0.0), DataLoader(range(12), 3))
    assert counting.examples[4:] == [6, 6, 12]


class Anew(L.LightningDataModule):
    def train_dataloader(self):
        return [DataLoader(VALUES, 8), DataLoader(VALUES, 4)]


def test_loaders_that_are_made_anew_are_counted():
    counting = Counting()
    trainer = L.Trainer(callbacks=[counting], max_epochs=2, reload_dataloaders_every_n_epochs=1, **QUIET)
    trainer.fit(Constant(0.0), datamodule=Anew())
    assert counting.examples == [12, 12, 7, 12, 11] * 2


def test_an_epoch_that_is_cut_short_leaves_nothing_behind_for_the_next():
    loader = DataLoader(VALUES, batch_sampler=[[0], [1, 2], [3, 4, 5], [6, 7, 8, 9]], num_workers=2)
    assert counts(loader, epochs=3, limit_train_batches=2) == [1, 2] * 3


def test_examples_of_combined_loaders_add_up_and_a_short_one_goes_round():
    loaders = {"a": DataLoader(VALUES, 8), "b": DataLoader(TensorDataset(torch.zeros(5, 1)), 4)}
    assert counts(CombinedLoader(loaders, "min_size"), epochs=2) == [12, 9] * 2
    assert counts(CombinedLoader(loaders, "max_size"), epochs=2) == [12, 9, 3] * 2
    assert counts(CombinedLoader(loaders, "max_size_cycle"), epochs=2) == [12, 9, 7] * 2


class ReadyMade:
    """Any iterable is a loader to Lightning; but not a list, which is a collection of loaders."""

    def __init__(self, *batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)

    def __len__(self):
        return len(self.batches)


def test_batches_without_a_loader_are_counted_by_the_dimension_they_share_and_a_warning_says_so():
    batches = [(torch.zeros(4, 2), {"y": torch.zeros(4)}), (torch.zeros(3, 2), {"y": torch.zeros(3)})]
    with pytest.warns(UserWarning, match="does not say of how many.*: 4 in this one.*examples_in_batch"):
        assert counts(ReadyMade(*batches)) == [4, 3]


@pytest.mark.parametrize("batch", [(torch.zeros(12, 4, 2), torch.zeros(4)), ["word"] * 4, torch.tensor(1.0)])
def test_what_cannot_be_known_is_asked_for(batch):
    with pytest.raises(ConfigError, match=r"'here' cannot tell how many examples .* examples_in_batch\(self, batch\)"):
        counts(ReadyMade(batch))


class Saying(Constant):
    def examples_in_batch(self, batch):
        return batch["size"]


def test_the_modules_own_word_is_taken():
    assert counts(ReadyMade({"size": 7, "x": torch.zeros(2, 3)}), Saying(0.0)) == [7]
    with pytest.raises(ConfigError, match=r"Saying.examples_in_batch\(batch\) returned 2.5"):
        counts(ReadyMade({"size": 2.5}), Saying(0.0))


def test_a_loader_is_left_as_it_was():
    loader = DataLoader(VALUES, 8)
    sampler, clone = loader.batch_sampler, counted(loader)
    assert loader.batch_sampler is sampler and type(loader) is DataLoader
    assert counted(clone) is clone and isinstance(clone, DataLoader) and clone.dataset is VALUES and len(clone) == 3
    assert clone.batch_sampler.batch_size == 8 and clone.batch_sampler.sampler is sampler.sampler
    stream = DataLoader(Stream(), 8)
    assert isinstance(counted(stream), DataLoader) and type(stream) is DataLoader
    assert [len(batch) for batch in stream] == [8, 8, 3] == [len(batch) for batch in counted(stream)]


@pytest.mark.parametrize("collate", [None, unstacked, time_first, words, Opaque])
@pytest.mark.parametrize("local", [{"epochs": 1}, {"steps": 3}])
def test_the_global_model_is_the_mean_over_examples(collate, local):
    plan = FederationPlan(rounds=2, local=LocalTraining(**{"epochs": None, **local}), masking=Masking("off"), quorum=2)
    sizes, steps = {"a": 24, "b": 12}, {"a": 1.0, "b": -3.0}
    sites = [
        VirtualSite(name, Constant(steps[name]), DataLoader(range(size), size // 3, collate_fn=collate))
        for name, size in sizes.items()
    ]
    federate_in_process(plan, sites)
    expected = 2 * 3 * sum(sizes[name] * steps[name] for name in sizes) / sum(sizes.values())
    for site in sites:
        assert float(site.module.weight) == pytest.approx(expected, abs=1e-6)
