"""The letter that a free answer picks, by the rules of the harnesses that published numbers.

Each harness has rules of its own, and they disagree on answers that ramble. A rule that draws a
letter by lot, or asks a language model, has no place here: ``""`` stands for an answer that picks
nothing.
"""

import re
from collections.abc import Iterator, Mapping

NONE = ""
"""No letter was found."""

_TRIMMED = ",.!?;:'\""

# lmms-eval's forms of a letter, and how far each is trusted.
_FORMS = ((6, "({})"), (5, "{}."), (4, "{}:"), (3, "{})"), (2, "{} "))
_BY_PHRASE, _AT_END, _AT_START = 7, 9, 10
_PHRASES = (
    *(
        f"{words}answer is"
        for words in ("the ", "", "the correct ", "correct ", "the best ", "best ", "my ")
    ),
    *(
        f"{words} is"
        for words in (
            "the correct option",
            "correct option",
            "the best option",
            "best option",
            "the choice",
            "choice",
            "the correct choice",
            "correct choice",
            "my choice",
        )
    ),
    "i choose",
    "i select",
    "i pick",
    "\uc635\uc158",  # Korean
    "\uc815\ub2f5\uc740",
    "\ub2f5\uc740",
    "\ub2f5:",
    "\u7b54\u6848\u662f",  # Chinese
    "\u7b54\u6848\u4e3a",
    "\u9009",
    "\u7b54\u3048\u306f",  # Japanese
)


def letter_by_form(answer: str, letters: str) -> str:
    """Find the letter in its most telling form; of several in one form, the last.

    As lmms-eval's ``_task_utils/mcq_extract.py`` does it (revision 75571cfe): a letter that the
    answer begins with, then one that it ends with, one after "the answer is" and its like, ``(A)``,
    ``A.``, ``A:``, ``A)``, ``A`` before a space; else any that occurs.
    """
    if not answer.strip():
        return NONE
    bare = answer.strip()
    for mark in _TRIMMED:
        bare = bare.strip(mark)
    text = f" {bare} "
    found = [
        (trust, text.rfind(form.format(letter)), letter)
        for trust, form in _FORMS
        for letter in letters
    ]
    found += _after_phrases(text, letters)
    found += _at_ends(text.strip(), letters, len(text) - 1)
    found = [each for each in found if each[1] >= 0]
    found = found or [(0, text.rfind(letter), letter) for letter in letters if letter in text]
    return max(found)[2] if found else NONE


def _after_phrases(text: str, letters: str) -> Iterator[tuple[int, int, str]]:
    lowered = text.lower()
    for phrase in _PHRASES:
        place = lowered.find(phrase)
        if place >= 0:
            for letter in letters:
                yield _BY_PHRASE, text.find(letter, place + len(phrase)), letter


def _at_ends(bare: str, letters: str, end: int) -> Iterator[tuple[int, int, str]]:
    for letter in letters:
        if bare.startswith(letter) and not bare[1:2].isalpha():
            yield _AT_START, 0, letter
        if bare.endswith(letter) and not bare[-2:-1].isalpha():
            yield _AT_END, end, letter


_MMBENCH_LETTERS = "ABCDE"
_MMBENCH_FORMS = (
    "{}", "{}.", "{},", "{}:", "{})", "{}).", "({})", "({}).",
    ":{}", ":{},", ":{}.", ":{})", ":{}).",
)  # fmt: skip
_LONG_ANSWER_WORDS = 3


def letter_of_mmbench(answer: str, choices: Mapping[str, str]) -> str:
    """Find the letter as MMBench's own rules do, without the language model behind them.

    As lmms-eval's ``mmbench_evals.py`` does it with ``eval_method="static"`` (revision 75571cfe): a
    word that is the letter, in one of thirteen forms; else the only choice whose text occurs; else
    ``letter_by_form``.

    Args:
        answer: What the model said.
        choices: Text of each choice by its letter.
    """
    words = set(answer.split())
    for form in _MMBENCH_FORMS:
        found = [letter for letter in _MMBENCH_LETTERS if form.format(letter) in words]
        # A long answer with "A" in it may well mean the article.
        is_article = form == "{}" and "A" in words and len(answer.split()) > _LONG_ANSWER_WORDS
        if len(found) == 1 and not is_article:
            return found[0]
    return _only_mentioned(answer, choices) or letter_by_form(answer, "".join(sorted(choices)))


_SEPARATORS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_NEAR_THE_END = 5
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_STATED = re.compile(r"answer\s+is\s+\**([ABCD])\**", re.IGNORECASE)


def letter_by_matching(answer: str, choices: Mapping[str, str]) -> str:
    """Find the letter as VLMEvalKit's "exact matching" does.

    As ``vlmeval/utils/matching_util.py`` ``can_infer`` does it (revision e8e78f05): the only letter
    that stands alone, among the last four words; else "answer is B"; else the only choice whose
    text occurs in an answer that is not much longer than all choices.

    Args:
        answer: What the model said.
        choices: Text of each choice by its letter.
    """
    if any(refusal in answer for refusal in _REFUSALS):
        return NONE
    words = answer.translate(_SEPARATORS).split()
    found = [letter for letter in choices if letter in words]
    if len(found) == 1 and words.index(found[0]) > len(words) - _NEAR_THE_END:
        return found[0]
    if not found and "Z" in words:
        return NONE
    if (stated := _STATED.search(answer)) and stated[1].upper() in choices:
        return stated[1].upper()
    if len(answer) > 2 * sum(len(text) for text in choices.values()):
        return NONE
    return _only_mentioned(answer, choices)


def _only_mentioned(answer: str, choices: Mapping[str, str]) -> str:
    lowered = answer.lower()
    found = [letter for letter, text in choices.items() if text.lower() in lowered]
    return found[0] if len(found) == 1 else NONE
