"""MMMU: college questions with images in the text (X. Yue et al. 2023, arXiv 2311.16502)."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from vlmserve.evals.benchmarks.choices import letter_choices, list_choices
from vlmserve.evals.benchmarks.open_answers import is_open_answer_right
from vlmserve.evals.benchmarks.published import load_published, read_list

_PLACEHOLDER = re.compile(r"<image ([1-7])>")
_IMAGES = tuple(f"image_{place}" for place in range(1, 8))
_TRIMMED = ",.!?;:'"
_LONG_ANSWER_WORDS = 5


def load(**settings: Any) -> dict[str, Any]:
    """Load the rows; see ``load_published``."""
    columns = ("question", "options", "answer", "question_type", *_IMAGES)
    return load_published("mmmu", columns, **settings)


def prompt(doc: Mapping[str, Any]) -> str:
    """Word the question; an image stands wherever ``<image 1>`` and its like do."""
    return _PLACEHOLDER.sub("<image>", _text(doc))


def images(doc: Mapping[str, Any]) -> list[Any]:
    """The images as the text mentions them: one that it mentions twice comes twice."""
    return [doc[f"image_{number}"] for number in _PLACEHOLDER.findall(_text(doc))]


def score(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Judge an answer by its letter, or, to an open question, by words and numbers."""
    answer, expected = results[0], doc["answer"]
    if doc["question_type"] == "multiple-choice":
        letter = find_letter(answer, letter_choices(read_list(doc["options"])))
        return {"acc": float(letter == expected)}
    accepted = read_list(expected) if expected.startswith("[") else [expected]
    return {"acc": float(is_open_answer_right(answer, accepted))}


def _text(doc: Mapping[str, Any]) -> str:
    if doc["question_type"] != "multiple-choice":
        return f"{doc['question']}\n\nAnswer the question using a single word or phrase."
    choices = list_choices(letter_choices(read_list(doc["options"])), "({letter}) {text}")
    return (
        f"{doc['question']}\n\n{choices}\n\n"
        "Answer with the option's letter from the given choices directly."
    )


def find_letter(answer: str, choices: Mapping[str, str]) -> str:
    """Find the letter that an answer picks: the last of the first kind that occurs.

    The kinds are ``(A)``, a letter that stands alone, and, in an answer of more than five words,
    the text of a choice.

    Args:
        answer: What the model said.
        choices: Text of each choice by its letter.

    Returns:
        The letter, or ``""``, where the reference draws one by lot.
    """
    for mark in _TRIMMED:
        answer = answer.strip(mark)
    text = f" {answer} "
    lowered = text.lower()
    kinds = [
        {letter: text.rfind(f"({letter})") for letter in choices},
        {letter: text.rfind(f" {letter} ") for letter in choices},
    ]
    if len(text.split()) > _LONG_ANSWER_WORDS:
        kinds.append({letter: lowered.rfind(words.lower()) for letter, words in choices.items()})
    for places in kinds:
        if max(places.values()) >= 0:
            # Of letters at one place, the first: max keeps it.
            return max(places.items(), key=lambda item: item[1])[0]
    return ""
