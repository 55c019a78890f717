"""Sets two runs of a task side by side, sample by sample."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlmserve.evals.clusters import cluster_samples
from vlmserve.evals.records import Failed, SampleRecord, Scored, SideName
from vlmserve.evals.samples import Sample
from vlmserve.evals.sequential import compare_sequence
from vlmserve.evals.statistics import PairedResult, compare_pairs

if TYPE_CHECKING:
    from vlmserve.evals.eval_task import AskedTask

_MIN_CLUSTERS = 2


@dataclass(frozen=True, slots=True)
class Flip:
    """A sample that the two sides answered with different scores."""

    sample: Sample
    baseline: Scored
    candidate: Scored


@dataclass(frozen=True, slots=True)
class FailedSample:
    """A sample that one side could not be judged on."""

    sample: Sample
    side: SideName
    failure: Failed


@dataclass(frozen=True, slots=True)
class Comparison:
    """One task on both sides.

    The three results are oriented so that a lower number is worse; see ``orientation``.
    """

    task: str
    metric: str
    higher_is_better: bool
    in_points: bool
    """Whether all scores lie between 0 and 1, so that differences are spoken of in points."""

    n_samples: int
    n_failed_baseline: int
    n_failed_candidate: int
    n_cut_baseline: int
    """Answers that ended at the limit of ``max_tokens``."""

    n_cut_candidate: int

    pairs: PairedResult | None
    """Over the samples that both sides were judged on; ``None`` where fewer than 2 of them are
    independent of each other."""

    worst_case: PairedResult | None
    """Over all samples, as if every failure had gone against the candidate: its own got the worst
    score there is, the baseline's the best."""

    best_case: PairedResult | None
    """The same with every failure in the candidate's favour."""

    scores: Mapping[str, tuple[float, float]]
    """Oriented scores of baseline and candidate by sample id, of samples that have both."""

    regressed: tuple[Flip, ...]
    """Samples on which the candidate is worse, in the task's order."""

    improved: tuple[Flip, ...]
    failures: tuple[FailedSample, ...]
    unit: str = ""
    """What amounts are in, where that is no matter of points or of the metric's own scale."""

    drop_word: str = "drop"
    """What becoming worse is called."""

    why_no_pairs: str = "fewer than 2 independent samples were judged on both sides"
    """What to say where ``pairs`` is ``None``."""

    def describe(self, amount: float) -> str:
        """Say an amount of the metric in words."""
        return describe_amount(amount, in_points=self.in_points, unit=self.unit)

    @property
    def orientation(self) -> "Orientation":
        """Turns the metric's scores into oriented ones, and those back."""
        return orientation(higher_is_better=self.higher_is_better, in_points=self.in_points)

    @property
    def n_failed(self) -> int:
        """Failures on the side that has more of them."""
        return max(self.n_failed_baseline, self.n_failed_candidate)


def describe_amount(amount: float, *, in_points: bool, unit: str = "") -> str:
    """Say an amount in words: ``8 points`` of a score between 0 and 1, else a number."""
    if in_points:
        points = f"{100 * amount:.3g}"
        return f"{points} point" if points == "1" else f"{points} points"
    return f"{amount:.3g} {unit}" if unit else f"{amount:g}"


Orientation = Callable[[float], float]
Scores = Sequence[float | None]
"""Oriented scores, ``None`` for a sample that failed."""


def orientation(*, higher_is_better: bool, in_points: bool) -> Orientation:
    """Choose how to turn scores so that a lower one is worse; the same turn leads back.

    Where lower is better, scores between 0 and 1 become ``1 - score``, which keeps 0 and 1 what the
    statistics of proportions know, and the scale; others are negated.
    """
    if higher_is_better:
        return lambda score: score
    if in_points:
        return lambda score: 1.0 - score
    return lambda score: -score


def compare_task(
    task: "AskedTask",
    baseline: Sequence[SampleRecord],
    candidate: Sequence[SampleRecord],
    *,
    alpha: float,
    asked: Sequence[Sample] | None = None,
) -> Comparison:
    """Compare two runs of a task.

    Args:
        task: What was asked.
        baseline: One record for each of the samples, in their order.
        candidate: The same for the other side.
        alpha: One minus the confidence of the intervals.
        asked: The samples, in the order of asking, where it was stopped as soon as it was enough;
            the task's own when ``None``.

    Raises:
        ValueError: The records are not of these samples.
    """
    samples = task.samples if asked is None else asked
    ids = [sample.sample_id for sample in samples]
    for records in (baseline, candidate):
        if [record.sample_id for record in records] != ids:
            raise ValueError(f"task {task.name}: the records are not of the task's samples")
    in_points = not task.is_amount and all(
        0.0 <= record.outcome.score <= 1.0
        for record in (*baseline, *candidate)
        if isinstance(record.outcome, Scored)
    )
    turn = orientation(higher_is_better=task.higher_is_better, in_points=in_points)
    before = [_oriented(record, turn) for record in baseline]
    after = [_oriented(record, turn) for record in candidate]
    # The worst and the best score that a failed sample could have had.
    known = [score for score in before + after if score is not None]
    worst, best = (0.0, 1.0) if in_points else (min(known), max(known))
    sign = 1.0 if task.higher_is_better else -1.0
    flips = _flips(samples, baseline, candidate)
    numbers = cluster_samples(task.samples)
    cluster_of = {s.sample_id: number for s, number in zip(task.samples, numbers, strict=True)}
    clusters = [cluster_of[sample_id] for sample_id in ids]

    def compare(old: Scores, new: Scores) -> PairedResult | None:
        olds, news, labels = _known(old, new, clusters)
        if len(set(labels)) < _MIN_CLUSTERS:
            return None
        if asked is None:
            return compare_pairs(olds, news, clusters=labels, alpha=alpha)
        largest = max(Counter(numbers).values())
        return compare_sequence(olds, news, clusters=labels, max_cluster=largest, alpha=alpha)

    pairs = worst_case = best_case = compare(before, after)
    if None in before or None in after:
        worst_case = compare(_filled(before, best), _filled(after, worst))
        best_case = compare(_filled(before, worst), _filled(after, best))
    return Comparison(
        task=task.name,
        metric=task.metric,
        drop_word="drop" if task.higher_is_better else "rise",
        higher_is_better=task.higher_is_better,
        in_points=in_points,
        n_samples=len(ids),
        n_failed_baseline=before.count(None),
        n_failed_candidate=after.count(None),
        n_cut_baseline=_n_cut(baseline),
        n_cut_candidate=_n_cut(candidate),
        pairs=pairs,
        worst_case=worst_case,
        best_case=best_case,
        scores={
            sample_id: (old, new)
            for sample_id, old, new in zip(ids, before, after, strict=True)
            if old is not None and new is not None
        },
        regressed=tuple(f for f in flips if sign * (f.candidate.score - f.baseline.score) < 0),
        improved=tuple(f for f in flips if sign * (f.candidate.score - f.baseline.score) > 0),
        failures=(
            *_failures(samples, baseline, "baseline"),
            *_failures(samples, candidate, "candidate"),
        ),
    )


def _oriented(record: SampleRecord, turn: Orientation) -> float | None:
    outcome = record.outcome
    return turn(outcome.score) if isinstance(outcome, Scored) else None


def _filled(scores: Scores, stand_in: float) -> list[float | None]:
    return [stand_in if score is None else score for score in scores]


def _known(
    before: Scores, after: Scores, clusters: Sequence[int]
) -> tuple[list[float], list[float], list[int]]:
    """The pairs that have both scores, and their clusters."""
    pairs = [
        (old, new, cluster)
        for old, new, cluster in zip(before, after, clusters, strict=True)
        if old is not None and new is not None
    ]
    return [old for old, _, _ in pairs], [new for _, new, _ in pairs], [c for _, _, c in pairs]


def _n_cut(records: Sequence[SampleRecord]) -> int:
    return sum(
        record.completion is not None and record.completion.finish_reason == "length"
        for record in records
    )


def _flips(
    samples: Sequence[Sample], baseline: Sequence[SampleRecord], candidate: Sequence[SampleRecord]
) -> list[Flip]:
    return [
        Flip(sample=sample, baseline=old.outcome, candidate=new.outcome)
        for sample, old, new in zip(samples, baseline, candidate, strict=True)
        if isinstance(old.outcome, Scored)
        and isinstance(new.outcome, Scored)
        and old.outcome.score != new.outcome.score
    ]


def _failures(
    samples: Sequence[Sample], records: Sequence[SampleRecord], side: SideName
) -> list[FailedSample]:
    return [
        FailedSample(sample=sample, side=side, failure=record.outcome)
        for sample, record in zip(samples, records, strict=True)
        if isinstance(record.outcome, Failed)
    ]
