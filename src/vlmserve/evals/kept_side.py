"""A side of a kept run as a side of a new one: the store has its answers, and nothing is asked."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from vlmserve.config.suite import SuiteConfig
from vlmserve.errors import ConfigError
from vlmserve.evals.answering import EngineSource, Side
from vlmserve.evals.archive import RecordedSide, describe_task, load_side, parse_run
from vlmserve.evals.digests import digest_suite
from vlmserve.evals.store import AnswerStore

if TYPE_CHECKING:
    from vlmserve.evals.eval_task import EvalTask

_MAX_SHOWN = 5


def load_kept_side(
    store: AnswerStore,
    reference: str,
    suite: SuiteConfig,
    tasks: Sequence["EvalTask"],
    limit: int | None,
) -> Side:
    """Take a side of a kept run for a comparison: its candidate, unless another one is named.

    Args:
        store: Where the run is kept, with its answers.
        reference: ``RUN`` or ``RUN:SIDE``.
        suite: What is asked now.
        tasks: Its tasks, loaded.
        limit: How they were limited.

    Raises:
        ConfigError: There is no such run, it was imported, or it was asked something else: the
            message says what.
    """
    run_id, name = parse_run(reference)
    recorded = load_side(store, run_id, name or "candidate")
    record = recorded.record
    if record.origin != "vlmserve":
        raise ConfigError(
            f"run {reference} was imported from {record.origin}, so that nothing is known of how "
            "it was asked",
            hint="vlmserve compare judges two kept runs by what is known of both",
        )
    if record.suite.digest != digest_suite(tasks):
        reasons = list(_other_suite(recorded, suite, tasks, limit))
        raise ConfigError(
            f"run {reference} cannot be compared with, for it was of another suite: "
            + "; ".join(reasons[:_MAX_SHOWN])
        )
    return Side(
        name=f"{record.name} (run {run_id})",
        fingerprint=record.fingerprint,
        settings=record.settings,
        source=EngineSource(None),
        model=lambda engine: engine.models[-1],
        own_settings=frozenset(record.own_settings),
    )


def _other_suite(
    recorded: RecordedSide, suite: SuiteConfig, tasks: Sequence["EvalTask"], limit: int | None
) -> Iterator[str]:
    kept = recorded.record.suite
    if kept.limit != limit:
        yield f"--limit: {_shown(kept.limit)} there, {_shown(limit)} here"
    before, after = kept.config.get("sampling", {}), _sampling(suite)
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            yield f"sampling.{key}: {_shown(before.get(key))} there, {_shown(after.get(key))} here"
    old = {task.kept.task: task.kept for task in recorded.tasks}
    for task in tasks:
        if task.name not in old:
            yield f"task {task.name} is not in it"
        elif old[task.name].recipe != task.recipe:
            yield f"task {task.name} is scored otherwise"
        elif old[task.name].digest != describe_task(task).digest:
            yield f"task {task.name} has other samples, or they are asked otherwise"
    names = {task.name for task in tasks}
    yield from (f"task {name} is only in it" for name in old if name not in names)


def _sampling(suite: SuiteConfig) -> dict[str, Any]:
    return suite.sampling.model_dump(mode="json", exclude_none=True)


def _shown(value: Any) -> str:
    return "unset" if value is None else str(value)
