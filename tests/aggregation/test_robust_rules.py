"""Rules over single updates: known answers, one hostile of eight, bounds, order, memory."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_fed.aggregation.contracts import RobustRule
from lightning_fed.aggregation.krum import Krum, MultiKrum, krum_order
from lightning_fed.aggregation.median import Median
from lightning_fed.aggregation.norm_bounding import NormBounding
from lightning_fed.aggregation.trimmed_mean import TrimmedMean
from lightning_fed.errors import ModelMismatchError, PlanError, UpdateRefusedError

RULES = [Median(), TrimmedMean(), Krum(), MultiKrum(), NormBounding()]
SEVERAL_SLICES = 40_001
"""Columns that make more than one slice of eight rows, and a ragged last one."""


def named(rule: object) -> str:
    return rule.name  # type: ignore[attr-defined]


def test_median_matches_numbers_worked_out_by_hand() -> None:
    odd = torch.tensor([[1.0, -5.0], [9.0, 0.0], [2.0, 7.0]])
    assert Median().aggregate(odd).tolist() == [2.0, 0.0]
    even = torch.tensor([[1.0, 8.0], [9.0, 0.0], [2.0, 7.0], [4.0, 1.0]])
    assert Median().aggregate(even).tolist() == [3.0, 4.0]


def test_trimmed_mean_matches_numbers_worked_out_by_hand() -> None:
    updates = torch.tensor([[1.0, 1e30], [2.0, 3.0], [6.0, 4.0], [-1e30, 8.0], [4.0, -7.0]])
    assert TrimmedMean(hostile=1).aggregate(updates).tolist() == pytest.approx([(1 + 2 + 4) / 3, 5.0])
    assert TrimmedMean(hostile=2).aggregate(updates).tolist() == Median().aggregate(updates).tolist()
    assert TrimmedMean(hostile=0).aggregate(updates[1:3]).tolist() == [4.0, 3.5]


@pytest.mark.parametrize("unit", [2.0**-100, 1.0, 2.0**100], ids=["tiny", "one", "huge"])
def test_krum_matches_scores_worked_out_by_hand_in_units_whose_squares_float32_cannot_hold(unit: float) -> None:
    """Points 0, 1, 3, 6 and 100; two neighbours each: scores 1+9, 1+4, 4+9, 9+25, 94^2+97^2."""
    updates = torch.tensor([[100.0], [6.0], [3.0], [1.0], [0.0]]) * unit
    assert krum_order(updates, hostile=1) == [3, 4, 2, 1, 0]
    assert Krum(hostile=1).aggregate(updates).item() == 1.0 * unit
    assert MultiKrum(hostile=1).aggregate(updates).item() == 0.5 * unit


def test_krum_sees_small_differences_on_top_of_a_large_common_part() -> None:
    """Distances from float32 products would be rounding alone: 1e8 squared has a last place of 1e9."""
    updates = (1e8 + torch.tensor([0.0, 8.0, 16.0, 32.0, 72.0]))[:, None].expand(5, 3).contiguous()
    assert krum_order(updates, hostile=0) == [2, 1, 0, 3, 4]


def test_norm_bounding_matches_numbers_worked_out_by_hand() -> None:
    updates = torch.tensor([[30.0, 40.0], [0.0, 1.0]])
    assert NormBounding(max_norm=5.0).aggregate(updates).tolist() == pytest.approx([1.5, 2.5])
    assert NormBounding(max_norm=5.0).aggregate(torch.zeros(3, 2)).tolist() == [0.0, 0.0]


def honest_updates(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(SEVERAL_SLICES, generator=generator)
    return common + 0.2 * torch.randn(7, SEVERAL_SLICES, generator=generator)


def with_hostile(honest: Tensor, attack: str, place: int) -> Tensor:
    generator = torch.Generator().manual_seed(99)
    mean = honest.mean(dim=0)
    update = {
        "sign-flipped": -mean,
        "scaled": -100.0 * mean,
        "random": 10.0 * torch.randn(mean.numel(), generator=generator),
        "largest float32": torch.full_like(mean, torch.finfo(torch.float32).max),
    }[attack]
    return torch.cat([honest[:place], update[None], honest[place:]])


ATTACKS = ["sign-flipped", "scaled", "random", "largest float32"]


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("place", [0, 7])
def test_one_hostile_of_eight_cannot_move_robust_rules_off_the_honest_updates(attack: str, place: int) -> None:
    honest = honest_updates()
    updates = with_hostile(honest, attack, place)
    mean = honest.mean(dim=0)
    farthest_honest = (honest - mean).norm(dim=1).max()
    low, high = honest.min(dim=0).values, honest.max(dim=0).values

    assert (updates.mean(dim=0) - mean).norm() > farthest_honest, "the attack does not even move the plain mean"
    for rule in (Median(hostile=1), TrimmedMean(hostile=1), MultiKrum(hostile=1)):
        result = rule.aggregate(updates)
        assert ((low <= result) & (result <= high)).all(), rule.name
        # An average of several honest sites beats any single one.
        assert (result - mean).norm() < 0.6 * farthest_honest, rule.name
    chosen = Krum(hostile=1).aggregate(updates)
    assert (honest == chosen).all(dim=1).any()


@pytest.mark.parametrize("attack", ["scaled", "random", "largest float32"])
def test_norm_bounding_limits_one_hostile_of_eight_to_its_share_of_the_bound(attack: str) -> None:
    honest = honest_updates()
    bound = honest.norm(dim=1).max().item()
    result = NormBounding(max_norm=bound).aggregate(with_hostile(honest, attack, 3))
    without_hostile = honest.sum(dim=0) / 8
    assert (result - without_hostile).norm().item() <= bound / 8 * 1.0001


@pytest.mark.parametrize("hostile", [2, 3])
def test_median_and_trimmed_mean_hold_with_as_many_colluding_sites_as_they_allow(hostile: int) -> None:
    honest = honest_updates()[: hostile + 1]
    updates = torch.cat([honest, (-50.0 * honest.mean(dim=0)).expand(hostile, -1)])
    low, high = honest.min(dim=0).values, honest.max(dim=0).values
    for rule in (Median(hostile), TrimmedMean(hostile)):
        result = rule.aggregate(updates)
        assert ((low <= result) & (result <= high)).all(), rule.name


@pytest.mark.parametrize(
    ("rule", "needed"),
    [(Median(2), 5), (TrimmedMean(2), 5), (Krum(2), 7), (MultiKrum(2), 7), (Median(0), 1), (Krum(0), 3)],
    ids=lambda value: value.name if hasattr(value, "name") else str(value),
)
def test_too_few_updates_for_the_hostile_sites_are_a_plan_error_that_names_the_number(
    rule: Median | Krum, needed: int
) -> None:
    rule.check_sites(needed)
    rule.aggregate(torch.zeros(needed, 4))
    for check in (lambda: rule.check_sites(needed - 1), lambda: rule.aggregate(torch.zeros(needed - 1, 4))):
        if needed == 1:
            continue  # an empty stack is refused for its shape
        with pytest.raises(PlanError, match=f"{rule.name} needs at least {needed} updates .* hostile = {rule.hostile}"):
            check()


@pytest.mark.parametrize("rule", RULES, ids=named)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_an_update_that_is_not_finite_is_refused_by_number(rule: RobustRule, bad: float) -> None:
    updates = torch.zeros(6, SEVERAL_SLICES)
    updates[4, -1] = bad
    with pytest.raises(UpdateRefusedError, match="update number 5 of 6"):
        rule.aggregate(updates)


@pytest.mark.parametrize("rule", RULES, ids=named)
@pytest.mark.parametrize("shape", [(5,), (0, 5), (5, 2, 2)])
def test_a_stack_of_another_shape_or_dtype_is_refused(rule: RobustRule, shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelMismatchError):
        rule.aggregate(torch.zeros(shape))
    with pytest.raises(ModelMismatchError):
        rule.aggregate(torch.zeros(5, 3, dtype=torch.float64))


@pytest.mark.parametrize("rule", RULES, ids=named)
def test_slices_of_columns_give_what_the_whole_stack_gives(rule: RobustRule) -> None:
    updates = with_hostile(honest_updates(), "scaled", 2)
    before = updates.clone()
    result = rule.aggregate(updates)
    assert torch.equal(updates, before)
    assert result.dtype == torch.float32
    ordered = updates.double().sort(dim=0).values
    norms = updates.double().norm(dim=1)
    scores = torch.cdist(updates.double(), updates.double()).square().sort(dim=1).values[:, 1:6].sum(dim=1).argsort()
    expected = {
        "median": lambda: ordered[3:5].mean(dim=0),
        "trimmed_mean": lambda: ordered[1:7].mean(dim=0),
        "krum": lambda: updates[scores[0]],
        "multi_krum": lambda: updates[scores[:5]].double().mean(dim=0),
        "norm_bounding": lambda: (updates.double() / norms.clamp(min=1.0)[:, None]).mean(dim=0),
    }[named(rule)]()
    torch.testing.assert_close(result, expected.float(), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("rule", RULES, ids=named)
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    order=st.integers(5, 9).flatmap(lambda n: st.permutations(range(n))),
    size=st.integers(1, 50),
)
def test_the_order_of_the_sites_does_not_matter(rule: RobustRule, seed: int, order: list[int], size: int) -> None:
    updates = torch.randn(len(order), size, generator=torch.Generator().manual_seed(seed))
    result, permuted = rule.aggregate(updates), rule.aggregate(updates[order])
    if isinstance(rule, NormBounding):  # the only one that adds up in the order of arrival
        torch.testing.assert_close(result, permuted, rtol=1e-6, atol=1e-7)
    else:
        assert torch.equal(result, permuted)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), order=st.permutations(range(3)))
def test_krum_breaks_the_tie_of_mutual_neighbours_by_norm_and_not_by_arrival(seed: int, order: list[int]) -> None:
    """With three sites and one neighbour each, the two closest always have the same score."""
    updates = torch.randn(3, 4, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(Krum(0).aggregate(updates), Krum(0).aggregate(updates[order]))


MEASURE = """
import pathlib, re, torch
from lightning_fed.aggregation.registry import ALGORITHMS
torch.set_num_threads(1)
# Not getrusage: its peak is inherited from the process that started this one.
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1]) / 1024
rules = [ALGORITHMS[name]() for name in ("median", "trimmed_mean", "krum", "multi_krum", "norm_bounding")]
for rule in rules:
    rule.aggregate(torch.randn(8, 1000))
size = 2_000_000
stack = torch.empty(8, size).uniform_(-0.001, 0.001)
before = peak()
# All results are kept: a freed one would leave a gap that the allocator may or may not use again.
results = [rule.aggregate(stack) for rule in rules]
print(peak() - before - len(results) * size * 4 / 2**20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of resident memory from Linux's /proc")
def test_temporaries_stay_within_a_few_megabytes_beside_a_stack_of_61() -> None:
    output = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True, timeout=120)
    assert -2.0 < float(output.stdout) < 8.0, "MiB beyond the stack and the results"
