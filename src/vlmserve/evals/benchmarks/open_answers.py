"""MMMU's open questions: whether the words or numbers of a free answer are accepted."""

import re
from collections.abc import Iterator, Sequence

_LEADS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_EQUALS = "="
_TRIVIAL = frozenset(":,.!?;'")

_NUMBERS = (
    r"-?\b\d{1,3}(?:,\d{3})+\b",
    r"-?\d+(?:\.\d+)?[eE][+-]?\d+",
    r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])",
)


def is_open_answer_right(answer: str, accepted: Sequence[str]) -> bool:
    """Whether an accepted answer is in what a model said.

    As MMMU's ``eval_utils.py`` does it, and lm-eval 0.4.13 after it: numbers must be equal when
    rounded to two places, words must occur in the part of the answer that states the result.
    """
    known = [form for one in accepted for form in _forms(one)]
    given = [form for part in _with_numbers(answer) for form in _forms(part)]
    for form in given:
        if isinstance(form, float):
            if form in known:
                return True
        elif any(isinstance(one, str) and one in form for one in known):
            return True
    return False


def _with_numbers(answer: str) -> Iterator[str]:
    for part in _stated_parts(answer):
        yield part
        for pattern in _NUMBERS:
            yield from re.findall(pattern, part)


def _stated_parts(answer: str) -> list[str]:
    """What follows "is", "so", ... in each sentence; the whole answer where nothing does."""
    text = answer.strip().strip(".").lower()
    # In lower case no sentence is found to end at a full stop; the reference does so, too.
    sentences = text.split("\n")
    parts = []
    for place, sentence in enumerate(sentences):
        leads = (*_LEADS, _EQUALS) if place == len(sentences) - 1 else _LEADS
        tails = [sentence.rpartition(lead)[2].strip() for lead in leads if lead in sentence]
        tail = _shortest(tails)
        if tail and tail not in _TRIVIAL:
            parts.append(tail)
    return parts or [text]


def _shortest(tails: Sequence[str]) -> str:
    # An empty tail gives way to any other one.
    shortest = ""
    for tail in tails:
        if not shortest or len(tail) < len(shortest):
            shortest = tail
    return shortest


def _forms(text: str) -> list[str | float]:
    """A number rounded to two places, or words in lower case; one letter has a space beside it."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        lowered = text.lower()
        return [f" {lowered}", f"{lowered} "] if len(lowered) == 1 else [lowered]
