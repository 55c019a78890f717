"""Paired statistics over scores: pure functions of numbers, no files and no engines.

Scores of 0 and 1 are compared as matched proportions: Tango's score interval for the difference,
McNemar's mid-p test for the p-value. Every other score is compared by its differences: a
t interval that keeps its width when nothing differs, and a sign-flip permutation test.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import optimize, stats

Method = Literal["matched proportions", "mean difference"]

_MIN_PAIRS = 2
_PERMUTATIONS = 9999
# Sign flips drawn at once; bounds the memory of the permutation test to this many rows of pairs.
_BATCH = 200


@dataclass(frozen=True, slots=True)
class PairedResult:
    """The difference between two runs over the same samples, candidate minus baseline.

    Differences are in score units: 1.0 is the whole scale of an accuracy, 100 points.
    """

    method: Method
    n_pairs: int
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
    """Two-sided p-value of "no difference", in ``(0, 1]``."""

    drop_level: float
    """The interval's own p-value of a drop: the two-sided interval of confidence ``1 - level`` lies
    below 0 exactly if ``level > drop_level``. In ``[0, 1]``; 1 where the candidate is not lower."""


def compare_pairs(
    baseline: Sequence[float], candidate: Sequence[float], *, alpha: float = 0.05, seed: int = 0
) -> PairedResult:
    """Compare two runs sample by sample.

    Both sequences have shape ``(n,)`` and are aligned: index ``i`` is the same sample in both. Drop
    samples without a score on either side before calling, and report how many were dropped.

    Args:
        baseline: Scores of the baseline; higher is better.
        candidate: Scores of the candidate.
        alpha: One minus the confidence of the interval, in ``(0, 1)``.
        seed: Of the permutation test's random numbers; unused for scores of 0 and 1.

    Returns:
        The mean difference with its interval and p-value.

    Raises:
        ValueError: The lengths differ, a score is not finite, or ``n < 2``: no interval exists
            then, and a number would be a lie.

    Example:
        >>> compare_pairs([1, 1, 0, 1], [1, 0, 0, 1]).difference
        -0.25
    """
    before, after = _aligned(baseline, candidate)
    n = len(before)
    if np.isin(before, (0.0, 1.0)).all() and np.isin(after, (0.0, 1.0)).all():
        method: Method = "matched proportions"
        regressed = int(((before == 1.0) & (after == 0.0)).sum())
        improved = int(((before == 0.0) & (after == 1.0)).sum())
        lower, upper = tango_interval(regressed, improved, n, alpha=alpha)
        p_value = mcnemar_mid_p(regressed, improved)
        drop_level = _tango_drop_level(regressed, improved)
    else:
        method = "mean difference"
        spread = _Spread.of(before, after)
        lower, upper = spread.interval(alpha)
        p_value = _sign_flip_p(after - before, seed)
        drop_level = spread.drop_level()
    return PairedResult(
        method=method,
        n_pairs=n,
        baseline=float(before.mean()),
        candidate=float(after.mean()),
        difference=float((after - before).mean()),
        lower=lower,
        upper=upper,
        p_value=p_value,
        drop_level=drop_level,
    )


def tango_interval(
    regressed: int, improved: int, n: int, *, alpha: float = 0.05
) -> tuple[float, float]:
    """Give Tango's score interval for a difference of matched proportions.

    It inverts the score test of ``H0: difference = d``, keeps inside ``[-1, 1]``, and has a width
    even when no pair differs.

    Args:
        regressed: Pairs that were right and are wrong; ``n_21`` in the paper.
        improved: Pairs that were wrong and are right; ``n_12``.
        n: All pairs.
        alpha: One minus the confidence.

    Returns:
        Lower and upper end of ``P(improved) - P(regressed)``.

    Raises:
        ValueError: The counts are negative or do not fit into ``n``.

    Source: T. Tango (1998), Equivalence test and confidence interval for the difference in
    proportions for the paired-sample design, Statistics in Medicine 17, 891-908.
    """
    if min(regressed, improved) < 0 or regressed + improved > n or n < 1:
        raise ValueError(f"{regressed} regressed and {improved} improved do not fit {n} pairs")
    z = float(stats.norm.isf(alpha / 2))
    lower = _tango_lower(regressed, improved, n, z)
    return lower, -_tango_lower(improved, regressed, n, z)


def mcnemar_mid_p(regressed: int, improved: int) -> float:
    """Give McNemar's mid-p value: on each side, half the probability of what was seen is left out.

    Args:
        regressed: Pairs that were right and are wrong.
        improved: Pairs that were wrong and are right.

    Returns:
        The two-sided p-value; 1 where no pair differs.

    Source: M. W. Fagerland, S. Lydersen, P. Laake (2013), The McNemar test for binary matched-pairs
    data: mid-p and asymptotic are better than exact conditional, BMC Med. Res. Methodol. 13:91.
    """
    n_discordant = regressed + improved
    if n_discordant == 0:
        return 1.0
    fewer = min(regressed, improved)
    exact = 2 * float(stats.binom.cdf(fewer, n_discordant, 0.5))
    return min(1.0, exact - float(stats.binom.pmf(fewer, n_discordant, 0.5)))


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


def _aligned(
    baseline: Sequence[float], candidate: Sequence[float]
) -> tuple["np.ndarray[Any, Any]", "np.ndarray[Any, Any]"]:
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


def _tango_lower(regressed: int, improved: int, n: int, z: float) -> float:
    if regressed == n:
        return -1.0

    def excess(d: float) -> float:
        """Be positive where d is rejected as too low, negative where it is not."""
        # Tango's equations 3.4 and 3.5: the maximum-likelihood P(regressed) under the hypothesis.
        a = 2 * n
        b = -improved - regressed + (2 * n - improved + regressed) * d
        c = -regressed * d * (1 - d)
        q = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
        variance = n * (2 * q + d * (1 - d))
        return (improved - regressed - n * d) - z * math.sqrt(max(variance, 0.0))

    # The estimate itself is also a root where its variance vanishes (no pair differs, or all
    # improve); the interval's end is the one below.
    return float(optimize.brentq(excess, -1.0, (improved - regressed) / n - 1e-12, xtol=1e-12))


def _tango_drop_level(regressed: int, improved: int) -> float:
    # At d = 0 Tango's statistic is McNemar's.
    if improved >= regressed:
        return 1.0
    z = (regressed - improved) / math.sqrt(regressed + improved)
    return 2 * float(stats.norm.sf(z))


@dataclass(frozen=True, slots=True)
class _Spread:
    """Mean and standard error of differences, with one pair's worth of doubt added.

    A plain t interval has no width where all differences are equal, as when a fine-tune changes
    nothing, and then claims certainty from two pairs. Agresti and Min add half a pair to each of
    the four cells of a matched table: half a pair that rises by the whole scale, half a pair that
    falls by it, and one that does not change. That carries over to scores between 0 and 1; where
    scores leave that range, the range that was seen stands for the scale.

    Source: A. Agresti, Y. Min (2005), Simple improved confidence intervals for comparing matched
    proportions, Statistics in Medicine 24, 729-740.
    """

    mean: float
    error: float
    """Standard error of ``mean``."""

    degrees: int
    """Degrees of freedom of the t distribution."""

    bound: float
    """No mean difference is larger than this."""

    @classmethod
    def of(cls, before: "np.ndarray[Any, Any]", after: "np.ndarray[Any, Any]") -> "_Spread":
        scores = np.concatenate((before, after))
        scale = bound = 1.0
        if scores.min() < 0.0 or scores.max() > 1.0:
            scale = float(scores.max() - scores.min()) or float(abs(scores).max())
            bound = math.inf
        differences = after - before
        n = len(differences) + 2
        mean = float(differences.sum()) / n
        variance = (float((differences**2).sum()) + scale**2) / n - mean**2
        return cls(mean=mean, error=math.sqrt(variance / (n - 1)), degrees=n - 1, bound=bound)

    def interval(self, alpha: float) -> tuple[float, float]:
        half = float(stats.t.isf(alpha / 2, self.degrees)) * self.error
        return max(self.mean - half, -self.bound), min(self.mean + half, self.bound)

    def drop_level(self) -> float:
        if self.mean >= 0:
            return 1.0
        return 2 * float(stats.t.sf(-self.mean / self.error, self.degrees))


def _sign_flip_p(differences: "np.ndarray[Any, Any]", seed: int) -> float:
    """Test symmetry around 0 by flipping signs; exact where there are few pairs."""
    if not differences.any():
        return 1.0
    mean: Callable[..., Any] = np.mean
    result = stats.permutation_test(
        (differences,),
        mean,
        permutation_type="samples",
        n_resamples=_PERMUTATIONS,
        batch=_BATCH,
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)
