import itertools
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from vlmserve.evals.proportions import mcnemar_mid_p, tango_interval
from vlmserve.evals.statistics import (
    PairedResult,
    compare_measures,
    compare_pairs,
    holm_adjust,
    matched_interval,
)

# (regressed, improved, n), Tango's 95 % interval of improved less regressed, mid-p.
PUBLISHED = [
    # Bentur et al. 2009, airway hyper-responsiveness; Fagerland, Lydersen, Laake, "Statistical
    # Analysis of Contingency Tables" (2017), chapter 8, tables 8.7 and 8.8.
    (7, 1, 21, (-0.517, -0.026), 0.0391),
    # Cavo et al. 2012, complete response; the same chapter.
    (16, 6, 161, (-0.1240, -0.0054), 0.0347),
]


def likelihood_grid(regressed: int, improved: int, n: int, d: float) -> float:
    """The score statistic at d with its nuisance parameter found by search, not by formula."""
    low, high = max(0.0, -d), (1.0 - d) / 2
    q = np.linspace(low, high, 400_001)[1:-1]  # P(regressed); P(improved) is q + d
    rest = n - regressed - improved
    with np.errstate(divide="ignore", invalid="ignore"):
        log = rest * np.log(1 - 2 * q - d) if rest else np.zeros_like(q)
        log = log + (regressed * np.log(q) if regressed else 0.0)
        log = log + (improved * np.log(q + d) if improved else 0.0)
    best = float(q[np.nanargmax(log)])
    return (improved - regressed - n * d) / math.sqrt(n * (2 * best + d - d * d))


@pytest.mark.parametrize(("regressed", "improved", "n", "interval", "_"), PUBLISHED)
def test_tango_gives_published_intervals(
    regressed: int, improved: int, n: int, interval: tuple[float, float], _: float
) -> None:
    assert tango_interval(regressed, improved, n) == pytest.approx(interval, abs=6e-4)


@pytest.mark.parametrize(("regressed", "improved", "_n", "_interval", "mid_p"), PUBLISHED)
def test_mid_p_gives_published_values(
    regressed: int, improved: int, _n: int, _interval: tuple[float, float], mid_p: float
) -> None:
    assert mcnemar_mid_p(regressed, improved) == pytest.approx(mid_p, abs=6e-5)


@pytest.mark.parametrize(
    ("regressed", "improved", "n", "alpha"),
    [(5, 2, 30, 0.05), (1, 9, 40, 0.1), (12, 12, 60, 0.05), (0, 4, 25, 0.05), (30, 3, 200, 0.01)],
)
def test_tango_ends_where_the_score_test_stops_rejecting(
    regressed: int, improved: int, n: int, alpha: float
) -> None:
    z = float(stats.norm.isf(alpha / 2))
    lower, upper = tango_interval(regressed, improved, n, alpha=alpha)

    assert likelihood_grid(regressed, improved, n, lower) == pytest.approx(z, abs=2e-3)
    assert likelihood_grid(regressed, improved, n, upper) == pytest.approx(-z, abs=2e-3)


def test_tango_keeps_its_width_without_flips() -> None:
    n, z = 100, float(stats.norm.isf(0.025))
    edge = z * z / (n + z * z)  # solves n d / (1 - d) = z^2

    assert tango_interval(0, 0, n) == pytest.approx((-edge, edge))


def test_tango_reaches_the_ends_of_the_scale() -> None:
    z2 = float(stats.norm.isf(0.025)) ** 2

    assert tango_interval(10, 0, 10) == pytest.approx((-1.0, -(10 - z2) / (10 + z2)))
    assert tango_interval(0, 10, 10) == pytest.approx(((10 - z2) / (10 + z2), 1.0))


def test_tango_mirrors_when_the_sides_are_swapped() -> None:
    for regressed, improved in itertools.product(range(5), range(5)):
        lower, upper = tango_interval(regressed, improved, 12)
        assert tango_interval(improved, regressed, 12) == pytest.approx((-upper, -lower))
        assert -1 <= lower <= (improved - regressed) / 12 <= upper <= 1


@pytest.mark.parametrize("counts", [(3, 3, 5), (-1, 0, 5), (0, 0, 0)])
def test_tango_refuses_counts_that_do_not_fit(counts: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        tango_interval(*counts)


def test_tango_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    n, p_regressed, p_improved = 60, 0.12, 0.05
    tables = rng.multinomial(n, [p_regressed, p_improved, 1 - p_regressed - p_improved], 1500)
    truth = p_improved - p_regressed
    hits = [
        lower <= truth <= upper
        for lower, upper in (tango_interval(int(b), int(c), n) for b, c, _ in tables)
    ]

    assert np.mean(hits) == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize(("regressed", "improved"), [(0, 1), (1, 7), (6, 16), (9, 4), (20, 21)])
def test_mid_p_is_the_exact_p_less_the_point_probability(regressed: int, improved: int) -> None:
    exact = mcnemar([[0, improved], [regressed, 0]], exact=True).pvalue
    point = stats.binom.pmf(min(regressed, improved), regressed + improved, 0.5)

    assert mcnemar_mid_p(regressed, improved) == pytest.approx(exact - point)


def test_mid_p_without_evidence_is_one() -> None:
    assert mcnemar_mid_p(0, 0) == 1.0
    assert mcnemar_mid_p(6, 6) == pytest.approx(1.0)


def test_holm_agrees_with_statsmodels() -> None:
    rng = np.random.default_rng(1)
    for size in (1, 2, 5, 12):
        p_values = list(rng.uniform(0, 0.3, size))
        assert holm_adjust(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])
    assert holm_adjust([]) == []


def flip_p(result: PairedResult) -> float:
    assert result.sign_flip_p is not None
    return result.sign_flip_p


def scores(regressed: int, improved: int, same: int) -> tuple[list[float], list[float]]:
    before = [1.0] * regressed + [0.0] * improved + [1.0] * same
    after = [0.0] * regressed + [1.0] * improved + [1.0] * same
    return before, after


def test_scores_of_zero_and_one_are_matched_proportions() -> None:
    result = compare_pairs(*scores(16, 6, 139))

    assert result.method == "matched proportions"
    assert result.n_pairs == 161
    assert (result.baseline, result.candidate) == pytest.approx((155 / 161, 145 / 161))
    assert result.difference == pytest.approx(-10 / 161)
    assert (result.lower, result.upper) == pytest.approx((-0.1240, -0.0054), abs=1e-4)
    # At no difference Tango's statistic is McNemar's.
    plain = mcnemar([[0, 6], [16, 0]], exact=False, correction=False)
    assert result.p_value == result.drop_level == pytest.approx(plain.pvalue)
    assert flip_p(result) == pytest.approx(0.03469, abs=1e-5)


SKEWED = ([-1.0] * 40, [-1.0] * 36 + [-1.02, -1.9, -2.3, -0.99])


@pytest.mark.parametrize("compare", [compare_pairs, compare_measures])
@pytest.mark.parametrize(
    "pair",
    [
        scores(9, 2, 40),
        scores(3, 12, 40),
        scores(4, 0, 20),
        ([0.9, 0.8, 0.7, 0.9] * 6, [0.5, 0.8, 0.6, 0.4] * 6),
        SKEWED,
        SKEWED[::-1],
    ],
)
@pytest.mark.parametrize("size", [1, 2])
def test_the_p_value_says_what_the_interval_says(
    compare: Any, pair: tuple[list[float], list[float]], size: int
) -> None:
    clusters = [place // size for place in range(len(pair[0]))]
    p_value = compare(*pair, clusters=clusters).p_value
    assert 0 < p_value < 1

    for alpha, excludes in ((min(p_value * 1.01, 0.999), True), (p_value * 0.99, False)):
        result = compare(*pair, clusters=clusters, alpha=alpha)
        assert (result.lower > 0 or result.upper < 0) is excludes
        assert result.p_value == p_value
        assert result.drop_level == (p_value if result.difference < 0 else 1.0)


def test_the_same_measures_everywhere_speak_for_nothing() -> None:
    assert compare_measures([-1.0] * 12, [-1.0] * 12).p_value == 1.0
    assert compare_measures([-1.0] * 12, [-0.5] * 12).p_value == pytest.approx(2 / 2**12)
    # Each cluster rises by the same, in one of its two samples.
    even = compare_measures([-1.0] * 24, [-0.5, -1.0] * 12, clusters=[n // 2 for n in range(24)])
    assert (even.lower, even.upper, even.p_value) == (0.25, 0.25, 2 / 2**12)


@pytest.mark.parametrize(
    "pair",
    [scores(9, 2, 40), scores(4, 0, 20), ([0.9, 0.8, 0.7, 0.9] * 6, [0.5, 0.8, 0.6, 0.4] * 6)],
)
def test_drop_level_is_where_the_interval_leaves_zero(
    pair: tuple[list[float], list[float]],
) -> None:
    level = compare_pairs(*pair).drop_level
    assert 0 < level < 0.2

    assert compare_pairs(*pair, alpha=level * 1.01).upper < 0
    assert compare_pairs(*pair, alpha=level * 0.99).upper > 0


def test_no_level_claims_a_drop_that_is_none() -> None:
    assert compare_pairs(*scores(2, 2, 10)).drop_level == 1.0
    assert compare_pairs([0.2, 0.4, 0.1], [0.5, 0.4, 0.3]).drop_level == 1.0


def test_equal_differences_have_the_width_of_the_two_added_pairs() -> None:
    result = compare_pairs([0.5] * 10, [0.25] * 10)
    mean = -2.5 / 12
    error = math.sqrt((10 * 0.25**2 + 1.0 - 12 * mean**2) / (11 * 12))

    assert result.method == "mean difference"
    assert result.lower < mean - error < mean + error < result.upper
    assert result.upper - result.lower < 10 * error


def test_graded_interval_nears_the_plain_one_with_many_pairs() -> None:
    rng = np.random.default_rng(2)
    before, after = rng.uniform(size=2000), rng.uniform(size=2000) * 0.9
    plain = stats.ttest_rel(after, before).confidence_interval(0.95)
    result = compare_pairs(list(before), list(after))

    assert (result.lower, result.upper) == pytest.approx((plain.low, plain.high), abs=1e-3)


def test_graded_interval_covers_the_truth() -> None:
    rng = np.random.default_rng(3)
    hits = []
    for _ in range(150):
        before = rng.beta(4, 2, 25)
        after = np.where(rng.random(25) < 0.3, rng.beta(2, 3, 25), before)
        truth = 0.3 * (2 / 5 - 4 / 6)
        result = compare_pairs(list(before), list(after))
        hits.append(result.lower <= truth <= result.upper)

    assert np.mean(hits) > 0.9


def test_graded_interval_never_claims_certainty_nor_leaves_the_scale() -> None:
    two = compare_pairs([0.5, 0.5], [0.5, 0.5])
    assert two.lower < -0.5
    assert two.upper > 0.5
    assert two.p_value == flip_p(two) == 1.0
    assert compare_pairs([0.9, 1.0], [0.0, 0.1]).lower == -1.0


def test_scores_outside_the_unit_range_bring_their_own_scale() -> None:
    small = compare_pairs([0.2, 0.5, 0.4] * 5, [0.3, 0.4, 0.4] * 5)
    large = compare_pairs([20, 50, 40] * 5, [30, 40, 40] * 5)

    assert large.difference == pytest.approx(100 * small.difference)
    assert large.detectable < 100 * small.detectable
    # The scale is the 30 units that were seen, not the 100 there might have been.
    assert large.upper - large.lower < 100 * (small.upper - small.lower)
    assert compare_pairs([7.0, 7.0], [7.0, 7.0]).lower < 0


def test_sign_flips_are_exact_with_few_pairs() -> None:
    before, after = [0.1, 0.2, 0.3, 0.4, 0.5], [0.2, 0.4, 0.6, 0.8, 0.9]

    # Of 2^5 ways to sign the differences only "all up" and "all down" are as extreme.
    assert flip_p(compare_pairs(before, after)) == pytest.approx(2 / 32)


def test_sign_flips_are_reproducible() -> None:
    rng = np.random.default_rng(4)
    before, after = list(rng.uniform(size=60)), list(rng.uniform(size=60))

    assert flip_p(compare_pairs(before, after)) == flip_p(compare_pairs(before, after))
    assert flip_p(compare_pairs(before, after)) == pytest.approx(
        stats.ttest_rel(after, before).pvalue, abs=0.03
    )


@pytest.mark.parametrize(
    ("before", "after", "match"),
    [
        ([1.0], [0.0], "at least 2 pairs"),
        ([1.0, 0.0], [1.0], "shapes differ"),
        ([1.0, math.nan], [1.0, 0.0], "not a finite number"),
    ],
)
def test_what_has_no_interval_is_refused(
    before: list[float], after: list[float], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        compare_pairs(before, after)


def test_skewed_differences_have_a_skewed_interval() -> None:
    drops = np.random.default_rng(5).lognormal(0, 1, 200) * 0.02
    result = compare_pairs([0.0] * 200, list(-drops))
    plain = stats.ttest_1samp(-drops, 0).confidence_interval(0.95)

    # A few large drops: the mean may well be lower still, and hardly higher.
    assert result.difference - result.lower > 1.1 * (result.upper - result.difference)
    assert result.lower < plain.low


def clustered(
    rng: np.random.Generator, groups: int, size: int, psi: float
) -> tuple[list[float], list[float], list[int]]:
    """Flips whose direction half depends on the cluster; no difference on the whole."""
    shared = np.repeat(rng.choice([-1, 1], groups), size)
    own = rng.choice([-1, 1], groups * size)
    sign = np.where(rng.random(groups * size) < 0.5, shared, own)
    flips = (rng.random(groups * size) < psi) * sign
    before = np.where(flips < 0, 1.0, np.where(flips > 0, 0.0, 1.0))
    return list(before), list(before + flips), list(np.repeat(np.arange(groups), size))


def test_clusters_raise_no_false_alarms() -> None:
    rng = np.random.default_rng(6)
    naive: list[bool] = []
    robust: list[bool] = []
    for _ in range(300):
        before, after, labels = clustered(rng, 60, 10, 0.4)
        differences = np.array(after) - np.array(before)
        for found, groups in ((naive, np.arange(600)), (robust, np.array(labels))):
            lower, upper, _ = matched_interval(differences, groups)
            found.append(lower > 0 or upper < 0)

    assert np.mean(naive) > 0.1
    assert np.mean(robust) < 0.08


def test_the_permutation_test_of_clusters_agrees_with_their_interval() -> None:
    before, after, labels = clustered(np.random.default_rng(9), 60, 10, 0.4)
    result = compare_pairs(before, after, clusters=labels)
    _, _, level = matched_interval(np.array(after) - np.array(before), np.array(labels))

    assert flip_p(result) == pytest.approx(level, abs=0.03) or level == 1.0
    assert flip_p(result) > flip_p(compare_pairs(before, after))


def test_clusters_of_one_change_nothing() -> None:
    before, after = scores(9, 2, 40)
    assert compare_pairs(before, after, clusters=list("ab") + list(range(49))) == compare_pairs(
        before, after
    )


def test_clusters_that_agree_count_once() -> None:
    # Ten copies of each pair: no more is known than from the pairs themselves.
    before, after = scores(6, 2, 22)
    tenfold = compare_pairs(before * 10, after * 10, clusters=list(range(30)) * 10)
    lower, upper = tango_interval(6, 2, 30, z=float(stats.t.isf(0.025, 29)))

    assert tenfold.n_pairs == 300
    assert tenfold.n_clusters == 30
    # Between clusters the variance has one degree of freedom less.
    assert (tenfold.lower, tenfold.upper) == pytest.approx((lower, upper), rel=0.06)


def test_clusters_without_flips_are_taken_to_agree() -> None:
    result = compare_pairs([1.0] * 40, [1.0] * 40, clusters=list(range(10)) * 4)
    z = float(stats.t.isf(0.025, 9))

    assert (result.lower, result.upper) == pytest.approx(tango_interval(0, 0, 10, z=z))


def test_graded_clusters_are_resampled_whole() -> None:
    rng = np.random.default_rng(7)
    shared = np.repeat(rng.normal(0, 0.1, 20), 10)
    before = rng.uniform(0.4, 0.6, 200)
    labels = list(np.repeat(np.arange(20), 10))
    alone = compare_pairs(list(before), list(before + shared))
    together = compare_pairs(list(before), list(before + shared), clusters=labels)

    assert together.upper - together.lower > 1.8 * (alone.upper - alone.lower)
    assert together.p_value > alone.p_value
    assert flip_p(together) > flip_p(alone)
    assert together.detectable > 1.8 * alone.detectable


@pytest.mark.parametrize(("labels", "match"), [([1, 1, 1], "one cluster"), ([1, 2], "2 cluster")])
def test_clusters_that_tell_nothing_are_refused(labels: list[int], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        compare_pairs([1, 0, 1], [1, 1, 0], clusters=labels)


def test_detectable_difference_is_found_four_times_out_of_five() -> None:
    rng = np.random.default_rng(8)
    n, psi = 1000, 0.1

    def table(difference: float) -> tuple[list[float], list[float]]:
        worse, better = rng.multinomial(
            n, [(psi - difference) / 2, (psi + difference) / 2, 1 - psi]
        )[:2]
        return scores(int(worse), int(better), int(n - worse - better))

    detectable = compare_pairs(*scores(50, 50, 900)).detectable
    found = [compare_pairs(*table(-detectable)).upper < 0 for _ in range(400)]

    assert detectable == pytest.approx(0.028, abs=0.001)
    assert np.mean(found) == pytest.approx(0.8, abs=0.06)
