"""Evidence that may be looked at after every sample: betting e-processes for paired differences.

A gambler starts with 1 and bets, before each sample, that the differences are higher than a
hypothesis allows. Where the hypothesis holds no strategy makes money on average, so the chance that
the fortune ever reaches ``1 / alpha`` is at most ``alpha`` (Ville's inequality), however often one
looks and whenever one stops. The fortune is the e-value against the hypothesis. A value ``m`` is in
the confidence sequence while the fortune against it is below ``1 / alpha``.

Source: I. Waudby-Smith, A. Ramdas (2024), Estimating means of bounded random variables by betting,
Journal of the Royal Statistical Society B 86, 1-27: capital process (sections 2 to 4), sampling
without replacement (section 5). The fortune here is spread over constant bets from 0 to the largest
that cannot lose everything. For right and wrong answers against "no difference" that is the
Bayes factor with a uniform prior on the share of flips that are regressions.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import optimize

from vlmserve.evals.statistics import PairedResult, detectable_difference

Decision = Literal["pass", "regression"]
Bounds = tuple[float, float]

_DIFFERENCES: Bounds = (-1.0, 1.0)  # of scores between 0 and 1

# Bets that the fortune is spread over; more change no stopping time by more than a sample or two.
_N_BETS = 64
_BETS = (np.arange(_N_BETS) + 0.5) / _N_BETS
_TOLERANCE = 1e-6
_MAX_LOG = 1e3


class BettingProcess:
    """The fortune of betting against "the mean is at most ``null``".

    Args:
        null: Largest mean that the hypothesis allows, between the bounds.
        bounds: Smallest and largest value that an observation can have.
        population: How many observations there are in all, when they are drawn without replacement
            and the hypothesis is about their own mean; ``None`` for a hypothesis about whatever
            they are drawn from.

    Raises:
        ValueError: ``null`` is not between the bounds.
    """

    def __init__(self, null: float, bounds: Bounds, *, population: int | None = None) -> None:
        low, high = bounds
        if not low < null < high:
            raise ValueError(f"a mean of {null} is not between {low} and {high}")
        self._null, self._low, self._high = null, low, high
        self._population = population
        self._log_fortunes: np.ndarray[Any, Any] = np.zeros(_N_BETS)
        self._sum, self._n = 0.0, 0
        self._is_impossible = False

    @property
    def log_e_value(self) -> float:
        """Natural logarithm of the fortune; infinite once the hypothesis cannot be true."""
        if self._is_impossible:
            return math.inf
        highest = float(self._log_fortunes.max())
        return highest + math.log(float(np.exp(self._log_fortunes - highest).mean()))

    def update(self, value: float, weight: float = 1.0) -> None:
        """Bet on the next observation.

        Args:
            value: The observation, or the mean of a cluster of them.
            weight: Size of the cluster as a share of the largest there can be, in ``(0, 1]``.

        Raises:
            ValueError: The observation is out of bounds, or there are more than the population has.
        """
        if not (self._low <= value <= self._high and 0.0 < weight <= 1.0):
            raise ValueError(
                f"{value} of weight {weight}: values lie in [{self._low}, {self._high}] and "
                "weights in (0, 1]"
            )
        if self._n == self._population:
            raise ValueError(f"more observations than the population of {self._population} has")
        mean = self._next_mean()
        self._sum += value
        self._n += 1
        # A sum that the hypothesis has no room for is noted below; there is nothing left to bet on.
        if mean > self._low:
            gain = weight * (value - mean) / (mean - self._low)
            self._log_fortunes += np.log1p(_BETS * gain)
        if self._population is not None:
            most = self._population * self._null - (self._population - self._n) * self._low
            self._is_impossible |= self._sum > most + _TOLERANCE

    def _next_mean(self) -> float:
        """Largest mean of the next observation that the hypothesis allows."""
        if self._population is None:
            return self._null
        return (self._population * self._null - self._sum) / (self._population - self._n)


def confidence_sequence(
    values: Sequence[float],
    *,
    bounds: Bounds = _DIFFERENCES,
    alpha: float = 0.05,
    weights: Sequence[float] | None = None,
    population: int | None = None,
) -> tuple[float, float]:
    """Bound the mean of what the values are drawn from, at whatever moment one stopped.

    Args:
        values: Observations in the order in which they came, shape ``(n,)``.
        bounds: Smallest and largest value that there can be.
        alpha: Chance that either end is ever wrong; both together hold with ``1 - 2 * alpha``.
        weights: Shape ``(n,)``: see ``BettingProcess.update``.
        population: See ``BettingProcess``.

    Returns:
        Lower and upper end.
    """
    sizes = [1.0] * len(values) if weights is None else list(weights)

    def lower_end(sign: float) -> float:
        """The lower end of the mean of the values times ``sign``."""
        low, high = sorted((sign * bounds[0], sign * bounds[1]))

        def excess(null: float) -> float:
            process = BettingProcess(null, (low, high), population=population)
            for value, size in zip(values, sizes, strict=True):
                process.update(sign * value, size)
            # Finite, for the root finder.
            return min(process.log_e_value, _MAX_LOG) + math.log(alpha)

        # The fortune falls as the hypothesis is moved up, so there is one crossing at most.
        edge = _TOLERANCE * (high - low)
        if excess(low + edge) < 0:
            return low
        if excess(high - edge) > 0:
            return high
        return float(optimize.brentq(excess, low + edge, high - edge, xtol=edge))

    return lower_end(1.0), -lower_end(-1.0)


@dataclass(frozen=True, slots=True)
class SequentialState:
    """What is known of a task after some samples."""

    n_samples: int
    log_e_pass: float
    """Against "the drop is the margin or more"."""

    log_e_regression: float
    """Against "there is no drop"."""

    decision: Decision | None


class SequentialComparison:
    """Decides a task as early as its margin allows.

    At a difference of 0 or more only a false regression is possible, at a drop of the margin or
    more only a false pass, and in between neither is false. So each of the two tests has the whole
    of ``alpha``, and the chance of a false decision is at most ``alpha`` whenever it stops.

    Args:
        margin: Largest acceptable drop, in units of the score; 0 where a pass is a gain.
        bounds: Smallest and largest difference that a pair can have.
        alpha: Chance of a false decision.
        max_cluster: Size of the largest cluster.

    Raises:
        ValueError: The margin is not between 0 and the lower bound.
    """

    n_claims: float = 1
    """Tasks among which a regression may still be claimed: each must bring that much more evidence,
    so that the chance of any false regression stays at most ``alpha`` (Holm's procedure, where it
    is lowered by one with every regression). Infinite where none may be."""

    def __init__(
        self,
        margin: float,
        *,
        bounds: Bounds = _DIFFERENCES,
        alpha: float = 0.05,
        max_cluster: int = 1,
    ) -> None:
        self._pass = BettingProcess(-margin, bounds)
        self._regression = BettingProcess(0.0, (-bounds[1], -bounds[0]))
        self._alpha = alpha
        self._max_cluster = max_cluster
        self._n = 0
        self._decision: Decision | None = None

    def update(
        self, difference: float, *, best: float | None = None, n_samples: int = 1
    ) -> SequentialState:
        """Take the next pair, or the next cluster of pairs.

        Args:
            difference: Candidate minus baseline; of a cluster its mean. Where samples failed, the
                lowest that it could have been.
            best: The highest that it could have been; the same when ``None``.
            n_samples: Pairs in the cluster.

        Returns:
            The state with it; a decision once made stays.
        """
        weight = n_samples / self._max_cluster
        self._pass.update(difference, weight)
        self._regression.update(-(difference if best is None else best), weight)
        self._n += n_samples
        if self._decision is None:
            if self._pass.log_e_value >= -math.log(self._alpha):
                self._decision = "pass"
            elif self._regression.log_e_value >= math.log(self.n_claims / self._alpha):
                self._decision = "regression"
        return self.state

    @property
    def state(self) -> SequentialState:
        """What is known so far."""
        return SequentialState(
            n_samples=self._n,
            log_e_pass=self._pass.log_e_value,
            log_e_regression=self._regression.log_e_value,
            decision=self._decision,
        )


def compare_sequence(
    baseline: Sequence[float],
    candidate: Sequence[float],
    *,
    clusters: Sequence[Hashable],
    max_cluster: int = 1,
    alpha: float = 0.05,
) -> PairedResult:
    """Compare two runs over samples that were asked one after another, until it was enough.

    Args:
        baseline: Scores of the baseline between 0 and 1, in the order of asking, shape ``(n,)``.
        candidate: Scores of the candidate, shape ``(n,)``.
        clusters: What each pair hangs together with, shape ``(n,)``; whole clusters follow each
            other.
        max_cluster: Size of the largest cluster that there can be, asked or not.
        alpha: Chance that either end of the interval is ever wrong.

    Returns:
        The mean difference with its confidence sequence. ``p_value`` and ``drop_level`` are the
        inverse of the e-value against "there is no drop", so one-sided.

    Raises:
        ValueError: There are no pairs, or a score is not between 0 and 1.
    """
    before, after = np.asarray(baseline, dtype=float), np.asarray(candidate, dtype=float)
    if not len(before):
        raise ValueError("no pairs")
    numbers: dict[Hashable, int] = {}
    groups = np.array([numbers.setdefault(label, len(numbers)) for label in clusters])
    sizes = np.bincount(groups)
    means = np.bincount(groups, weights=after - before) / sizes
    weights = sizes / max_cluster
    process = BettingProcess(0.0, _DIFFERENCES)
    for mean, weight in zip(means.tolist(), weights.tolist(), strict=True):
        process.update(-mean, weight)
    lower, upper = confidence_sequence(means.tolist(), weights=weights.tolist(), alpha=alpha)
    level = min(1.0, math.exp(-process.log_e_value))
    return PairedResult(
        method="betting",
        n_pairs=len(before),
        n_clusters=len(sizes),
        baseline=float(before.mean()),
        candidate=float(after.mean()),
        difference=float((after - before).mean()),
        lower=lower,
        upper=upper,
        p_value=level,
        drop_level=level,
        sign_flip_p=None,
        detectable=detectable_difference(before, after, groups, alpha=alpha),
    )
