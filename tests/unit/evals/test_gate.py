from typing import Any

import numpy as np
import pytest

from vlmserve.config.suite import GateConfig
from vlmserve.evals.compare import Comparison, describe_amount
from vlmserve.evals.gate import EXIT_STATUS, TaskVerdict, Verdict, judge
from vlmserve.evals.statistics import PairedResult, compare_pairs, holm_adjust

GATE = GateConfig(margin=0.08)


def pairs(regressed: int, improved: int, n: int) -> PairedResult:
    same = n - regressed - improved
    return compare_pairs(
        [1.0] * regressed + [0.0] * improved + [1.0] * same,
        [0.0] * regressed + [1.0] * improved + [1.0] * same,
    )


def comparison(
    result: PairedResult | None,
    *,
    worst: PairedResult | None = None,
    best: PairedResult | None = None,
    failed: tuple[int, int] = (0, 0),
) -> Comparison:
    n_pairs = 0 if result is None else result.n_pairs
    return Comparison(
        task="t",
        metric="m",
        higher_is_better=True,
        in_points=True,
        n_samples=n_pairs + max(failed),
        n_failed_baseline=failed[0],
        n_failed_candidate=failed[1],
        n_cut_baseline=0,
        n_cut_candidate=0,
        pairs=result,
        worst_case=worst or result,
        best_case=best or result,
        scores={},
        regressed=(),
        improved=(),
        failures=(),
    )


def verdict_of(result: PairedResult | None, margin: float = 0.08) -> Verdict:
    return judge([comparison(result)], [margin], GATE).verdict


def test_pass_is_a_lower_end_above_the_margin() -> None:
    result = pairs(4, 4, 200)

    assert verdict_of(result, margin=-result.lower + 1e-6) == "pass"
    assert verdict_of(result, margin=-result.lower - 1e-6) == "inconclusive"


def test_a_small_sure_loss_within_the_margin_passes() -> None:
    result = pairs(30, 5, 2000)
    assert result.upper < 0

    assert verdict_of(result, margin=0.08) == "pass"


def test_a_sure_loss_beyond_the_margin_is_a_regression() -> None:
    assert verdict_of(pairs(30, 2, 200)) == "regression"


def test_a_possible_loss_is_inconclusive() -> None:
    assert verdict_of(pairs(3, 1, 20)) == "inconclusive"


def test_a_gain_that_is_not_sure_is_inconclusive_and_never_a_regression() -> None:
    assert verdict_of(pairs(1, 3, 12), margin=0.01) == "inconclusive"


@pytest.mark.parametrize("result", [pairs(1, 1, 200), pairs(60, 2, 200)])
def test_a_margin_of_the_whole_scale_judges_nothing(result: PairedResult) -> None:
    judgement = judge([comparison(result)], [8.0], GATE)

    assert judgement.verdict == "inconclusive"
    assert "a margin of 8 is the whole scale of 0 to 1" in judgement.tasks[0].reason


def test_no_pairs_are_inconclusive() -> None:
    judgement = judge([comparison(None)], [0.08], GATE)

    assert judgement.verdict == "inconclusive"
    assert "fewer than 2 independent samples" in judgement.tasks[0].reason


def test_holm_over_all_gated_tasks() -> None:
    # Alone each of the first three would be a regression at 0.05; together only the first.
    results = [pairs(20, 2, 100), pairs(12, 2, 60), pairs(9, 2, 50), pairs(3, 2, 30)]
    levels = [result.drop_level for result in results]
    assert [verdict_of(result) for result in results] == ["regression"] * 3 + ["inconclusive"]
    passing = [pairs(1, 1, 200)] * 5

    judgement = judge([comparison(result) for result in passing + results], [0.08] * 9, GATE)
    names = [task.verdict for task in judgement.tasks]

    # Among the four that do not pass, the second would be claimed; that family is the outcome's.
    assert 8 * levels[1] > 0.05 > 3 * levels[1]
    assert names == ["pass"] * 5 + ["regression", *["inconclusive"] * 3]
    expected = holm_adjust([result.drop_level for result in passing + results])
    assert [task.adjusted_level for task in judgement.tasks] == expected
    assert "worse by itself, but not beyond chance among 9 gated" in judgement.tasks[7].reason


def test_a_task_without_pairs_is_in_no_family() -> None:
    result = pairs(9, 2, 50)
    tasks = judge([comparison(result), comparison(None)], [0.08] * 2, GATE).tasks

    assert [task.verdict for task in tasks] == ["regression", "inconclusive"]
    assert [task.adjusted_level for task in tasks] == [result.drop_level, None]


@pytest.mark.parametrize(("n_tasks", "n_suites"), [(8, 1000), (20, 500)])
def test_suites_without_any_loss_rarely_show_a_regression(n_tasks: int, n_suites: int) -> None:
    # Answers differ on one sample in ten, in either direction alike: whatever is claimed is false.
    n, differing = 200, 0.10
    random = np.random.default_rng(20260109)
    known: dict[tuple[int, int], Comparison] = {}

    def draw() -> Comparison:
        regressed, improved, _ = random.multinomial(n, [differing / 2, differing / 2, 1])
        key = (int(regressed), int(improved))
        if key not in known:
            known[key] = comparison(pairs(*key, n))
        return known[key]

    false_claims = sum(
        judge([draw() for _ in range(n_tasks)], [0.08] * n_tasks, GATE).verdict == "regression"
        for _ in range(n_suites)
    )

    assert false_claims <= GATE.alpha * n_suites


def test_the_adjusted_level_is_that_of_the_wider_interval() -> None:
    results = [pairs(14, 2, 60), pairs(9, 2, 50), pairs(3, 2, 30)]
    tasks = judge([comparison(result) for result in results], [0.08] * 3, GATE).tasks
    # Holm's levels for the first, second and third: 0.05/3, 0.05/2, 0.05, until one fails.
    uppers = [
        tango_upper(14, 2, 60, 0.05 / 3),
        tango_upper(9, 2, 50, 0.05 / 2),
        tango_upper(3, 2, 30, 0.05),
    ]

    assert [upper < 0 for upper in uppers] == [task.verdict == "regression" for task in tasks]
    assert {task.verdict for task in tasks} == {"regression", "inconclusive"}


def tango_upper(regressed: int, improved: int, n: int, alpha: float) -> float:
    from vlmserve.evals.proportions import tango_interval

    return tango_interval(regressed, improved, n, alpha=alpha)[1]


@pytest.mark.parametrize(
    ("results", "overall"),
    [
        ([pairs(1, 1, 200), pairs(30, 2, 200), pairs(3, 1, 20)], "regression"),
        ([pairs(1, 1, 200), pairs(3, 1, 20)], "inconclusive"),
        ([pairs(1, 1, 200), pairs(2, 1, 200)], "pass"),
    ],
)
def test_the_worst_task_decides(results: list[PairedResult], overall: Verdict) -> None:
    judgement = judge([comparison(r) for r in results], [0.08] * len(results), GATE)

    assert judgement.verdict == overall


def test_tasks_that_are_not_gated_decide_nothing() -> None:
    judgement = judge(
        [comparison(pairs(30, 2, 200)), comparison(pairs(1, 1, 200))], [None, 0.08], GATE
    )

    assert judgement.verdict == "pass"
    assert [task.verdict for task in judgement.tasks] == ["not gated", "pass"]
    with pytest.raises(ValueError, match="no task is gated"):
        judge([comparison(pairs(1, 1, 200))], [None], GATE)


def test_more_failures_than_allowed_are_inconclusive() -> None:
    few = judge([comparison(pairs(1, 1, 196), failed=(4, 0))], [0.08], GATE)
    many = judge([comparison(pairs(1, 1, 195), failed=(0, 5))], [0.08], GATE)

    assert few.verdict == "pass"
    assert many.verdict == "inconclusive"
    assert "0 of 200 samples failed on the baseline, 5 on the candidate" in many.tasks[0].reason


def test_failures_that_could_turn_a_pass_are_inconclusive() -> None:
    good, bad = pairs(4, 4, 120), pairs(9, 4, 120)
    assert (verdict_of(good), verdict_of(bad)) == ("pass", "inconclusive")

    judgement = judge([comparison(good, worst=bad, failed=(0, 2))], [0.08], GATE)
    assert judgement.verdict == "inconclusive"
    assert "could change the verdict" in judgement.tasks[0].reason


def test_failures_that_could_undo_a_regression_are_inconclusive() -> None:
    bad, better = pairs(12, 2, 110), pairs(8, 3, 110)
    assert (verdict_of(bad), verdict_of(better)) == ("regression", "inconclusive")

    judgement = judge([comparison(bad, best=better, failed=(2, 0))], [0.08], GATE)
    assert judgement.verdict == "inconclusive"


def test_failures_of_another_task_may_cast_doubt_through_holm() -> None:
    # In a family of two the first is sure only while the other's small loss is surer still.
    sound = pairs(9, 2, 50)
    assert 0.05 > sound.drop_level > 0.025
    small_loss, no_loss = pairs(14, 2, 600), pairs(8, 6, 600)
    assert small_loss.drop_level < 0.025 < no_loss.drop_level
    other = comparison(small_loss, best=no_loss, failed=(6, 0))

    first, second = judge([comparison(sound), comparison(small_loss)], [0.08, 0.08], GATE).tasks
    assert (first.verdict, second.verdict) == ("regression", "pass")
    first, second = judge([comparison(sound), other], [0.08, 0.08], GATE).tasks
    assert (first.verdict, second.verdict) == ("inconclusive", "pass")
    assert "failed samples of other tasks could change the verdict" in first.reason


def test_the_verdict_is_said_in_words() -> None:
    reasons = [
        judge([comparison(result)], [margin], GATE).tasks[0].reason
        for result, margin in ((pairs(1, 1, 200), 0.08), (pairs(30, 2, 200), 0.08))
    ]

    assert reasons == ["pass (no worse than 8 points)", "regression (worse beyond chance)"]
    assert describe_amount(0.01, in_points=True) == "1 point"
    assert describe_amount(0.125, in_points=True) == "12.5 points"
    assert describe_amount(3.0, in_points=False) == "3"


def test_an_inconclusive_verdict_says_how_many_samples_might_decide() -> None:
    import re

    result = pairs(6, 6, 60)
    reason = judge([comparison(result)], [0.08], GATE).tasks[0].reason
    found = re.search(r"about (\d+) samples might decide", reason)
    assert found is not None
    n = int(found[1])

    scale = n / 60
    assert n > 60
    assert verdict_of(pairs(round(6 * scale), round(6 * scale), n), margin=0.085) == "pass"


def target_verdict(result: PairedResult | None, **more: Any) -> TaskVerdict:
    judged = judge([comparison(result, **more)], [None], GATE, targets=[True])
    return judged.tasks[0]


def test_a_target_improves_when_its_whole_interval_is_above_zero() -> None:
    gain, none, loss = pairs(2, 30, 200), pairs(10, 12, 200), pairs(30, 2, 200)
    assert gain.lower > 0 > none.lower

    assert target_verdict(gain).verdict == "improved"
    assert target_verdict(none).verdict == "not improved"
    assert "no gain beyond chance" in target_verdict(none).reason
    # Worse beyond chance, and still no regression: it has a wording of its own.
    assert target_verdict(loss).verdict == "not improved"
    assert "worse by itself" in target_verdict(loss).reason


def test_a_target_that_does_not_improve_fails_the_suite_with_its_own_name() -> None:
    good, none, doubtful = pairs(1, 1, 300), pairs(1, 1, 300), pairs(3, 1, 20)
    both = [comparison(good), comparison(none)]
    judged = judge(both, [0.08, None], GATE, targets=[False, True])

    assert judged.verdict == "not improved"
    assert EXIT_STATUS[judged.verdict] == 1
    assert [task.verdict for task in judged.tasks] == ["pass", "not improved"]
    doubts = [comparison(doubtful), comparison(none)]
    assert judge(doubts, [0.08, None], GATE, targets=[False, True]).verdict == "not improved"
    worse = [comparison(pairs(60, 2, 200)), comparison(none)]
    assert judge(worse, [0.08, None], GATE, targets=[False, True]).verdict == "regression"


def test_targets_alone_are_something_to_judge_and_all_must_improve() -> None:
    gain, none = comparison(pairs(2, 30, 200)), comparison(pairs(1, 1, 200))

    assert judge([gain, gain], [None, None], GATE, targets=[True, True]).verdict == "pass"
    assert judge([gain, none], [None, None], GATE, targets=[True, True]).verdict == "not improved"


def test_targets_are_no_part_of_the_family_of_regressions() -> None:
    worse = pairs(18, 4, 200)
    alone = judge([comparison(worse)], [0.001], GATE).tasks[0]
    beside = judge(
        [comparison(worse), *[comparison(pairs(1, 1, 200))] * 9],
        [0.001, *[None] * 9],
        GATE,
        targets=[False, *[True] * 9],
    ).tasks

    assert alone.verdict == "regression"
    assert beside[0] == alone
    assert {task.adjusted_level for task in beside[1:]} == {None}


def test_failures_that_could_undo_or_make_a_gain_leave_it_open() -> None:
    gain, none = pairs(2, 14, 200), pairs(5, 9, 200)
    failed = (0, 3)

    undone = target_verdict(gain, worst=none, best=gain, failed=failed)
    made = target_verdict(none, worst=none, best=gain, failed=failed)
    assert undone.verdict == made.verdict == "inconclusive"
    assert "their scores could change the verdict" in undone.reason
    assert target_verdict(None).verdict == "inconclusive"


def test_targets_that_do_not_improve_are_rarely_called_improved() -> None:
    rng = np.random.default_rng(0)
    n_runs, called = 2000, 0
    for _ in range(n_runs):
        regressed, improved, _ = rng.multinomial(200, [0.1, 0.1, 0.8])
        called += target_verdict(pairs(int(regressed), int(improved), 200)).verdict == "improved"

    # The lower end of a two-sided interval of 95 %: once in forty, and three standard errors.
    assert called / n_runs <= 0.025 + 3 * (0.025 * 0.975 / n_runs) ** 0.5
