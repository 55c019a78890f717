"""Puts a suite's samples to both sides: which engine when, and how long."""

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlmserve.engine.base import Engine
from vlmserve.evals.early_stop import EarlyStop
from vlmserve.evals.records import SideName
from vlmserve.evals.runner import AnswerListener, Asking, SideRun, plan_side, run_side
from vlmserve.evals.samples import content_digest
from vlmserve.evals.store import Answerer, AnswerStore

if TYPE_CHECKING:
    from vlmserve.evals.eval_task import EvalTask


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

    replicate: int = 0
    """Tells repetitions of the same side apart, whose answers must not be taken for each other's;
    they also ask in another order."""

    @property
    def answerer(self) -> Answerer:
        """What the side's answers are kept under."""
        settings = dict(self.settings)
        if self.replicate:
            settings["replicate"] = self.replicate
        return Answerer(checkpoint=self.fingerprint, settings=content_digest(settings))


@dataclass(frozen=True, slots=True)
class Shared:
    """What all sides have in common."""

    tasks: Sequence["EvalTask"]
    store: AnswerStore
    listener: AnswerListener


def answer_sides(
    sides: Mapping[SideName, Side], shared: Shared, stop: EarlyStop | None = None
) -> dict[SideName, SideRun]:
    """Ask every side what the store does not know of it.

    An engine is started only if an answer of its sides is missing, and closed before the next one
    starts.

    Args:
        sides: The sides by their part in the comparison.
        shared: What is asked, and where answers go.
        stop: Says when candidate and baseline have been asked enough. A baseline with an engine of
            its own is asked in full before: there is nothing to compare with then.

    Raises:
        EngineError: An engine cannot be started or is gone; the answers so far are in the store.
    """
    runs: dict[SideName, SideRun] = {}
    waiting = list(sides)
    while waiting:
        source = sides[waiting[0]].source
        group = {name: sides[name] for name in waiting if sides[name].source is source}
        waiting = [name for name in waiting if name not in group]
        # Both sides can be compared after each pair once the last of them is reached.
        looks = stop if "candidate" in group else None
        for name, side in group.items():
            runs[name] = plan_side(name, side.answerer, shared.tasks, shared.store)
        if any(runs[name].pending for name in group):
            shared.listener.loading(" and ".join(side.name for side in group.values()))
            with source.open() as engine:
                _ask_group(group, runs, shared, engine, looks)
            continue
        for name in group:
            shared.listener.started(name, 0, runs[name].n_reused)
        if looks is not None:
            _ask_until_decided(runs, {}, looks)
    return runs


def _ask_group(
    group: Mapping[SideName, Side],
    runs: dict[SideName, SideRun],
    shared: Shared,
    engine: Engine,
    stop: EarlyStop | None,
) -> None:
    """Ask the sides of one engine, with looks at the answers where there is a stop."""
    asking: dict[SideName, Asking] = {
        name: Asking(engine, side.model(engine), shared.store, shared.listener)
        for name, side in group.items()
    }
    if stop is not None:
        compared: dict[SideName, Asking] = dict(asking)
        compared.pop("repeat", None)
        for name in compared:
            shared.listener.started(name, len(runs[name].pending), runs[name].n_reused)
        _ask_until_decided(runs, compared, stop)
    for name, side in group.items():
        if stop is not None and name != "repeat":
            continue
        # Again: a side that asks exactly what the other did finds the other's answers.
        run = runs[name] = plan_side(name, side.answerer, shared.tasks, shared.store)
        samples = list(run.pending.values())
        if stop is not None:
            samples = [
                sample for task in shared.tasks for sample in stop.asked(task) or task.samples
            ]
        if side.replicate:
            # Other neighbours in the batch: what depends on them is noise as well.
            random.Random(side.replicate).shuffle(samples)  # noqa: S311 - an order, not a secret
        digests = {sample.request_digest for sample in samples}
        shared.listener.started(name, len(digests & run.pending.keys()), run.n_reused)
        run_side(run, asking[name], samples)


def _ask_until_decided(
    runs: Mapping[SideName, SideRun], asking: Mapping[SideName, Asking], stop: EarlyStop
) -> None:
    while samples := stop.requests():
        for name, each in asking.items():
            run_side(runs[name], each, samples)
        stop.read(runs["baseline"], runs["candidate"])
