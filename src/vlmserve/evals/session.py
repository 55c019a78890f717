"""One evaluation from end to end: plan both sides, ask what is missing, compare, judge."""

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from vlmserve.config.suite import SuiteConfig
from vlmserve.engine.base import Engine
from vlmserve.evals.compare import Comparison, compare_task
from vlmserve.evals.early_stop import EarlyStop
from vlmserve.evals.gate import judge
from vlmserve.evals.records import SideName
from vlmserve.evals.report.json_report import (
    EvalReport,
    SideReport,
    SuiteReport,
    TaskReport,
    create_task_reports,
)
from vlmserve.evals.runner import (
    AnswerListener,
    Asking,
    SideRun,
    SilentListener,
    plan_side,
    run_side,
)
from vlmserve.evals.samples import content_digest
from vlmserve.evals.store import Answerer, AnswerStore

if TYPE_CHECKING:
    from vlmserve.evals.eval_task import EvalTask

# What the scores rest on, beside vlmserve itself.
_SCORING_PACKAGES = ("vlmserve", "lm_eval", "datasets", "scipy", "numpy")

# A few answers run on in any model; many mean that the limit is too low for the task.
_MAX_CUT_FRACTION = 0.05


@dataclass(frozen=True, slots=True)
class EngineSource:
    """How to start an engine; sides that hold the same object share one engine."""

    open: Callable[[], AbstractContextManager[Engine]]
    """Starts it; the engine is closed when the context ends."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two that are compared."""

    name: str
    """What the report calls it."""

    fingerprint: str
    """Names its answers in the store; see ``Answerer.checkpoint``."""

    settings: Mapping[str, Any]
    """The engine's settings and versions, as JSON values."""

    source: EngineSource
    model: Callable[[Engine], str]
    """The name to ask its engine for."""

    @property
    def answerer(self) -> Answerer:
        """What the side's answers are kept under."""
        return Answerer(checkpoint=self.fingerprint, settings=content_digest(dict(self.settings)))


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
        runs = _answer({"baseline": baseline, "candidate": candidate}, self, stop)
        comparisons = [_compare(task, runs, suite.gate.alpha, stop) for task in tasks]
        judgement = judge(comparisons, margins, suite.gate)
        reports = create_task_reports(tasks, comparisons, judgement, margins)
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
            notes=(
                *_run_notes(baseline, candidate, self.limit),
                *_saving_note(reports),
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


def _answer(
    sides: Mapping[SideName, Side], session: Session, stop: EarlyStop | None
) -> dict[SideName, SideRun]:
    tasks, store, listener = session.tasks, session.store, session.listener
    runs: dict[SideName, SideRun] = {}
    waiting = list(sides)
    while waiting:
        source = sides[waiting[0]].source
        sharing = [name for name in waiting if sides[name].source is source]
        waiting = [name for name in waiting if name not in sharing]
        for name in sharing:
            runs[name] = plan_side(name, sides[name].answerer, tasks, store)
        if not any(runs[name].pending for name in sharing):
            for name in sharing:
                listener.started(name, 0, runs[name].n_reused)
            if stop is not None and not waiting:
                _ask_until_decided(runs, {}, stop)
            continue
        listener.loading(" and ".join(sides[name].name for name in sharing))
        with source.open() as engine:
            asking = {
                name: Asking(engine, sides[name].model(engine), store, listener) for name in sharing
            }
            if stop is not None and not waiting:
                # Both sides are answered or can be asked now: a look is possible after each pair.
                for name in sharing:
                    listener.started(name, len(runs[name].pending), runs[name].n_reused)
                _ask_until_decided(runs, asking, stop)
                continue
            for name in sharing:
                # Again: a side that asks exactly what the other did finds the other's answers.
                run = runs[name] = plan_side(name, sides[name].answerer, tasks, store)
                listener.started(name, len(run.pending), run.n_reused)
                run_side(run, asking[name])
    return runs


def _ask_until_decided(
    runs: Mapping[SideName, SideRun], asking: Mapping[SideName, Asking], stop: EarlyStop
) -> None:
    while samples := stop.requests():
        for name, each in asking.items():
            run_side(runs[name], each, samples)
        stop.read(runs["baseline"], runs["candidate"])


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
        yield (
            f"{len(early)} tasks were decided before their end, by {used} of {available} samples: "
            f"{1 - used / available:.0%} were saved"
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
