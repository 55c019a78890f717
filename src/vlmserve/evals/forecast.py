"""What a run would ask, take and be able to show, said before anything is asked."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vlmserve.doctor.examination import Examination
from vlmserve.doctor.sample_length import count_prompts
from vlmserve.errors import CheckpointError
from vlmserve.evals.asking import sample_as
from vlmserve.evals.clusters import cluster_samples
from vlmserve.evals.judging.judged_task import JudgedTask
from vlmserve.evals.likelihood import plan_targets
from vlmserve.evals.lint_tokens import prompts_of
from vlmserve.evals.power import detectable_at, samples_needed
from vlmserve.evals.runner import plan_side

if TYPE_CHECKING:
    from vlmserve.checkpoint.provenance import VisionLimits
    from vlmserve.checkpoint.source import Checkpoint
    from vlmserve.config.judge import JudgeConfig
    from vlmserve.config.serve import ServeConfig
    from vlmserve.evals.answering import Side
    from vlmserve.evals.eval_task import EvalTask
    from vlmserve.evals.records import SideName
    from vlmserve.evals.session import Session

# Of two checkpoints of one base, one in ten scores differs as a rule.
_USUAL_DISCORDANCE = 0.1

TokenCounter = Callable[["EvalTask"], int | str]
"""Prompt tokens of a task's samples, or why they are not known."""


@dataclass(frozen=True, slots=True)
class TaskForecast:
    """One task."""

    name: str
    n_samples: int
    n_clusters: int
    aim: str
    """What is asked of it, in words: its margin, or that it must improve."""

    prompt_tokens: int | str
    """Of all its samples as they are served; or why they are not known."""

    max_answer_tokens: int
    """All answers at their limit."""

    detectable: float
    """Smallest difference that is seen four times out of five if 10 % of the scores differ, for
    scores of 0 and 1; clusters are taken for entirely dependent."""

    n_needed: int | None
    """Samples at which the margin is within reach, where these are too few."""

    n_opinions: int = 0
    """Of the judge, at most: equal answers need none."""


@dataclass(frozen=True, slots=True)
class SideForecast:
    """One side."""

    side: "SideName"
    name: str
    n_requests: int
    n_reused: int
    n_targets: int
    """Expected answers whose likelihood would be measured."""

    seconds: float | None
    """For the requests, as long as those before took; ``None`` where there were none."""

    basis: str
    """What that is taken from, or why it is not known."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """A whole run."""

    tasks: tuple[TaskForecast, ...]
    sides: tuple[SideForecast, ...]
    judge: "JudgeConfig | None" = None
    """Who is asked for the opinions."""

    @property
    def n_opinions(self) -> int:
        """Of the judge, at most, over all tasks."""
        return sum(task.n_opinions for task in self.tasks)

    @property
    def judge_cost(self) -> float | None:
        """Of the judge's own words at their limit; ``None`` where the suite gives no price.

        Its prompts, which hold the answers, come on top.
        """
        if self.judge is None:
            return None
        return self.judge.cost(0, self.n_opinions * self.judge.max_tokens)

    @property
    def n_requests(self) -> int:
        """Requests that would be sent."""
        return sum(side.n_requests for side in self.sides)

    @property
    def seconds(self) -> float | None:
        """For all of them; ``None`` where one side is not known."""
        known = [side.seconds for side in self.sides]
        return None if None in known else sum(each for each in known if each is not None)


def create_forecast(
    session: "Session", sides: "Mapping[SideName, Side]", count_tokens: TokenCounter
) -> Forecast:
    """Say what a session would do; no engine is started and nothing is asked.

    Args:
        session: As it would be run.
        sides: As it would ask them.
        count_tokens: Tells prompt tokens.
    """
    return Forecast(
        tasks=tuple(
            _task(session, index, sides["candidate"], count_tokens)
            for index in range(len(session.tasks))
        ),
        sides=tuple(_side(session, name, side) for name, side in session.all_sides(sides).items()),
        judge=session.suite.judge,
    )


def _task(
    session: "Session", index: int, candidate: "Side", count_tokens: TokenCounter
) -> TaskForecast:
    task, entry = session.tasks[index], session.suite.tasks[index]
    n = len(task.samples)
    labels = cluster_samples(task.samples)
    sizes = np.bincount(labels)
    # Kish's design effect of clusters that agree entirely, as in statistics.design_effect.
    effect = float((sizes**2).sum() / sizes.sum())
    margin, alpha = session.suite.gated_margin(entry), session.suite.gate.alpha
    needed = None
    if margin is not None:
        needed = samples_needed(margin, _USUAL_DISCORDANCE, alpha=alpha, design_effect=effect)
    aim = "must improve" if entry.improve else "reported only"
    return TaskForecast(
        name=task.name,
        n_samples=n,
        n_clusters=len(sizes),
        aim=aim if margin is None else f"margin {margin:g}",
        prompt_tokens=count_tokens(task),
        max_answer_tokens=sum(
            sample_as(sample.params, candidate.asking).max_tokens for sample in task.samples
        ),
        detectable=detectable_at(n, _USUAL_DISCORDANCE, alpha=alpha, design_effect=effect),
        n_needed=needed if needed is not None and needed > n else None,
        # A pair is judged in both orders, and a rubric on both sides.
        n_opinions=2 * n if isinstance(task, JudgedTask) else 0,
    )


def _side(session: "Session", name: "SideName", side: "Side") -> SideForecast:
    runs = [
        plan_side(name, each.answerer, session.tasks, session.store)
        for each in session.repetitions(name, side)
    ]
    n_requests = sum(len(run.pending) for run in runs)
    n_targets = 0
    if name in ("baseline", "candidate") and side.source.open is not None:
        n_targets = len(plan_targets(name, side.answerer, session.scored(), session.store).pending)
    seconds, basis = _duration(session, side, n_requests)
    return SideForecast(
        side=name,
        name=side.name,
        n_requests=n_requests,
        n_reused=sum(run.n_reused for run in runs),
        n_targets=n_targets,
        seconds=seconds,
        basis=basis,
    )


def _duration(session: "Session", side: "Side", n_requests: int) -> tuple[float | None, str]:
    if n_requests == 0:
        return 0.0, "nothing is asked"
    if side.source.open is None:
        return None, f"{n_requests} answers are missing, and its run is over"
    for answerer, what in (
        (side.answerer, "this side"),
        (side.answerer.settings, "other checkpoints, served the same way"),
    ):
        pace = session.store.find_pace(answerer)
        if pace is not None:
            return n_requests * pace.seconds, f"{pace.n_answers} answers of {what}"
    return None, "the store has no answers that were served the same way"


def token_counter(
    checkpoint: "Checkpoint | None",
    config: "ServeConfig",
    train_env: "VisionLimits | None" = None,
) -> TokenCounter:
    """Count by a checkpoint's own tokenizer, template and formula of visual tokens.

    Args:
        checkpoint: What is asked; ``None`` where none is on this machine.
        config: How it is served.
        train_env: What the training framework took from its environment.
    """

    def count(task: "EvalTask") -> int | str:
        if checkpoint is None:
            return "no side is a checkpoint on this machine"
        data = prompts_of(task)
        exam = Examination(checkpoint, data=data, serve=config, train_env=train_env)
        try:
            found = count_prompts(exam)
        except CheckpointError as error:
            return error.message
        if isinstance(found, str):
            return found
        for reason, places in found.uncounted.items():
            return f"{len(places)} of {len(data.rows)} samples cannot be counted: {reason}"
        return sum(each.total for each in found.counted)

    return count
