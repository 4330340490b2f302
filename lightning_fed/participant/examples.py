"""How many examples a site has trained on: what its loaders gave out, never what a batch looks like.

A batch does not say how many examples it holds: its first dimension is time in ``(T, B, F)``, colour in a list of
images, and nodes in a graph. So the count comes from where examples are put together:

1. the module's own ``examples_in_batch(batch) -> int``, if it has one;
2. a ``DataLoader``'s sampler, or what it collates for an ``IterableDataset``; several loaders (``CombinedLoader``) are
   added up;
3. for loaders that say neither (they yield ready-made batches, or iterate in a way of their own), the first dimension
   that all tensors of a batch share, with a warning; where they share none, the site asks for 1.

The count is this process's own, and that of all batches it has trained on: a batch in two epochs counts twice, one that
is None or that Lightning left out does not.
"""

import copy
import functools
from collections import deque
from collections.abc import Callable, Iterator, Sized
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, Sampler

from lightning_fed.callbacks.differential_privacy import DifferentialPrivacy
from lightning_fed.errors import ConfigError
from lightning_fed.lightning_api import (
    CombinedLoader,
    RunningStage,
    Trainer,
    _DataLoaderIterDataFetcher,
    rank_zero_warn,
)
from lightning_fed.privacy.poisson import PoissonLoader

_HOOK = "examples_in_batch"


class ExampleCount:
    """Counts the examples of one batch after the other, in the order in which they are trained on.

    Args:
        site: the site's name, for messages.
    """

    def __init__(self, site: str) -> None:
        self._site = site
        self._warned = False
        self._fetched: int | None = None

    def begin_epoch(self, trainer: Trainer) -> None:
        """Forget what loaders gave out for batches that the last epoch did not come to."""
        self._fetched = None
        for loader in _combined(trainer).flattened:
            if given := _given_by(loader):
                given.epoch_begins()

    def of(self, trainer: Trainer, batch: Any) -> int:
        """Number of examples in the batch that was trained on last; once for each batch.

        A training step with a ``dataloader_iter`` takes its batches itself: then of all that it took.

        Raises:
            ConfigError: it cannot be known, or the module's hook gives no number.
        """
        batches = self._taken(trainer)
        counts = [self._given(trainer) for _ in range(batches)]
        if batches == 0 or batch is None:
            return 0
        given = None if None in counts else sum(count for count in counts if count)
        hook = getattr(trainer.lightning_module, _HOOK, None)
        if batches > 1 and (hook or given is None):
            raise ConfigError(
                f"site {self._site!r} cannot tell how many examples a training step took: it has taken {batches} "
                f"batches from its dataloader_iter, and only the last one could be looked at. Take one a step, and say "
                f"of it what {_HOOK}(self, batch) returns; or give the module a DataLoader and no {_HOOK}."
            )
        if hook:
            count = hook(batch)
            if not isinstance(count, int) or isinstance(count, bool) or count < 0:
                raise ConfigError(
                    f"{type(trainer.lightning_module).__name__}.{_HOOK}(batch) returned {count!r}: it must return the "
                    "number of examples in the batch as an int."
                )
            return count
        return self._guess(batch) if given is None else given

    def _taken(self, trainer: Trainer) -> int:
        """How many batches a training step took from its loaders."""
        fetcher = trainer.fit_loop._data_fetcher
        if not isinstance(fetcher, _DataLoaderIterDataFetcher):
            return 1
        # Lightning counts batches on in an epoch that goes on from a checkpoint.
        before = (
            trainer.fit_loop.epoch_loop.batch_progress.current.ready - 1 if self._fetched is None else self._fetched
        )
        self._fetched = fetcher.fetched
        return fetcher.fetched - before

    def _given(self, trainer: Trainer) -> int | None:
        """What the loaders say, added up over those that are combined; None if one of them does not say it."""
        counts = [_taken_from(loader) for loader in _combined(trainer).flattened]
        # Beside a longer loader, one that has come to its end gives nothing.
        return None if None in counts or not any(counts) else sum(count for count in counts if count)

    def _guess(self, batch: Any) -> int:
        sizes = {len(leaf) for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.ndim}
        cure = f"Say it: give the module a method {_HOOK}(self, batch) -> int."
        if len(sizes) != 1:
            found = f"its tensors' first dimensions are {sorted(sizes)}" if sizes else "it holds no tensor"
            raise ConfigError(
                f"site {self._site!r} cannot tell how many examples a training batch ({type(batch).__name__}) holds, "
                f"and sites are weighed by them: its loader does not say of how many it made it, and {found}. {cure}"
            )
        count = sizes.pop()
        if not self._warned:
            self._warned = True
            rank_zero_warn(
                f"the training loader of site {self._site!r} does not say of how many examples it makes a batch, so "
                f"they are counted by the first dimension of the batch's tensors: {count} in this one. Sites are "
                f"weighed by this number. {cure}"
            )
        return count


def count_loaders(trainer: Trainer) -> None:
    """Have a fit's training loaders say how many examples they give out; undone by ``count_no_more``.

    A fit that draws each example on its own is left alone: its loader knows.
    """
    if not any(isinstance(callback, DifferentialPrivacy) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        process = functools.partial(_process, trainer, trainer.strategy.process_dataloader)
        trainer.strategy.process_dataloader = process  # type: ignore[method-assign]


def count_no_more(trainer: Trainer) -> None:
    """Give the strategy back as it was."""
    if getattr(trainer.strategy.__dict__.get("process_dataloader"), "func", None) is _process:
        del trainer.strategy.process_dataloader


def _process(trainer: Trainer, process: Callable[[Any], Any], loader: Any) -> Any:
    loader = process(loader)
    return counted(loader) if trainer.state.stage == RunningStage.TRAINING else loader


def counted(loader: Any) -> Any:
    """A copy of a ``DataLoader`` that knows how many examples each batch was made of; anything else as it is.

    Batches, their order, the data set and the sampler are the loader's own.
    """
    own_way = not isinstance(loader, DataLoader) or type(loader).__iter__ is not DataLoader.__iter__
    if own_way or isinstance(loader, PoissonLoader) or _given_by(loader):
        return loader
    clone = copy.copy(loader)
    clone._iterator = None  # one that persists was made without counting
    if not isinstance(loader.dataset, IterableDataset):
        batched = loader.batch_sampler is not None
        sampler = "batch_sampler" if batched else "sampler"
        # DataLoader refuses to have its sampler set; a copy of it with another one is what is wanted.
        clone.__dict__[sampler] = _CountingSampler(getattr(loader, sampler), batched=batched)
    elif loader.batch_size is not None and type(loader)._get_iterator is DataLoader._get_iterator:
        clone.collate_fn = _CountingCollate(loader.collate_fn)
        clone.__class__ = type(type(loader).__name__, (_CountingLoader, type(loader)), {"given": Given()})
    return clone


class Given:
    """Sizes of the batches that a loader has given out and nobody has trained on yet."""

    def __init__(self) -> None:
        # The bound is for a loader that is used again where nobody counts; workers are never so far ahead.
        self._sizes: deque[int | None] = deque(maxlen=1 << 16)
        self._taken = self._stale = False

    def epoch_begins(self) -> None:
        """Lightning begins an epoch; its iterator is made afterwards, but for the first one of a fit."""
        self._stale = self._taken

    def iterator_begins(self) -> None:
        """An iterator was made; in the middle of an epoch too, where a short loader goes round beside a long one."""
        if self._stale:
            self._sizes.clear()
        self._taken = self._stale = False

    def add(self, examples: int | None) -> None:
        """A batch was put together of so many examples; None if that is not known."""
        self._sizes.append(examples)

    def take(self) -> int | None:
        """Size of the next batch, 0 if there is none; None if it is not known."""
        self._taken = True
        return self._sizes.popleft() if self._sizes else 0


class _CountingSampler(Sampler[Any]):
    """Gives out what another sampler does, and notes how many indices each batch has.

    Args:
        sampler: the other sampler.
        batched: whether it is a batch sampler. Else what it gives out is one key of the data set, which may be the
            list of a batch's indices, and may be a text or a pair as well.
    """

    def __init__(self, sampler: Any, *, batched: bool) -> None:
        self.given = Given()
        self._sampler = sampler
        self._batched = batched

    def __iter__(self) -> Iterator[Any]:
        self.given.iterator_begins()
        left = _own_examples(self._sampler)
        for indices in self._sampler:
            examples = self._size(indices)
            if examples is not None and left is not None:
                # What comes behind the last of them are repetitions, so that all processes have as many.
                examples, left = min(examples, left), max(0, left - examples)
            self.given.add(examples)
            yield indices

    def _size(self, indices: Any) -> int | None:
        if isinstance(indices, Tensor | np.ndarray):
            return len(indices) if indices.ndim else None
        return len(indices) if isinstance(indices, Sized if self._batched else list) else None

    def __len__(self) -> int:
        return len(self._sampler)

    # A callback may look for the sampler that it knows, and set what it has.

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self._sampler)

    def __getattr__(self, name: str) -> Any:
        if name == "_sampler":
            raise AttributeError(name)
        return getattr(self._sampler, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("given", "_sampler", "_batched"):
            super().__setattr__(name, value)
        else:
            setattr(self._sampler, name, value)


def _own_examples(sampler: Any) -> int | None:
    """How many examples a process of several has of an epoch, without repetitions; None where there are none."""
    for one in (sampler, getattr(sampler, "sampler", None)):
        if isinstance(one, DistributedSampler) and not one.drop_last:
            return len(range(one.rank, len(one.dataset), one.num_replicas))  # type: ignore[arg-type]
    return None


class _CountingCollate:
    def __init__(self, collate: Callable[[Any], Any]) -> None:
        self._collate = collate

    def __call__(self, examples: Any) -> tuple[Any, int]:
        return self._collate(examples), len(examples)


class _CountingLoader(DataLoader[Any]):
    given: Given

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self.given.iterator_begins()
        for batch, examples in super().__iter__():
            self.given.add(examples)
            yield batch


def _given_by(loader: Any) -> Given | None:
    if isinstance(loader, _CountingLoader):
        return loader.given
    samplers = [getattr(loader, name, None) for name in ("batch_sampler", "sampler")]
    return next((sampler.given for sampler in samplers if isinstance(sampler, _CountingSampler)), None)


def _taken_from(loader: Any) -> int | None:
    if isinstance(loader, PoissonLoader):
        return loader.drawn
    given = _given_by(loader)
    return given.take() if given else None


def _combined(trainer: Trainer) -> CombinedLoader:
    combined = trainer.fit_loop._combined_loader
    assert combined is not None
    return combined
