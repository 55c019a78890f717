"""Stops asking as soon as a task is decided: samples in random order, a look after each of them."""

import itertools
import math
import random
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vlmserve.evals.clusters import cluster_samples
from vlmserve.evals.compare import Orientation, orientation
from vlmserve.evals.records import Failed, Scored
from vlmserve.evals.samples import Sample
from vlmserve.evals.sequential import SequentialComparison

if TYPE_CHECKING:
    from vlmserve.evals.eval_task import EvalTask
    from vlmserve.evals.repetitions import SideAnswers

# Samples of a task that are asked before the first look, so that an engine has a batch, and the
# share by which what is asked grows between looks at the answers.
_FIRST = 32
_GROWTH = 0.25

_WIDEST_MARGIN = 0.999

# Of the order of the samples: it must not depend on the answers, and a resumed run must have it.
ORDER_SEED = 0


class TaskMonitor:
    """Follows one task until it is decided.

    Args:
        task: The task.
        margin: Its acceptable drop; ``None`` where it must improve, and is decided when it has.
        alpha: Chance of a false decision.
        seed: Of the order of the samples.
    """

    def __init__(
        self, task: "EvalTask", margin: float | None, alpha: float, *, seed: int = ORDER_SEED
    ) -> None:
        self.task = task
        self.is_target = margin is None
        # To be better beyond chance is to rule out any drop, and none at all.
        margin = 0.0 if margin is None else margin
        self._clusters = _shuffled_clusters(task.samples, seed)
        largest = max(len(cluster) for cluster in self._clusters)
        # A margin of the whole scale or more is that of scores without bounds.
        self._is_graded_freely = margin >= 1.0
        margin = min(margin, _WIDEST_MARGIN)
        self.comparison = SequentialComparison(margin, alpha=alpha, max_cluster=largest)
        if self.is_target:
            # Never called a regression, whatever the evidence.
            self.comparison.n_claims = math.inf
        self._n_requested = 0
        self._n_read = 0

    @property
    def is_sequential(self) -> bool:
        """Whether it may stop early.

        Scores that leave the range from 0 to 1 have no bounds to bet with: the task is asked in
        full.
        """
        return not self._is_graded_freely

    @property
    def is_done(self) -> bool:
        """Whether nothing more has to be asked."""
        if self._is_graded_freely:
            return self._n_requested == len(self._clusters)
        is_decided = self.comparison.state.decision is not None
        return is_decided or self._n_read == len(self._clusters)

    @property
    def asked(self) -> list[Sample]:
        """The samples that the decision rests on, in the order in which they were looked at."""
        read = self._clusters if self._is_graded_freely else self._clusters[: self._n_read]
        return list(itertools.chain.from_iterable(read))

    def request(self) -> list[Sample]:
        """The next samples to ask."""
        total = len(self._clusters)
        step = max(_FIRST, round(self._n_requested * _GROWTH))
        end = total if self._is_graded_freely else min(total, self._n_requested + step)
        chosen = self._clusters[self._n_requested : end]
        self._n_requested = end
        return list(itertools.chain.from_iterable(chosen))

    def read(self, baseline: "SideAnswers", candidate: "SideAnswers") -> None:
        """Look at the answers to what was requested, one cluster after another."""
        waiting = self._clusters[self._n_read : self._n_requested]
        samples = list(itertools.chain.from_iterable(waiting))
        before = baseline.outcomes(self.task, samples)
        after = candidate.outcomes(self.task, samples)
        if any(
            isinstance(outcome, Scored) and not 0.0 <= outcome.score <= 1.0
            for outcome in (*before.values(), *after.values())
        ):
            self._is_graded_freely = True
        if self._is_graded_freely:
            return
        turn = orientation(higher_is_better=self.task.higher_is_better, in_points=True)
        for cluster in waiting:
            ranges = [_range(before[s.sample_id], after[s.sample_id], turn) for s in cluster]
            lowest = sum(low for low, _ in ranges) / len(cluster)
            highest = sum(high for _, high in ranges) / len(cluster)
            self.comparison.update(lowest, best=highest, n_samples=len(cluster))
            self._n_read += 1
            if self.comparison.state.decision is not None:
                return


class EarlyStop:
    """Follows the gated tasks of a suite; the others are asked in full.

    Args:
        tasks: All tasks.
        margins: The acceptable drop of each, ``None`` where it is not gated or must improve.
        alpha: Chance of any false regression, and of a false pass of a task.
        targets: Which tasks must improve; none when ``None``.
        seed: Of the order of the samples.
    """

    def __init__(
        self,
        tasks: Sequence["EvalTask"],
        margins: Sequence[float | None],
        alpha: float,
        *,
        targets: Sequence[bool] | None = None,
        seed: int = ORDER_SEED,
    ) -> None:
        self._n_others = 0
        targets = [False] * len(tasks) if targets is None else targets
        self._monitors = {
            task.name: TaskMonitor(task, margin, alpha, seed=seed)
            for task, margin, is_target in zip(tasks, margins, targets, strict=True)
            if margin is not None or is_target
        }
        self._others = [task for task in tasks if task.name not in self._monitors]
        self._share_alpha()

    def share_with(self, n_others: int) -> None:
        """Leave room in the family for comparisons that are judged with it and not followed."""
        self._n_others = n_others
        self._share_alpha()

    def requests(self) -> list[Sample]:
        """The next samples to ask of all tasks that are not decided; empty at the end."""
        chosen = [sample for task in self._others for sample in task.samples]
        self._others = []
        for monitor in self._monitors.values():
            if not monitor.is_done:
                chosen += monitor.request()
        return chosen

    def read(self, baseline: "SideAnswers", candidate: "SideAnswers") -> None:
        """Look at the answers to what was requested."""
        for monitor in self._monitors.values():
            if not monitor.is_done:
                monitor.read(baseline, candidate)
                self._share_alpha()

    def asked(self, task: "EvalTask") -> list[Sample] | None:
        """The samples that a task's decision rests on, in their order.

        ``None`` where it was asked in full and is judged like any other.
        """
        monitor = self._monitors.get(task.name)
        return monitor.asked if monitor is not None and monitor.is_sequential else None

    def _share_alpha(self) -> None:
        """Ask of a regression what Holm's procedure asks, given those that are claimed."""
        monitors = [monitor for monitor in self._monitors.values() if not monitor.is_target]
        states = [monitor.comparison.state for monitor in monitors]
        claimed = sum(state.decision == "regression" for state in states)
        for monitor in monitors:
            monitor.comparison.n_claims = max(1, len(states) + self._n_others - claimed)


def _shuffled_clusters(samples: Sequence[Sample], seed: int) -> list[list[Sample]]:
    """The samples by cluster, the clusters in random order."""
    clusters: dict[int, list[Sample]] = defaultdict(list)
    for sample, number in zip(samples, cluster_samples(samples), strict=True):
        clusters[number].append(sample)
    shuffled = list(clusters.values())
    random.Random(seed).shuffle(shuffled)  # noqa: S311 - an order, not a secret
    return shuffled


def _range(
    before: Scored | Failed, after: Scored | Failed, turn: Orientation
) -> tuple[float, float]:
    """The lowest and the highest difference that a pair can have had."""
    olds = (turn(before.score),) * 2 if isinstance(before, Scored) else (0.0, 1.0)
    news = (turn(after.score),) * 2 if isinstance(after, Scored) else (0.0, 1.0)
    return min(news) - max(olds), max(news) - min(olds)
