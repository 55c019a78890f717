"""What every imported log becomes: tasks with rows, and from these a side of a kept run."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vlmserve.chat import Usage
from vlmserve.config.suite import SuiteConfig
from vlmserve.config.suite_entries import SuiteTask
from vlmserve.errors import ConfigError
from vlmserve.evals.digests import content_digest
from vlmserve.evals.fields import telling_fields
from vlmserve.evals.records import Failed, Scored
from vlmserve.evals.run_record import (
    ContentPart,
    KeptMedium,
    KeptOutcome,
    KeptSample,
    KeptSuite,
    KeptTask,
    KeptTurn,
    Origin,
    SideRecord,
)
from vlmserve.evals.run_tables import KeptRow, KeptSide

# A value that names a row is short.
_MAX_KEY = 100
_ID_HEX_DIGITS = 32


@dataclass(frozen=True, slots=True)
class Choice:
    """What the user says where a log leaves it open."""

    metrics: Mapping[str | None, str] = field(default_factory=dict)
    """By task, or for all under ``None``."""

    filter: str | None = None
    """One of the filters that a log holds the answers of."""

    higher_is_better: bool | None = None
    task: str | None = None
    """What a table without a name of its own is to be called."""

    def metric(self, task: str, known: Sequence[str], where: Path) -> str:
        """Choose a task's metric.

        Raises:
            ConfigError: There are several or none and the user named none, or named another.
        """
        named = self.metrics.get(task, self.metrics.get(None))
        listed = ", ".join(known) or "none"
        if named is None and len(known) == 1:
            return known[0]
        if named is None:
            raise ConfigError(
                f"{where}: task {task} has several metrics or none: {listed}",
                hint=f"choose one: --metric {task}={known[0] if known else 'NAME'}",
            )
        # A metric may be a mapping, one of whose values is meant: mme.score.
        if named not in known and named.partition(".")[0] not in known:
            raise ConfigError(f"{where}: task {task} has no metric {named!r}; it has: {listed}")
        return named

    def direction(self, task: str, metric: str, where: Path, *, logged: bool | None) -> bool:
        """Tell whether higher is better.

        Raises:
            ConfigError: Neither the log nor the user says.
        """
        chosen = logged if self.higher_is_better is None else self.higher_is_better
        if chosen is None:
            raise ConfigError(
                f"{where}: task {task}: nothing beside the log says whether a higher {metric} is "
                "better",
                hint="say it: --direction higher, or --direction lower",
            )
        return chosen


@dataclass(frozen=True, slots=True)
class ImportedRow:
    """One sample of a log."""

    keys: Mapping[str, Any]
    """What the log calls it; ``doc_id`` or ``index`` first."""

    turns: tuple[KeptTurn, ...]
    target: str
    unknown: tuple[ContentPart, ...]
    outcome: Scored | Failed
    text: str | None
    """The completion, where the log has it."""

    usage: Usage | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    """The rest of the data set's row, of which kinds of samples and further keys are made."""


@dataclass(frozen=True, slots=True)
class ImportedTask:
    """One task of a log."""

    name: str
    metric: str
    higher_is_better: bool
    recipe: Mapping[str, Any]
    rows: Sequence[ImportedRow]
    where: Path


@dataclass(frozen=True, slots=True)
class ImportedLog:
    """One model's answers to some tasks."""

    origin: Origin
    name: str
    """What the log calls the model."""

    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    tasks: Sequence[ImportedTask]
    files: Sequence[Path]


def score_of(value: Any, metric: str) -> float | Failed:
    """Read a metric's value for one sample; what is no finite number is a failure."""
    if isinstance(value, str):
        value = {"true": 1.0, "false": 0.0}.get(value.strip().lower(), value)
    try:
        score = float(value)
    except (TypeError, ValueError):
        return Failed(
            error_type="MetricError", message=f"{metric} is {value!r}, which is no number"
        )
    if not math.isfinite(score):
        return Failed(error_type="MetricError", message=f"{metric} is {score}")
    return score


def create_side(log: ImportedLog) -> KeptSide:
    """Make a candidate's side of a log.

    Raises:
        ConfigError: A task has no rows, or two rows of one name.
    """
    tasks = [(task, _samples(task)) for task in log.tasks]
    kept = tuple(_kept_task(task, samples) for task, samples in tasks)
    changed = [datetime.fromtimestamp(file.stat().st_mtime, UTC) for file in log.files]
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in log.files]
    record = SideRecord(
        origin=log.origin,
        name=log.name,
        fingerprint=f"log sha256:{content_digest(digests)}",
        settings={"engine": log.origin, **log.settings},
        suite=KeptSuite(
            name=", ".join(task.name for task in log.tasks),
            digest=content_digest([task.digest for task in kept]),
            limit=None,
            config=_suite_config(log),
        ),
        tasks=kept,
        media_policy={},
        versions=dict(log.versions),
        seeds={},
        hardware={},
        started_at=min(changed),
        finished_at=max(changed),
        source=", ".join(str(file) for file in log.files),
    )
    rows = tuple(row for task, samples in tasks for row in _rows(task, samples))
    return KeptSide(side="candidate", record=record.model_dump_json(), rows=rows)


def _suite_config(log: ImportedLog) -> dict[str, Any]:
    entries = tuple(SuiteTask(task=task.name, metric=task.metric) for task in log.tasks)
    try:
        suite = SuiteConfig(name=", ".join(task.name for task in log.tasks), tasks=entries)
    except ValidationError as error:
        raise ConfigError(f"{log.files[0]}: {error.errors()[0]['msg']}") from error
    return suite.model_dump(mode="json", exclude_none=True)


def _kept_task(task: ImportedTask, samples: Sequence[KeptSample]) -> KeptTask:
    names = [(sample.sample_id, sample.request_digest) for sample in samples]
    return KeptTask(
        task=task.name,
        metric=task.metric,
        higher_is_better=task.higher_is_better,
        recipe=dict(task.recipe),
        digest=content_digest([dict(task.recipe), names]),
    )


def _samples(task: ImportedTask) -> list[KeptSample]:
    if not task.rows:
        raise ConfigError(f"{task.where}: the log has no samples")
    columns = {name: [row.columns.get(name) for row in task.rows] for name in task.rows[0].columns}
    fields = telling_fields(columns)
    naming = [name for name, values in columns.items() if _names_rows(values)]
    seen: Counter[str] = Counter()
    samples = []
    for position, row in enumerate(task.rows):
        sample_id = _sample_id(row)
        seen[sample_id] += 1
        if seen[sample_id] > 1:
            if row.unknown:
                raise ConfigError(f"{task.where}: two samples are called {sample_id}")
            sample_id = f"{sample_id}#{seen[sample_id]}"
        turns = [turn.model_dump(mode="json") for turn in row.turns]
        samples.append(
            KeptSample(
                sample_id=sample_id,
                request_digest=content_digest(turns),
                turns=row.turns,
                params=None,
                target=row.target,
                fields={name: values[position] for name, values in fields.items()},
                keys={name: str(value) for name, value in row.keys.items()}
                | {f"doc.{name}": str(columns[name][position]) for name in naming},
                unknown=row.unknown,
            )
        )
    return samples


def _sample_id(row: ImportedRow) -> str:
    """A digest of the content where the log has all of it, and else the log's own name."""
    if row.unknown:
        name, value = next(iter(row.keys.items()))
        return f"{name}={value}"
    asked = [
        [turn.role, [part if isinstance(part, str) else part.sha256 for part in turn.parts]]
        for turn in row.turns
    ]
    return content_digest([asked, row.target])[:_ID_HEX_DIGITS]


def _names_rows(values: Sequence[Any]) -> bool:
    """Whether a column has a short value of its own for every row."""
    return all(
        isinstance(value, str | int) and 0 < len(str(value)) <= _MAX_KEY for value in values
    ) and len({str(value) for value in values}) == len(values)


def _rows(task: ImportedTask, samples: Sequence[KeptSample]) -> Iterator[KeptRow]:
    for position, (row, sample) in enumerate(zip(task.rows, samples, strict=True)):
        outcome = KeptOutcome(completion=None, outcome=row.outcome, text=row.text, usage=row.usage)
        yield KeptRow(
            task=task.name,
            position=position,
            asked_at=position,
            sample=sample.model_dump_json(),
            outcome=outcome.model_dump_json(),
        )


def user_turn(text: str, media: Sequence[KeptMedium] = ()) -> KeptTurn:
    """Make a user's turn, with media in the places of ``<image>`` where there are as many."""
    pieces = text.split("<image>")
    if len(pieces) != len(media) + 1:
        return KeptTurn(role="user", parts=(*media, text) if text else tuple(media))
    parts: list[str | KeptMedium] = []
    for index, piece in enumerate(pieces):
        if index:
            parts.append(media[index - 1])
        if piece:
            parts.append(piece)
    return KeptTurn(role="user", parts=tuple(parts))
