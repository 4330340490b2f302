import bisect
import itertools
import math
import time
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lightning_fed.errors import PlanError
from lightning_fed.privacy import sampler
from lightning_fed.privacy.sampler import DiscreteGaussianSampler, discrete_gaussian_weights
from lightning_fed.privacy.stream import RandomStream


class ChosenNumbers(RandomStream):
    """The words that 128-bit numbers, given beforehand, are made of, in the order in which a table asks for them."""

    def __init__(self, numbers):
        self.numbers = numbers
        self.ties = iter([])

    def words(self, count, dtype):
        if dtype is np.uint16:
            return np.array([n >> 112 for n in self.numbers], dtype=np.uint16)
        if count == 1 and self.asked:
            return np.array([next(self.ties)], dtype=np.uint64)
        self.asked = True
        return np.array([((n >> 64) & (2**48 - 1)) << 16 for n in self.undecided], dtype=np.uint64)


def draw_from_numbers(table, numbers):
    stream = ChosenNumbers(numbers)
    stream.asked = False
    stream.undecided = [n for n in numbers if table._slots[n >> 112] == sampler._UNDECIDED]
    tied = [n for n in stream.undecided if (n >> 64) in {int(e) for e in table._high_ends}]
    stream.ties = iter([n & (2**64 - 1) for n in tied])
    return table.sample(len(numbers), stream).tolist()


def exact_pmf(sigma, values):
    weights = np.exp(-(np.arange(-40 * math.ceil(sigma), 40 * math.ceil(sigma) + 1) ** 2) / (2 * sigma**2))
    return np.exp(-(np.asarray(values, dtype=float) ** 2) / (2 * sigma**2)) / weights.sum()


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.7, 149.9])
def test_weights_are_the_probabilities_to_the_last_of_128_bits(sigma):
    weights = discrete_gaussian_weights(sigma)
    m = len(weights) // 2
    assert sum(weights) == 2**128
    assert weights == weights[::-1]
    with localcontext() as context:
        context.prec = 120
        half = [(-(Decimal(v) ** 2) / (2 * Decimal(sigma) ** 2)).exp() for v in range(20 * math.ceil(sigma))]
        unit = Decimal(2**128) / (half[0] + 2 * sum(half[1:]))
        for value in range(1, m + 1):
            assert abs(weights[m + value] - half[value] * unit) <= 1
        assert abs(weights[m] - half[0] * unit) <= 2 * len(weights)


@pytest.mark.parametrize("sigma", [0.5, 2.0, 60.0])
def test_each_128_bit_number_gives_the_value_whose_interval_holds_it_also_at_every_boundary(sigma):
    table = sampler._table(sigma)
    boundaries = [n for end in table.ends[:-1] for n in (end - 1, end, end + 1)]
    random = [int.from_bytes(RandomStream().words(2, np.uint64).tobytes()) for _ in range(2000)]
    numbers = [n for n in boundaries + random if n < 2**128]
    expected = [bisect.bisect_right(table.ends, n) - table.largest for n in numbers]
    assert draw_from_numbers(table, numbers) == expected


@pytest.mark.parametrize("sigma", [0.5, 0.9, 3.0, 149.0, 151.0, 700.0, 12_345.6])
def test_drawn_values_are_distributed_as_the_discrete_gaussian(sigma):
    noise = DiscreteGaussianSampler(sigma).sample(1_000_000)
    width = max(1, round(sigma / 10))
    reach = math.ceil(4 * sigma / width)
    edges = np.arange(-reach, reach + 1) * width
    counts = np.array([*np.histogram(noise, bins=edges - 0.5)[0], 0])
    counts[-1] = len(noise) - counts.sum()
    inner = exact_pmf(sigma, np.arange(edges[0], edges[-1])).reshape(-1, width).sum(axis=1)
    expected = np.array([*inner, 1 - inner.sum()]) * len(noise)
    counts, expected = counts[expected > 5], expected[expected > 5]
    assert stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue > 1e-6


@pytest.mark.parametrize("sigma", [150.001, 200.0, 300.0, 9_000.0])
def test_a_sum_of_two_tables_has_the_exact_ratio_of_probabilities(sigma):
    drawn = DiscreteGaussianSampler(sigma)
    factor = drawn.factors[1]
    low, high = (discrete_gaussian_weights(s) for s in drawn.sigmas)
    a, b = len(low) // 2, len(high) // 2

    def weight(x):
        return sum(low[a + x - factor * j] * high[b + j] for j in range(-b, b + 1) if abs(x - factor * j) <= a)

    centre = weight(0)
    with localcontext() as context:
        context.prec = 80
        square = Decimal(drawn.sigmas[0]) ** 2 + factor**2 * Decimal(drawn.sigmas[1]) ** 2
        for x in (1, 2, factor, factor + 1, round(sigma), round(3.3 * sigma)):
            expected = (-(Decimal(x) ** 2) / (2 * square)).exp()
            assert abs(Decimal(weight(x)) / centre / expected - 1) < Decimal(2) ** -105


@given(st.floats(math.log(0.5), math.log(1e12)))
@settings(max_examples=500)
def test_every_sigma_is_split_into_tables_that_smooth_each_other(log_sigma):
    sigma = math.exp(log_sigma)
    factors, sigmas = sampler._split(sigma)
    assert math.isclose(sum((f * s) ** 2 for f, s in zip(factors, sigmas, strict=True)), sigma**2, rel_tol=1e-12)
    assert max(sigmas) <= sampler._WIDEST
    assert len(factors) <= 7
    for level, (here, above) in enumerate(itertools.pairwise(factors)):
        rest = math.sqrt(sum((f * s) ** 2 for f, s in zip(factors[level + 1 :], sigmas[level + 1 :], strict=True)))
        assert sampler.smoothness(sigmas[level], rest / above, above // here) >= sampler._SMOOTH


@pytest.mark.parametrize("sigma", [0.5, 150.0, 1e4, 1e12])
def test_the_distance_of_a_billion_values_from_the_exact_distribution_is_below_any_delta(sigma):
    assert DiscreteGaussianSampler(sigma).statistical_distance * 1e9 < 1e-24


@pytest.mark.parametrize("sigma", [0.0, 0.49, -3.0, math.nan, math.inf, 2e12])
def test_a_sigma_without_a_guarantee_is_refused(sigma):
    with pytest.raises(PlanError, match="discrete noise with sigma"):
        DiscreteGaussianSampler(sigma)


def test_noise_for_a_resnet18_takes_a_few_times_what_floating_point_noise_takes():
    exact, floating = DiscreteGaussianSampler(30_000.0), np.random.default_rng(0)

    def seconds(draw):
        spent = []
        for _ in range(3):
            start = time.process_time()
            draw(11_200_000)
            spent.append(time.process_time() - start)
        return min(spent)

    assert seconds(exact.sample) < 6 * seconds(floating.standard_normal)
