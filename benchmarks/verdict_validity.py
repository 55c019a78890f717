#!/usr/bin/env python3
"""Do verdicts keep what they promise? Intervals, false alarms, power and early stops, simulated.

Pairs are drawn from a truth that is known, and the product's own statistics are asked. Nothing here
depends on the machine's speed; the seed is fixed.
"""

import argparse
import itertools
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from multiprocessing import Pool
from typing import Any

import numpy as np
from machine import describe_machine, write_result

from vlmserve.evals.mean_difference import MeanDifference
from vlmserve.evals.proportions import tango_interval
from vlmserve.evals.sequential import SequentialComparison
from vlmserve.evals.statistics import matched_interval

ALPHA = 0.05
MARGIN = 0.03
RUNS = 10_000
GRADED_RUNS = 2_000
MAX_SAMPLES = 5_000

# Shares of graded answers that a fine-tune changes.
LOSING_SHARE = 0.1
MISSING_SHARE = 0.15
# One point below the nominal coverage.
CLOSE_COVERAGE = 1 - ALPHA - 0.01

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Truth:
    """What pairs are drawn from: shares of samples that get worse and that get better."""

    worse: float
    better: float

    @property
    def difference(self) -> float:
        """Candidate minus baseline."""
        return self.better - self.worse

    @classmethod
    def of_accuracies(cls, base: float, difference: float, correlation: float) -> "Truth | None":
        """Two accuracies and the correlation of right answers; ``None`` where it cannot be."""
        after = base + difference
        if not 0 < after < 1:
            return None
        both = base * after + correlation * math.sqrt(base * (1 - base) * after * (1 - after))
        truth = cls(worse=base - both, better=after - both)
        return truth if min(truth.worse, truth.better) >= 0 and both >= 0 else None

    @classmethod
    def of_discordance(cls, difference: float, discordance: float) -> "Truth":
        """A difference and the share of samples that flip."""
        return cls(worse=(discordance - difference) / 2, better=(discordance + difference) / 2)


@cache
def _interval(worse: int, better: int, n: int) -> tuple[float, float]:
    return tango_interval(worse, better, n, alpha=ALPHA)


def _rates(ends: Array, difference: float) -> dict[str, float]:
    """How often intervals, shape ``(runs, 2)``, hold the truth and lead to each verdict."""
    lower, upper = ends[:, 0], ends[:, 1]
    passed = lower > -MARGIN
    regressed = ~passed & (upper < 0)
    rates = {
        "coverage": float(((lower <= difference) & (difference <= upper)).mean()),
        "pass": float(passed.mean()),
        "regression": float(regressed.mean()),
        "inconclusive": float((~passed & ~regressed).mean()),
    }
    # A regression where nothing got worse, or a pass where the margin is lost.
    rates["false"] = (
        rates["regression"] if difference >= 0 else rates["pass"] if difference <= -MARGIN else 0.0
    )
    return rates


def measure_fixed(case: tuple[int, float, float, float]) -> dict[str, Any] | None:
    """One table of right and wrong answers: coverage and verdicts of the fixed test."""
    n, base, correlation, difference = case
    truth = Truth.of_accuracies(base, difference, correlation)
    if truth is None:
        return None
    rng = np.random.default_rng([1, *(int(1000 * abs(x)) for x in case)])
    same = 1 - truth.worse - truth.better
    counts = rng.multinomial(n, [truth.worse, truth.better, same], RUNS)
    ends = np.array([_interval(int(worse), int(better), n) for worse, better, _ in counts])
    return {
        "n": n,
        "base": base,
        "correlation": correlation,
        "difference": difference,
        "discordance": round(truth.worse + truth.better, 4),
        **_rates(ends, truth.difference),
    }


def measure_clusters(case: tuple[int, int, float, float, float]) -> dict[str, Any]:
    """Flips whose direction partly belongs to the cluster, with and without allowing for it."""
    groups, size, discordance, shared, difference = case
    rng = np.random.default_rng([2, *(int(1000 * abs(x)) for x in case)])
    truth = Truth.of_discordance(difference, discordance)
    labels = np.repeat(np.arange(groups), size)
    n = groups * size
    p_worse = truth.worse / discordance
    robust, naive = np.empty((RUNS, 2)), np.empty((RUNS, 2))
    for run in range(RUNS):
        ours = np.where(rng.random(groups) < p_worse, -1.0, 1.0)[labels]
        own = np.where(rng.random(n) < p_worse, -1.0, 1.0)
        sign = np.where(rng.random(n) < shared, ours, own)
        flips = sign * (rng.random(n) < discordance)
        robust[run] = matched_interval(flips, labels, alpha=ALPHA)[:2]
        naive[run] = _interval(int((flips < 0).sum()), int((flips > 0).sum()), n)
    return {
        "clusters": groups,
        "size": size,
        "discordance": discordance,
        "shared": shared,
        "difference": difference,
        "allowing": _rates(robust, difference),
        "ignoring": _rates(naive, difference),
    }


def _skewed(rng: np.random.Generator, n: int) -> tuple[Array, Array]:
    """A tenth of the answers loses most of its score."""
    before = rng.beta(8, 2, n)
    return before, before * (1 - (rng.random(n) < LOSING_SHARE) * rng.beta(5, 2, n))


def _noisy(rng: np.random.Generator, n: int) -> tuple[Array, Array]:
    before = rng.beta(5, 2, n)
    return before, np.clip(before + rng.normal(-0.02, 0.1, n), 0, 1)


def _replaced(rng: np.random.Generator, n: int) -> tuple[Array, Array]:
    """Boxes: most stay as they are, some miss."""
    before = rng.random(n)
    return before, np.where(rng.random(n) < MISSING_SHARE, 0.3 * rng.random(n), before)


def _likelihoods(rng: np.random.Generator, n: int) -> tuple[Array, Array]:
    """Negative log-likelihoods, oriented so that lower is worse, with a heavy tail."""
    before = -rng.lognormal(-1, 1, n)
    return before, before - 0.05 * rng.lognormal(0, 1, n)


_SHAPES: dict[str, Callable[[np.random.Generator, int], tuple[Array, Array]]] = {
    "skewed": _skewed,
    "noisy": _noisy,
    "replaced": _replaced,
    "nll": _likelihoods,
}


def measure_graded(case: tuple[str, int]) -> dict[str, Any]:
    """Coverage of the bootstrap interval for scores between 0 and 1, and for likelihoods."""
    shape, n = case
    draw = _SHAPES[shape]
    before, after = draw(np.random.default_rng([3, 0]), 4_000_000)
    truth = float((after - before).mean())
    rng = np.random.default_rng([3, n, len(shape)])
    hits, below, above = 0, 0, 0
    for run in range(GRADED_RUNS):
        before, after = draw(rng, n)
        lower, upper = MeanDifference.of(before, after, np.arange(n), run).interval(ALPHA)
        hits += lower <= truth <= upper
        below += upper < truth
        above += lower > truth
    return {
        "shape": shape,
        "n": n,
        "difference": round(truth, 4),
        "coverage": hits / GRADED_RUNS,
        "interval_below_truth": below / GRADED_RUNS,
        "interval_above_truth": above / GRADED_RUNS,
    }


def measure_sequential(case: tuple[float, float]) -> dict[str, Any]:
    """When the sequential mode stops, looked at after every sample, and how often it is wrong."""
    difference, discordance = case
    truth = Truth.of_discordance(difference, discordance)
    stops, verdicts = [], []
    rng = np.random.default_rng([4, *(int(1000 * abs(x)) for x in case)])
    for _ in range(RUNS):
        comparison = SequentialComparison(MARGIN, alpha=ALPHA)
        draws = rng.random(MAX_SAMPLES)
        values = np.where(
            draws < truth.worse, -1.0, np.where(draws < truth.worse + truth.better, 1.0, 0.0)
        )
        state = comparison.state
        for value in values.tolist():
            state = comparison.update(value)
            if state.decision is not None:
                break
        stops.append(state.n_samples)
        verdicts.append(state.decision)
    share = {
        str(name): verdicts.count(name) / RUNS  # type: ignore[arg-type]
        for name in ("pass", "regression", None)
    }
    false = share["regression"] if difference >= 0 else 0.0
    false = share["pass"] if difference <= -MARGIN else false
    return {
        "difference": difference,
        "discordance": discordance,
        "pass": share["pass"],
        "regression": share["regression"],
        "undecided": share["None"],
        "false": false,
        "median_samples": float(np.median(stops)),
        "mean_samples": float(np.mean(stops)),
        "p90_samples": float(np.quantile(stops, 0.9)),
    }


def _fixed_cases() -> Iterator[tuple[int, float, float, float]]:
    return itertools.product(
        (50, 100, 300, 1000, 5000),
        (0.5, 0.8, 0.95, 0.99),
        (0.0, 0.5, 0.9),
        (0.0, -0.01, -0.03, -0.06, -0.10),
    )


_CLUSTER_CASES = (
    (60, 10, 0.3, 0.0, 0.0),
    (60, 10, 0.3, 0.5, 0.0),
    (60, 10, 0.5, 1.0, 0.0),
    (200, 5, 0.1, 0.8, 0.0),
    (20, 5, 0.1, 0.7, 0.0),
    (10, 10, 0.2, 0.8, 0.0),
    (100, 10, 0.2, 0.5, -0.03),
    (100, 10, 0.2, 0.5, -0.06),
)
_GRADED_CASES = (*itertools.product(_SHAPES, (50, 200)), ("skewed", 1000))
_SEQUENTIAL_CASES = (
    (0.0, 0.02),
    (0.0, 0.1),
    (0.0, 0.3),
    (0.02, 0.1),
    (-0.03, 0.1),
    (-0.03, 0.3),
    (-0.06, 0.1),
    (-0.06, 0.3),
    (-0.10, 0.2),
    (-0.015, 0.1),
)


def main() -> int:
    """Run every setting; two processes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    with Pool(args.processes) as pool:
        found = {
            "sequential": pool.map_async(measure_sequential, _SEQUENTIAL_CASES, chunksize=1),
            "graded": pool.map_async(measure_graded, _GRADED_CASES, chunksize=1),
            "clusters": pool.map_async(measure_clusters, _CLUSTER_CASES, chunksize=1),
            "fixed": pool.map_async(measure_fixed, list(_fixed_cases()), chunksize=1),
        }
        results = {
            name: [row for row in rows.get() if row is not None] for name, rows in found.items()
        }
    binary = [row["coverage"] for row in results["fixed"]]
    write_result(
        "verdict_validity",
        {
            "settings": {
                "alpha": ALPHA,
                "margin": MARGIN,
                "runs": RUNS,
                "graded_runs": GRADED_RUNS,
                "max_samples": MAX_SAMPLES,
            },
            "summary": {
                "fixed_settings": len(binary),
                "fixed_lowest_coverage": min(binary),
                "fixed_settings_below_94_points": sum(share < CLOSE_COVERAGE for share in binary),
                "fixed_highest_false": max(row["false"] for row in results["fixed"]),
                "clusters_lowest_coverage": min(
                    row["allowing"]["coverage"] for row in results["clusters"]
                ),
                "clusters_highest_false": max(
                    row["allowing"]["false"] for row in results["clusters"]
                ),
                "graded_lowest_coverage": min(row["coverage"] for row in results["graded"]),
                "sequential_highest_false": max(row["false"] for row in results["sequential"]),
            },
            "machine": describe_machine(),
            **results,
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
