"""Evaluates the checkpoints of a training one after another, as they appear.

What has been evaluated is in the store, each checkpoint a run of its own; so a watch that is ended
goes on where it stopped, and what it shows can be shown again.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from vlmserve.checkpoint.training_output import SeenCheckpoint, TrainingOutput, changed_at
from vlmserve.evals.report.eval_report import EvalReport
from vlmserve.evals.store import AnswerStore

SPLIT_WARNING = (
    "a checkpoint that is chosen by these numbers looks better on these samples than it is: "
    "judge it on held-out samples that took no part in choosing"
)


@dataclass(frozen=True, slots=True)
class Point:
    """What is known of one checkpoint."""

    step: int
    report: EvalReport | None
    """``None`` where it could not be evaluated."""

    error: str | None = None
    """Why not."""

    status: int = 0
    """The exit status that the error stands for."""


class Evaluate(Protocol):
    """Evaluates one checkpoint and keeps the run in the store."""

    def __call__(self, checkpoint: Path, run_id: str) -> tuple[int, str | None]:
        """Evaluate.

        Args:
            checkpoint: The directory.
            run_id: The run's name in the store.

        Returns:
            The exit status of ``vlmserve eval``, and the error where it ended with one.
        """
        ...


class WatchListener(Protocol):
    """Hears of what happens; what a terminal shows."""

    def waiting(self, reason: str) -> None:
        """Nothing is to be done at the moment."""
        ...

    def evaluating(self, checkpoint: SeenCheckpoint) -> None:
        """A checkpoint is about to be evaluated."""
        ...

    def evaluated(self, point: Point, points: Iterable[Point]) -> None:
        """One has been, or was found in the store; ``points`` are all so far, by step."""
        ...


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for what."""

    once: bool = False
    """Evaluate what is there and complete, and wait for nothing."""

    poll_s: float = 10.0
    timeout_s: float | None = None
    """Give up when for so long nothing new was complete."""

    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic


@dataclass(slots=True)
class Watch:
    """One training's checkpoints and what is known of them."""

    output: TrainingOutput
    store_path: Path
    name: str
    """Of the watch: its runs are called ``NAME-STEP``."""

    evaluate: Evaluate
    listener: WatchListener
    patience: Patience
    points: dict[int, Point] = field(default_factory=dict)

    def run(self) -> list[Point]:
        """Evaluate checkpoints until the training is finished, or there is nothing to wait for.

        Returns:
            What is known of each checkpoint, by step.

        Raises:
            CheckpointError: The directory holds several runs.
            ConfigError: The store cannot be read, or ``evaluate`` says that no checkpoint can be
                evaluated like this.
        """
        quiet_since_s = self.patience.clock()
        while True:
            seen = self.output.look(self.points)
            todo = [each for each in seen if each.missing is None and each.step not in self.points]
            if todo:
                self._take(todo[0])
                quiet_since_s = self.patience.clock()
                continue
            if self._is_over(seen, self.patience.clock() - quiet_since_s):
                self._leave_out(seen)
                return self.sorted_points()
            self.listener.waiting(_reason(seen, self.points))
            self.patience.sleep(self.patience.poll_s)

    def sorted_points(self) -> list[Point]:
        """What is known of each checkpoint, by step."""
        return [self.points[step] for step in sorted(self.points)]

    def run_id(self, step: int) -> str:
        """The name of a checkpoint's run."""
        return f"{self.name}-{step}"

    def _is_over(self, seen: Iterable[SeenCheckpoint], quiet_s: float) -> bool:
        if self.patience.once:
            # What is complete but for its files' rest is waited for.
            return not any(each.is_settling and each.step not in self.points for each in seen)
        if self.output.is_finished() and all(each.step in self.points for each in seen):
            return True
        return self.patience.timeout_s is not None and quiet_s >= self.patience.timeout_s

    def _leave_out(self, seen: Iterable[SeenCheckpoint]) -> None:
        """Say of what is not complete at the end that it was not evaluated."""
        for each in seen:
            if each.step not in self.points:
                point = Point(each.step, None, f"not complete: {each.missing}")
                self.points[each.step] = point
                self.listener.evaluated(point, self.sorted_points())

    def _take(self, checkpoint: SeenCheckpoint) -> None:
        point = self._find(checkpoint)
        if point is None:
            self.listener.evaluating(checkpoint)
            status, error = self.evaluate(checkpoint.path, self.run_id(checkpoint.step))
            point = self._find(checkpoint, since_change=False) if error is None else None
            if point is None:
                gone = not checkpoint.path.is_dir()
                text = "it was removed meanwhile" if gone else error or f"exit status {status}"
                point = Point(checkpoint.step, None, text, status)
        self.points[checkpoint.step] = point
        self.listener.evaluated(point, self.sorted_points())

    def _find(self, checkpoint: SeenCheckpoint, *, since_change: bool = True) -> Point | None:
        """Look a checkpoint's run up in the store.

        Args:
            checkpoint: The checkpoint.
            since_change: Take no run from before its files were last changed.
        """
        if not self.store_path.is_file():
            return None
        run_id = self.run_id(checkpoint.step)
        with AnswerStore(self.store_path) as store:
            when, text = store.report_time(run_id), store.find_report(run_id)
        if when is None or text is None:
            return None
        # The store's times are whole seconds.
        changed_s = int(changed_at(checkpoint.path))
        if since_change and datetime.fromisoformat(when).timestamp() < changed_s:
            return None
        try:
            return Point(checkpoint.step, EvalReport.model_validate_json(text))
        except ValidationError:
            return None  # of another version: its answers are kept, so that it costs nothing


def _reason(seen: Iterable[SeenCheckpoint], points: dict[int, Point]) -> str:
    growing = [each for each in seen if each.step not in points]
    if not growing:
        return "waiting for the next checkpoint"
    return f"waiting for checkpoint-{growing[0].step}: {growing[0].missing}"


def best_points(points: Iterable[Point]) -> Iterator[tuple[str, Point]]:
    """For each task that has scores, the first checkpoint with the best one."""
    best: dict[str, tuple[float, Point]] = {}
    for point in points:
        for task in () if point.report is None else point.report.tasks:
            if task.candidate is None:
                continue
            goodness = task.candidate if task.higher_is_better else -task.candidate
            if task.task not in best or goodness > best[task.task][0]:
                best[task.task] = (goodness, point)
    yield from ((name, point) for name, (_, point) in best.items())
