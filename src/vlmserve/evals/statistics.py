"""Paired statistics over scores: pure functions of numbers, no files and no engines.

Scores of 0 and 1 are compared as matched proportions, by Tango's score interval of the difference.
Every other score is compared by its differences, by a studentised bootstrap interval.

The p-value of a result is that of its interval's own test, so that the two never contradict each
other: the interval excludes 0 exactly where the p-value is below its level (M. P. Fay 2010,
Two-sided exact tests and matching confidence intervals for discrete data, The R Journal 2(1),
53-58). Beside it stands a second look by a test that shares nothing with the interval, flips of
signs: McNemar's mid-p for scores of 0 and 1, a permutation test for others. It decides nothing.

Samples that share an image or a video rise and fall together, and a test that takes them for
independent raises false alarms. They are given as clusters: the spread between clusters is what
counts, and flips, signs and resamples are taken by the cluster.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

from vlmserve.evals.mean_difference import Array, MeanDifference, sign_flip_p
from vlmserve.evals.proportions import mcnemar_mid_p, tango_interval, tango_statistic

Method = Literal["matched proportions", "mean difference", "betting"]
"""How an interval was computed; ``betting`` is ``vlmserve.evals.sequential``."""

MIN_MEASURES = 10
"""Clusters without which ``compare_measures`` says nothing."""

_MIN_PAIRS = 2

# Differences closer to each other than this share of the largest differ by rounding.
_SAME = 1e-9
_POWER = 0.8


@dataclass(frozen=True, slots=True)
class PairedResult:
    """The difference between two runs over the same samples, candidate minus baseline.

    Differences are in score units: 1.0 is the whole scale of an accuracy, 100 points.
    """

    method: Method
    n_pairs: int
    n_clusters: int
    """Groups of pairs that hang together; as many as pairs where none do."""

    baseline: float
    """Mean score of the baseline over the pairs."""

    candidate: float
    """Mean score of the candidate over the pairs."""

    difference: float
    """Mean of candidate minus baseline; negative means that the candidate scores lower."""

    lower: float
    """Lower end of the two-sided confidence interval of ``difference``."""

    upper: float
    """Upper end of it."""

    p_value: float
    """The interval's own two-sided p-value of "no difference", in ``(0, 1]``: the interval of
    confidence ``1 - level`` excludes 0 exactly if ``level`` is above it."""

    drop_level: float
    """The interval's own p-value of a drop: the two-sided interval of confidence ``1 - level`` lies
    below 0 exactly if ``level > drop_level``. In ``[0, 1]``; 1 where the candidate is not lower."""

    sign_flip_p: float | None
    """Two-sided p-value of "no difference" from flips of signs, in ``(0, 1]``; ``None`` where
    asking stopped as soon as it was enough, for then it does not hold."""

    detectable: float
    """Smallest difference that as many pairs with the spread that was seen show with a chance of
    80 % at the interval's level."""


def compare_pairs(
    baseline: Sequence[float],
    candidate: Sequence[float],
    *,
    clusters: Sequence[Hashable] | None = None,
    alpha: float = 0.05,
    seed: int = 0,
) -> PairedResult:
    """Compare two runs sample by sample.

    Both sequences have shape ``(n,)`` and are aligned: index ``i`` is the same sample in both. Drop
    samples without a score on either side before calling, and report how many were dropped.

    Args:
        baseline: Scores of the baseline; higher is better.
        candidate: Scores of the candidate.
        clusters: What each pair hangs together with, shape ``(n,)``: equal labels are one cluster.
            All pairs are independent when ``None``.
        alpha: One minus the confidence of the interval, in ``(0, 1)``.
        seed: Of the random numbers of permutations and resamples; unused for scores of 0 and 1 in
            clusters of one.

    Returns:
        The mean difference with its interval and p-value.

    Raises:
        ValueError: The lengths differ, a score is not finite, or there are fewer than 2 pairs or
            clusters: no interval exists then, and a number would be a lie.

    Example:
        >>> compare_pairs([1, 1, 0, 1], [1, 0, 0, 1]).difference
        -0.25
    """
    before, after = _aligned(baseline, candidate)
    groups = _numbered(clusters, len(before))
    if np.isin(before, (0.0, 1.0)).all() and np.isin(after, (0.0, 1.0)).all():
        method: Method = "matched proportions"
        lower, upper, drop_level = matched_interval(after - before, groups, alpha=alpha)
        p_value = min(drop_level, matched_drop_level(before - after, groups))
        flip_p = _matched_flip_p(after - before, groups, seed)
    else:
        method = "mean difference"
        spread = MeanDifference.of(before, after, groups, seed)
        lower, upper = spread.interval(alpha)
        p_value, drop_level = spread.p_value(), spread.drop_level()
        flip_p = sign_flip_p(after - before, groups, seed)
    return PairedResult(
        method=method,
        n_pairs=len(before),
        n_clusters=int(groups.max()) + 1,
        baseline=float(before.mean()),
        candidate=float(after.mean()),
        difference=float((after - before).mean()),
        lower=lower,
        upper=upper,
        p_value=p_value,
        drop_level=drop_level,
        sign_flip_p=flip_p,
        detectable=detectable_difference(before, after, groups, alpha=alpha),
    )


def compare_measures(
    baseline: Sequence[float],
    candidate: Sequence[float],
    *,
    clusters: Sequence[Hashable] | None = None,
    alpha: float = 0.05,
    seed: int = 0,
) -> PairedResult:
    """Compare two runs by a measure on a continuous scale without bounds, such as a likelihood.

    Arguments and result are those of ``compare_pairs``. Where all clusters differ the same, as
    those of a model and itself, the interval is that difference, and what speaks for a difference
    is that every one of the clusters shows it.

    Raises:
        ValueError: As ``compare_pairs``, and where there are fewer than 10 clusters: nothing is
            known of the spread of so few.
    """
    before, after = _aligned(baseline, candidate)
    groups = _numbered(clusters, len(before))
    n_groups = int(groups.max()) + 1
    if n_groups < MIN_MEASURES:
        raise ValueError(f"measures need at least {MIN_MEASURES} clusters, got {n_groups}")
    differences = after - before
    lower = upper = float(differences.mean())
    p_value = 2 * 0.5**n_groups if lower else 1.0
    drop_level = p_value if lower < 0 else 1.0
    detectable = 0.0
    spread = MeanDifference.of_measures(before, after, groups, seed)
    if spread.error > _SAME * float(abs(differences).max()):
        lower, upper = spread.interval(alpha)
        p_value, drop_level = spread.p_value(), spread.drop_level()
        detectable = spread.error * float(stats.norm.isf(alpha / 2) + stats.norm.isf(1 - _POWER))
    return PairedResult(
        method="mean difference",
        n_pairs=len(before),
        n_clusters=n_groups,
        baseline=float(before.mean()),
        candidate=float(after.mean()),
        difference=float(differences.mean()),
        lower=lower,
        upper=upper,
        p_value=p_value,
        drop_level=drop_level,
        sign_flip_p=sign_flip_p(differences, groups, seed),
        detectable=detectable,
    )


def design_effect(differences: Array, clusters: Array) -> float:
    """By how much clusters widen the variance of a mean, at least 1.

    Args:
        differences: Candidate minus baseline, shape ``(n,)``.
        clusters: For each pair the number of its cluster, from 0 without gaps, shape ``(n,)``.

    Returns:
        The variance from between clusters over that of independent pairs; where no pair differs
        from another it cannot be seen, and is that of clusters that agree entirely.

    Source: L. Kish (1965), Survey Sampling, section 8.2; for clustered pairs N. Obuchowski
    (1998), On the comparison of correlated proportions for clustered data, Statistics in Medicine
    17, 1495-1507.
    """
    sizes = np.bincount(clusters)
    groups = len(sizes)
    if groups == len(differences):
        return 1.0
    centred = differences - differences.mean()
    independent = float((centred**2).sum())
    if independent == 0.0:
        return float((sizes**2).sum() / sizes.sum())
    between = float((np.bincount(clusters, weights=centred) ** 2).sum()) * groups / (groups - 1)
    return max(1.0, between / independent)


def detectable_difference(
    before: Array, after: Array, clusters: Array, *, alpha: float = 0.05
) -> float:
    """Give the difference at which the interval excludes 0 four times out of five.

    The spread is that of the pairs with one pair's worth of doubt, as in ``MeanDifference``, so
    that runs without any flip promise no more than they can show.

    Args:
        before: Scores of the baseline, shape ``(n,)``.
        after: Scores of the candidate, shape ``(n,)``.
        clusters: For each pair the number of its cluster, from 0 without gaps, shape ``(n,)``.
        alpha: One minus the confidence.
    """
    differences = after - before
    scores = np.concatenate((before, after))
    is_unit = scores.min() >= 0.0 and scores.max() <= 1.0
    scale = 1.0 if is_unit else float(scores.max() - scores.min())
    n = len(differences) + 2
    mean = float(differences.sum()) / n
    variance = (float((differences**2).sum()) + scale**2) / n - mean**2
    error = math.sqrt(variance / (n - 1) * design_effect(differences, clusters))
    return error * float(stats.norm.isf(alpha / 2) + stats.norm.isf(1 - _POWER))


def holm_adjust(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values so that the chance of any false claim among them stays below a level.

    Args:
        p_values: Shape ``(m,)``, in any order.

    Returns:
        Adjusted p-values in the same order; claim those at or below the level.

    Source: S. Holm (1979), A simple sequentially rejective multiple test procedure, Scandinavian
    Journal of Statistics 6, 65-70.

    Example:
        >>> holm_adjust([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    m = len(p_values)
    adjusted = [1.0] * m
    highest = 0.0
    for rank, index in enumerate(sorted(range(m), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (m - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def matched_interval(
    differences: Array, clusters: Array, *, alpha: float = 0.05
) -> tuple[float, float, float]:
    """Tango's interval of differences of scores that are 0 or 1, allowing for clusters.

    Pairs that hang together count for less than one each, by the design effect. How much less is
    estimated from as many clusters as there are: hence Student's quantile where there are any.

    Args:
        differences: Candidate minus baseline, each -1, 0 or 1, shape ``(n,)``.
        clusters: For each pair the number of its cluster, from 0 without gaps, shape ``(n,)``.
        alpha: One minus the confidence.

    Returns:
        Lower end, upper end, and ``PairedResult.drop_level``.
    """
    effect = design_effect(differences, clusters)
    regressed = float((differences < 0).sum()) / effect
    improved = float((differences > 0).sum()) / effect
    z = float(_tail(clusters).isf(alpha / 2))
    lower, upper = tango_interval(regressed, improved, len(differences) / effect, z=z)
    return lower, upper, matched_drop_level(differences, clusters)


def matched_drop_level(differences: Array, clusters: Array) -> float:
    """``PairedResult.drop_level`` of ``matched_interval``; with the signs turned, that of a gain.

    At no difference Tango's statistic is McNemar's.
    """
    effect = design_effect(differences, clusters)
    regressed = float((differences < 0).sum()) / effect
    improved = float((differences > 0).sum()) / effect
    return min(1.0, 2 * float(_tail(clusters).sf(-tango_statistic(regressed, improved))))


def _tail(clusters: Array) -> Any:
    """The distribution of a difference over its standard error."""
    groups = int(clusters.max()) + 1
    return stats.norm if groups == len(clusters) else stats.t(groups - 1)


def _matched_flip_p(differences: Array, clusters: Array, seed: int) -> float:
    if int(clusters.max()) + 1 < len(differences):
        return sign_flip_p(differences, clusters, seed)
    return mcnemar_mid_p(int((differences < 0).sum()), int((differences > 0).sum()))


def _numbered(clusters: Sequence[Hashable] | None, n: int) -> Array:
    if clusters is None:
        return np.arange(n)
    if len(clusters) != n:
        raise ValueError(f"{len(clusters)} cluster labels for {n} pairs")
    numbers: dict[Hashable, int] = {}
    numbered = np.array([numbers.setdefault(label, len(numbers)) for label in clusters])
    if len(numbers) < _MIN_PAIRS:
        raise ValueError("all pairs are one cluster: nothing tells how much they would vary")
    return numbered


def _aligned(baseline: Sequence[float], candidate: Sequence[float]) -> tuple[Array, Array]:
    before, after = np.asarray(baseline, dtype=float), np.asarray(candidate, dtype=float)
    if before.shape != after.shape or before.ndim != 1:
        raise ValueError(
            f"shapes differ: {before.shape} baseline scores, {after.shape} candidate scores"
        )
    if len(before) < _MIN_PAIRS:
        raise ValueError(f"a paired interval needs at least {_MIN_PAIRS} pairs, got {len(before)}")
    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        raise ValueError("a score is not a finite number")
    return before, after
