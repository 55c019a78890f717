"""Say of tasks, slices and failed samples what was found, as the report has it."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from vlmserve.evals.compare import Comparison, FailedSample, Flip
from vlmserve.evals.gate import TaskVerdict
from vlmserve.evals.noise import Noise
from vlmserve.evals.report.task_report import (
    AnswerReport,
    FailureReport,
    FlipReport,
    FlipsReport,
    MediumReport,
    NoiseReport,
    SliceReport,
    TaskReport,
)
from vlmserve.evals.samples import Sample
from vlmserve.evals.slices import Slice

if TYPE_CHECKING:
    from vlmserve.evals.eval_task import AskedTask


def create_task_reports(
    tasks: Sequence["AskedTask"],
    comparisons: Sequence[Comparison],
    verdicts: Sequence[TaskVerdict],
    margins: Sequence[float | None],
    noise: Sequence[Noise | None],
) -> tuple[TaskReport, ...]:
    """Say of each task what was found; all arguments have one entry a task."""
    reports = (
        _task_report(task, comparison, verdict, margin)
        for task, comparison, verdict, margin in zip(
            tasks, comparisons, verdicts, margins, strict=True
        )
    )
    return tuple(
        report.model_copy(update={"noise": None if each is None else NoiseReport(**asdict(each))})
        for report, each in zip(reports, noise, strict=True)
    )


def create_slice_reports(
    slices: Sequence[Slice], comparisons: Sequence[Comparison], alpha: float
) -> tuple[SliceReport, ...]:
    """Say of each slice what was found, in the metrics' own units."""
    by_task = {comparison.task: comparison for comparison in comparisons}
    return tuple(_slice_report(each, by_task[each.task], alpha) for each in slices)


def _slice_report(found: Slice, comparison: Comparison, alpha: float) -> SliceReport:
    pairs = found.pairs
    sign = 1.0 if comparison.higher_is_better else -1.0
    lower, upper = sorted((sign * pairs.lower, sign * pairs.upper))
    turn = comparison.orientation
    return SliceReport(
        task=found.task,
        name=found.name,
        in_points=comparison.in_points,
        n_pairs=pairs.n_pairs,
        baseline=turn(pairs.baseline),
        candidate=turn(pairs.candidate),
        difference=sign * pairs.difference + 0.0,  # -0.0 is 0.0
        lower=lower,
        upper=upper,
        p_value=pairs.p_value,
        adjusted_p=found.adjusted_p,
        is_worse=pairs.difference < 0 and found.adjusted_p <= alpha,
    )


def _task_report(
    task: "AskedTask", comparison: Comparison, verdict: TaskVerdict, margin: float | None
) -> TaskReport:
    pairs = comparison.pairs
    # Results are oriented so that lower is worse; the report speaks the metric's own language.
    sign = 1.0 if comparison.higher_is_better else -1.0
    ends = None if pairs is None else sorted((sign * pairs.lower, sign * pairs.upper))
    turn = comparison.orientation
    return TaskReport(
        task=task.name,
        metric=task.metric,
        higher_is_better=comparison.higher_is_better,
        in_points=comparison.in_points,
        gated=verdict.verdict != "not gated",
        improve=verdict.must_improve,
        margin=margin,
        verdict=verdict.verdict,
        reason=verdict.reason,
        n_available=len(task.samples),
        n_samples=comparison.n_samples,
        n_pairs=0 if pairs is None else pairs.n_pairs,
        n_clusters=0 if pairs is None else pairs.n_clusters,
        n_failed_baseline=comparison.n_failed_baseline,
        n_failed_candidate=comparison.n_failed_candidate,
        n_cut_baseline=comparison.n_cut_baseline,
        n_cut_candidate=comparison.n_cut_candidate,
        method=None if pairs is None else pairs.method,
        baseline=None if pairs is None else turn(pairs.baseline),
        candidate=None if pairs is None else turn(pairs.candidate),
        difference=None if pairs is None else sign * pairs.difference + 0.0,
        lower=None if ends is None else ends[0],
        upper=None if ends is None else ends[1],
        detectable=None if pairs is None else pairs.detectable,
        p_value=None if pairs is None else pairs.p_value,
        sign_flip_p=None if pairs is None else pairs.sign_flip_p,
        adjusted_level=verdict.adjusted_level,
        flips=FlipsReport(
            regressed=tuple(_flip(flip) for flip in comparison.regressed),
            improved=tuple(_flip(flip) for flip in comparison.improved),
        ),
        failures=tuple(create_failure_report(failed) for failed in comparison.failures),
    )


def _flip(flip: Flip) -> FlipReport:
    return FlipReport(
        sample_id=flip.sample.sample_id,
        question=flip.sample.question,
        target=flip.sample.target,
        baseline=AnswerReport(answer=flip.baseline.answer, score=flip.baseline.score),
        candidate=AnswerReport(answer=flip.candidate.answer, score=flip.candidate.score),
        media=_media(flip.sample),
    )


def _media(sample: Sample) -> tuple[MediumReport, ...]:
    return tuple(
        MediumReport(content_type=medium.content_type, sha256=medium.sha256)
        for medium in sample.media
    )


def create_failure_report(failed: FailedSample) -> FailureReport:
    """Say of a failed sample what a reader needs to find it."""
    return FailureReport(
        sample_id=failed.sample.sample_id,
        side=failed.side,
        question=failed.sample.question,
        target=failed.sample.target,
        error_type=failed.failure.error_type,
        message=failed.failure.message,
        media=_media(failed.sample),
    )
