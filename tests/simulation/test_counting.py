"""A plan of statistics, tried in one process."""

import pytest

from lightning_fed.errors import ConfigError
from lightning_fed.plan import CountedColumn, ExamplePrivacy, FederationPlan, Masking, Privacy, Statistics
from lightning_fed.simulation import count_in_process

STATISTICS = Statistics({"view": CountedColumn(values=["AP", "LAT"])}, minimum_count=4)
PLAN = {"rounds": 1, "quorum": 3, "statistics": STATISTICS}
ROWS = {name: [{"view": "AP"}] * 5 + [{"view": "lat"}] * number for number, name in enumerate(("a", "b", "c"))}


@pytest.mark.parametrize("masking", [Masking(bits=32), Masking("off")], ids=["masked", "unmasked"])
def test_counts_in_one_process_are_those_of_all_rows(masking):
    table = count_in_process(FederationPlan(**PLAN, masking=masking), ROWS)
    assert (table.rows, table.sites, table.noise) == (18, ["a", "b", "c"], 0.0)
    # Three rows of LAT are fewer than four; those of AP would give them away.
    assert [cell.count for cell in table.columns[0].cells] == [0, None, None, 0]


def test_noise_is_added_in_one_process_too():
    plan = FederationPlan(
        **PLAN, masking=Masking(bits=32), privacy=Privacy(example=ExamplePrivacy(noise_multiplier=2.0))
    )
    table = count_in_process(plan, ROWS)
    assert table.noise == pytest.approx(2.0 * 2**0.5 * 3**0.5, abs=0.01)


def test_a_plan_that_trains_is_refused():
    with pytest.raises(ConfigError, match="nothing to count"):
        count_in_process(FederationPlan(), ROWS)


def test_fewer_sites_than_the_quorum_are_refused():
    with pytest.raises(ConfigError, match="quorum of 3"):
        count_in_process(FederationPlan(**PLAN, masking=Masking(bits=32)), {"a": []})
