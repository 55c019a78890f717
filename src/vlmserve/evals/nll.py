"""How likely both sides find the expected answers: finer than right and wrong.

The measure is the teacher-forced negative log-likelihood (NLL) of a sample's target, in nats a
token, its end token included. It moves before accuracy does, and also where nothing that matters
has changed: a fine-tune that answers in another form, or a model that reasons first, finds the
target less likely. So it warns, and decides only where a suite says by how much it may rise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlmserve.evals.clusters import cluster_samples
from vlmserve.evals.compare import Comparison, FailedSample
from vlmserve.evals.records import Failed, NllOutcome, SideName, TargetNll
from vlmserve.evals.samples import Sample
from vlmserve.evals.statistics import MIN_MEASURES, PairedResult, compare_measures, holm_adjust

if TYPE_CHECKING:
    from vlmserve.evals.eval_task import AskedTask

NllOutcomes = Mapping[SideName, Mapping[str, NllOutcome]]
"""Of each side, by sample id."""

NLL_UNIT = "nats a token"

# Differences below this are arithmetic: other kernels, other batches, another precision.
_LEAST_RISE = 1e-3


@dataclass(frozen=True, slots=True)
class TaskNll:
    """One task's NLL on both sides."""

    comparison: Comparison
    """In nats a token, oriented so that lower is worse. A candidate that cuts the target into
    another number of tokens is measured by the baseline's number, so that both sides are about the
    same text."""

    per_byte: PairedResult | None
    """In nats a byte of the target, oriented likewise."""

    values: Mapping[str, tuple[float | None, float | None]]
    """Nats a token of baseline and candidate, by sample id; ``None`` for failures."""


def compare_nll(
    task: "AskedTask", measured: NllOutcomes, *, alpha: float, margin: float | None
) -> TaskNll | None:
    """Compare the likelihoods of a task's targets.

    Args:
        task: The task.
        measured: What was measured on ``baseline`` and ``candidate``.
        alpha: One minus the confidence of the intervals.
        margin: The acceptable rise, where the task is gated by it.

    Returns:
        ``None`` where nothing was measured and nothing had to be.
    """
    before, after = measured.get("baseline", {}), measured.get("candidate", {})
    samples = [s for s in task.samples if s.sample_id in before and s.sample_id in after]
    if not samples and margin is None:
        return None
    numbers = cluster_samples(task.samples)
    cluster_of = {s.sample_id: number for s, number in zip(task.samples, numbers, strict=True)}
    clusters = [cluster_of[sample.sample_id] for sample in samples]
    olds = [before[sample.sample_id] for sample in samples]
    news = [after[sample.sample_id] for sample in samples]
    tokens = [_measured(old, new, "n_tokens") for old, new in zip(olds, news, strict=True)]
    failed_before = [isinstance(old, Failed) for old in olds]
    failed_after = [isinstance(new, Failed) for new in news]
    scores_before = _scores(olds, tokens)
    scores_after = _scores(news, tokens)
    pairs, worst_case, best_case = _bounds(scores_before, scores_after, clusters, alpha)
    n_bytes = [_measured(old, new, "n_bytes") for old, new in zip(olds, news, strict=True)]
    per_byte, _, _ = _bounds(_scores(olds, n_bytes), _scores(news, n_bytes), clusters, alpha)
    comparison = Comparison(
        task=task.name,
        metric="NLL",
        higher_is_better=False,
        in_points=False,
        n_samples=len(samples),
        n_failed_baseline=sum(failed_before),
        n_failed_candidate=sum(failed_after),
        n_cut_baseline=0,
        n_cut_candidate=0,
        pairs=pairs,
        worst_case=worst_case,
        best_case=best_case,
        scores={},
        regressed=(),
        improved=(),
        failures=(
            *_failures(samples, olds, "baseline"),
            *_failures(samples, news, "candidate"),
        ),
        unit=NLL_UNIT,
        drop_word="rise",
        why_no_pairs=f"it was measured on {len(samples)} samples; 10 independent ones are needed"
        if samples
        else "it was not measured",
    )
    values = {
        sample.sample_id: (_positive(old), _positive(new))
        for sample, old, new in zip(samples, scores_before, scores_after, strict=True)
    }
    return TaskNll(comparison=comparison, per_byte=per_byte, values=values)


Scores = Sequence[float | None]
"""Mean log-likelihoods, ``None`` for a sample that failed."""


def _measured(old: NllOutcome, new: NllOutcome, name: str) -> int:
    """What both sides' nats are divided by: the baseline's, where it was measured."""
    for outcome in (old, new):
        if isinstance(outcome, TargetNll):
            return int(getattr(outcome, name))
    return 1


def _scores(outcomes: Sequence[NllOutcome], lengths: Sequence[int]) -> list[float | None]:
    return [
        -outcome.nats / length if isinstance(outcome, TargetNll) else None
        for outcome, length in zip(outcomes, lengths, strict=True)
    ]


def _bounds(
    before: Scores, after: Scores, clusters: Sequence[int], alpha: float
) -> tuple[PairedResult | None, PairedResult | None, PairedResult | None]:
    """Over the pairs, and over all with every failure against the candidate, and for it.

    A likelihood has no worst value; the worst that was seen stands for it.
    """
    pairs = _compare(before, after, clusters, alpha)
    known = [score for score in (*before, *after) if score is not None]
    if len(known) == len(before) + len(after) or not known:
        return pairs, pairs, pairs
    worst, best = min(known), max(known)
    against = _compare(_filled(before, best), _filled(after, worst), clusters, alpha)
    in_favour = _compare(_filled(before, worst), _filled(after, best), clusters, alpha)
    return pairs, against, in_favour


def _compare(
    before: Scores, after: Scores, clusters: Sequence[int], alpha: float
) -> PairedResult | None:
    pairs = [
        (old, new, cluster)
        for old, new, cluster in zip(before, after, clusters, strict=True)
        if old is not None and new is not None
    ]
    labels = [cluster for _, _, cluster in pairs]
    if len(set(labels)) < MIN_MEASURES:
        return None
    olds, news = [old for old, _, _ in pairs], [new for _, new, _ in pairs]
    return compare_measures(olds, news, clusters=labels, alpha=alpha)


def _filled(scores: Scores, stand_in: float) -> list[float | None]:
    return [stand_in if score is None else score for score in scores]


def _positive(score: float | None) -> float | None:
    return None if score is None else -score + 0.0


def _failures(
    samples: Sequence[Sample], outcomes: Sequence[NllOutcome], side: SideName
) -> list[FailedSample]:
    return [
        FailedSample(sample=sample, side=side, failure=outcome)
        for sample, outcome in zip(samples, outcomes, strict=True)
        if isinstance(outcome, Failed)
    ]


def find_early_warnings(
    nlls: Sequence[TaskNll | None], comparisons: Sequence[Comparison], alpha: float
) -> list[bool]:
    """Say of which tasks the NLL rose beyond chance while the metric did not fall beyond chance.

    Args:
        nlls: One a task.
        comparisons: The tasks by their metrics, in the same order.
        alpha: The chance of any false warning (Holm's procedure over the tasks measured).
    """
    results = [None if nll is None else nll.comparison.pairs for nll in nlls]
    levels = iter(holm_adjust([each.drop_level for each in results if each is not None]))
    warned = []
    for result, comparison in zip(results, comparisons, strict=True):
        rose = result is not None and next(levels) < alpha and -result.difference > _LEAST_RISE
        fell = comparison.pairs is not None and comparison.pairs.upper < 0
        warned.append(rose and not fell)
    return warned
