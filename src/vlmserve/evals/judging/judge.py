"""Asks a judging model, and keeps what it said: no opinion is paid for twice."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from vlmserve.chat import Completion, SamplingParams
from vlmserve.config.judge import JudgeConfig
from vlmserve.engine.base import Engine
from vlmserve.evals.answer_tables import Answerer
from vlmserve.evals.digests import content_digest
from vlmserve.evals.records import Failed
from vlmserve.evals.runner import AnswerListener, Asking, SideRun, run_side
from vlmserve.evals.samples import Sample
from vlmserve.evals.store import AnswerStore


@dataclass(frozen=True, slots=True)
class JudgeUsage:
    """What a judge was asked for one task."""

    n_questions: int
    """Opinions that the task's scores rest on, or should have."""

    n_requests_sent: int
    """Those of them that this run asked for."""

    n_reused: int
    n_failed: int
    prompt_tokens: int
    """Of all opinions, whoever paid for them."""

    completion_tokens: int
    paid_prompt_tokens: int
    """Of those that this run asked for."""

    paid_completion_tokens: int


class Judge:
    """A model that is asked for its opinion.

    Opinions are kept under address and model of the judge, whatever run asked for them; prompt,
    answers and media are in each question's own digest.

    Args:
        config: Which model, and how it is asked.
        open_engine: Connects to it.
    """

    def __init__(
        self, config: JudgeConfig, open_engine: Callable[[], AbstractContextManager[Engine]]
    ) -> None:
        self.config = config
        self.params = SamplingParams(temperature=config.temperature, max_tokens=config.max_tokens)
        self._open = open_engine
        self._store: AnswerStore | None = None
        self._listener: AnswerListener | None = None
        # The rest of how it is asked is in each question's digest.
        settings = content_digest({"has_fixed_sampling": config.has_fixed_sampling})
        answerer = Answerer(checkpoint=f"judge {config.model} at {config.url}", settings=settings)
        self._run = SideRun(side="judge", answerer=answerer)
        self._reused: set[str] = set()

    def attach(self, store: AnswerStore, listener: AnswerListener) -> None:
        """Say where opinions are kept and who hears of them; before the first question."""
        self._store, self._listener = store, listener

    def ask(self, questions: Sequence[Sample]) -> dict[str, Completion | Failed]:
        """Ask what is not known yet.

        Returns:
            By ``request_digest`` of the questions, what the judge said or why it did not.

        Raises:
            EngineError: The judge is gone; its opinions so far are in the store.
        """
        if self._store is None or self._listener is None:
            raise RuntimeError("the judge is not attached to a store")
        run = self._run
        new = {
            question.request_digest: question
            for question in questions
            if question.request_digest not in run.answers
            and question.request_digest not in run.failures
        }
        found = self._store.find(run.answerer, new)
        run.answers |= found
        run.n_reused += len(found)
        self._reused |= found.keys()
        run.pending = {digest: each for digest, each in new.items() if digest not in found}
        if run.pending:
            self._listener.started("judge", len(run.pending), len(found))
            with self._open() as engine:
                run_side(run, Asking(engine, self.config.model, self._store, self._listener))
        return {
            digest: run.answers[digest] if digest in run.answers else run.failures[digest]
            for digest in (question.request_digest for question in questions)
        }

    @property
    def usage(self) -> JudgeUsage:
        """What has been asked so far."""
        run = self._run
        paid = [one.usage for digest, one in run.answers.items() if digest not in self._reused]
        every = [one.usage for one in run.answers.values()]
        return JudgeUsage(
            n_questions=len(run.answers) + len(run.failures),
            n_requests_sent=run.n_requests_sent,
            n_reused=run.n_reused,
            n_failed=len(run.failures),
            prompt_tokens=sum(one.prompt_tokens for one in every),
            completion_tokens=sum(one.completion_tokens for one in every),
            paid_prompt_tokens=sum(one.prompt_tokens for one in paid),
            paid_completion_tokens=sum(one.completion_tokens for one in paid),
        )
