"""Asks an engine how likely it finds expected answers, for what the store does not know yet."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vlmserve.config.suite import NllConfig
from vlmserve.engine.base import GenerationFailure, ScoringRequest, ScoringResult, TargetLogprobs
from vlmserve.errors import EngineError, MediaError, ScoringUnsupportedError
from vlmserve.evals.answer_tables import Answerer
from vlmserve.evals.asking import score_as
from vlmserve.evals.records import Failed, NllOutcome, SideName, TargetNll
from vlmserve.evals.samples import Sample
from vlmserve.evals.store import AnswerStore

if TYPE_CHECKING:
    from vlmserve.evals.eval_task import EvalTask
    from vlmserve.evals.runner import Asking


@dataclass(frozen=True, slots=True)
class TargetChoice:
    """The samples of a task whose expected answers are scored."""

    samples: tuple[Sample, ...]
    """In the task's order."""

    n_too_long: int
    """Samples left out because their target is too long."""

    n_unspoken: int
    """Samples left out because their target is not one text, such as a list of answers."""


def choose_targets(task: "EvalTask", config: NllConfig) -> TargetChoice:
    """Choose the samples whose targets are scored: at random, and the same in every run."""
    spoken = [sample for sample in task.samples if sample.spoken_target.strip()]
    short = [
        sample for sample in spoken if len(sample.spoken_target.encode()) <= config.max_target_bytes
    ]
    chosen = short
    if config.samples is not None and config.samples < len(short):
        # An id is a digest of the content, so that its order has to do with nothing.
        by_digest = sorted(short, key=lambda sample: sample.sample_id)
        kept = {sample.sample_id for sample in by_digest[: config.samples]}
        chosen = [sample for sample in short if sample.sample_id in kept]
    return TargetChoice(
        samples=tuple(chosen),
        n_too_long=len(spoken) - len(short),
        n_unspoken=len(task.samples) - len(spoken),
    )


@dataclass(slots=True)
class TargetScores:
    """What is known of the targets' likelihoods on one side."""

    side: SideName
    answerer: Answerer
    found: dict[str, TargetLogprobs] = field(default_factory=dict)
    """By scoring digest; equal questions of several tasks are scored once."""

    failures: dict[str, Failed] = field(default_factory=dict)
    pending: dict[str, Sample] = field(default_factory=dict)
    n_reused: int = 0
    n_sent: int = 0
    refusal: str | None = None
    """Why the engine scores nothing, in its words."""

    def outcomes(self, samples: Sequence[Sample]) -> dict[str, NllOutcome]:
        """The likelihoods of some samples' targets, by sample id; what is unknown is left out."""
        found = ((sample, sample.scoring_digest(sample.spoken_target)) for sample in samples)
        return {
            sample.sample_id: self.failures.get(digest) or _nll(self.found[digest])
            for sample, digest in found
            if digest in self.failures or digest in self.found
        }


def plan_targets(
    side: SideName, answerer: Answerer, samples: Sequence[Sample], store: AnswerStore
) -> TargetScores:
    """Look up which of the samples' targets an answerer has scored before."""
    wanted = {sample.scoring_digest(sample.spoken_target): sample for sample in samples}
    found = store.find_likelihoods(answerer, wanted)
    return TargetScores(
        side=side,
        answerer=answerer,
        found=found,
        pending={digest: sample for digest, sample in wanted.items() if digest not in found},
        n_reused=len(found),
    )


def score_targets(scores: TargetScores, asking: "Asking") -> None:
    """Score what is pending; everything scored is in the store before the next is looked at.

    An engine that cannot score leaves ``refusal``: nothing was measured then.

    Raises:
        EngineError: The engine is gone, or did not give one result for each request.
    """
    asking.listener.scoring(scores.side, len(scores.pending), scores.n_reused)
    try:
        for result in asking.engine.score(_requests(scores, asking)):
            if result.request_id not in scores.pending:
                raise EngineError(
                    f"the engine scored an answer that was not asked for: {result.request_id}"
                )
            failed = _take(scores, result, asking.store)
            del scores.pending[result.request_id]
            asking.listener.answered(scores.side, failed=failed)
    except ScoringUnsupportedError as error:
        scores.refusal = error.message
        return
    if scores.pending:
        raise EngineError(f"the engine gave no likelihood for {len(scores.pending)} answers")


def _requests(scores: TargetScores, asking: "Asking") -> Iterator[ScoringRequest]:
    for digest, sample in list(scores.pending.items()):
        try:
            request = sample.scoring_request(asking.model, sample.spoken_target)
            request = score_as(request, asking.asking)
        except MediaError as error:
            # The file has vanished or changed since the task was loaded.
            scores.failures[digest] = Failed(error_type=type(error).__name__, message=error.message)
            del scores.pending[digest]
            asking.listener.answered(scores.side, failed=True)
            continue
        scores.n_sent += 1
        yield request


def _take(scores: TargetScores, result: ScoringResult, store: AnswerStore) -> bool:
    outcome = result.outcome
    if isinstance(outcome, GenerationFailure):
        scores.failures[result.request_id] = Failed(
            error_type=outcome.error_type, message=outcome.message
        )
        return True
    store.keep_likelihood(scores.answerer, result.request_id, outcome, result.latency_s)
    scores.found[result.request_id] = outcome
    return False


def _nll(logprobs: TargetLogprobs) -> TargetNll:
    return TargetNll(
        nats=-sum(logprobs.logprobs), n_tokens=len(logprobs.logprobs), n_bytes=logprobs.n_bytes
    )
