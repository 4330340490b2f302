"""``lightning-fed statistics``: what it refuses; what it counts is in tests/federation and in the page that runs."""

import pytest


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ([], "Give one of the two"),
        (["--table", "a.csv", "--dicom", "folder"], "Give one of the two"),
    ],
)
def test_a_site_counts_one_kind_of_data(lightning_fed, data, why):
    code, _, err = lightning_fed(
        "statistics", "site", "--coordinator", "tcp://h:1", "--site", "north", "--policy", "policy.yaml", *data
    )
    assert code == 1 and why in err


def test_a_plan_without_statistics_is_refused(lightning_fed):
    code, _, err = lightning_fed("statistics", "coordinate", "--store", "store")
    assert code == 1 and "no plan.statistics" in err


def test_a_plan_of_statistics_needs_to_name_neither_rounds_nor_bits(lightning_fed, tmp_path):
    (tmp_path / "statistics.yaml").write_text("store: s\nplan: {statistics: {columns: {age: {edges: [0, 9]}}}}\n")
    code, _, err = lightning_fed("statistics", "coordinate", "--config", "statistics.yaml")
    assert code == 1 and "key" in err and "plan." not in err


def test_a_misspelt_key_is_named(lightning_fed, tmp_path):
    (tmp_path / "statistics.yaml").write_text("store: s\nplan: {statistic: {minimum_count: 3}}\n")
    code, _, err = lightning_fed("statistics", "coordinate", "--config", "statistics.yaml")
    assert code == 2 and "lightning-fed statistics coordinate: error" in err and "statistics" in err


def test_a_folder_without_statistics_is_named(lightning_fed):
    code, _, err = lightning_fed("statistics", "show", "nothing")
    assert code == 1 and "nothing has no statistics.json" in err
