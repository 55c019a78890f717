"""One evaluation from end to end: plan both sides, ask what is missing, compare, judge."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from vlmserve.config.suite import NllConfig, SuiteConfig
from vlmserve.config.suite_entries import SuiteRequests
from vlmserve.errors import ConfigError
from vlmserve.evals.answering import Shared, Side, answer_sides, repetitions
from vlmserve.evals.archive import create_kept_side
from vlmserve.evals.asking import sample_as
from vlmserve.evals.describe_run import (
    describe_side,
    report_differences,
    report_side,
    report_suite,
    scoring_versions,
)
from vlmserve.evals.early_stop import ORDER_SEED, EarlyStop
from vlmserve.evals.judging.describe import describe_judges, judge_notes
from vlmserve.evals.judging.judged_task import PairwiseTask, attach_judges
from vlmserve.evals.likelihood import TargetChoice, choose_targets
from vlmserve.evals.nll import NllOutcomes
from vlmserve.evals.records import SideName
from vlmserve.evals.repetitions import SideAnswers
from vlmserve.evals.report.eval_report import EvalReport
from vlmserve.evals.run_notes import choice_notes, refusal_notes, run_notes
from vlmserve.evals.runner import AnswerListener, SilentListener
from vlmserve.evals.samples import Sample
from vlmserve.evals.serving_differences import ServingDifference
from vlmserve.evals.store import AnswerStore
from vlmserve.evals.verdict import TaskRun, find_verdict

if TYPE_CHECKING:
    from vlmserve.evals.eval_task import EvalTask


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

    n_repetitions: int = 1
    """Ask each side every sample this often, and judge the mean of its scores."""

    seed: int = ORDER_SEED
    """Of the order in which samples are asked, where that is random."""

    listener: AnswerListener = field(default_factory=SilentListener)
    differences: Mapping[SideName, Sequence[ServingDifference]] = field(default_factory=dict)
    """In what the baseline, and the anchor, are served differently from the candidate."""

    def evaluate(
        self, baseline: Side, candidate: Side, *, anchor: Side | None = None
    ) -> EvalReport:
        """Judge a candidate against a baseline, and against an anchor where there is one.

        An engine is started only if an answer of its side is missing, and the baseline's is closed
        before the candidate's starts unless they share one.

        Raises:
            ConfigError: Answers are missing of a side that cannot be asked, or what is wanted does
                not go together.
            EngineError: An engine cannot be started or is gone; the answers so far are in the
                store.
        """
        started_at = datetime.now(UTC)
        suite, tasks = self.suite, self.tasks
        attach_judges(tasks, self.store, self.listener)
        self.check(baseline, candidate, anchor)
        margins = [suite.gated_margin(entry) for entry in suite.tasks]
        targets = [entry.improve for entry in suite.tasks]
        stop = None
        if self.sequential:
            stop = self._early_stop(margins, targets)
        given: dict[SideName, Side] = {"baseline": baseline, "candidate": candidate}
        if anchor is not None:
            given["anchor"] = anchor
        sides, choices = self.all_sides(given), self._choices()
        runs = answer_sides(sides, self._shared(choices), stop)
        measured = [
            replace(
                _task_run(task, margin, runs, stop),
                improve=entry.improve,
                nll=_nll(choice, runs),
                nll_margin=entry.nll_margin,
            )
            for task, margin, entry, choice in zip(
                tasks, margins, suite.tasks, choices, strict=True
            )
        ]
        found = find_verdict(measured, suite.gate)
        judges = describe_judges(tasks)
        report = EvalReport(
            verdict=found.verdict,
            run_id=self.run_id,
            started_at=started_at,
            finished_at=datetime.now(UTC),
            n_requests_sent=sum(run.n_requests_sent for run in runs.values()),
            n_reused=sum(run.n_reused for run in runs.values()),
            suite=report_suite(self),
            baseline=report_side(baseline, runs["baseline"]),
            candidate=report_side(candidate, runs["candidate"]),
            anchor=None if anchor is None else report_side(anchor, runs["anchor"]),
            differences=report_differences(self.differences),
            judges=judges,
            versions=scoring_versions(),
            tasks=found.tasks,
            slices=found.slices,
            notes=(
                *run_notes(self, baseline, candidate, anchor),
                *refusal_notes(sides, runs),
                *choice_notes(tasks, choices),
                *judge_notes(judges),
                *found.notes,
            ),
        )
        kept = [
            create_kept_side(name, describe_side(self, side, report, measured), measured)
            for name, side in sides.items()
        ]
        self.store.keep_run(self.run_id, report.model_dump_json(), kept)
        return report

    def _early_stop(self, margins: Sequence[float | None], targets: Sequence[bool]) -> EarlyStop:
        """Follow the tasks whose scores are known as answers come; others are asked in full."""
        followed = [not task.is_relative for task in self.tasks]
        stop = EarlyStop(
            self.tasks,
            [m if follow else None for m, follow in zip(margins, followed, strict=True)],
            self.suite.gate.alpha,
            targets=[t and follow for t, follow in zip(targets, followed, strict=True)],
            seed=self.seed,
        )
        stop.share_with(
            sum(entry.nll_margin is not None for entry in self.suite.tasks)
            + sum(
                margin is not None and not follow
                for margin, follow in zip(margins, followed, strict=True)
            )
        )
        return stop

    def all_sides(self, given: Mapping[SideName, Side]) -> dict[SideName, Side]:
        """The sides in the order in which they are asked, the baseline's repetition among them."""
        order: tuple[SideName, ...] = ("baseline", "anchor", "candidate")
        sides = {name: given[name] for name in order if name in given}
        if self.repeats_baseline:
            baseline = given["baseline"]
            sides["repeat"] = replace(baseline, name=f"{baseline.name} again", replicate=1)
        return sides

    def repetitions(self, name: SideName, side: Side) -> Iterator[Side]:
        """A side as it is asked each time."""
        return repetitions(name, side, self.n_repetitions)

    def scored(self) -> list[Sample]:
        """The samples whose expected answers' likelihood is measured."""
        return [sample for choice in self._choices() for sample in choice.samples]

    def _choices(self) -> list[TargetChoice]:
        return [
            _choose(task, None if isinstance(entry, SuiteRequests) else self.suite.nll)
            for task, entry in zip(self.tasks, self.suite.tasks, strict=True)
        ]

    def _shared(self, choices: Sequence[TargetChoice]) -> Shared:
        return Shared(
            self.tasks,
            self.store,
            self.listener,
            n_repetitions=self.n_repetitions,
            seed=self.seed,
            scored=[sample for choice in choices for sample in choice.samples],
        )

    def check(self, baseline: Side, candidate: Side, anchor: Side | None) -> None:
        """Refuse what does not go together.

        Raises:
            ConfigError: It does not.
        """
        if anchor is not None and self.sequential:
            raise ConfigError(
                "--anchor: not with --sequential, which stops at what the baseline decides"
            )
        paired = [task.name for task in self.tasks if task.is_relative]
        if paired and (anchor is not None or self.n_repetitions > 1):
            flag = "--repeat" if anchor is None else "--anchor"
            raise ConfigError(
                f"{flag}: not with task {paired[0]}, whose answers are judged in pairs, the "
                "candidate's with the baseline's"
            )
        if self.n_repetitions == 1:
            return
        if self.repeats_baseline:
            raise ConfigError("--aa: not with --repeat, which shows the noise of both sides")
        for task in self.tasks:
            for side in (baseline, candidate, anchor):
                if side is not None:
                    self._check_is_random(task, side)

    def _check_is_random(self, task: "EvalTask", side: Side) -> None:
        for sample in task.samples:
            if (
                side.source.open is not None
                and not sample_as(sample.params, side.asking).temperature
            ):
                raise ConfigError(
                    f"--repeat {self.n_repetitions}: task {task.name} is asked at temperature 0, "
                    "so that every repetition would be the same",
                    hint="give the suite's sampling a temperature",
                )


def _task_run(
    task: "EvalTask",
    margin: float | None,
    runs: Mapping[SideName, SideAnswers],
    stop: EarlyStop | None,
) -> TaskRun:
    asked = None if stop is None else stop.asked(task)
    records = {name: run.records(task, asked) for name, run in runs.items()}
    if isinstance(task, PairwiseTask):
        both = task.judge_pairs(records["baseline"], records["candidate"])
        records["baseline"], records["candidate"] = both
    return TaskRun(task=task, margin=margin, records=records, asked=asked)


def _choose(task: "EvalTask", config: NllConfig | None) -> TargetChoice:
    return TargetChoice((), 0, 0) if config is None else choose_targets(task, config)


def _nll(choice: TargetChoice, runs: Mapping[SideName, SideAnswers]) -> NllOutcomes:
    return {
        name: run.targets.outcomes(choice.samples)
        for name, run in runs.items()
        if run.targets is not None
    }
