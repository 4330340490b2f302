"""An attack on one's own mechanism: how large epsilon must be at least, given how well canaries are found.

A lower bound above the claimed epsilon proves that something is broken (noise missing, clipping skipped, sampling not
random). A lower bound below it proves nothing more than that this attack did not find a fault.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lightning_fed.errors import DataError


def one_run_epsilon(
    scores: NDArray[np.float64], included: NDArray[np.bool_], guesses: int, delta: float, confidence: float = 0.95
) -> float:
    """Lower bound on epsilon from one training run with many canaries.

    Each canary was put in or left out by a fair coin of its own. Those with the highest scores are guessed to be in,
    those with the lowest to be out, and the rest is left open. Under (epsilon, delta)-DP the number of right guesses is
    hardly more than binomial with success probability ``e^epsilon / (1 + e^epsilon)``.

    Args:
        scores: how much the result looks as if it had seen each canary, shape ``(m,)``, float64.
        included: whether it had, shape ``(m,)``.
        guesses: number of canaries guessed, half of them in, half out; even, and fixed before the scores are seen.
        delta: the delta of the claim.
        confidence: chance with which the bound holds.

    Raises:
        DataError: shapes or numbers do not fit together.

    Source: Steinke, Nasr and Jagielski 2023, Privacy Auditing with One (1) Training Run (arXiv 2305.08846),
    theorem 5.2.
    """
    m = len(scores)
    _require_scores(scores)
    if included.shape != scores.shape or guesses % 2 or not 2 <= guesses <= m:
        raise DataError(f"{guesses} guesses cannot be made about {m} canaries, {included.shape} of them labelled.")
    order = np.argsort(scores, kind="stable")
    half = guesses // 2
    right = int(np.count_nonzero(~included[order[:half]]) + np.count_nonzero(included[order[m - half :]]))

    def plausible(epsilon: float) -> bool:
        return _one_run_p_value(m, guesses, right, epsilon, delta) > 1 - confidence

    if plausible(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while not plausible(high):
        low, high = high, 2 * high
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if plausible(middle) else (middle, high)
    return low


def _one_run_p_value(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Largest chance of at least ``right`` right guesses of ``guesses`` under (epsilon, delta)-DP."""
    success = 1 / (1 + math.exp(-epsilon))
    tail = stats.binom.sf(np.arange(right, -1, -1) - 1, guesses, success)  # P(at least right - i), i = 0 .. right
    failure = np.max((tail[1:] - tail[0]) / np.arange(1, right + 1), initial=0.0)
    return float(min(1.0, tail[0] + 2 * canaries * delta * failure))


def many_runs_epsilon(
    scores_in: NDArray[np.float64], scores_out: NDArray[np.float64], delta: float, confidence: float = 0.95
) -> float:
    """Lower bound on epsilon from many independent runs, with one canary and without it.

    A threshold is chosen on the first half of the runs and judged on the second, so that choosing costs no confidence.
    The error rates of the second half get Clopper-Pearson upper limits, and (epsilon, delta)-DP asks for
    ``1 - false positives <= delta + e^epsilon * false negatives`` and the same with the two exchanged.

    Args:
        scores_in: scores of the runs with the canary, float64, shape ``(n,)``.
        scores_out: scores of the runs without it, float64, shape ``(n',)``.
        delta: the delta of the claim.
        confidence: chance with which the bound holds.

    Raises:
        DataError: a score is not finite, or there are fewer than 4 runs of a kind.

    Source: Jagielski, Ullman and Oprea 2020, Auditing Differentially Private Machine Learning (arXiv 2006.07709).
    """
    for scores in (scores_in, scores_out):
        _require_scores(scores)
        if len(scores) < 4:
            raise DataError(f"{len(scores)} runs are too few to audit with: at least 4 of each kind are needed.")
    # Two limits, one for each error rate, share the chance of failure; both inequalities use the same two.
    level = 1 - (1 - confidence) / 2
    (choose_in, judge_in), (choose_out, judge_out) = (np.array_split(s, 2) for s in (scores_in, scores_out))
    candidates = np.unique(np.concatenate([choose_in, choose_out]))
    bounds = [_pair_epsilon(choose_in, choose_out, float(t), delta, level) for t in candidates]
    return max(0.0, _pair_epsilon(judge_in, judge_out, float(candidates[int(np.argmax(bounds))]), delta, level))


def _pair_epsilon(
    scores_in: NDArray[np.float64], scores_out: NDArray[np.float64], threshold: float, delta: float, level: float
) -> float:
    """Lower bound from guessing "in" at and above a threshold."""
    missed = _upper_limit(int(np.count_nonzero(scores_in < threshold)), len(scores_in), level)
    false = _upper_limit(int(np.count_nonzero(scores_out >= threshold)), len(scores_out), level)
    ratios = ((1 - delta - false) / missed, (1 - delta - missed) / false)
    return max((math.log(ratio) for ratio in ratios if ratio > 0), default=-math.inf)


def _upper_limit(count: int, trials: int, level: float) -> float:
    """Clopper-Pearson upper confidence limit of a rate."""
    return 1.0 if count == trials else float(stats.beta.ppf(level, count + 1, trials - count))


def _require_scores(scores: NDArray[np.float64]) -> None:
    if scores.ndim != 1 or not np.isfinite(scores).all():
        raise DataError(f"audit scores must be a finite vector, not of shape {scores.shape} or with a NaN or infinity.")
