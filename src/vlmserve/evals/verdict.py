"""From records to a verdict: compare, judge, look at kinds of samples. Asks nothing.

A run that has just ended and one that was kept long ago go through the same lines.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vlmserve.config.suite import GateConfig
from vlmserve.evals.anchor import anchor_notes, weigh_anchor
from vlmserve.evals.compare import Comparison, compare_task
from vlmserve.evals.gate import TaskVerdict, Verdict, judge
from vlmserve.evals.nll import NllOutcomes, TaskNll, compare_nll, find_early_warnings
from vlmserve.evals.noise import Noise, measure_noise
from vlmserve.evals.records import SampleRecord, SideName
from vlmserve.evals.report.describe import create_slice_reports, create_task_reports
from vlmserve.evals.report.task_report import SliceReport, TaskReport
from vlmserve.evals.samples import Sample
from vlmserve.evals.slices import Slice, adjust_slices, find_slices
from vlmserve.evals.weigh_nll import nll_notes, weigh_nll

if TYPE_CHECKING:
    from vlmserve.evals.eval_task import AskedTask

# A few answers run on in any model; many mean that the limit is too low for the task.
_MAX_CUT_FRACTION = 0.05


@dataclass(frozen=True, slots=True)
class TaskRun:
    """One task, and what became of its samples on every side."""

    task: "AskedTask"
    margin: float | None
    """The drop that it may show; ``None`` where it is not gated, or must improve."""

    records: Mapping[SideName, Sequence[SampleRecord]]
    """One record for each sample that was asked, in their order; of baseline and candidate, and of
    the baseline's repetition and of an anchor where there was one."""

    asked: Sequence[Sample] | None = None
    """The samples in the order of asking, where it was stopped as soon as it was enough; ``None``
    where all of the task's own were asked."""

    improve: bool = False
    """Whether the candidate must be better."""

    nll: NllOutcomes = field(default_factory=dict)
    """How likely baseline and candidate find the expected answers, of the samples chosen for it;
    empty where that was not measured."""

    nll_margin: float | None = None
    """The acceptable rise of it, in nats a token; ``None`` where it does not decide."""

    @property
    def samples(self) -> Sequence[Sample]:
        """The samples that the records are of."""
        return self.task.samples if self.asked is None else self.asked


@dataclass(frozen=True, slots=True)
class Findings:
    """What the records say."""

    verdict: Verdict
    tasks: tuple[TaskReport, ...]
    slices: tuple[SliceReport, ...]
    notes: tuple[str, ...]
    """Things that a reader of the verdict should know."""


def find_verdict(runs: Sequence[TaskRun], gate: GateConfig) -> Findings:
    """Judge the candidate of a suite's tasks against the baseline.

    Args:
        runs: The tasks, in the suite's order.
        gate: Levels and limits.

    Raises:
        ValueError: No task is gated, or records are not of their task's samples.
    """
    k = len(runs)
    comparisons = [_compare(run, gate.alpha) for run in runs]
    anchored = [_compare(run, gate.alpha, "anchor") for run in runs if "anchor" in run.records]
    margins = [run.margin for run in runs]
    targets = [run.improve for run in runs]
    # A target must improve on the baseline; a drop from the anchor it may show like any other.
    fallen = [gate.margin if run.improve else run.margin for run in runs if anchored]
    nlls = [compare_nll(run.task, run.nll, alpha=gate.alpha, margin=run.nll_margin) for run in runs]
    # Those that a margin is stated for are judged together with the tasks: one family.
    gated = [
        (nll.comparison, run)
        for nll, run in zip(nlls, runs, strict=True)
        if nll is not None and _decides(run, nll)
    ]
    judgement = judge(
        [*comparisons, *anchored, *(comparison for comparison, _ in gated)],
        [*margins, *fallen, *(run.nll_margin for _, run in gated)],
        gate,
        targets=[*targets, *(False for _ in [*anchored, *gated])],
    )
    asked = [run.task for run in runs]
    tasks = create_task_reports(
        asked, comparisons, judgement.tasks[:k], margins, [_noise(run) for run in runs]
    )
    others: tuple[TaskReport, ...] = ()
    if anchored:
        others = create_task_reports(
            asked, anchored, judgement.tasks[k : 2 * k], fallen, [None] * k
        )
        tasks = tuple(map(weigh_anchor, tasks, others))
    warned = find_early_warnings(nlls, comparisons, gate.alpha)
    tasks = _weigh_nlls(tasks, runs, nlls, judgement.tasks[k + len(anchored) :], warned)
    return Findings(
        verdict=judgement.verdict,
        tasks=tasks,
        slices=create_slice_reports(_slices(runs, comparisons), comparisons, gate.alpha),
        notes=(
            *(anchor_notes(tasks, others) if others else ()),
            *_saving_note(tasks),
            *_noise_note(tasks),
            *nll_notes(tasks),
            *(note for task in tasks for note in _cluster_note(task)),
            *(note for task in tasks for note in _answer_notes(task)),
        ),
    )


def _decides(run: TaskRun, nll: TaskNll | None) -> bool:
    return nll is not None and run.nll_margin is not None


def _weigh_nlls(
    tasks: Sequence[TaskReport],
    runs: Sequence[TaskRun],
    nlls: Sequence[TaskNll | None],
    verdicts: Sequence[TaskVerdict],
    warned: Sequence[bool],
) -> tuple[TaskReport, ...]:
    """Add the NLLs to the tasks' reports; ``verdicts`` are of those that decide."""
    left = iter(verdicts)
    return tuple(
        weigh_nll(
            task,
            nll,
            run.nll_margin,
            next(left) if _decides(run, nll) else None,
            is_warning=is_warning,
        )
        for task, run, nll, is_warning in zip(tasks, runs, nlls, warned, strict=True)
    )


def _compare(run: TaskRun, alpha: float, before: SideName = "baseline") -> Comparison:
    return compare_task(
        run.task,
        run.records[before],
        run.records["candidate"],
        alpha=alpha,
        asked=run.asked,
    )


def _slices(runs: Sequence[TaskRun], comparisons: Sequence[Comparison]) -> list[Slice]:
    return adjust_slices(
        {
            run.task.name: find_slices(run.task, run.samples, comparison.scores)
            for run, comparison in zip(runs, comparisons, strict=True)
        }
    )


def _noise(run: TaskRun) -> Noise | None:
    again = run.records.get("repeat")
    if again is None or run.task.is_relative:
        return None
    higher_is_better = run.task.higher_is_better
    return measure_noise(run.records["baseline"], again, higher_is_better=higher_is_better)


def _saving_note(tasks: Sequence[TaskReport]) -> Iterator[str]:
    early = [task for task in tasks if task.n_samples < task.n_available]
    if early:
        used = sum(task.n_samples for task in early)
        available = sum(task.n_available for task in early)
        tasks_were = "1 task was" if len(early) == 1 else f"{len(early)} tasks were"
        yield (
            f"{tasks_were} decided before the end, by {used} of {available} samples: "
            f"{1 - used / available:.0%} were saved; kinds of samples that got worse there are "
            "only hints, since asking stops where things look decided"
        )


def _noise_note(tasks: Sequence[TaskReport]) -> Iterator[str]:
    noise = [task.noise for task in tasks if task.noise is not None]
    if not noise:
        return
    n_pairs, n_changed = (sum(getattr(n, key) for n in noise) for key in ("n_pairs", "n_changed"))
    n_flips = sum(each.n_worse + each.n_better for each in noise)
    share = n_changed / n_pairs if n_pairs else 0.0
    yield (
        f"asked twice, the baseline changed {n_changed} of {n_pairs} answers ({share:.1%}), "
        f"{n_flips} of them in their score: so much is the engine's noise"
    )


def _cluster_note(task: TaskReport) -> Iterator[str]:
    if task.n_clusters < task.n_pairs:
        yield (
            f"{task.task}: {task.n_pairs} samples ask about {task.n_clusters} images, videos or "
            "texts; the interval allows for samples that rise and fall together"
        )


def _answer_notes(task: TaskReport) -> Iterator[str]:
    cut = max(task.n_cut_baseline, task.n_cut_candidate)
    if cut > _MAX_CUT_FRACTION * task.n_samples:
        yield (
            f"{task.task}: {cut} of {task.n_samples} answers ended at max_tokens; raise "
            "sampling.max_tokens if they should have gone on"
        )
