"""Statistics before training, with real processes and sockets."""

import itertools
import random
from itertools import chain
from statistics import fmean, pstdev

import pytest
from counting import counts, dies_in_the_round, trains

from lightning_fed.coordinator.statistics import write_table
from lightning_fed.coordinator.statistics_table import read_table
from lightning_fed.plan import CountedColumn, ExamplePrivacy, Masking, Privacy, Statistics
from lightning_fed.policy import SitePolicy
from lightning_fed.privacy.history import read_history

pytestmark = pytest.mark.chaos

AGES = [0, 20, 40, 60, 80]
STATISTICS = Statistics(
    {"age": CountedColumn(edges=AGES), "view": CountedColumn(values=["AP", "LAT"])}, minimum_count=5
)
MASKED = {"masking": Masking(bits=32), "rounds": 1, "statistics": STATISTICS}
ALLOWS = SitePolicy(statistics=["age", "view"], masking="required")


def rows_of(seed, many=200):
    draw = random.Random(seed)
    ages = [str(round(draw.uniform(-5, 90), 2)) if draw.random() < 0.9 else "" for _ in range(many)]
    return [{"Age": age, "view": draw.choice(["ap", "LAT", "lat", "oblique", ""])} for age in ages]


def pooled(rows):
    """The same counts, of all rows in one place."""
    ages = [float(row["Age"]) for row in rows if row["Age"]]
    bins = [sum(lower <= age < upper for age in ages) for lower, upper in itertools.pairwise(AGES)]
    age = [len(rows) - len(ages), sum(a < 0 for a in ages), *bins, sum(a > 80 for a in ages)]
    views = [row["view"].lower() for row in rows]
    return [age, [views.count(""), views.count("ap"), views.count("lat"), views.count("oblique")]]


def shown(table):
    return [[cell.count for cell in column.cells] for column in table.columns]


@pytest.mark.parametrize("masking", [Masking(bits=32), Masking("off")], ids=["masked", "unmasked"])
def test_the_table_is_that_of_all_rows_in_one_place(federation, masking):
    here = federation(3, **{**MASKED, "masking": masking})
    coordinator = here.coordinate()
    policy = SitePolicy(statistics=["AGE", "view"], masking="required" if masking.mode == "required" else "any")
    sites = [here.site(name, counts, rows_of(seed), policy) for seed, name in enumerate(here.sites)]
    assert [site.result() for site in sites] == ["counted"] * 3
    coordinator.result()
    table = write_table(here.store)
    everybody = [row for seed in range(3) for row in rows_of(seed)]
    assert table == read_table(here.store)
    assert (table.rows, table.sites) == (600, here.sites)
    assert shown(table) == pooled(everybody)
    within = [float(row["Age"]) for row in everybody if row["Age"] and 0 <= float(row["Age"]) <= 80]
    age = table.columns[0]
    assert age.mean == float(f"{fmean(within):.4g}")
    assert age.deviation == float(f"{pstdev(within):.4g}")
    ages = sorted(float(row["Age"]) for row in everybody if row["Age"])
    half = next(quantile for quantile in age.quantiles if quantile.share == 0.5)
    assert half.lower <= ages[len(ages) // 2] <= half.upper
    assert '"rows": 600' in (here.store / "statistics.json").read_text()


def test_a_site_that_is_killed_in_the_round_is_left_out_and_the_others_are_counted(federation):
    here = federation(4, **{**MASKED, "quorum": 3, "gather_s": 5.0})
    coordinator = here.coordinate()
    sites = [here.site(name, counts, rows_of(seed), ALLOWS) for seed, name in enumerate(here.sites[:3])]
    dies = here.site(here.sites[3], dies_in_the_round, ALLOWS)
    assert [site.result() for site in sites] == ["counted"] * 3
    coordinator.result()
    dies.process.join(60)
    table = write_table(here.store)
    assert table.sites == here.sites[:3]
    assert shown(table) == pooled([row for seed in range(3) for row in rows_of(seed)])


def test_noise_is_paid_for_hides_each_row_and_is_as_large_as_the_table_says(federation):
    here = federation(3, **{**MASKED, "privacy": Privacy(example=ExamplePrivacy(epsilon=1.0, delta=1e-4))})
    coordinator = here.coordinate()
    allows = SitePolicy(statistics=["age", "view"], masking="required", max_epsilon=1.0, max_delta=1e-4)
    sites = [here.site(name, counts, rows_of(seed, 2000), allows) for seed, name in enumerate(here.sites)]
    assert [site.result() for site in sites] == ["counted"] * 3
    coordinator.result()
    table = write_table(here.store)
    # The analytic Gaussian mechanism needs 3.1 for epsilon 1 at delta 1e-4; a row moves the numbers by sqrt(1 + 3 + 1).
    assert table.noise == pytest.approx(3.1 * 5**0.5 * 3**0.5, rel=0.05)
    everybody = [row for seed in range(3) for row in rows_of(seed, 2000)]
    for got, exact in zip(chain(*shown(table)), chain(*pooled(everybody)), strict=True):
        assert abs(got - exact) < 7 * table.noise
    assert shown(table) != pooled(everybody)
    within = [float(row["Age"]) for row in everybody if row["Age"] and 0 <= float(row["Age"]) <= 80]
    assert table.columns[0].mean == pytest.approx(fmean(within), abs=2.0)
    for name in here.sites:
        (paid,) = read_history(here.folder / name / "ledger.jsonl").entries
        assert 0.9 < paid.epsilon <= 1.0
        assert paid.release.mechanism.sample_rate == 1.0


def test_a_site_whose_policy_wants_more_privacy_than_the_plan_has_refuses(federation):
    here = federation(3, **MASKED)
    coordinator = here.coordinate()
    policy = SitePolicy(statistics=["age", "view"], max_epsilon=1.0)
    assert "wants differential privacy" in here.site(here.sites[0], counts, rows_of(0), policy).error()
    coordinator.kill()


def test_a_site_whose_policy_names_no_columns_refuses_and_says_what_to_add(federation):
    here = federation(3, **MASKED)
    coordinator = here.coordinate()
    refusal = here.site(here.sites[0], counts, rows_of(0), SitePolicy(statistics=["age"])).error()
    assert "PlanRefusedError" in refusal and "['view']" in refusal and "statistics: [age, view]" in refusal
    coordinator.kill()


def test_a_site_that_would_train_is_told_that_this_federation_counts(federation):
    here = federation(3, **MASKED)
    coordinator = here.coordinate()
    policy = SitePolicy(statistics=["age", "view"])
    refusal = here.site(here.sites[0], trains, policy).error()
    assert "lightning-fed statistics site" in refusal
    coordinator.kill()
