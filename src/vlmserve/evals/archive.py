"""Runs on their way into the store and out of it again, sample by sample."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, get_args

from pydantic import ValidationError

from vlmserve.chat import SamplingParams
from vlmserve.errors import ConfigError, MediaError
from vlmserve.evals.digests import content_digest
from vlmserve.evals.medium import Medium
from vlmserve.evals.records import NllOutcome, SampleRecord, SideName
from vlmserve.evals.run_record import (
    KeptMedium,
    KeptOutcome,
    KeptSample,
    KeptTask,
    KeptTurn,
    SideRecord,
)
from vlmserve.evals.run_tables import KeptRow, KeptSide
from vlmserve.evals.samples import Sample, Turn
from vlmserve.evals.store import AnswerStore

if TYPE_CHECKING:
    from vlmserve.evals.eval_task import EvalTask
    from vlmserve.evals.verdict import TaskRun


@dataclass(frozen=True, slots=True)
class RecordedTask:
    """A task as a side of a kept run was asked it; an ``AskedTask``."""

    kept: KeptTask
    samples: tuple[Sample, ...]
    """In the order of the data set, whether they were asked or not."""

    kept_samples: tuple[KeptSample, ...]
    """The same as they lie in the store."""

    records: Mapping[str, SampleRecord]
    """By sample id, in the order of asking; those that were asked."""

    outcomes: Mapping[str, KeptOutcome]
    """The same as they lie in the store."""

    nll: Mapping[str, NllOutcome] = field(default_factory=dict)
    """By sample id, how unlikely it finds the expected answer; where that was asked."""

    @property
    def name(self) -> str:
        """What the suite calls it."""
        return self.kept.task

    @property
    def metric(self) -> str:
        """What is compared."""
        return self.kept.metric

    @property
    def higher_is_better(self) -> bool:
        """The metric's direction."""
        return self.kept.higher_is_better

    @property
    def is_relative(self) -> bool:
        """Whether scores are those of one side against the other of the same run."""
        return self.kept.is_relative

    @property
    def is_amount(self) -> bool:
        """Whether scores are amounts rather than grades."""
        return self.kept.is_amount

    def fields(self) -> dict[str, list[str]]:
        """The columns of the data that tell kinds of samples apart, as ``EvalTask.fields``."""
        names = self.kept_samples[0].fields if self.kept_samples else {}
        return {name: [sample.fields[name] for sample in self.kept_samples] for name in names}


@dataclass(frozen=True, slots=True)
class RecordedSide:
    """A side of a kept run."""

    run_id: str
    side: SideName
    record: SideRecord
    tasks: tuple[RecordedTask, ...]
    """In the suite's order."""


def describe_task(task: "EvalTask", *, is_sequential: bool = False) -> KeptTask:
    """Say of a task what two runs must have in common to be compared."""
    samples = [(sample.sample_id, sample.request_digest) for sample in task.samples]
    return KeptTask(
        task=task.name,
        metric=task.metric,
        higher_is_better=task.higher_is_better,
        is_amount=task.is_amount,
        is_relative=task.is_relative,
        recipe=task.recipe,
        digest=content_digest([task.recipe, samples]),
        is_sequential=is_sequential,
    )


def create_kept_side(side: SideName, record: SideRecord, runs: Sequence["TaskRun"]) -> KeptSide:
    """Put a side of a run into the store's words.

    Args:
        side: Which.
        record: What is known of it as a whole.
        runs: The tasks with the records of all sides.
    """
    return KeptSide(
        side=side,
        record=record.model_dump_json(),
        rows=tuple(row for run in runs for row in _rows(run, side)),
    )


def _rows(run: "TaskRun", side: SideName) -> Iterator[KeptRow]:
    asked = {record.sample_id: place for place, record in enumerate(run.records[side])}
    nll = run.nll.get(side, {})
    outcomes = {
        sample_id: KeptOutcome(completion=None, outcome=None, nll=each)
        for sample_id, each in nll.items()
    }
    outcomes |= {
        record.sample_id: KeptOutcome(
            completion=record.completion,
            outcome=record.outcome,
            nll=nll.get(record.sample_id),
        )
        for record in run.records[side]
    }
    fields = run.task.fields()
    for position, sample in enumerate(run.task.samples):
        kept = _keep_sample(sample, {name: each[position] for name, each in fields.items()})
        outcome = outcomes.get(sample.sample_id)
        yield KeptRow(
            task=run.task.name,
            position=position,
            asked_at=asked.get(sample.sample_id),
            sample=kept.model_dump_json(),
            outcome=None if outcome is None else outcome.model_dump_json(),
        )


def _keep_sample(sample: Sample, fields: dict[str, str]) -> KeptSample:
    turns = tuple(
        KeptTurn(
            role=turn.role,
            parts=tuple(
                part if isinstance(part, str) else _keep_medium(part) for part in turn.parts
            ),
        )
        for turn in sample.turns
    )
    return KeptSample(
        sample_id=sample.sample_id,
        request_digest=sample.request_digest,
        turns=turns,
        params=sample.params,
        target=sample.target,
        fields=fields,
    )


def _keep_medium(medium: Medium) -> KeptMedium:
    try:
        size_px = medium.upright_size_px()
    except MediaError:
        size_px = None  # the sample has failed for itself
    return KeptMedium(
        kind=medium.kind,
        content_type=medium.content_type,
        sha256=medium.sha256,
        size_px=size_px,
    )


def parse_run(reference: str) -> tuple[str, SideName | None]:
    """Take ``RUN`` or ``RUN:SIDE`` apart."""
    run_id, _, last = reference.rpartition(":")
    for side in get_args(SideName):
        if run_id and last == side:
            return run_id, side
    return reference, None


def load_sides(store: AnswerStore, run_id: str) -> list[RecordedSide]:
    """Read all sides of a run back, the baseline first.

    Raises:
        ConfigError: As ``load_side`` does.
    """
    kept = store.list_sides(run_id)
    found = [load_side(store, run_id, side) for side in get_args(SideName) if side in kept]
    return found or [load_side(store, run_id)]


def load_side(store: AnswerStore, run_id: str, side: SideName = "candidate") -> RecordedSide:
    """Read a side of a run back.

    Raises:
        ConfigError: There is no such run or side, it was kept without its samples, or another
            version of vlmserve wrote it.
    """
    kept = store.find_side(run_id, side)
    if kept is None:
        raise _missing(store, run_id, side)
    try:
        record = SideRecord.model_validate_json(kept.record)
        by_task: dict[str, list[KeptRow]] = {task.task: [] for task in record.tasks}
        for row in kept.rows:
            by_task[row.task].append(row)
        tasks = tuple(_load_task(task, by_task[task.task]) for task in record.tasks)
    except (ValidationError, KeyError) as error:
        raise ConfigError(
            f"{store.path}: run {run_id}, {side}: not readable by this version of vlmserve: {error}"
        ) from error
    return RecordedSide(run_id=run_id, side=side, record=record, tasks=tasks)


def _missing(store: AnswerStore, run_id: str, side: SideName) -> ConfigError:
    sides = store.list_sides(run_id)
    if sides:
        return ConfigError(
            f"{store.path}: run {run_id} has no side {side}", hint=f"it has {', '.join(sides)}"
        )
    if store.find_report(run_id) is not None:
        return ConfigError(
            f"{store.path}: run {run_id} was kept by a version of vlmserve that kept no samples",
            hint=f"judge again with --run-id {run_id}: its answers are kept",
        )
    return ConfigError(f"{store.path}: no run {run_id}", hint=known_runs(store))


def known_runs(store: AnswerStore) -> str:
    """Name the latest runs of a store, for whoever asked for one that it has not."""
    known = [name for name, _, _ in store.list_reports()]
    return f"the latest runs are {', '.join(known[-3:])}" if known else "it has no runs yet"


def _load_task(task: KeptTask, rows: Sequence[KeptRow]) -> RecordedTask:
    kept = tuple(KeptSample.model_validate_json(row.sample) for row in rows)
    found = [
        (row.asked_at, sample.sample_id, KeptOutcome.model_validate_json(row.outcome))
        for row, sample in zip(rows, kept, strict=True)
        if row.outcome is not None
    ]
    asked = sorted((place, sample_id) for place, sample_id, _ in found if place is not None)
    outcomes = {sample_id: each for _, sample_id, each in found}
    return RecordedTask(
        kept=task,
        samples=tuple(_load_sample(sample) for sample in kept),
        kept_samples=kept,
        records={
            sample_id: SampleRecord(
                sample_id=sample_id,
                completion=outcomes[sample_id].completion,
                outcome=outcome,
            )
            for _, sample_id in asked
            if (outcome := outcomes[sample_id].outcome) is not None
        },
        outcomes={sample_id: outcomes[sample_id] for _, sample_id in asked},
        nll={sample_id: each.nll for sample_id, each in outcomes.items() if each.nll is not None},
    )


def _load_sample(kept: KeptSample) -> Sample:
    return Sample(
        sample_id=kept.sample_id,
        request_digest=kept.request_digest,
        turns=tuple(
            Turn(
                role=turn.role,
                parts=tuple(
                    part if isinstance(part, str) else _load_medium(part) for part in turn.parts
                ),
            )
            for turn in kept.turns
        ),
        params=kept.params or SamplingParams(),
        target=kept.target,
    )


def _load_medium(kept: KeptMedium) -> Medium:
    return Medium(
        kind=kept.kind,
        content_type=kept.content_type,
        sha256=kept.sha256,
        source=None,
        size_px=kept.size_px,
    )
