"""The store of a run that counts: of one round, and of no other plan."""

import pytest

from lightning_fed.coordinator.extension import extend
from lightning_fed.coordinator.statistics import write_table
from lightning_fed.coordinator.store import Store
from lightning_fed.errors import ConfigError, StoreError
from lightning_fed.plan import CountedColumn, FederationPlan, Masking, Statistics

COUNTS = FederationPlan(
    rounds=1, masking=Masking(bits=32), statistics=Statistics({"view": CountedColumn(values=["AP"])})
)


def test_a_run_that_counts_is_not_given_more_rounds(tmp_path):
    Store(tmp_path, COUNTS, {}).close()
    with pytest.raises(ConfigError, match="start a run in another store"):
        extend(tmp_path, 1)


@pytest.mark.parametrize("plans", [(COUNTS, FederationPlan()), (FederationPlan(), COUNTS)])
def test_a_run_that_counts_and_one_that_trains_have_stores_of_their_own(tmp_path, plans):
    before, now = plans
    Store(tmp_path, before, {}).close()
    with pytest.raises(StoreError, match="belongs to another plan"):
        Store(tmp_path, now, {})


def test_a_store_whose_counts_were_never_summed_has_no_table(tmp_path):
    Store(tmp_path, COUNTS, {}).close()
    (tmp_path / "events.jsonl").write_text("")
    with pytest.raises(StoreError, match="does not say whose counts were summed"):
        write_table(tmp_path)
