"""Evidence that may be looked at after every sample."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import special

from vlmserve.evals.sequential import BettingProcess, SequentialComparison, confidence_sequence


def log_e(values: Any, null: float, **settings: Any) -> float:
    process = BettingProcess(null, (-1.0, 1.0), **settings)
    for value in values:
        process.update(float(value))
    return process.log_e_value


def draws(rng: np.random.Generator, difference: float, discordance: float, n: int) -> Any:
    worse, better = (discordance - difference) / 2, (discordance + difference) / 2
    return rng.choice([-1.0, 1.0, 0.0], n, p=[worse, better, 1 - discordance])


@pytest.mark.parametrize(("up", "down"), [(14, 5), (3, 9), (40, 22), (1, 0)])
def test_flips_against_no_difference_give_the_bayes_factor(up: int, down: int) -> None:
    # The mean of (2 t)^up (2 (1 - t))^down over t uniform on [1/2, 1].
    inside = 1 - special.betainc(up + 1, down + 1, 0.5)
    exact = (up + down + 1) * math.log(2) + special.betaln(up + 1, down + 1) + math.log(inside)
    values = [1.0] * up + [-1.0] * down + [0.0] * 30

    assert log_e(values, 0.0) == pytest.approx(exact, abs=0.01)


def test_the_order_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    values = draws(rng, 0.1, 0.4, 200)
    assert log_e(values, 0.0) == pytest.approx(log_e(rng.permutation(values), 0.0))


def test_the_fortune_falls_as_the_hypothesis_moves_up() -> None:
    values = draws(np.random.default_rng(1), 0.1, 0.4, 100)
    fortunes = [log_e(values, null) for null in np.linspace(-0.9, 0.9, 31)]
    assert fortunes == sorted(fortunes, reverse=True)


def test_peeking_after_every_sample_raises_no_more_than_alpha() -> None:
    rng = np.random.default_rng(2)
    false_claims = 0
    for _ in range(200):
        process = BettingProcess(0.0, (-1.0, 1.0))
        for value in draws(rng, 0.0, 0.3, 400):
            process.update(float(value))
            if process.log_e_value >= -math.log(0.1):
                false_claims += 1
                break
    # 20 are allowed on average; 33 or more come by chance once in 300 times.
    assert 0 < false_claims < 33


def test_the_sequence_holds_the_truth_and_narrows() -> None:
    rng = np.random.default_rng(3)
    values = draws(rng, -0.05, 0.2, 3000)
    widths = []
    for n in (30, 300, 3000):
        lower, upper = confidence_sequence(values[:n])
        assert -1 <= lower <= -0.05 <= upper <= 1
        widths.append(upper - lower)
    assert widths[0] > 2 * widths[1] > 4 * widths[2]


def test_the_sequence_of_nothing_is_the_whole_range() -> None:
    assert confidence_sequence([]) == (-1.0, 1.0)
    assert confidence_sequence([], bounds=(-2.0, 3.0)) == (-2.0, 3.0)


def test_other_bounds_are_another_unit() -> None:
    values = draws(np.random.default_rng(7), 0.1, 0.4, 100)
    ends = confidence_sequence(values)
    stretched = confidence_sequence(50 * values, bounds=(-50.0, 50.0))
    assert stretched == pytest.approx([50 * end for end in ends], abs=1e-3)


def test_a_whole_population_is_known_exactly() -> None:
    values = draws(np.random.default_rng(4), -0.05, 0.2, 400)
    lower, upper = confidence_sequence(values, population=400)
    assert lower == pytest.approx(values.mean(), abs=3e-3)
    assert upper == pytest.approx(values.mean(), abs=3e-3)


def test_most_of_a_population_says_more_than_as_many_draws() -> None:
    values = draws(np.random.default_rng(5), -0.05, 0.2, 360)
    narrow = confidence_sequence(values, population=400)
    wide = confidence_sequence(values)
    assert wide[0] < narrow[0] < values.mean() < narrow[1] < wide[1]


def test_a_hypothesis_that_cannot_be_true_any_more() -> None:
    # Nine of ten are 1: the mean of all is at least 0.8.
    assert log_e([1.0] * 9, 0.79, population=10) == math.inf
    assert log_e([1.0] * 9, 0.81, population=10) < math.inf


def test_clusters_bet_in_proportion_to_their_size() -> None:
    whole, half = BettingProcess(0.0, (-1.0, 1.0)), BettingProcess(0.0, (-1.0, 1.0))
    whole.update(0.5)
    half.update(1.0, 0.5)
    assert whole.log_e_value == pytest.approx(half.log_e_value)


@pytest.mark.parametrize(
    ("value", "weight"), [(1.5, 1.0), (-1.1, 1.0), (0.0, 0.0), (0.0, 2.0), (math.nan, 1.0)]
)
def test_values_out_of_bounds_are_refused(value: float, weight: float) -> None:
    with pytest.raises(ValueError, match="values lie in"):
        BettingProcess(0.0, (-1.0, 1.0)).update(value, weight)


def test_impossible_hypotheses_and_too_many_draws_are_refused() -> None:
    with pytest.raises(ValueError, match="not between"):
        BettingProcess(-1.0, (-1.0, 1.0))
    with pytest.raises(ValueError, match="more observations than the population"):
        log_e([0.0, 0.0, 0.0], 0.1, population=2)


def test_a_large_regression_is_decided_early() -> None:
    rng = np.random.default_rng(6)
    stops = []
    for _ in range(60):
        comparison = SequentialComparison(0.03)
        for value in draws(rng, -0.08, 0.12, 2000):
            state = comparison.update(float(value))
            if state.decision is not None:
                assert state.decision == "regression"
                stops.append(state.n_samples)
                break
    assert len(stops) == 60
    assert np.median(stops) < 220


def test_no_change_passes_and_a_decision_stays() -> None:
    comparison = SequentialComparison(0.05)
    states = [comparison.update(0.0) for _ in range(200)]
    first = next(state for state in states if state.decision is not None)
    assert first.decision == "pass"
    for _ in range(300):
        comparison.update(-1.0)
    assert comparison.state.decision == "pass"


def test_more_claims_need_more_evidence() -> None:
    def stop(n_claims: int) -> int:
        comparison = SequentialComparison(0.03)
        comparison.n_claims = n_claims
        while comparison.update(-1.0).decision is None:
            pass
        return comparison.state.n_samples

    assert stop(1) < stop(20)
