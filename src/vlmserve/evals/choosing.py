"""Has an engine choose the likeliest of given answers."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from vlmserve.chat import ChoiceLikelihood, Completion, Usage
from vlmserve.engine.base import (
    Engine,
    GenerationFailure,
    GenerationResult,
    ScoringRequest,
    ScoringResult,
    TargetLogprobs,
)
from vlmserve.errors import EngineError


@dataclass(frozen=True, slots=True)
class Question:
    """A conversation and the answers to choose from."""

    question_id: str
    request: ScoringRequest
    """The conversation; whatever its target is."""

    choices: tuple[str, ...]


@dataclass(slots=True)
class _Open:
    """A question of which not all choices are scored yet."""

    question: Question
    results: dict[int, ScoringResult] = field(default_factory=dict)


def choose(engine: Engine, questions: Iterable[Question]) -> Iterator[GenerationResult]:
    """Ask questions; each is answered when all of its choices are scored.

    The likelihood of a choice is that of its own tokens, without the one that ends it, as in
    lm-eval.

    Yields:
        One result for each question, under ``question_id``: a completion with ``choices``, or the
        failure of the first choice that could not be scored.

    Raises:
        EngineError: The engine is gone, or gave a result that nobody asked for.
    """
    waiting: dict[str, _Open] = {}

    def requests() -> Iterator[ScoringRequest]:
        for question in questions:
            waiting[question.question_id] = _Open(question)
            for place, choice in enumerate(question.choices):
                name = f"{question.question_id}/{place}"
                yield question.request.model_copy(update={"request_id": name, "target": choice})

    for result in engine.score(requests()):
        name, _, place = result.request_id.rpartition("/")
        found = waiting.get(name)
        if found is None:
            raise EngineError(f"the engine scored a choice that was not open: {result.request_id}")
        found.results[int(place)] = result
        if len(found.results) == len(found.question.choices):
            del waiting[name]
            yield _answer(found)


def _answer(found: _Open) -> GenerationResult:
    results = [found.results[place] for place in range(len(found.question.choices))]
    outcomes = [result.outcome for result in results]
    scored = [outcome for outcome in outcomes if isinstance(outcome, TargetLogprobs)]
    failures = [outcome for outcome in outcomes if isinstance(outcome, GenerationFailure)]
    outcome: Completion | GenerationFailure
    if failures:
        outcome = failures[0]
    else:
        choices = tuple(_likelihood(each) for each in scored)
        best = max(range(len(choices)), key=lambda place: choices[place].logprob)
        outcome = Completion(
            text=found.question.choices[best],
            finish_reason="stop",
            usage=Usage(
                prompt_tokens=scored[0].prompt_tokens,
                completion_tokens=sum(len(each.token_ids) for each in scored),
            ),
            choices=choices,
        )
    return GenerationResult(
        request_id=found.question.question_id,
        outcome=outcome,
        latency_s=max(result.latency_s for result in results),
    )


def _likelihood(found: TargetLogprobs) -> ChoiceLikelihood:
    own = found.logprobs[:-1] if found.has_end else found.logprobs
    return ChoiceLikelihood(logprob=sum(own), is_greedy=found.is_greedy)
