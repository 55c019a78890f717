"""Judges one kept run against another: no engine, no data set, no request."""

import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pydantic import ValidationError

from vlmserve.config.suite import SuiteConfig
from vlmserve.config.suite_entries import AnyTask
from vlmserve.errors import ConfigError
from vlmserve.evals.archive import RecordedSide, RecordedTask
from vlmserve.evals.comparability import (
    Difference,
    check_allowed,
    describe_serving,
    find_differences,
)
from vlmserve.evals.matching import Match, match_tasks
from vlmserve.evals.records import SampleRecord, SideName
from vlmserve.evals.report.eval_report import EvalReport, SideReport, SuiteReport
from vlmserve.evals.verdict import TaskRun, find_verdict

_PACKAGES = ("vlmserve", "scipy", "numpy")


@dataclass(frozen=True, slots=True)
class Terms:
    """What the user declares about a comparison."""

    suite: SuiteConfig | None = None
    """Margins and gate; the candidate's own when ``None``."""

    margins: Mapping[str | None, float] = field(default_factory=dict)
    """Margins by task, or for all gated tasks under ``None``; they win over the suite's."""

    key: str | None = None
    """What to join samples on; their content when ``None``."""

    allowed: Sequence[str] = ()
    """Fields that may differ."""

    allow_partial: bool = False
    """Whether samples of one run alone may be left out."""


def compare_runs(
    baseline: RecordedSide,
    candidate: RecordedSide,
    terms: Terms,
    *,
    others: Mapping[SideName, RecordedSide] | None = None,
) -> EvalReport:
    """Judge a candidate of one kept run against a side of another, or of the same.

    Args:
        baseline: What came before.
        candidate: What is judged.
        terms: Margins, and what may differ.
        others: The baseline's ``repeat`` in the same run, and an ``anchor`` that the candidate is
            held against as well, where there are such.

    Raises:
        ConfigError: The runs are not comparable, samples are in one alone, or a margin is missing;
            the message names the field, or the rows.
    """
    started_at = datetime.now(UTC)
    suite = _suite(candidate, terms)
    entries = {entry.name: entry for entry in suite.tasks}
    old = {task.name: task for task in baseline.tasks}
    others = others or {}
    matches = [
        match_tasks(old[task.name], task, terms.key) for task in candidate.tasks if task.name in old
    ]
    _refuse_relative(baseline, candidate, matches)
    notes = _declared(baseline, candidate, matches, terms)
    notes += _partial(matches, terms)
    if "anchor" in others:
        notes += _anchor_notes(others["anchor"], candidate, terms)
    judged = [match for match in matches if match.task.name in entries]
    if left_out := [match.task.name for match in matches if match.task.name not in entries]:
        notes.append(f"not in the suite, and not judged: {', '.join(left_out)}")
    if not any(entries[match.task.name].gate for match in judged):
        raise ConfigError("no task that both runs have is gated, so there is nothing to judge")
    runs = [
        _task_run(match, entries[match.task.name], suite, _other_records(match, others, terms.key))
        for match in judged
    ]
    found = find_verdict(runs, suite.gate)
    return EvalReport(
        verdict=found.verdict,
        run_id=f"{_name(candidate)} against {_name(baseline)}",
        started_at=started_at,
        finished_at=datetime.now(UTC),
        n_requests_sent=0,
        n_reused=sum(len(match.baseline) + len(match.candidate) for match in judged),
        suite=SuiteReport(
            name=suite.name,
            digest=candidate.record.suite.digest,
            sequential=any(match.is_sequential for match in judged),
            limit=candidate.record.suite.limit,
            gate=suite.gate.model_dump(mode="json"),
            sampling=suite.sampling.model_dump(mode="json", exclude_none=True),
            nll=None if suite.nll is None else suite.nll.model_dump(mode="json"),
        ),
        baseline=_side(baseline),
        candidate=_side(candidate),
        anchor=_side(others["anchor"]) if "anchor" in others else None,
        versions={name: importlib.metadata.version(name) for name in _PACKAGES},
        tasks=found.tasks,
        slices=found.slices,
        notes=(*notes, *found.notes),
    )


def _refuse_relative(
    baseline: RecordedSide, candidate: RecordedSide, matches: Sequence[Match]
) -> None:
    """Refuse scores that were given to a side against another side than this one."""
    sides = (baseline.run_id, baseline.side, candidate.side)
    if sides == (candidate.run_id, "baseline", "candidate"):
        return
    for match in matches:
        if match.task.is_relative:
            raise ConfigError(
                f"task {match.task.name}: its answers were judged in pairs with those of the other "
                "side of their own run, which says nothing beside another run",
                hint="judge these two against each other by vlmserve eval",
            )


def _name(side: RecordedSide) -> str:
    return side.run_id if side.side == "candidate" else f"{side.run_id}:{side.side}"


def _side(side: RecordedSide) -> SideReport:
    return SideReport(
        name=side.record.name,
        fingerprint=side.record.fingerprint,
        settings=side.record.settings,
        n_requests_sent=0,
        n_reused=sum(len(task.records) for task in side.tasks),
    )


def _suite(candidate: RecordedSide, terms: Terms) -> SuiteConfig:
    """The suite that says how to judge: a given one, or the candidate's own."""
    kept = candidate.record.suite
    suite = terms.suite
    if suite is None:
        if candidate.record.origin != "vlmserve" and not terms.margins:
            raise ConfigError(
                f"run {candidate.run_id} was imported from {candidate.record.origin}, whose logs "
                "state no margin",
                hint="state the drop that is acceptable: --margin 0.02, or --suite FILE",
            )
        try:
            suite = SuiteConfig.model_validate(kept.config)
        except ValidationError as error:
            raise ConfigError(
                f"run {candidate.run_id}: its suite is of another version of vlmserve: "
                f"{error.errors()[0]['msg']}",
                hint="name one of this version with --suite FILE",
            ) from error
    _check_metrics(candidate, suite)
    return _with_margins(suite, terms.margins)


def _check_metrics(candidate: RecordedSide, suite: SuiteConfig) -> None:
    metrics = {entry.name: entry.metric for entry in suite.tasks}
    for task in candidate.tasks:
        if metrics.get(task.name, task.metric) != task.metric:
            raise ConfigError(
                f"{task.name}: the suite judges {metrics[task.name]}, and the run has {task.metric}"
            )


def _with_margins(suite: SuiteConfig, margins: Mapping[str | None, float]) -> SuiteConfig:
    if not margins:
        return suite
    names = {entry.name for entry in suite.tasks}
    for name in margins:
        if name is not None and name not in names:
            raise ConfigError(
                f"--margin {name}: no such task", hint=f"known are {', '.join(sorted(names))}"
            )
    config = suite.model_dump(mode="json", exclude_none=True)
    for entry in config["tasks"]:
        margin = margins.get(entry.get("task") or entry.get("name"), margins.get(None))
        if margin is not None and not entry.get("improve"):
            entry["margin"] = margin
    try:
        return SuiteConfig.model_validate(config)
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ConfigError(f"--margin: {message}") from error


def _declared(
    baseline: RecordedSide, candidate: RecordedSide, matches: Sequence[Match], terms: Terms
) -> list[str]:
    """Check what may differ; say what does, and how samples were joined."""
    found: list[Difference] = []
    is_same_run = baseline.run_id == candidate.run_id
    if not is_same_run:
        # Two sides of one run were asked as its suite declares.
        found = find_differences(baseline, candidate)
        found += [each for match in matches for each in match.differences]
    notes = check_allowed(found, terms.allowed)
    if not matches:
        raise ConfigError(
            "the runs have no task in common: "
            f"{', '.join(task.name for task in baseline.tasks)} | "
            f"{', '.join(task.name for task in candidate.tasks)}"
        )
    if baseline.record.fingerprint == candidate.record.fingerprint and (
        baseline.record.settings == candidate.record.settings
    ):
        notes.append("baseline and candidate are the same checkpoint, served in the same way")
    return [*_join_notes(matches, terms.key), *notes, *describe_serving(baseline, candidate)]


def _join_notes(matches: Sequence[Match], key: str | None) -> Iterator[str]:
    n_pairs = sum(len(match.candidate) for match in matches)
    if key is None:
        yield f"{n_pairs} samples were joined on the content of media, prompt and target"
        return
    yield (
        f"{n_pairs} samples were joined on {key}; targets, prompts and media were held against "
        "each other where both runs have them"
    )
    for match in matches:
        for part, count in match.n_unverified.items():
            yield (
                f"{match.task.name}: the {part} of {count} joined samples could not be verified: "
                "a log does not hold it"
            )
        if "media" in match.n_unverified:
            yield (
                f"{match.task.name}: which samples ask about the same image is not known, so each "
                "counts by itself; if many do, the interval is too narrow"
            )


def _partial(matches: Sequence[Match], terms: Terms) -> list[str]:
    counted = [
        f"{match.task.name}: {match.only_baseline} samples only in the baseline, "
        f"{match.only_candidate} only in the candidate, {len(match.candidate)} in both"
        for match in matches
        if match.only_baseline or match.only_candidate
    ]
    if counted and not terms.allow_partial:
        shown = "".join(f"\n  {line}" for line in counted)
        raise ConfigError(
            f"the runs do not have the same samples{shown}",
            hint="--allow-partial compares those that both have",
        )
    for match in matches:
        if not match.candidate:
            raise ConfigError(
                f"{match.task.name}: the runs have no sample in common",
                hint="they are of different data, or of prompts that were written differently",
            )
    return [f"{line} (--allow-partial)" for line in counted]


def _anchor_notes(anchor: RecordedSide, candidate: RecordedSide, terms: Terms) -> list[str]:
    """Check that the anchor can be compared with, too."""
    notes: list[str] = []
    if anchor.run_id != candidate.run_id:
        differences = find_differences(anchor, candidate)
        notes = [f"anchor: {note}" for note in check_allowed(differences, terms.allowed)]
    name = anchor.record.name
    return [*notes, f"anchor: {name}; every gated task was held against it, too"]


def _other_records(
    match: Match, others: Mapping[SideName, RecordedSide], key: str | None
) -> dict[SideName, Sequence[SampleRecord]]:
    """The records of further sides for the samples that are compared, in their order."""
    ids = [record.sample_id for record in match.candidate]
    found: dict[SideName, Sequence[SampleRecord]] = {}
    for side, recorded in others.items():
        task = next((each for each in recorded.tasks if each.name == match.task.name), None)
        if side == "anchor" and (match.is_sequential or (task and task.kept.is_sequential)):
            raise ConfigError(
                f"--anchor: task {match.task.name} was stopped as soon as its baseline decided"
            )
        joined = {} if task is None else _by_candidate(task, match, key)
        missing = sum(sample_id not in joined for sample_id in ids)
        if missing:
            raise ConfigError(
                f"{match.task.name}: {recorded.run_id}:{recorded.side} lacks {missing} of the "
                f"{len(ids)} samples that are compared"
            )
        found[side] = [joined[sample_id] for sample_id in ids]
    return found


def _by_candidate(task: RecordedTask, match: Match, key: str | None) -> dict[str, SampleRecord]:
    return {record.sample_id: record for record in match_tasks(task, match.task, key).baseline}


def _task_run(
    match: Match,
    entry: AnyTask,
    suite: SuiteConfig,
    others: Mapping[SideName, Sequence[SampleRecord]],
) -> TaskRun:
    by_id = {sample.sample_id: sample for sample in match.task.samples}
    ids = [record.sample_id for record in match.candidate]
    return TaskRun(
        task=match.task,
        margin=suite.gated_margin(entry),
        records={"baseline": match.baseline, "candidate": match.candidate, **others},
        asked=[by_id[sample_id] for sample_id in ids] if match.is_sequential else None,
        improve=entry.improve,
        nll=match.nll,
        nll_margin=entry.nll_margin,
    )
