"""Answers that go round in circles."""

import re
from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field
from typing_extensions import override

from vlmserve.chat import Completion
from vlmserve.evals.label_free.answer_check import AnswerCheck
from vlmserve.evals.samples import Sample

# Scripts that put no space between words: Thai to Khmer, kana, CJK ideographs.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
# A word, a character of such a script, or a sign.
_TOKEN = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+|[^\w\s]")
# What is longer is no word of a language, and may hold the circle within itself.
_LONGEST_WORD = 30
_NGRAM = 4


class Repetition(AnswerCheck):
    """1 for an answer that ends in a phrase which stands there several times in a row.

    A phrase has at least two tokens: words, characters of scripts without spaces, and signs; what
    is longer than 30 letters is taken letter by letter. Case does not count. With
    ``max_repeated_share`` an answer counts, too, if a larger share of its 4-grams has been there
    before, anywhere in it: a strict measure of prose, too strict for JSON and tables.
    """

    name: ClassVar[str] = "repetition"
    about: ClassVar[str] = "ends in a phrase of 2 words or more that stands there 3 times in a row"
    source: ClassVar[str] = (
        "A. Holtzman et al. 2020, The Curious Case of Neural Text Degeneration (arXiv 1904.09751, "
        "section 5.3); max_repeated_share is seq-rep-4 of S. Welleck et al. 2020, Neural Text "
        "Generation with Unlikelihood Training (arXiv 1908.04319, equation 11)"
    )

    phrase: int = Field(default=2, ge=1)
    """Tokens that a phrase has at least."""

    times: int = Field(default=3, ge=2)
    """How often it must stand at the end."""

    max_repeated_share: float | None = Field(default=None, gt=0.0, lt=1.0)
    """Share of 4-grams that may repeat an earlier one; unset: any."""

    @override
    def measure(self, completion: Completion, sample: Sample) -> float:
        tokens = _tokens(completion.text)
        if ends_in_circle(tokens, self.phrase, self.times):
            return 1.0
        limit = self.max_repeated_share
        return float(limit is not None and repeated_share(tokens, _NGRAM) > limit)


def ends_in_circle(tokens: Sequence[str], phrase: int, times: int) -> bool:
    """Tell whether a sequence ends in a phrase that is repeated.

    Args:
        tokens: Shape ``(n,)``.
        phrase: Tokens of the phrase, at least.
        times: How often it must stand there, at least.
    """
    n = len(tokens)
    return any(
        all(
            tokens[-place] == tokens[-place - length]
            for place in range(1, length * (times - 1) + 1)
        )
        for length in range(phrase, n // times + 1)
    )


def repeated_share(tokens: Sequence[str], n: int) -> float:
    """Share of a sequence's n-grams that repeat an earlier one, from 0; 0 where there are none."""
    ngrams = [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]
    return 1.0 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def _tokens(text: str) -> list[str]:
    tokens: list[str] = []
    for token in _TOKEN.findall(text.casefold()):
        tokens += token if len(token) > _LONGEST_WORD else [token]
    return tokens
