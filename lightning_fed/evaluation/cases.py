"""A site's table of scores, read once."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_fed.errors import DataError
from lightning_fed.evaluation.cells import MOST_ROWS, reader_of
from lightning_fed.evaluation.score_counts import Floats, Integers
from lightning_fed.plan.evaluation import Evaluation


@dataclass(frozen=True)
class Cases:
    """N cases with the scores of M models.

    Args:
        labels: whether a case has the finding, bool, shape ``(N,)``.
        patients: whose it is, as numbers from 0, int64, shape ``(N,)``.
        scores: probabilities, float64, shape ``(M, N)``.
        cells: which cell of each of C columns of subgroups it is in, int64, shape ``(C, N)``.
        unlabelled: rows that were left out because they have no label.
    """

    labels: NDArray[np.bool_]
    patients: Integers
    scores: Floats
    cells: Integers
    unlabelled: int

    def masks(self, evaluation: Evaluation) -> list[NDArray[np.bool_]]:
        """Which cases are in each group of the plan, bool, each of shape ``(N,)``."""
        everybody = [np.ones(len(self.labels), dtype=bool)]
        columns = zip(self.cells, evaluation.subgroups.values(), strict=True)
        return everybody + [cells == place for cells, column in columns for place in range(column.cells)]

    def patients_of(self, mask: NDArray[np.bool_]) -> tuple[int, int, int]:
        """How many patients have a case among these; how many a negative one; how many a positive one."""
        sides = (mask, mask & ~self.labels, mask & self.labels)
        all_of, negative, positive = (len(np.unique(self.patients[side])) for side in sides)
        return all_of, negative, positive


def read_cases(evaluation: Evaluation, rows: Iterable[Mapping[str, str]]) -> Cases:
    """Read a site's rows.

    Args:
        evaluation: the plan's.
        rows: cells by column, names in whatever case.

    Raises:
        DataError: a label is neither 0 nor 1, a score no probability, a patient is missing, or there are too many rows
            or none. It shows the cell, and so is for the site's own eyes.
    """
    readers = [(name, reader_of(column)) for name, column in evaluation.subgroups.items()]
    labels: list[bool] = []
    patients: dict[str, int] = {}
    owners: list[int] = []
    scores: list[list[float]] = []
    cells: list[list[int]] = []
    unlabelled = 0
    for number, row in enumerate(rows, start=1):
        if number > MOST_ROWS:
            raise DataError(f"the site has more than {MOST_ROWS:,} rows, the most that are counted exactly.")
        found = {name.casefold(): cell.strip() for name, cell in row.items()}
        label = found.get(evaluation.label.casefold(), "")
        if not label:
            unlabelled += 1
            continue
        outcome = _number(label, evaluation.label, number)
        if outcome not in (0.0, 1.0):
            raise DataError(f"record {number}: the label {evaluation.label!r} is {label[:80]!r}, and must be 0 or 1.")
        patient = found.get(evaluation.patient.casefold(), "")
        if not patient:
            raise DataError(
                f"record {number} has no {evaluation.patient!r}. Intervals are over patients: say whose case each is. "
                "Where each case is another patient's, number the rows."
            )
        labels.append(outcome == 1.0)
        owners.append(patients.setdefault(patient, len(patients)))
        scores.append([_score(found, model, number) for model in evaluation.models])
        try:
            cells.append([reader.places(found.get(name.casefold(), ""))[0][0] for name, reader in readers])
        except ValueError as error:
            raise DataError(f"record {number}: a column with edges holds no number: {error}. Mend the cell.") from error
    if not labels:
        raise DataError("the table has no row with a label, so there is nothing to measure. Check its columns.")
    return Cases(
        np.array(labels),
        np.array(owners, dtype=np.int64),
        np.array(scores).T,
        np.array(cells, dtype=np.int64).reshape(len(labels), len(readers)).T,
        unlabelled,
    )


def together(sites: Sequence[Cases]) -> Cases:
    """The cases of several sites as one; a patient of one site is nobody's of another."""
    first = np.cumsum([0, *(int(cases.patients.max()) + 1 for cases in sites)])
    return Cases(
        np.concatenate([cases.labels for cases in sites]),
        np.concatenate([cases.patients + start for cases, start in zip(sites, first, strict=False)]),
        np.concatenate([cases.scores for cases in sites], axis=1),
        np.concatenate([cases.cells for cases in sites], axis=1),
        sum(cases.unlabelled for cases in sites),
    )


def _score(found: Mapping[str, str], model: str, number: int) -> float:
    score = _number(found.get(model.casefold(), ""), model, number)
    if not 0 <= score <= 1:
        raise DataError(
            f"record {number}: the score of {model!r} is {score:g}, and must lie between 0 and 1. Write probabilities, "
            "as sigmoid makes them of logits."
        )
    return score


def _number(cell: str, name: str, number: int) -> float:
    try:
        return float(cell)
    except ValueError as error:
        raise DataError(f"record {number}: the column {name!r} holds {cell[:80]!r}, which is no number.") from error
