"""What can be counted of an answer: nothing in it, its end, its tokens, its time."""

from typing import ClassVar

from typing_extensions import override

from vlmserve.chat import Completion
from vlmserve.evals.label_free.answer_check import AnswerCheck
from vlmserve.evals.samples import Sample

_MS_PER_S = 1000.0


class Empty(AnswerCheck):
    """1 for an answer of nothing but whitespace."""

    name: ClassVar[str] = "empty"
    about: ClassVar[str] = "nothing but whitespace"
    source: ClassVar[str] = "by definition"

    @override
    def measure(self, completion: Completion, sample: Sample) -> float:
        return float(not completion.text.strip())


class CutByLength(AnswerCheck):
    """1 for an answer that ended at the limit of ``max_tokens``."""

    name: ClassVar[str] = "cut"
    about: ClassVar[str] = "ended at the limit of max_tokens"
    source: ClassVar[str] = "finish_reason `length` of OpenAI's API"

    @override
    def measure(self, completion: Completion, sample: Sample) -> float:
        return float(completion.finish_reason == "length")


class AnswerTokens(AnswerCheck):
    """How many tokens were generated."""

    name: ClassVar[str] = "answer_tokens"
    about: ClassVar[str] = "tokens that were generated"
    source: ClassVar[str] = "usage.completion_tokens of OpenAI's API"
    is_fraction: ClassVar[bool] = False

    @override
    def measure(self, completion: Completion, sample: Sample) -> float:
        return float(completion.usage.completion_tokens)


class PromptTokens(AnswerCheck):
    """How many tokens the prompt had, those of images and videos among them."""

    name: ClassVar[str] = "prompt_tokens"
    about: ClassVar[str] = "tokens of the prompt, with those of images and videos"
    source: ClassVar[str] = "usage.prompt_tokens of OpenAI's API"
    is_fraction: ClassVar[bool] = False

    @override
    def measure(self, completion: Completion, sample: Sample) -> float:
        return float(completion.usage.prompt_tokens)


class Latency(AnswerCheck):
    """Milliseconds from the sending of a request to its end, waiting for others included.

    Comparable only where both sides ran on the same idle machine with the same concurrency.
    """

    name: ClassVar[str] = "latency_ms"
    about: ClassVar[str] = "milliseconds from request to answer"
    source: ClassVar[str] = "measured by the client"
    is_fraction: ClassVar[bool] = False

    @override
    def measure(self, completion: Completion, sample: Sample) -> float:
        if completion.latency_s is None:
            raise ValueError("nobody measured how long the answer took")
        return _MS_PER_S * completion.latency_s
