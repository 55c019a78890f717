"""Turns comparisons into a verdict: pass, regression, not improved or inconclusive.

For a gated task with margin m, and the two-sided interval of confidence ``1 - alpha`` for the
difference (candidate minus baseline):

- **pass** if the interval's lower end is above -m: the task is no worse than m. No correction for
  the number of tasks is needed, since the suite passes only if every gated task does
  (R. L. Berger 1982, Multiparameter hypothesis testing and acceptance sampling, Technometrics 24).
- else **regression** if the upper end of a wider interval is below 0. The family are all k gated
  tasks that have pairs, those that pass among them: a family of the tasks that did not pass would
  be chosen by the outcome, and the levels too generous. Holm's procedure orders them by the level
  at which their interval just touches 0 and gives them the levels alpha/k, alpha/(k-1), ..., alpha,
  stopping at the first whose interval of confidence ``1 - level`` reaches 0. So the chance that any
  regression is claimed where there is none stays below alpha, as far as the intervals keep their
  level.
- else **inconclusive**.

A target, a task that must improve, is judged by the same interval:

- **improved** if its lower end is above 0. No correction for the number of targets is needed, for
  the same reason as with **pass**: the suite passes only if every one of them improved.
- else **not improved**. That a gain cannot be shown is enough, whatever the number of samples: who
  asks for a gain has to show it. It is no regression, and is said in words of its own.

Targets are chosen before anything is asked and are never called regressions, so they are no part of
Holm's family.

Where there is an anchor, a fixed point beside the baseline, every gated task is compared twice, and
all comparisons are judged together: they are one family, and a task's verdict is the graver of its
two. A target must improve on the baseline; against the anchor it has the gate's margin.

Where a suite states a margin for the NLL of a task's expected answers (``vlmserve.evals.nll``),
that is one more gated comparison: judged as a task is, one more member of Holm's family, and the
task's verdict is the gravest that it has.

A margin of 1 or more is no margin for scores that all lie between 0 and 1: 8 was written for 8
points, which are 0.08. Such a task is inconclusive.

Failed samples are in no pair. A verdict counts only while they cannot have decided it: a task is
inconclusive if more than ``max_failed_fraction`` of its samples failed on a side, or if its verdict
would be another one with every failure counted against the candidate, or every one for it.

The suite is a regression if any gated task is, else not improved if a target is not, else
inconclusive if any task is, else it passes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vlmserve.config.suite import GateConfig
from vlmserve.evals.compare import Comparison
from vlmserve.evals.statistics import PairedResult, holm_adjust

Verdict = Literal["pass", "regression", "not improved", "inconclusive"]
TaskVerdictName = Literal[
    "pass", "regression", "improved", "not improved", "inconclusive", "not gated"
]

EXIT_STATUS: dict[Verdict, int] = {
    "pass": 0,
    "regression": 1,
    "not improved": 1,
    "inconclusive": 3,
}

# The gravest first: what one task says of the suite. A suite of which nothing is said passes.
_GRAVEST: tuple[Verdict, ...] = ("regression", "not improved", "inconclusive")


@dataclass(frozen=True, slots=True)
class TaskVerdict:
    """What one task says."""

    verdict: TaskVerdictName
    reason: str
    """The verdict in words, with its margin or what stands in the way."""

    adjusted_level: float | None
    """The level at which Holm's procedure would still call the task lower, in ``[0, 1]``: below
    alpha it is lower beyond chance, which is a regression unless the drop is within the margin.
    ``None`` for tasks that lack pairs, must improve or are not gated."""

    must_improve: bool = False
    """Whether it was judged as a target."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What all tasks say together."""

    verdict: Verdict
    tasks: tuple[TaskVerdict, ...]
    """In the order of the comparisons."""


def judge(
    comparisons: Sequence[Comparison],
    margins: Sequence[float | None],
    gate: GateConfig,
    *,
    targets: Sequence[bool] | None = None,
) -> Judgement:
    """Judge the tasks of a suite.

    Args:
        comparisons: Shape ``(k,)``.
        margins: Shape ``(k,)``: the acceptable drop of each task, ``None`` where it has none:
            because it is not gated, or because it must improve.
        gate: Levels and limits.
        targets: Shape ``(k,)``: which tasks must improve; none when ``None``.

    Raises:
        ValueError: No task is gated.
    """
    aims = _aims(margins, targets)
    gated = [
        (comparison, aim)
        for comparison, aim in zip(comparisons, aims, strict=True)
        if aim is not None
    ]
    if not gated:
        raise ValueError("no task is gated")
    tolerated = [aim for _, aim in gated]
    cases = [
        _judge_results(results, tolerated, gate.alpha)
        for results in (
            [comparison.pairs for comparison, _ in gated],
            [comparison.worst_case for comparison, _ in gated],
            [comparison.best_case for comparison, _ in gated],
        )
    ]
    verdicts = iter(
        _judge_task(comparison, aim, pairs, (worst.verdict, best.verdict), gate)
        for (comparison, aim), pairs, worst, best in zip(gated, *cases, strict=True)
    )
    tasks = tuple(
        TaskVerdict(verdict="not gated", reason="not gated", adjusted_level=None)
        if aim is None
        else next(verdicts)
        for aim in aims
    )
    names = {task.verdict for task in tasks}
    overall: Verdict = next((name for name in _GRAVEST if name in names), "pass")
    return Judgement(verdict=overall, tasks=tasks)


class _Improve:
    """What is asked of a target, in the place of a margin."""


_IMPROVE = _Improve()
_Aim = float | _Improve


def _aims(
    margins: Sequence[float | None], targets: Sequence[bool] | None
) -> list[float | _Improve | None]:
    if targets is None:
        return list(margins)
    return [
        _IMPROVE if is_target else margin
        for margin, is_target in zip(margins, targets, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class _Case:
    """A task's verdict if these were all its results."""

    verdict: TaskVerdictName
    adjusted_level: float | None = None
    n_family: int = 0
    """Tasks that Holm's procedure looked at together with this one, itself included."""


def _judge_results(
    results: Sequence[PairedResult | None], aims: Sequence[_Aim], alpha: float
) -> list[_Case]:
    family = [
        result.drop_level
        for result, aim in zip(results, aims, strict=True)
        if result is not None and not isinstance(aim, _Improve)
    ]
    levels = iter(holm_adjust(family))
    cases: list[_Case] = []
    for result, aim in zip(results, aims, strict=True):
        if result is None:
            cases.append(_Case("inconclusive"))
            continue
        if isinstance(aim, _Improve):
            cases.append(_Case("improved" if result.lower > 0 else "not improved"))
            continue
        level = next(levels)
        verdict: TaskVerdictName = "inconclusive"
        if result.lower > -aim:
            verdict = "pass"
        elif level < alpha:
            verdict = "regression"
        cases.append(_Case(verdict, level, len(family)))
    return cases


def _judge_task(
    comparison: Comparison,
    aim: _Aim,
    case: _Case,
    bounds: tuple[TaskVerdictName, TaskVerdictName],
    gate: GateConfig,
) -> TaskVerdict:
    if isinstance(aim, _Improve):
        return _judge_target(comparison, case, bounds, gate)
    margin = aim
    drop = comparison.describe(margin)
    doubt = _no_margin(comparison, margin) or _failures_in_the_way(comparison, case, bounds, gate)
    if doubt is None and case.verdict == "pass":
        return TaskVerdict("pass", f"pass (no worse than {drop})", case.adjusted_level)
    if doubt is None and case.verdict == "regression":
        return TaskVerdict("regression", "regression (worse beyond chance)", case.adjusted_level)
    pairs = comparison.pairs
    if doubt is None and pairs is not None:
        n_needed = _n_needed(pairs, margin)
        excluded = comparison.describe(-pairs.lower)
        doubt = (
            f"a {comparison.drop_word} of {drop} is not ruled out, only one of {excluded} is; "
            f"about {n_needed} samples might decide"
        )
        if pairs.upper < 0:
            doubt = f"worse by itself, but not beyond chance among {case.n_family} gated tasks"
    return TaskVerdict("inconclusive", f"inconclusive ({doubt})", case.adjusted_level)


def _judge_target(
    comparison: Comparison,
    case: _Case,
    bounds: tuple[TaskVerdictName, TaskVerdictName],
    gate: GateConfig,
) -> TaskVerdict:
    doubt = _failures_in_the_way(comparison, case, bounds, gate)
    pairs = comparison.pairs
    if doubt is not None or pairs is None:
        return TaskVerdict("inconclusive", f"inconclusive ({doubt})", None, must_improve=True)
    if case.verdict == "improved":
        return TaskVerdict("improved", "improved (better beyond chance)", None, must_improve=True)
    seen = comparison.describe(pairs.detectable)
    what = "worse by itself" if pairs.upper < 0 else "no gain beyond chance"
    return TaskVerdict(
        "not improved",
        f"not improved ({what}; a gain of {seen} would be seen four times out of five)",
        None,
        must_improve=True,
    )


def _no_margin(comparison: Comparison, margin: float) -> str | None:
    """Say why a margin would let everything pass, if it would."""
    if comparison.in_points and margin >= 1.0:
        return f"a margin of {margin:g} is the whole scale of 0 to 1; 8 points are 0.08"
    return None


def _failures_in_the_way(
    comparison: Comparison,
    case: _Case,
    bounds: tuple[TaskVerdictName, TaskVerdictName],
    gate: GateConfig,
) -> str | None:
    """Say why failed samples forbid a verdict, if they do."""
    failed = (
        f"{comparison.n_failed_baseline} of {comparison.n_samples} samples failed on the "
        f"baseline, {comparison.n_failed_candidate} on the candidate"
    )
    if comparison.n_failed > gate.max_failed_fraction * comparison.n_samples:
        return f"{failed}; {gate.max_failed_fraction:.1%} may"
    if comparison.pairs is None:
        return comparison.why_no_pairs
    if case.verdict == "inconclusive" or all(bound == case.verdict for bound in bounds):
        return None
    if comparison.n_failed == 0:
        # The levels of Holm's procedure depend on the other tasks.
        return "failed samples of other tasks could change the verdict"
    return f"{failed}; their scores could change the verdict"


def _n_needed(pairs: PairedResult, margin: float) -> int:
    """Pairs that would decide if the difference and its spread stayed what they are.

    The interval shrinks with the root of their number, until it ends above -margin or below 0.
    """
    ways = (
        ((pairs.difference - pairs.lower), pairs.difference + margin),
        ((pairs.upper - pairs.difference), -pairs.difference),
    )
    ratios = [half / room for half, room in ways if room > 0]
    return max(pairs.n_pairs + 1, math.ceil(pairs.n_pairs * min(ratios) ** 2))
