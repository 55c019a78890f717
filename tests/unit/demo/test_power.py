"""The chance to pass the gate, against an enumeration of all tables and against a simulation."""

import math
from random import Random

import pytest

from vlmserve.demo.power import PassRule
from vlmserve.evals.proportions import tango_interval
from vlmserve.evals.statistics import compare_pairs

MARGIN = 0.08


def tango_lower(regressed: int, improved: int, n: int) -> float:
    return tango_interval(regressed, improved, n)[0]


@pytest.fixture(scope="module")
def rule() -> PassRule:
    return PassRule(tango_lower, MARGIN)


@pytest.mark.parametrize(
    ("discordance", "loss"), [(0.0, 0.0), (0.02, 0.0), (0.013, 0.013), (0.3, 0.1), (1.0, 0.0)]
)
@pytest.mark.parametrize("n", [1, 60, 100])
def test_the_chance_is_the_sum_over_all_tables(
    discordance: float, loss: float, n: int, rule: PassRule
) -> None:
    regress, improve = (discordance + loss) / 2, (discordance - loss) / 2

    chance = math.fsum(
        math.comb(n, r)
        * math.comb(n - r, i)
        * regress**r
        * improve**i
        * (1 - regress - improve) ** (n - r - i)
        for r in range(n + 1)
        for i in range(n - r + 1)
        if tango_lower(r, i, n) > -MARGIN
    )

    assert rule.pass_probability(discordance, loss, n) == pytest.approx(chance, abs=1e-9)


def test_the_chance_is_how_often_simulated_answers_pass(rule: PassRule) -> None:
    """Answers drawn at random and compared as the gate compares them; three standard errors."""
    random = Random(0)  # noqa: S311
    n, trials, discordance, loss = 120, 1500, 0.1, 0.02
    regress, improve = (discordance + loss) / 2, (discordance - loss) / 2
    passed = 0
    for _ in range(trials):
        draws = [random.random() for _ in range(n)]
        before = [float(draw < regress or draw > 0.5) for draw in draws]
        after = [float(regress <= draw < regress + improve or draw > 0.5) for draw in draws]
        passed += compare_pairs(before, after).lower > -MARGIN

    chance = rule.pass_probability(discordance, loss, n)
    assert 0.2 < chance < 0.8  # where a wrong formula would show
    error = math.sqrt(chance * (1 - chance) / trials)
    assert passed / trials == pytest.approx(chance, abs=3 * error)


def test_a_pair_more_moves_the_interval_the_right_way() -> None:
    """What ``PassRule`` takes for granted of the interval."""
    n = 40
    for regressed in range(n + 1):
        for improved in range(n - regressed):
            here = tango_lower(regressed, improved, n)
            assert tango_lower(regressed + 1, improved, n) <= here + 1e-9
            assert tango_lower(regressed, improved + 1, n) >= here - 1e-9


def test_a_loss_of_the_margin_rarely_passes(rule: PassRule) -> None:
    assert rule.pass_probability(MARGIN, MARGIN, 300) < 0.05


def test_everything_lost_never_passes(rule: PassRule) -> None:
    assert rule.pass_probability(1.0, 1.0, 100) == 0


@pytest.mark.parametrize(("discordance", "loss"), [(0.1, 0.2), (0.1, -0.1), (1.1, 0.0)])
def test_impossible_shares_are_refused(discordance: float, loss: float, rule: PassRule) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        rule.pass_probability(discordance, loss, 100)
