"""Finds an answer among the tokens of a whole conversation, and sees that it is all there.

The tokens of a conversation without the answer, as they are before an answer is generated, must be
the beginning of those with it: what follows is the answer, then the token that ends it, and perhaps
white space and control tokens, which no model is asked to generate. A chat template that does
otherwise (it drops an earlier turn's reasoning once there is an answer, writes an empty reasoning
before it, cuts the answer) would have the model judged on another text than the answer.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vlmserve.errors import RequestError

_WHITE_SPACE = re.compile(r"\s+")

# vLLM entrypoints/openai: JSON has no infinity.
_LOG_OF_ZERO = -9999.0

# <|im_end|>, </s>, <end_of_turn>, [UNUSED_TOKEN_145]
_CONTROL = re.compile(r"<[^<>\s]+>|\[[A-Z_0-9/]+\]")


@dataclass(frozen=True, slots=True)
class AnswerSpan:
    """Where an answer lies among a conversation's tokens."""

    start: int
    """Index of its first token."""

    end: int
    """Index behind its last token, which is the end token where there is one."""

    has_end: bool


def find_answer(
    prompt_ids: Sequence[int], full_ids: Sequence[int], pieces: Sequence[str], target: str
) -> AnswerSpan:
    """Find the answer.

    Args:
        prompt_ids: The conversation without the answer, ready for one, shape ``(p,)``.
        full_ids: The conversation with the answer, shape ``(n,)``.
        pieces: The text of each token of ``full_ids[p:]``; white space is not looked at.
        target: The answer.

    Raises:
        RequestError: The second does not consist of the first and the answer.
    """
    start = len(prompt_ids)
    if list(full_ids[:start]) != list(prompt_ids):
        raise RequestError(
            "the chat template writes the conversation with the answer otherwise than without it, "
            "so the answer's likelihood cannot be told"
        )
    wanted = _bare(target)
    if not wanted:
        raise RequestError("the answer is empty, so it has no likelihood")
    seen, length = "", 0
    while length < len(pieces) and seen != wanted:
        seen += _bare(pieces[length])
        length += 1
    if seen != wanted:
        raise RequestError(
            "the chat template changes the answer, so its likelihood cannot be told: "
            f"{_shown(target)} becomes {_shown(''.join(pieces))}"
        )
    rest = pieces[length:]
    if strange := [
        piece for piece in rest if _bare(piece) and not _CONTROL.fullmatch(_bare(piece))
    ]:
        raise RequestError(
            f"the chat template adds {_shown(strange[0])} to the answer, so its likelihood cannot "
            "be told"
        )
    ends = [index for index, piece in enumerate(rest) if _bare(piece)]
    # White space before the end token is what the model has to write to get there.
    extent = length + ends[0] + 1 if ends else length
    return AnswerSpan(start=start, end=start + extent, has_end=bool(ends))


def finite_logprobs(logprobs: Iterable[float | None]) -> tuple[float, ...]:
    """Refuse log-probabilities that are none, such as those of weights that hold NaN.

    Args:
        logprobs: In nats; vLLM's server writes -9999 for the logarithm of 0.

    Raises:
        RequestError: One is missing or is not finite.
    """
    found = tuple(logprobs)
    for logprob in found:
        if logprob is None or not math.isfinite(logprob) or logprob <= _LOG_OF_ZERO:
            raise RequestError(f"the log-probability of a token of the answer is {logprob}")
    return tuple(min(0.0, logprob) for logprob in found if logprob is not None)


def _bare(text: str) -> str:
    return _WHITE_SPACE.sub("", text)


_MOST_SHOWN = 60


def _shown(text: str) -> str:
    return repr(text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}...")
