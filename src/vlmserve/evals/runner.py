"""Asks an engine what the store does not know yet, and scores the answers."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

from vlmserve.chat import Completion
from vlmserve.config.asking import AskingConfig
from vlmserve.engine.base import Engine, GenerationFailure, GenerationRequest, GenerationResult
from vlmserve.errors import EngineError, MediaError
from vlmserve.evals.answer_tables import Answerer
from vlmserve.evals.asking import ask_as, score_as
from vlmserve.evals.choosing import Question, choose
from vlmserve.evals.records import AskedName, Failed, SampleRecord, Scored, SideName
from vlmserve.evals.samples import Sample
from vlmserve.evals.store import AnswerStore

if TYPE_CHECKING:
    from vlmserve.evals.eval_task import EvalTask


R = TypeVar("R")


class AnswerListener(Protocol):
    """Hears of answers as they arrive; what a progress bar needs."""

    def loading(self, name: str) -> None:
        """An engine for the sides of this name is about to be started, which may take minutes."""
        ...

    def started(self, side: AskedName, n_requests: int, n_reused: int) -> None:
        """``n_requests`` are going to be sent; ``n_reused`` answers were kept from before."""
        ...

    def scoring(self, side: AskedName, n_requests: int, n_reused: int) -> None:
        """``n_requests`` expected answers are going to be scored; ``n_reused`` were before."""
        ...

    def answered(self, side: AskedName, *, failed: bool) -> None:
        """One request of a side has come to its end."""
        ...


class SilentListener:
    """Hears nothing."""

    def loading(self, name: str) -> None:
        """Do nothing."""

    def started(self, side: AskedName, n_requests: int, n_reused: int) -> None:
        """Do nothing."""

    def scoring(self, side: AskedName, n_requests: int, n_reused: int) -> None:
        """Do nothing."""

    def answered(self, side: AskedName, *, failed: bool) -> None:
        """Do nothing."""


@dataclass(slots=True)
class SideRun:
    """What one side of a comparison has answered so far."""

    side: AskedName
    answerer: Answerer
    answers: dict[str, Completion] = field(default_factory=dict)
    """By request digest; equal requests of several tasks are asked once."""

    failures: dict[str, Failed] = field(default_factory=dict)
    pending: dict[str, Sample] = field(default_factory=dict)
    """Requests without an answer or a failure yet."""

    n_reused: int = 0
    """Answers that the store already had."""

    n_requests_sent: int = 0

    def records(
        self, task: "EvalTask", samples: Sequence[Sample] | None = None
    ) -> list[SampleRecord]:
        """Score a task's answers.

        Args:
            task: The task.
            samples: Those of its samples that were asked; all when ``None``.

        Returns:
            One record for each sample, in their order.
        """
        asked = task.samples if samples is None else samples
        outcomes = self.outcomes(task, asked)
        return [
            SampleRecord(
                sample_id=sample.sample_id,
                completion=self.answers.get(sample.request_digest),
                outcome=outcomes[sample.sample_id],
            )
            for sample in asked
        ]

    def outcomes(self, task: "EvalTask", samples: Sequence[Sample]) -> dict[str, Scored | Failed]:
        """Score the answers to some of a task's samples, by sample id."""
        scored = task.score(
            {
                sample.sample_id: self.answers[sample.request_digest]
                for sample in samples
                if sample.request_digest in self.answers
            }
        )
        return {
            sample.sample_id: scored[sample.sample_id]
            if sample.sample_id in scored
            else self.failures[sample.request_digest]
            for sample in samples
        }


def plan_side(
    side: SideName, answerer: Answerer, tasks: Sequence["EvalTask"], store: AnswerStore
) -> SideRun:
    """Look up which of the tasks' requests an answerer has answered before."""
    samples = {sample.request_digest: sample for task in tasks for sample in task.samples}
    answers = store.find(answerer, samples)
    return SideRun(
        side=side,
        answerer=answerer,
        answers=answers,
        pending={digest: sample for digest, sample in samples.items() if digest not in answers},
        n_reused=len(answers),
    )


@dataclass(frozen=True, slots=True)
class Asking:
    """What it takes to put requests to a side."""

    engine: Engine
    model: str
    """The name to ask for; one of ``engine.models``."""

    store: AnswerStore
    """Where answers are kept. Failures are not: the next run asks again."""

    listener: AnswerListener
    asking: AskingConfig = field(default_factory=AskingConfig)
    """What the side has of its own in how it is asked."""

    repetition: int = 0
    """Which time the samples are asked, from 0."""


def run_side(run: SideRun, asking: Asking, samples: Sequence[Sample] | None = None) -> None:
    """Send what is pending; every answer is in the store before the next is looked at.

    Args:
        run: The side; its answers, failures and counts are brought up to date.
        asking: Whom to ask, and where to keep what is answered.
        samples: Send no others; all when ``None``.

    Raises:
        EngineError: The engine is gone, or did not give one result for each request.
    """
    digests = list(run.pending) if samples is None else _pending_digests(run, samples)
    listener = asking.listener
    for result in _results(run, digests, asking):
        if result.request_id not in run.pending:
            raise EngineError(
                f"the engine answered a request that was not open: {result.request_id}"
            )
        failed = _take(run, result, asking.store)
        del run.pending[result.request_id]
        listener.answered(run.side, failed=failed)
    if unanswered := [digest for digest in digests if digest in run.pending]:
        raise EngineError(f"the engine gave no result for {len(unanswered)} requests")


def _pending_digests(run: SideRun, samples: Sequence[Sample]) -> list[str]:
    # Tasks may have requests in common.
    wanted = dict.fromkeys(sample.request_digest for sample in samples)
    return [digest for digest in wanted if digest in run.pending]


def _results(run: SideRun, digests: Sequence[str], asking: Asking) -> Iterator[GenerationResult]:
    spoken = [digest for digest in digests if not run.pending[digest].choices]
    chosen = [digest for digest in digests if run.pending[digest].choices]
    if spoken:
        yield from asking.engine.generate(_made(run, spoken, asking, _request))
    if chosen:
        yield from choose(asking.engine, _made(run, chosen, asking, _question))


def _request(sample: Sample, asking: Asking) -> GenerationRequest:
    return ask_as(sample.request(asking.model), asking.asking, repetition=asking.repetition)


def _question(sample: Sample, asking: Asking) -> Question:
    request = score_as(sample.scoring_request(asking.model, sample.choices[0]), asking.asking)
    return Question(sample.request_digest, request, sample.choices)


def _made(
    run: SideRun,
    digests: Sequence[str],
    asking: Asking,
    make: Callable[[Sample, Asking], R],
) -> Iterator[R]:
    """What is sent for samples, as the engine has room for it."""
    for digest in digests:
        try:
            request = make(run.pending[digest], asking)
        except MediaError as error:
            # The file has vanished or changed since the task was loaded.
            run.failures[digest] = Failed(error_type=type(error).__name__, message=error.message)
            del run.pending[digest]
            asking.listener.answered(run.side, failed=True)
            continue
        run.n_requests_sent += 1
        yield request


def _take(run: SideRun, result: GenerationResult, store: AnswerStore) -> bool:
    outcome = result.outcome
    if isinstance(outcome, Completion) and outcome.finish_reason == "abort":
        outcome = GenerationFailure(
            error_type="EngineError", message="the engine gave up in the middle of the answer"
        )
    if isinstance(outcome, GenerationFailure):
        run.failures[result.request_id] = Failed(
            error_type=outcome.error_type, message=outcome.message
        )
        return True
    store.keep(run.answerer, result.request_id, outcome, result.latency_s)
    run.answers[result.request_id] = outcome.model_copy(update={"latency_s": result.latency_s})
    return False
