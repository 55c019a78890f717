"""Puts a suite's samples to the sides of a comparison: which engine when, and how long."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from vlmserve.config.asking import AskingConfig
from vlmserve.engine.base import Engine
from vlmserve.errors import ConfigError
from vlmserve.evals.answer_tables import Answerer
from vlmserve.evals.claims import claim
from vlmserve.evals.digests import content_digest
from vlmserve.evals.early_stop import EarlyStop
from vlmserve.evals.likelihood import TargetScores, plan_targets, score_targets
from vlmserve.evals.order import order_samples
from vlmserve.evals.records import SideName
from vlmserve.evals.repetitions import SideAnswers
from vlmserve.evals.runner import AnswerListener, Asking, SideRun, plan_side, run_side
from vlmserve.evals.samples import Sample
from vlmserve.evals.store import AnswerStore

if TYPE_CHECKING:
    from vlmserve.evals.eval_task import EvalTask


@dataclass(frozen=True, slots=True)
class EngineSource:
    """How to start an engine; sides that hold the same object share one engine."""

    open: Callable[[], AbstractContextManager[Engine]] | None
    """Starts it; the engine is closed when the context ends. ``None`` where nothing can be asked
    any more, and the store has all the answers that there are."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of those that are compared."""

    name: str
    """What the report calls it."""

    fingerprint: str
    """Names its answers in the store; see ``Answerer.checkpoint``."""

    settings: Mapping[str, Any]
    """The engine's settings and versions, and how it is asked, as JSON values."""

    source: EngineSource
    model: Callable[[Engine], str]
    """The name to ask its engine for."""

    replicate: int = 0
    """Tells repetitions of the same side apart, whose answers must not be taken for each other's;
    they also ask in another order."""

    asking: AskingConfig = field(default_factory=AskingConfig)
    """What it has of its own in how it is asked; ``settings`` say it, too."""

    own_settings: frozenset[str] = frozenset()
    """Dotted names of settings that the checkpoint brings with it, such as the pixel limits of its
    training: what differs in them is no choice of whoever compares."""

    @property
    def answerer(self) -> Answerer:
        """What the side's answers are kept under."""
        settings = dict(self.settings)
        if self.replicate:
            settings["replicate"] = self.replicate
        return Answerer(checkpoint=self.fingerprint, settings=content_digest(settings))

    def asked_as(self, asking: AskingConfig) -> "Side":
        """The same side with a way of being asked, which is part of its settings."""
        given = asking.as_settings()
        settings = {**self.settings, "asking": given} if given else self.settings
        return replace(self, settings=settings, asking=asking)


@dataclass(frozen=True, slots=True)
class Shared:
    """What all sides have in common."""

    tasks: Sequence["EvalTask"]
    store: AnswerStore
    listener: AnswerListener
    n_repetitions: int = 1
    """How often each side is asked every sample."""

    seed: int = 0
    """Of the order in which repetitions ask."""
    scored: Sequence[Sample] = ()
    """Samples whose expected answers are scored on both sides."""


def answer_sides(
    sides: Mapping[SideName, Side], shared: Shared, stop: EarlyStop | None = None
) -> dict[SideName, SideAnswers]:
    """Ask every side what the store does not know of it.

    An engine is started only if an answer of its sides is missing, and closed before the next one
    starts.

    Args:
        sides: The sides by their part in the comparison.
        shared: What is asked, and where answers go.
        stop: Says when candidate and baseline have been asked enough. A baseline with an engine of
            its own is asked in full before: there is nothing to compare with then.

    Raises:
        ConfigError: Answers are missing of a side that cannot be asked.
        EngineError: An engine cannot be started or is gone; the answers so far are in the store.
    """
    found: dict[SideName, SideAnswers] = {}
    waiting = list(sides)
    while waiting:
        source = sides[waiting[0]].source
        group = {name: sides[name] for name in waiting if sides[name].source is source}
        waiting = [name for name in waiting if name not in group]
        # Both sides can be compared after each pair once the last of them is reached.
        looks = stop if "candidate" in group else None
        names = " and ".join(side.name for side in group.values())
        asked = [
            each.answerer
            for name, side in group.items()
            for each in repetitions(name, side, shared.n_repetitions)
        ]
        with claim(shared.store.path, asked, names):
            _answer_group(group, found, shared, looks)
    return found


def _answer_group(
    group: Mapping[SideName, Side],
    found: dict[SideName, SideAnswers],
    shared: Shared,
    looks: EarlyStop | None,
) -> None:
    """Ask the sides of one engine what the store does not know of them."""
    for name, side in group.items():
        found[name] = _plan(name, side, shared)
    targets = _plan_targets(group, shared)
    if any(run.pending for name in group for run in found[name].repetitions) or any(
        scores.pending for scores in targets.values()
    ):
        shared.listener.loading(" and ".join(side.name for side in group.values()))
        with _start(group, found) as engine:
            _ask_group(group, found, shared, engine, looks)
            _score_group(group, targets, shared, engine)
        _attach(found, targets)
        return
    _attach(found, targets)
    for name in group:
        shared.listener.started(name, 0, found[name].n_reused)
    if looks is not None:
        _ask_until_decided(found, {}, looks)


def repetitions(name: SideName, side: Side, n_repetitions: int) -> Iterator[Side]:
    """The side as it is asked each time; the baseline's own repetition is one already."""
    yield side
    for number in range(1, n_repetitions if name != "repeat" else 1):
        yield replace(side, replicate=number)


def _plan(name: SideName, side: Side, shared: Shared) -> SideAnswers:
    return SideAnswers(
        tuple(
            plan_side(name, each.answerer, shared.tasks, shared.store)
            for each in repetitions(name, side, shared.n_repetitions)
        )
    )


def _start(
    group: Mapping[SideName, Side], found: Mapping[SideName, SideAnswers]
) -> AbstractContextManager[Engine]:
    (first, *_) = group.values()
    if first.source.open is not None:
        return first.source.open()
    for name, side in group.items():
        runs = found[name].repetitions
        n_missing = sum(len(run.pending) for run in runs)
        n_asked = n_missing + sum(len(run.answers) for run in runs)
        if n_missing:
            raise ConfigError(
                f"{side.name}: {n_missing} of {n_asked} answers are not in the store, and a run "
                "that is over cannot be asked for them",
                hint="answers that failed are never kept: go on with that run until it has all, "
                "or name its checkpoint",
            )
    raise AssertionError("a side without an engine was to be asked, and nothing is missing")


def _ask_group(
    group: Mapping[SideName, Side],
    found: dict[SideName, SideAnswers],
    shared: Shared,
    engine: Engine,
    stop: EarlyStop | None,
) -> None:
    """Ask the sides of one engine, with looks at the answers where there is a stop."""
    asking: dict[SideName, list[Asking]] = {
        name: [
            Asking(
                engine,
                side.model(engine),
                shared.store,
                shared.listener,
                side.asking,
                repetition=each.replicate,
            )
            for each in repetitions(name, side, shared.n_repetitions)
        ]
        for name, side in group.items()
    }
    if stop is not None:
        compared = dict(asking)
        compared.pop("repeat", None)
        for name in compared:
            n_pending = sum(len(run.pending) for run in found[name].repetitions)
            shared.listener.started(name, n_pending, found[name].n_reused)
        _ask_until_decided(found, compared, stop)
    for name, side in group.items():
        if stop is not None and name != "repeat":
            continue
        # Again: a side that asks exactly what the other did finds the other's answers.
        answers = found[name] = _plan(name, side, shared)
        sides = list(repetitions(name, side, shared.n_repetitions))
        plans = [
            _in_order(run, each, shared, stop)
            for run, each in zip(answers.repetitions, sides, strict=True)
        ]
        n_requests = sum(
            len({sample.request_digest for sample in samples} & run.pending.keys())
            for run, samples in zip(answers.repetitions, plans, strict=True)
        )
        shared.listener.started(name, n_requests, answers.n_reused)
        for run, each, samples in zip(answers.repetitions, asking[name], plans, strict=True):
            run_side(run, each, samples)


def _in_order(run: SideRun, side: Side, shared: Shared, stop: EarlyStop | None) -> list[Sample]:
    """What a side is asked, in the order in which it is."""
    samples = order_samples(list(run.pending.values()))
    if stop is not None:
        samples = [sample for task in shared.tasks for sample in stop.asked(task) or task.samples]
    if side.replicate:
        # Other neighbours in the batch: what depends on them is noise as well.
        order = random.Random(shared.seed + side.replicate)  # noqa: S311 - an order, not a secret
        order.shuffle(samples)
    return samples


def _plan_targets(group: Mapping[SideName, Side], shared: Shared) -> dict[SideName, TargetScores]:
    """What is known of the expected answers on the sides that are compared by them."""
    if not shared.scored:
        return {}
    planned: dict[SideName, TargetScores] = {
        name: plan_targets(name, side.answerer, shared.scored, shared.store)
        for name, side in group.items()
        if name in ("baseline", "candidate")
    }
    for name, scores in planned.items():
        if group[name].source.open is None and scores.pending:
            scores.refusal = f"its run is over, and lacks {len(scores.pending)} of them"
            scores.pending.clear()
    return planned


def _score_group(
    group: Mapping[SideName, Side],
    targets: Mapping[SideName, TargetScores],
    shared: Shared,
    engine: Engine,
) -> None:
    for name, scores in targets.items():
        side = group[name]
        model = side.model(engine)
        score_targets(scores, Asking(engine, model, shared.store, shared.listener, side.asking))


def _attach(found: dict[SideName, SideAnswers], targets: Mapping[SideName, TargetScores]) -> None:
    for name, scores in targets.items():
        found[name] = replace(found[name], targets=scores)


def _ask_until_decided(
    found: Mapping[SideName, SideAnswers],
    asking: Mapping[SideName, Sequence[Asking]],
    stop: EarlyStop,
) -> None:
    while samples := stop.requests():
        for name, repetitions in asking.items():
            for run, each in zip(found[name].repetitions, repetitions, strict=True):
                run_side(run, each, samples)
        stop.read(found["baseline"], found["candidate"])
