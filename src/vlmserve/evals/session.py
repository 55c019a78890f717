"""One evaluation from end to end: plan both sides, ask what is missing, compare, judge."""

import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from vlmserve.config.suite import SuiteConfig
from vlmserve.evals.answering import Shared, Side, answer_sides
from vlmserve.evals.compare import Comparison, compare_task
from vlmserve.evals.early_stop import EarlyStop
from vlmserve.evals.gate import judge
from vlmserve.evals.noise import Noise, measure_noise
from vlmserve.evals.records import SideName
from vlmserve.evals.report.json_report import (
    EvalReport,
    SideReport,
    SuiteReport,
    TaskReport,
    create_slice_reports,
    create_task_reports,
)
from vlmserve.evals.runner import (
    AnswerListener,
    SideRun,
    SilentListener,
)
from vlmserve.evals.samples import content_digest
from vlmserve.evals.slices import Slice, adjust_slices, find_slices
from vlmserve.evals.store import AnswerStore

if TYPE_CHECKING:
    from vlmserve.evals.eval_task import EvalTask

# What the scores rest on, beside vlmserve itself.
_SCORING_PACKAGES = ("vlmserve", "lm_eval", "datasets", "rapidfuzz", "scipy", "numpy")

# A few answers run on in any model; many mean that the limit is too low for the task.
_MAX_CUT_FRACTION = 0.05


@dataclass(frozen=True, slots=True)
class Session:
    """One suite, ready to be put to two sides."""

    suite: SuiteConfig
    tasks: Sequence["EvalTask"]
    """The suite's tasks, loaded."""

    store: AnswerStore
    """Where answers are kept; the report goes there, too."""

    run_id: str
    """Names the run in the store."""

    limit: int | None = None
    """How the tasks were limited when they were loaded."""

    sequential: bool = False
    """Stop asking a task as soon as its margin is decided."""

    repeats_baseline: bool = False
    """Ask the baseline twice, to see how often its answers change by themselves."""

    listener: AnswerListener = field(default_factory=SilentListener)

    def evaluate(self, baseline: Side, candidate: Side) -> EvalReport:
        """Judge a candidate against a baseline.

        An engine is started only if an answer of its side is missing, and the baseline's is closed
        before the candidate's starts unless they share one.

        Raises:
            EngineError: An engine cannot be started or is gone; the answers so far are in the
                store.
        """
        started_at = datetime.now(UTC)
        suite, tasks = self.suite, self.tasks
        margins = [suite.margin_of(entry) if entry.gate else None for entry in suite.tasks]
        stop = EarlyStop(tasks, margins, suite.gate.alpha) if self.sequential else None
        sides: dict[SideName, Side] = {"baseline": baseline, "candidate": candidate}
        if self.repeats_baseline:
            sides["repeat"] = replace(baseline, name=f"{baseline.name} again", replicate=1)
        runs = answer_sides(sides, Shared(tasks, self.store, self.listener), stop)
        comparisons = [_compare(task, runs, suite.gate.alpha, stop) for task in tasks]
        judgement = judge(comparisons, margins, suite.gate)
        noise = [_noise(task, runs, stop) for task in tasks]
        reports = create_task_reports(tasks, comparisons, judgement, margins, noise)
        report = EvalReport(
            verdict=judgement.verdict,
            run_id=self.run_id,
            started_at=started_at,
            finished_at=datetime.now(UTC),
            n_requests_sent=sum(run.n_requests_sent for run in runs.values()),
            n_reused=sum(run.n_reused for run in runs.values()),
            suite=_suite_report(self),
            baseline=_side_report(baseline, runs["baseline"]),
            candidate=_side_report(candidate, runs["candidate"]),
            versions={name: importlib.metadata.version(name) for name in _SCORING_PACKAGES},
            tasks=reports,
            slices=create_slice_reports(
                _find_slices(tasks, comparisons, stop), comparisons, suite.gate.alpha
            ),
            notes=(
                *_run_notes(baseline, candidate, self.limit),
                *_saving_note(reports),
                *_noise_note(reports),
                *(note for task in reports for note in _cluster_note(task)),
                *(note for task in reports for note in _answer_notes(task)),
            ),
        )
        self.store.keep_report(self.run_id, report.model_dump_json())
        return report


def _compare(
    task: "EvalTask", runs: Mapping[SideName, SideRun], alpha: float, stop: EarlyStop | None
) -> Comparison:
    asked = None if stop is None else stop.asked(task)
    return compare_task(
        task,
        runs["baseline"].records(task, asked),
        runs["candidate"].records(task, asked),
        alpha=alpha,
        asked=asked,
    )


def _find_slices(
    tasks: Sequence["EvalTask"], comparisons: Sequence[Comparison], stop: EarlyStop | None
) -> list[Slice]:
    found = {}
    for task, comparison in zip(tasks, comparisons, strict=True):
        asked = None if stop is None else stop.asked(task)
        samples = task.samples if asked is None else asked
        found[task.name] = find_slices(task, samples, comparison.scores)
    return adjust_slices(found)


def _noise(
    task: "EvalTask", runs: Mapping[SideName, SideRun], stop: EarlyStop | None
) -> Noise | None:
    if "repeat" not in runs:
        return None
    asked = None if stop is None else stop.asked(task)
    first, again = runs["baseline"].records(task, asked), runs["repeat"].records(task, asked)
    return measure_noise(first, again, higher_is_better=task.higher_is_better)


def _suite_report(session: Session) -> SuiteReport:
    suite, tasks = session.suite, session.tasks
    asked = [
        [task.recipe, [(sample.sample_id, sample.request_digest) for sample in task.samples]]
        for task in tasks
    ]
    return SuiteReport(
        name=suite.name,
        digest=content_digest(asked),
        sequential=session.sequential,
        limit=session.limit,
        gate=suite.gate.model_dump(mode="json"),
        sampling=suite.sampling.model_dump(mode="json", exclude_none=True),
    )


def _side_report(side: Side, run: SideRun) -> SideReport:
    return SideReport(
        name=side.name,
        fingerprint=side.fingerprint,
        settings=dict(side.settings),
        n_requests_sent=run.n_requests_sent,
        n_reused=run.n_reused,
    )


def _run_notes(baseline: Side, candidate: Side, limit: int | None) -> Iterator[str]:
    if baseline.answerer == candidate.answerer:
        yield "baseline and candidate are the same: the same answers were compared with themselves"
    if limit is not None:
        yield f"only the first {limit} samples of each task were asked (--limit)"


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
