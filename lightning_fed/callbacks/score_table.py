"""A table of what a model says of each case, which ``lightning-fed evaluate`` reads."""

import csv
import io
import math
from collections.abc import Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from lightning_fed.errors import ConfigError, DataError
from lightning_fed.files import remedy, write_whole
from lightning_fed.lightning_api import BasePredictionWriter, LightningModule, Trainer

_NO_INDICES = (
    "case_rows() goes by index, and this loader does not tell the index of a case: predict a data set that has indices "
    "and a length, in batches. "
)


class ScoreTable(BasePredictionWriter):
    """Writes a CSV table with a row for each case that ``trainer.predict`` sees, and the model's score in a column.

    Predict with another model into the same file, and its scores become another column beside the first: so tables of
    several models come to be. A column of that name that is there is replaced.

    ``predict_step`` gives the scores of its batch, shape ``(B,)`` or ``(B, 1)``, or a mapping with them under
    ``score``. Every other column is taken from the first of these that has it:

    1. the mapping that ``predict_step`` gives, B values a name,
    2. the batch, where it is a mapping, likewise,
    3. the data module's ``case_rows()``, a sequence of mappings from column to cell, one for each example of the
       predicted data set, by its index. :class:`lightning_fed.radiology.RadiographDataModule` has it. It is asked only
       where it is sure whose rows they are: the data module was given to this ``predict``, its loader tells the index
       of each case (one of an iterable data set does not), and there are as many rows as examples.

    Rows stand in the order of the data set, whatever the order of the batches; in the order in which they come where
    the loader does not tell indices. The table names patients, and is the site's own; this callback sends nothing.

    Args:
        path: the file. Nothing is written if predicting fails.
        model: the column of the scores: what the plan's ``evaluation.models`` calls this model.
        columns: those beside it, as the plan's ``evaluation`` names its patient, its label and its subgroups.
        logits: take the sigmoid of what ``predict_step`` gives, which else must be probabilities.

    Raises:
        ConfigError: ``model`` is one of the columns.
    """

    def __init__(
        self,
        path: str | Path,
        model: str,
        columns: Sequence[str] = ("patient", "label"),
        logits: bool = False,
    ) -> None:
        super().__init__("batch")
        if model.casefold() in {column.casefold() for column in columns}:
            raise ConfigError(f"ScoreTable: {model!r} is the model and one of the columns {list(columns)}. Rename one.")
        self._path = Path(path)
        self._model = model
        self._columns = list(columns)
        self._logits = logits
        self._rows: dict[int, dict[str, str]] = {}
        self._described: Sequence[Mapping[str, object]] = ()
        self._undescribed = ""

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin an empty table.

        Raises:
            ConfigError: there are several devices, each of which would see a part of the cases.
        """
        if trainer.world_size > 1:
            raise ConfigError(
                f"ScoreTable: {trainer.world_size} devices predict, each a part of the cases. Predict on one: "
                "Trainer(devices=1)."
            )
        self._rows = {}
        # Lightning keeps the last indices of an earlier run where it cannot tell those of this one.
        trainer.predict_loop.current_batch_indices = []
        self._described, self._undescribed = (), ""
        data = getattr(trainer, "datamodule", None)
        rows = getattr(data, "case_rows", None)
        if not callable(rows):
            return
        # It keeps the data module of an earlier fit as well, and that one's patients are others.
        if trainer.predict_loop._data_source.instance is not data:
            self._undescribed = (
                "case_rows() was not asked, as these cases do not come from its data module: "
                "predict(module, datamodule=...) takes them from there. "
            )
            return
        described = [{name.casefold(): cell for name, cell in row.items()} for row in rows()]
        count = _examples(trainer)
        if count is None:
            self._undescribed = _NO_INDICES
        elif count != len(described):
            self._undescribed = (
                f"case_rows() has {len(described)} rows for a data set of {count} cases, so nobody knows whose they "
                "are: let it give one row for each, in the order of the data set. "
            )
        else:
            self._described = described

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Take a batch's scores.

        Raises:
            ConfigError: there are several loaders, ``predict_step`` gives no scores, or nothing has a column.
            DataError: a score is no probability.
        """
        if dataloader_idx:
            raise ConfigError("ScoreTable: there are several predict loaders, and a table is of one. Give one.")
        if self._described and not batch_indices:
            self._described, self._undescribed = (), _NO_INDICES
        given = prediction if isinstance(prediction, Mapping) else {"score": prediction}
        if "score" not in given:
            raise ConfigError(
                f"ScoreTable: predict_step gave a mapping of {sorted(map(str, given))}, and the scores have to be "
                "under 'score' in it."
            )
        scores = self._scores(given["score"])
        # Unknown for an iterable data set or a loader that is not PyTorch's own: then cases are counted as they come.
        places = batch_indices or range(len(self._rows), len(self._rows) + len(scores))
        beside = [self._cells(column, len(scores), places, given, batch) for column in self._columns]
        for number, (place, score) in enumerate(zip(places, scores, strict=True)):
            self._rows[place] = {
                **{column: cells[number] for column, cells in zip(self._columns, beside, strict=True)},
                self._model: f"{score:.9g}",
            }

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the table.

        Raises:
            ConfigError: the file is a table of other cases, or its folder cannot be made.
            StoreError: the file cannot be written.
            DataError: there were no cases.
        """
        if not self._rows:
            raise DataError("ScoreTable: nothing was predicted, as the predict loader is empty. Give it cases.")
        rows = [self._rows[place] for place in sorted(self._rows)]
        if self._path.exists():
            rows = self._joined(rows)
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{self._path.parent} cannot be made: {error.strerror}. {remedy(error)}.") from error
        write_whole(self._path, text.getvalue().encode())

    def _scores(self, given: Any) -> list[float]:
        shape = tuple(given.shape) if isinstance(given, Tensor) else None
        if shape is None or len(shape) not in (1, 2) or shape[1:] not in ((), (1,)):
            what = type(given).__name__ if shape is None else f"a tensor of shape {shape}"
            raise ConfigError(
                f"ScoreTable: predict_step gave {what}, and a table needs one score a case. Return a tensor of shape "
                "(B,), or a mapping with one under 'score'."
            )
        scores = given.detach().flatten().double()
        listed: list[float] = (torch.sigmoid(scores) if self._logits else scores).tolist()
        for score in listed:
            if not (math.isfinite(score) and 0 <= score <= 1):
                raise DataError(
                    f"ScoreTable: predict_step gave the score {score:g}, and a score must lie between 0 and 1. Return "
                    "probabilities, or take the sigmoid here: ScoreTable(..., logits=True)."
                )
        return listed

    def _cells(self, column: str, count: int, places: Sequence[int], given: Mapping[str, Any], batch: Any) -> list[str]:
        for source in (given, batch):
            if isinstance(source, Mapping) and column in source:
                values = source[column]
                values = values.flatten().tolist() if isinstance(values, Tensor) else list(values)
                if len(values) != count:
                    raise ConfigError(f"ScoreTable: {column!r} has {len(values)} values for {count} cases of a batch.")
                return [_text(value) for value in values]
        try:
            return [_text(self._described[place][column.casefold()]) for place in places]
        except (IndexError, KeyError) as error:
            raise ConfigError(
                f"ScoreTable: nothing has a column {column!r}. {self._undescribed}Return it from predict_step in a "
                "mapping, have it in the batch, or let the data module's case_rows() give it."
            ) from error

    def _joined(self, rows: list[dict[str, str]]) -> list[dict[str, str]]:
        """The rows with what their file has beside them."""
        try:
            with self._path.open(newline="", encoding="utf-8") as file:
                there = list(csv.DictReader(file))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise ConfigError(f"{self._path} is no table: {error}. Name another file.") from error
        same = len(there) == len(rows) and all(
            old.get(column) == new[column] for old, new in zip(there, rows, strict=True) for column in self._columns
        )
        if not same:
            raise ConfigError(
                f"{self._path} is a table of other cases, or has not the columns {self._columns}: the scores of "
                f"{self._model!r} do not fit beside it. Predict on the same data, or name another file."
            )
        return [old | new for old, new in zip(there, rows, strict=True)]


def _examples(trainer: Trainer) -> int | None:
    """How many examples the predicted data set has, or None where it has no indices."""
    loaders = trainer.predict_loop._combined_loader
    dataset = None if loaders is None else getattr(loaders.flattened[0], "dataset", None)
    return len(dataset) if isinstance(dataset, Sized) and not isinstance(dataset, IterableDataset) else None


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
