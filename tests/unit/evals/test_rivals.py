"""The same numbers put to two other packages that gate releases on paired results.

``golden/rivals.json`` holds what evalsig 0.1.2 and InvarLock 0.17.1 make of samples drawn at
random, by their own code from PyPI (``source`` in the file says which functions). Where vlmserve
says something else, a test here says what and why.
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy.stats import binom

from vlmserve.evals.proportions import mcnemar_mid_p, tango_interval
from vlmserve.evals.sequential import SequentialComparison
from vlmserve.evals.statistics import PairedResult, compare_pairs

GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parent / "golden" / "rivals.json").read_text(encoding="utf-8")
)
MARGIN = 0.03
"""What evalsig's gate was asked for, too: its ``min_delta``."""


class Binary(NamedTuple):
    """Right and wrong answers of two runs, and what was made of them."""

    worse: int
    better: int
    right: int
    wrong: int
    invarlock_p: float
    invarlock_lower: float
    invarlock_upper: float
    evalsig_p: float
    evalsig_lower: float
    evalsig_upper: float
    evalsig_gate: str

    @property
    def n(self) -> int:
        """All pairs."""
        return self.worse + self.better + self.right + self.wrong

    @property
    def interval(self) -> tuple[float, float]:
        """Ours."""
        return tango_interval(self.worse, self.better, self.n)

    @property
    def verdict(self) -> str:
        """Ours, of one gated task."""
        lower, upper = self.interval
        return "pass" if lower > -MARGIN else "regression" if upper < 0 else "inconclusive"

    @property
    def invarlock_verdict(self) -> str:
        """Theirs: ``evaluation_comparison/comparison.py`` knows no third outcome for a doubt."""
        return "regression" if self.invarlock_lower < -MARGIN else "pass"


BINARY = [Binary(*row) for row in GOLDEN["binary"]]


def test_there_is_something_to_compare() -> None:
    assert len(BINARY) == 240
    assert {row.verdict for row in BINARY} == {"pass", "regression", "inconclusive"}
    assert {row.evalsig_gate for row in BINARY} == {"ALLOW", "REJECT", "INCONCLUSIVE"}


def test_p_is_invarlocks_without_half_of_each_tail_s_edge() -> None:
    # Theirs is McNemar's exact test, whose real error at 5 % is 2 % for 100 samples; mid-p takes
    # half of the probability of what was seen from each tail.
    for row in BINARY:
        edge = binom.pmf(min(row.worse, row.better), row.worse + row.better, 0.5)
        expected = 1.0 if row.worse == row.better else row.invarlock_p - edge
        assert mcnemar_mid_p(row.worse, row.better) == pytest.approx(expected, abs=1e-9)


def test_evalsigs_p_is_on_the_safe_side_but_for_ties() -> None:
    # Exact up to 25 flips, above that chi-squared with a continuity correction, which turns as many
    # gains as losses into a difference: 14 of each give 0.85.
    for row in BINARY:
        if row.worse != row.better:
            assert mcnemar_mid_p(row.worse, row.better) <= row.evalsig_p + 0.002
        if row.worse + row.better <= 25:
            assert row.evalsig_p == pytest.approx(row.invarlock_p, abs=1e-8)
    assert any(row.worse == row.better and row.evalsig_p < 0.9 for row in BINARY)


def test_intervals_are_close_to_invarlocks() -> None:
    # Newcombe's method 10 there, Tango's score interval here: their ends differ by O(1/n).
    for row in BINARY:
        lower, upper = row.interval
        assert abs(lower - row.invarlock_lower) < 2.2 / row.n
        assert abs(upper - row.invarlock_upper) < 2.2 / row.n


def test_evalsigs_interval_has_no_width_where_nothing_differs() -> None:
    # Wald's: 20 equal answers would prove that two models are the same.
    equal = [row for row in BINARY if row.worse + row.better == 0]
    assert len(equal) > 10
    for row in equal:
        assert row.evalsig_lower == row.evalsig_upper == 0.0
        lower, upper = row.interval
        assert lower < -1 / row.n < 1 / row.n < upper


def test_passes_are_invarlocks_passes() -> None:
    for row in BINARY:
        if row.verdict == "pass":
            assert row.invarlock_verdict == "pass"
        elif row.invarlock_verdict == "pass":
            # The margin lies between the two lower ends.
            assert row.verdict == "inconclusive"
            assert row.interval[0] <= -MARGIN <= row.invarlock_lower


def test_invarlock_calls_a_doubt_a_regression() -> None:
    doubts = [row for row in BINARY if row.verdict == "inconclusive"]
    called = [row for row in doubts if row.invarlock_verdict == "regression"]
    assert len(called) == 130
    assert sum(row.better >= row.worse for row in called) == 60


def test_evalsig_lets_only_gains_through() -> None:
    counts = Counter((row.verdict, row.evalsig_gate) for row in BINARY)
    # Its gate asks whether the candidate is better; a fine-tune that keeps what it had is refused.
    assert counts["pass", "REJECT"] == 33
    assert counts["regression", "ALLOW"] == counts["inconclusive", "ALLOW"] == 0
    # It is asked for one side only, so that a drop beyond chance may count as too few samples.
    assert counts["regression", "INCONCLUSIVE"] == 36
    for row in BINARY:
        if row.evalsig_gate == "ALLOW":
            assert row.better - row.worse >= MARGIN * row.n


def flip_p(result: PairedResult) -> float:
    """The p-value that is computed as theirs is: by flips of signs."""
    assert result.sign_flip_p is not None
    return result.sign_flip_p


def _graded() -> Iterator[tuple[PairedResult, list[float]]]:
    for before, after, *theirs in GOLDEN["graded"]:
        yield compare_pairs(before, after), theirs


def test_graded_p_values_agree() -> None:
    for ours, (evalsig_p, *_) in _graded():
        # Both flip signs 10,000 times. Sums that are equal but for rounding count here and not
        # there, which shows where many differences are the same.
        assert -0.02 < flip_p(ours) - evalsig_p < 0.08


def test_graded_intervals_hold_the_percentile_intervals() -> None:
    # Percentiles of the bootstrap cover .88 at n = 50 where differences are skewed; what is added
    # for that, and for what was not seen, shows at these sizes.
    for ours, (_, *ends) in _graded():
        for lower, upper in (ends[:2], ends[2:]):
            assert ours.lower < lower < upper < ours.upper


def test_clusters_count_without_being_asked_for() -> None:
    false_alarms = 0
    for before, after, size, evalsig_p, lower, upper, naive_p in GOLDEN["clustered"]:
        clusters = [place // size for place in range(len(before))]
        ours = compare_pairs(before, after, clusters=clusters)
        # With 15 to 25 clusters a bootstrap of clusters is a little too sure of itself.
        assert -0.03 < flip_p(ours) - evalsig_p < 0.08
        assert ours.lower < lower < upper < ours.upper
        # What evalsig says by default: it notes that there are clusters, and leaves them out.
        false_alarms += naive_p < 0.05 <= flip_p(ours)
    assert false_alarms == 4


def _sequential(truth: str, worse: float, better: float) -> Iterator[tuple[Any, int | None]]:
    for kind, seed, stop, _ in GOLDEN["sequential"]:
        if kind != truth:
            continue
        drawn = np.random.default_rng([6, seed]).random(2000)
        comparison = SequentialComparison(MARGIN)
        state = comparison.state
        for value in np.where(drawn < worse, -1.0, np.where(drawn < worse + better, 1.0, 0.0)):
            if (state := comparison.update(float(value))).decision:
                break
        yield state, stop


def test_a_drop_is_found_earlier_than_by_evalsig() -> None:
    pairs = list(_sequential("drop of 6 points", 0.08, 0.02))
    assert len(pairs) == 40
    for state, stop in pairs:
        assert state.decision == "regression"
        assert stop is not None
        assert state.n_samples < stop
    assert np.median([state.n_samples for state, _ in pairs]) < 870 / 4


def test_no_drop_is_a_verdict_too() -> None:
    # evalsig's sequence looks for a difference from 0 alone, and asks to the end where there is
    # none; with the bound on the spread that its theory wants it found no drop in 2,000 either.
    pairs = list(_sequential("none", 0.05, 0.05))
    assert all(stop is None for _, stop in pairs)
    assert all(row[3] is None for row in GOLDEN["sequential"])
    assert Counter(state.decision for state, _ in pairs) == {"pass": 38, "regression": 2}
