"""Noise on counts: of the size that was paid for, and refused on a grid that the ledger does not count with."""

import numpy as np
import pytest

from lightning_fed.errors import PlanError
from lightning_fed.evaluation.cells import SCALE
from lightning_fed.plan import CountedColumn, ExamplePrivacy, Statistics
from lightning_fed.privacy.accounting import DpSgd
from lightning_fed.privacy.counts import release_of, with_noise
from lightning_fed.update.tally import NOISE_UNIT, count, finer, units_of


def test_noise_has_the_standard_deviation_that_was_paid_for_in_each_unit():
    units = np.repeat([NOISE_UNIT, SCALE], 20_000)
    noise = with_noise(np.zeros(40_000, dtype=np.int64), units, 2.0, DpSgd(1.0, 1.5, 1)) / units
    for part in np.split(noise, 2):
        assert np.std(part) == pytest.approx(3.0, rel=0.03)
        assert abs(np.mean(part)) < 0.15


def test_no_row_moves_the_numbers_further_than_the_sensitivity():
    statistics = Statistics({"age": CountedColumn(edges=[0, 10, 20]), "view": CountedColumn(values=["AP"])})
    units = units_of(statistics)
    moved = []
    for age in ("", "-1", "0", "5", "20", "21"):
        for view in ("", "AP", "LAT"):
            row = finer(count(statistics, [{"age": age, "view": view}]), statistics)
            moved.append(np.linalg.norm(row / units))
    assert max(moved) == pytest.approx(statistics.sensitivity)
    assert min(np.min(np.abs(units)), NOISE_UNIT) >= 1025


def test_a_coarse_grid_is_refused():
    with pytest.raises(PlanError, match="too coarse"):
        with_noise(np.zeros(2, dtype=np.int64), np.array([1, 2048]), 2.0, DpSgd(1.0, 1.0, 1))


def test_a_noise_multiplier_is_taken_as_it_stands():
    assert release_of(ExamplePrivacy(noise_multiplier=2.0)) == DpSgd(1.0, 2.0, 1)
