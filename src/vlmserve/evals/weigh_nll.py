"""Puts what was found of the expected answers' likelihoods into a task's report."""

from collections.abc import Iterator, Sequence

from vlmserve.evals.anchor import gravity
from vlmserve.evals.gate import TaskVerdict
from vlmserve.evals.nll import TaskNll
from vlmserve.evals.report.describe import create_failure_report
from vlmserve.evals.report.task_report import (
    FlipReport,
    FlipsReport,
    MeasureReport,
    NllReport,
    TaskReport,
)
from vlmserve.evals.statistics import PairedResult


def weigh_nll(
    task: TaskReport,
    nll: TaskNll | None,
    margin: float | None,
    verdict: TaskVerdict | None,
    *,
    is_warning: bool,
) -> TaskReport:
    """Add a task's NLL to its report, and let its verdict count where it is the graver.

    Args:
        task: The task by its metric.
        nll: What was found; ``None`` where nothing was measured.
        margin: The acceptable rise, where the task is gated by it.
        verdict: Of the NLL, where it is gated.
        is_warning: Whether it is worse while the metric is not.
    """
    if nll is None:
        return task
    flips = FlipsReport(
        regressed=tuple(_with_nll(flip, nll) for flip in task.flips.regressed),
        improved=tuple(_with_nll(flip, nll) for flip in task.flips.improved),
    )
    update: dict[str, object] = {
        "nll": _nll_report(nll, margin, verdict, is_warning=is_warning),
        "flips": flips,
    }
    if verdict is not None and gravity(verdict.verdict) < gravity(task.verdict):
        words = verdict.reason.removeprefix(verdict.verdict).strip()
        update["verdict"] = verdict.verdict
        update["reason"] = f"{verdict.verdict} by NLL {words}"
    return task.model_copy(update=update)


def nll_notes(tasks: Sequence[TaskReport]) -> Iterator[str]:
    """Say where the NLL warns, and where it could not be told."""
    for task in tasks:
        measure = None if task.nll is None else task.nll.per_token
        if task.nll is None or measure is None or not task.nll.is_early_warning:
            continue
        yield (
            f"early warning, {task.task}: the NLL of the expected answers rose by "
            f"{measure.difference:.3g} nats a token [{measure.lower:.3g}, {measure.upper:.3g}], "
            f"beyond chance, while {task.metric} did not get worse beyond chance"
        )
    for task in tasks:
        nll = task.nll
        if nll is not None and nll.failures:
            yield (
                f"{task.task}: the NLL of {nll.n_failed_baseline} of {nll.n_samples} expected "
                f"answers could not be told on the baseline, of {nll.n_failed_candidate} on the "
                f"candidate ({nll.failures[0].message})"
            )


def _nll_report(
    nll: TaskNll, margin: float | None, verdict: TaskVerdict | None, *, is_warning: bool
) -> NllReport:
    comparison = nll.comparison
    pairs = comparison.pairs
    return NllReport(
        n_samples=comparison.n_samples,
        n_pairs=0 if pairs is None else pairs.n_pairs,
        n_clusters=0 if pairs is None else pairs.n_clusters,
        n_failed_baseline=comparison.n_failed_baseline,
        n_failed_candidate=comparison.n_failed_candidate,
        per_token=_measure(pairs),
        per_byte=_measure(nll.per_byte),
        margin=margin,
        verdict="not gated" if verdict is None else verdict.verdict,
        reason="not gated" if verdict is None else verdict.reason,
        is_early_warning=is_warning,
        failures=tuple(create_failure_report(failed) for failed in comparison.failures),
    )


def _measure(pairs: PairedResult | None) -> MeasureReport | None:
    if pairs is None:
        return None
    # Results are oriented so that lower is worse; an NLL is worse when it is higher.
    return MeasureReport(
        baseline=-pairs.baseline + 0.0,
        candidate=-pairs.candidate + 0.0,
        difference=-pairs.difference + 0.0,
        lower=-pairs.upper + 0.0,
        upper=-pairs.lower + 0.0,
        detectable=pairs.detectable,
        p_value=pairs.p_value,
        sign_flip_p=pairs.sign_flip_p,
    )


def _with_nll(flip: FlipReport, nll: TaskNll) -> FlipReport:
    before, after = nll.values.get(flip.sample_id, (None, None))
    return flip.model_copy(
        update={
            "baseline": flip.baseline.model_copy(update={"nll": before}),
            "candidate": flip.candidate.model_copy(update={"nll": after}),
        }
    )
