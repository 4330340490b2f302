"""Batches by Poisson sampling, as DP-SGD's accounting assumes them: each example is in or out on its own.

Uniform bits come from the secure stream, since amplification by sampling holds only while nobody can tell who was
drawn. A step may draw nobody at all: that is a batch of no examples, and the step is still taken.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, Sampler, SequentialSampler

from lightning_fed.errors import ConfigError
from lightning_fed.privacy.accounting import sample_rate_of
from lightning_fed.privacy.stream import RandomStream


class PoissonSampler(Sampler[list[int]]):
    """Draws each example with the same chance for each step, and deals a step's draw out to its batches.

    A step of several batches (gradient accumulation) is one draw at the whole step's rate, of which each example goes
    to one batch at random. Draws of their own for each batch could hold an example twice, which would double what it
    can do to the step.

    Args:
        examples: size n of the data set.
        sample_rate: chance of each example to be in a step, in (0, 1].
        steps: number of steps of an epoch.
        parts: number of batches of a step.
    """

    def __init__(self, examples: int, sample_rate: float, steps: int, parts: int = 1) -> None:
        self.examples = examples
        self.sample_rate = sample_rate
        self.steps = steps
        self.parts = parts

    def __iter__(self) -> Iterator[list[int]]:
        """Lists of indices, ``parts`` for each step; any of them may be empty."""
        # Rounded down, so that the chance is never above the one accounted for.
        bound = int(self.sample_rate * 2.0**64)
        for _ in range(self.steps):
            stream = RandomStream()
            words = stream.words(self.examples, np.uint64)
            chosen = np.flatnonzero(words < bound) if bound < 1 << 64 else np.arange(self.examples)
            part = stream.words(len(chosen), np.uint64) % np.uint64(self.parts)
            for number in range(self.parts):
                yield chosen[part == number].tolist()

    def __len__(self) -> int:
        return self.steps * self.parts


class PoissonLoader(DataLoader[Any]):
    """The same examples, collated in the same way, as another loader's, in Poisson-sampled batches.

    An epoch has as many steps as the other loader's would have, and a step as many examples on average.

    Args:
        loader: the loader that a user gave; left as it is.
        parts: batches of one step (Lightning's ``accumulate_grad_batches``).

    Attributes:
        examples: size n of the data set.
        sample_rate: chance of each example to be in a step.
        step_size: number of examples of a step on average.
        drawn: number of examples in the batch that was yielded last.
        step: an object that is the same one for all batches of one step.

    Raises:
        ConfigError: the loader's order of examples is its own, or its data has no length.
        PlanError: a step asks for more examples than there are.
    """

    def __init__(self, loader: DataLoader[Any], parts: int = 1) -> None:
        _check(loader)
        batch_size = loader.batch_size or 1
        self.examples = len(loader.dataset)  # type: ignore[arg-type]
        self.step_size = batch_size * parts
        self.sample_rate = sample_rate_of(self.step_size, self.examples)
        self.parts = parts
        self.drawn = 0
        self.step: object = None
        super().__init__(
            loader.dataset,
            batch_sampler=PoissonSampler(self.examples, self.sample_rate, -(-len(loader) // parts), parts),
            collate_fn=_Counted(loader.collate_fn, loader.dataset),
            num_workers=loader.num_workers,
            pin_memory=loader.pin_memory,
            timeout=loader.timeout,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
            generator=loader.generator,
            prefetch_factor=loader.prefetch_factor,
            persistent_workers=loader.persistent_workers,
        )

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Batches as the other loader's; one without examples has the same structure with tensors of no rows."""
        for position, (batch, drawn) in enumerate(super().__iter__()):
            if position % self.parts == 0:
                self.step = object()
            self.drawn = drawn
            yield batch


class _Counted:
    """Collates, and says how many examples it collated; a worker process may not be able to pickle a closure."""

    def __init__(self, collate: Callable[[Any], Any], dataset: Any) -> None:
        self._collate = collate
        self._dataset = dataset
        self._empty: Any = None

    def __call__(self, examples: Any) -> tuple[Any, int]:
        if len(examples) > 0:
            return self._collate(examples), len(examples)
        if self._empty is None:
            self._empty = _without_rows(self._collate([self._dataset[0]]))
        return self._empty, 0


def rows(batch: Any, examples: int, start: int, stop: int) -> Any:
    """A batch's examples from ``start`` to ``stop``, in the batch's own structure.

    Tensors and arrays with ``examples`` rows are cut, as are lists of ``examples`` plain values; mappings, lists and
    tuples of such things are gone through; everything else belongs to every example and stays.
    """
    if isinstance(batch, Tensor | np.ndarray):
        return batch[start:stop] if batch.ndim and len(batch) == examples else batch
    if isinstance(batch, list | tuple) and len(batch) == examples and not any(_is_container(item) for item in batch):
        return batch[start:stop]
    return _mapped(batch, lambda item: rows(item, examples, start, stop))


def _without_rows(batch: Any) -> Any:
    if isinstance(batch, Tensor | np.ndarray):
        return batch[:0] if batch.ndim else batch
    if isinstance(batch, list | tuple) and not any(_is_container(item) for item in batch):
        return batch[:0]
    return _mapped(batch, _without_rows)


def _mapped(batch: Any, function: Callable[[Any], Any]) -> Any:
    if isinstance(batch, Mapping):
        return {key: function(value) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(function(item) for item in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(function(item) for item in batch)
    return batch


def _is_container(item: Any) -> bool:
    return isinstance(item, Tensor | np.ndarray | Mapping) or (isinstance(item, Sequence) and not isinstance(item, str))


def _check(loader: DataLoader[Any]) -> None:
    if isinstance(loader.dataset, IterableDataset) or not hasattr(loader.dataset, "__len__"):
        raise ConfigError(
            f"example-level privacy draws each example on its own, which the training data set "
            f"({type(loader.dataset).__name__}) does not allow: it is iterable or has no length. Give a data set with "
            "__getitem__ and __len__."
        )
    if loader.batch_size is None or type(loader.batch_sampler) is not BatchSampler:
        raise ConfigError(
            "example-level privacy draws the batches itself, and the training loader has batches of its own "
            f"(batch_size={loader.batch_size}, batch_sampler={type(loader.batch_sampler).__name__}). Give DataLoader "
            "a batch_size and no batch_sampler."
        )
    sampler = loader.sampler
    plain = isinstance(sampler, SequentialSampler) or (
        isinstance(sampler, RandomSampler) and not sampler.replacement and len(sampler) == len(loader.dataset)
    )
    if not plain:
        raise ConfigError(
            f"example-level privacy draws the batches itself, so the training loader's sampler "
            f"({type(sampler).__name__}) would not be used: its accounting knows Poisson sampling alone. Give "
            "DataLoader shuffle=True instead, and weigh examples in the loss if they are to count differently."
        )
