"""Whether two kept runs can be compared: what they were asked, how, and by which measure."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlmserve.errors import ConfigError
from vlmserve.evals.archive import RecordedSide, RecordedTask
from vlmserve.evals.serving_differences import settings_differences

FIELDS = (
    "tasks",
    "metric",
    "scorer",
    "sampling",
    "request",
    "media_policy",
    "settings",
    "prompt",
    "media",
)
"""What may be declared to differ. Targets may not: two scores by different targets have nothing in
common."""

# Where imported logs have their sampling.
_GENERATION = "generation_kwargs"

_ABSENT = "absent"
_MAX_VALUE = 80
_MAX_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that two runs do not have in common."""

    field: str
    """One of ``FIELDS``, with what lies below it behind a point: ``sampling.temperature``."""

    baseline: str
    candidate: str
    task: str | None = None
    where: str = ""
    """Which samples it is about."""

    @property
    def text(self) -> str:
        """The field and both values, with the task and the samples where it is about them."""
        place = "" if self.task is None else f"{self.task}: "
        where = f" ({self.where})" if self.where else ""
        return f"{place}{self.field}{where}: {_cut(self.baseline)} | {_cut(self.candidate)}"


def find_differences(baseline: RecordedSide, candidate: RecordedSide) -> list[Difference]:
    """Look for whatever makes two sides incomparable, apart from which samples they have.

    Tasks that only one of them has are a difference; the others are compared one by one.
    """
    old = {task.name: task for task in baseline.tasks}
    new = {task.name: task for task in candidate.tasks}
    found = []
    if old.keys() != new.keys():
        found.append(
            Difference(
                "tasks",
                ", ".join(name for name in old if name not in new) or "no other",
                ", ".join(name for name in new if name not in old) or "no other",
            )
        )
    found += _differing("media_policy", baseline.record.media_policy, candidate.record.media_policy)
    found += _serving_differences(baseline, candidate)
    found += _repetitions(baseline, candidate)
    for name, task in new.items():
        if name in old:
            found += _task_differences(old[name], task)
    return found


def _repetitions(baseline: RecordedSide, candidate: RecordedSide) -> Iterator[Difference]:
    times = [side.record.seeds.get("repetitions", 1) for side in (baseline, candidate)]
    if times[0] != times[1]:
        yield Difference("sampling.repetitions", str(times[0]), str(times[1]))


def _task_differences(old: RecordedTask, new: RecordedTask) -> Iterator[Difference]:
    if old.metric != new.metric:
        yield Difference("metric", old.metric, new.metric, new.name)
    elif old.higher_is_better != new.higher_is_better:
        directions = [
            "higher is better" if task.higher_is_better else "lower is better"
            for task in (old, new)
        ]
        yield Difference("metric", directions[0], directions[1], new.name)
    yield from _differing("scorer", _scorer(old), _scorer(new), new.name)
    yield from _sampling_differences(old, new)


def _scorer(task: RecordedTask) -> Mapping[str, Any]:
    left_out = ("task", "metric", _GENERATION)
    return {key: value for key, value in task.kept.recipe.items() if key not in left_out}


def _sampling_differences(old: RecordedTask, new: RecordedTask) -> Iterator[Difference]:
    before, after = _sampling(old), _sampling(new)
    if len(before) == len(after) == 1:
        yield from _differing("sampling", before[0], after[0], new.name)
    elif before and after and before != after:
        yield Difference("sampling", _shown(before), _shown(after), new.name)


def _sampling(task: RecordedTask) -> list[dict[str, Any]]:
    """The different settings among a task's samples; none where a log does not say."""
    if isinstance(logged := task.kept.recipe.get(_GENERATION), Mapping):
        return [dict(logged)]
    texts = {kept.params.model_dump_json() for kept in task.kept_samples if kept.params is not None}
    return [json.loads(text) for text in sorted(texts)]


def _differing(
    field: str, old: Mapping[str, Any], new: Mapping[str, Any], task: str | None = None
) -> Iterator[Difference]:
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key, _ABSENT), new.get(key, _ABSENT)
        if before == after:
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from _differing(f"{field}.{key}", before, after, task)
        else:
            yield Difference(f"{field}.{key}", _shown(before), _shown(after), task)


def describe_serving(baseline: RecordedSide, candidate: RecordedSide) -> list[str]:
    """Say in what two sides of one run were served differently, or sides with what they bring."""
    is_same_run = baseline.run_id == candidate.run_id
    own = {*baseline.record.own_settings, *candidate.record.own_settings}
    return [
        f"served differently: {each.text}"
        for each in _serving(baseline, candidate)
        if is_same_run or _is_allowed(each.field, [f"settings.{name}" for name in own])
    ]


def _serving_differences(baseline: RecordedSide, candidate: RecordedSide) -> list[Difference]:
    """What differs in how two runs were served, but for what their checkpoints bring along."""
    own = [
        f"settings.{name}" for side in (baseline, candidate) for name in side.record.own_settings
    ]
    found = _serving(baseline, candidate)
    return [each for each in found if not _is_allowed(each.field, own)]


def _serving(baseline: RecordedSide, candidate: RecordedSide) -> list[Difference]:
    old, new = baseline.record, candidate.record
    if {old.origin, new.origin} != {"vlmserve"}:
        return []  # the settings of a log are those of the model, which is what is compared
    return [
        Difference(f"settings.{name}", _shown(before), _shown(after))
        for name, before, after in settings_differences(old.settings, new.settings)
    ]


def check_allowed(found: Sequence[Difference], allowed: Sequence[str]) -> list[str]:
    """Refuse differences that were not declared.

    Args:
        found: The differences.
        allowed: Fields that may differ; ``sampling`` allows ``sampling.temperature`` as well.

    Returns:
        A note for each that was declared.

    Raises:
        ConfigError: A field is unknown, or one differs that is not allowed; the message names all.
    """
    for field in allowed:
        if field.partition(".")[0] not in FIELDS:
            raise ConfigError(
                f"--allow-difference {field}: no such field", hint=f"known are {', '.join(FIELDS)}"
            )
    refused = [each for each in found if not _is_allowed(each.field, allowed)]
    if refused:
        shown = "".join(f"\n  {each.text}" for each in refused[:_MAX_SHOWN])
        more = len(refused) - _MAX_SHOWN
        fields = dict.fromkeys(each.field.partition(".")[0] for each in refused)
        raise ConfigError(
            f"the runs are not comparable; they differ in (baseline | candidate){shown}"
            + (f"\n  and {more} more" if more > 0 else ""),
            hint="if that is meant to be: "
            + " ".join(f"--allow-difference {field}" for field in fields),
        )
    return [f"declared difference: {each.text}" for each in found]


def _is_allowed(field: str, allowed: Sequence[str]) -> bool:
    return any(field == each or field.startswith(f"{each}.") for each in allowed)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_VALUE else f"{text[: _MAX_VALUE - 3]}..."
