"""Finds each sample of one run in the other: by its content, or by a key that the user declares.

Own runs are joined on the digest of media, prompt and target, which says all. Imported logs may
lack the media, or even the prompt: then a declared key joins, everything that both sides know is
held against each other, and what neither can vouch for is said.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from vlmserve.errors import ConfigError
from vlmserve.evals.archive import RecordedTask
from vlmserve.evals.comparability import Difference
from vlmserve.evals.records import NllOutcome, SampleRecord, SideName
from vlmserve.evals.run_record import KeptSample

_MAX_SHOWN = 5
_PARTS = ("target", "prompt", "media")


@dataclass(frozen=True, slots=True)
class Match:
    """One task of two runs, sample by sample."""

    task: RecordedTask
    """The candidate's, with the samples that are compared."""

    baseline: tuple[SampleRecord, ...]
    """The baseline's records under the candidate's sample ids, shape ``(n,)``."""

    candidate: tuple[SampleRecord, ...]
    is_sequential: bool
    """Whether records and samples are in the order of asking, which was stopped early."""

    only_baseline: int
    """Samples that only the baseline has an outcome of."""

    only_candidate: int
    differences: tuple[Difference, ...]
    """In prompts, media and requests of samples that were joined."""

    nll: dict[SideName, dict[str, NllOutcome]]
    """How unlikely both sides find the expected answers, under the candidate's sample ids."""

    n_unverified: dict[str, int]
    """By part of a sample's content (``target``, ``prompt``, ``media``): pairs of which one side
    or both do not know it."""


def match_tasks(old: RecordedTask, new: RecordedTask, key: str | None) -> Match:
    """Join two runs of a task.

    Args:
        old: The baseline's.
        new: The candidate's.
        key: What to join on; the content of the samples when ``None``.

    Raises:
        ConfigError: The key is missing or not unique, content is not known, or targets of joined
            samples differ.
    """
    before, after = _by_key(old, key), _by_key(new, key)
    both = [name for name in after if name in before]
    pairs = [(name, before[name], after[name]) for name in both]
    _check_targets(new.name, key, pairs)
    is_sequential = old.kept.is_sequential or new.kept.is_sequential
    joined = {sample.sample_id: earlier for _, earlier, sample in pairs}
    asked = [
        sample_id
        for sample_id in _order(old, new, joined)
        if joined[sample_id].sample_id in old.records and sample_id in new.records
    ]
    n_before = sum(sample.sample_id in old.records for sample in before.values())
    n_after = sum(sample.sample_id in new.records for sample in after.values())
    return Match(
        task=new if is_sequential else _restrict(new, set(asked)),
        baseline=tuple(
            old.records[joined[each].sample_id].model_copy(update={"sample_id": each})
            for each in asked
        ),
        candidate=tuple(new.records[each] for each in asked),
        is_sequential=is_sequential,
        only_baseline=n_before - len(asked),
        only_candidate=n_after - len(asked),
        differences=tuple(_differences(new.name, key, pairs)),
        nll={
            "baseline": {
                each: old.nll[earlier.sample_id]
                for each, earlier in joined.items()
                if earlier.sample_id in old.nll
            },
            "candidate": {each: new.nll[each] for each in joined if each in new.nll},
        },
        n_unverified={
            part: count
            for part in _PARTS
            if (count := sum(part in _unknown(earlier, later) for _, earlier, later in pairs))
        },
    )


def _order(old: RecordedTask, new: RecordedTask, joined: dict[str, KeptSample]) -> list[str]:
    """The joined samples in the order that the comparison takes them."""
    if new.kept.is_sequential:
        return [sample_id for sample_id in new.records if sample_id in joined]
    if old.kept.is_sequential:
        ids = {earlier.sample_id: sample_id for sample_id, earlier in joined.items()}
        return [ids[sample_id] for sample_id in old.records if sample_id in ids]
    return [kept.sample_id for kept in new.kept_samples if kept.sample_id in joined]


def _restrict(task: RecordedTask, ids: set[str]) -> RecordedTask:
    return replace(
        task,
        samples=tuple(sample for sample in task.samples if sample.sample_id in ids),
        kept_samples=tuple(kept for kept in task.kept_samples if kept.sample_id in ids),
    )


def _by_key(task: RecordedTask, key: str | None) -> dict[str, KeptSample]:
    names = [
        _content(task, kept) if key is None else _key(task, kept, key) for kept in task.kept_samples
    ]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ConfigError(
            f"{task.name}: --key {key}: {len(repeated)} values stand for several samples each, "
            f"such as {repeated[0]!r}"
        )
    return dict(zip(names, task.kept_samples, strict=True))


def _key(task: RecordedTask, kept: KeptSample, key: str) -> str:
    if key not in kept.keys:
        known = ", ".join(kept.keys) or "none: it was judged here, and is joined on content"
        raise ConfigError(
            f"{task.name}: --key {key}: sample {kept.sample_id} has no such key",
            hint=f"keys of this run are {known}",
        )
    return kept.keys[key]


def _content(task: RecordedTask, kept: KeptSample) -> str:
    if kept.unknown:
        known = ", ".join(kept.keys)
        raise ConfigError(
            f"{task.name}: the log does not hold the {' and '.join(kept.unknown)} of its samples, "
            "so they cannot be joined on their content",
            hint=f"declare what to join on: --key, one of {known}" if known else None,
        )
    return kept.sample_id


def _check_targets(
    task: str, key: str | None, pairs: Sequence[tuple[str, KeptSample, KeptSample]]
) -> None:
    wrong = [
        f"\n  {key} {name}: {earlier.target!r} | {later.target!r}"
        for name, earlier, later in pairs
        if "target" not in _unknown(earlier, later) and earlier.target != later.target
    ]
    if wrong:
        raise ConfigError(
            f"{task}: {len(wrong)} of {len(pairs)} samples that {key} joins have other targets "
            f"(baseline | candidate){''.join(wrong[:_MAX_SHOWN])}",
            hint="the runs are of different data, or the key does not name the same rows in both",
        )


def _differences(
    task: str, key: str | None, pairs: Sequence[tuple[str, KeptSample, KeptSample]]
) -> Iterator[Difference]:
    for name, of in (("prompt", _prompt), ("media", _media)):
        rows = [
            row
            for row, earlier, later in pairs
            if name not in _unknown(earlier, later) and of(earlier) != of(later)
        ]
        if rows:
            earlier, later = next((old, new) for row, old, new in pairs if row == rows[0])
            where = f"{len(rows)} of {len(pairs)} samples, such as {key} {', '.join(rows[:5])}"
            yield Difference(name, str(of(earlier)), str(of(later)), task, where)
    rows = [
        row
        for row, earlier, later in pairs
        if earlier.params == later.params and earlier.request_digest != later.request_digest
    ]
    if rows and key is None:
        where = f"{len(rows)} of {len(pairs)} samples"
        yield Difference("request", "asked in one way", "asked in another", task, where)


def _unknown(earlier: KeptSample, later: KeptSample) -> set[str]:
    return {*earlier.unknown, *later.unknown}


def _prompt(kept: KeptSample) -> str:
    return "\n".join(
        "".join(part if isinstance(part, str) else f"<{part.kind}>" for part in turn.parts)
        for turn in kept.turns
    )


def _media(kept: KeptSample) -> tuple[str, ...]:
    return tuple(
        part.sha256 for turn in kept.turns for part in turn.parts if not isinstance(part, str)
    )
