"""Paired differences of graded scores: a bootstrap interval and a permutation test.

Samples that hang together (questions about one image) are drawn, and their signs flipped, together.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from collections.abc import Callable

Array = np.ndarray[Any, Any]

_RESAMPLES = 9999
_PERMUTATIONS = 9999
# Numbers drawn at once; bounds the memory of resampling to some tens of MiB.
_BATCH_NUMBERS = 2_000_000

# Standard errors below this share of the largest are rounding.
_NO_SPREAD = 1e-9


@dataclass(frozen=True, slots=True)
class MeanDifference:
    """The mean of paired differences, with one pair's worth of doubt added, and its bootstrap.

    Differences that are all equal, as when a fine-tune changes nothing, have no spread of their
    own, and an interval without width claims certainty from two pairs. So two pairs are added, one
    up and one down, that are as far apart as half a pair each that rises and falls by the whole
    scale; where scores leave the range from 0 to 1, the range that was seen stands for the scale
    (A. Agresti, Y. Min 2005, Simple improved confidence intervals for comparing matched
    proportions, Statistics in Medicine 24, 729-740).

    The interval is the studentised bootstrap's (bootstrap-t): differences of scores are skewed,
    mostly 0 with a few large drops, and plain and bias-corrected percentiles cover too little
    there (P. Hall 1988, Theoretical comparison of bootstrap confidence intervals, Annals of
    Statistics 16, 927-953). Whole clusters are resampled.
    """

    mean: float
    """Mean difference, the added pairs among them."""

    error: float
    """Standard error of ``mean``, robust to clusters."""

    bound: float
    """No mean difference is larger than this."""

    studentised: Array
    """Sorted bootstrap values of (mean* - mean) / error*, shape ``(b,)``."""

    @classmethod
    def of_measures(
        cls, before: Array, after: Array, clusters: Array, seed: int
    ) -> "MeanDifference":
        """Resample the differences of measures on a continuous scale, as likelihoods are.

        No pairs are added: such differences are never all 0 by luck, and the range of what was
        seen, which one sample in a thousand makes, would hide every difference of the rest.

        Args:
            before: Measures of the baseline, shape ``(n,)``.
            after: Measures of the candidate, shape ``(n,)``.
            clusters: For each pair the number of its cluster, from 0 without gaps, shape ``(n,)``.
            seed: Of the random numbers.
        """
        sums = np.bincount(clusters, weights=after - before)
        sizes = np.bincount(clusters).astype(float)
        mean, error = _mean_and_error(sums[None], sizes[None])
        return cls(
            mean=float(mean[0]),
            error=float(error[0]),
            bound=math.inf,
            studentised=_studentised(sums, sizes, float(mean[0]), seed),
        )

    @classmethod
    def of(cls, before: Array, after: Array, clusters: Array, seed: int) -> "MeanDifference":
        """Resample the differences of scores.

        Args:
            before: Scores of the baseline, shape ``(n,)``.
            after: Scores of the candidate, shape ``(n,)``.
            clusters: For each pair the number of its cluster, from 0 without gaps, shape ``(n,)``.
            seed: Of the random numbers.
        """
        scores = np.concatenate((before, after))
        scale = bound = 1.0
        if scores.min() < 0.0 or scores.max() > 1.0:
            scale = float(scores.max() - scores.min()) or float(abs(scores).max())
            bound = math.inf
        added = scale / math.sqrt(2)
        sums = np.concatenate((np.bincount(clusters, weights=after - before), (added, -added)))
        sizes = np.concatenate((np.bincount(clusters), (1, 1))).astype(float)
        mean, error = _mean_and_error(sums[None], sizes[None])
        return cls(
            mean=float(mean[0]),
            error=float(error[0]),
            bound=bound,
            studentised=_studentised(sums, sizes, float(mean[0]), seed),
        )

    def interval(self, alpha: float) -> tuple[float, float]:
        """Lower and upper end of the two-sided interval of confidence ``1 - alpha``.

        A level below 2 in the number of resamples has no interval but the whole scale.
        """
        # The k-th smallest and largest of b values cut off k / (b + 1) of the distribution each.
        rank = math.floor(alpha / 2 * (len(self.studentised) + 1))
        if rank == 0:
            return -self.bound, self.bound
        low, high = float(self.studentised[rank - 1]), float(self.studentised[-rank])
        lower, upper = self.mean - high * self.error, self.mean - low * self.error
        return max(lower, -self.bound), min(upper, self.bound)

    def drop_level(self) -> float:
        """The level from which on the interval lies below 0; 1 where the mean does not."""
        return self._levels()[0] if self.mean < 0 else 1.0

    def p_value(self) -> float:
        """The level from which on the interval excludes 0; 1 where nothing differs."""
        return min(self._levels()) if self.mean else 1.0

    def _levels(self) -> tuple[float, float]:
        """The levels from which on the interval lies below 0, and above it."""
        n = len(self.studentised)
        place = self.mean / self.error
        n_below = int(np.searchsorted(self.studentised, place, side="right"))
        n_above = n - int(np.searchsorted(self.studentised, place, side="left"))
        below, above = (min(1.0, 2 * (count + 1) / (n + 1)) for count in (n_below, n_above))
        return below, above


def sign_flip_p(differences: Array, clusters: Array, seed: int) -> float:
    """Test that differences are symmetric around 0 by flipping the signs of whole clusters.

    Args:
        differences: Candidate minus baseline, shape ``(n,)``.
        clusters: For each pair the number of its cluster, shape ``(n,)``.
        seed: Of the random numbers; few clusters are flipped in all ways.

    Returns:
        The two-sided p-value, in ``(0, 1]``; 1 where nothing differs.
    """
    sums = np.bincount(clusters, weights=differences)
    if not sums.any():
        return 1.0
    mean: Callable[..., Any] = np.mean
    result = stats.permutation_test(
        (sums,),
        mean,
        permutation_type="samples",
        n_resamples=_PERMUTATIONS,
        batch=max(1, _BATCH_NUMBERS // len(sums)),
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def _studentised(sums: Array, sizes: Array, mean: float, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    n = len(sums)
    parts = []
    for start in range(0, _RESAMPLES, batch := max(1, _BATCH_NUMBERS // n)):
        drawn = rng.integers(0, n, size=(min(batch, _RESAMPLES - start), n))
        means, errors = _mean_and_error(sums[drawn], sizes[drawn])
        # A resample of equal differences has no spread to measure its distance by.
        has_spread = errors > _NO_SPREAD * errors.max()
        parts.append((means - mean)[has_spread] / errors[has_spread])
    return np.sort(np.concatenate(parts))


def _mean_and_error(sums: Array, sizes: Array) -> tuple[Array, Array]:
    """Ratio of sums to sizes in each row, and its standard error from between clusters.

    Both arguments have shape ``(b, g)``; the results ``(b,)``.
    """
    groups = sums.shape[1]
    total = sizes.sum(axis=1)
    means = sums.sum(axis=1) / total
    residuals = sums - means[:, None] * sizes
    squares = (residuals**2).sum(axis=1) * groups / (groups - 1)
    return means, np.sqrt(squares) / total
