"""VQAv2's accuracy: what ten people answered, and its text processing."""

import re
from typing import ClassVar

from typing_extensions import override

from vlmserve.evals.scorers.references import read_references
from vlmserve.evals.scorers.scorer import Scorer

_PERIOD = re.compile(r"\.(?!\d)")
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_MARKS = r""";/[]"{}()=+\_-><@`,?!"""
_ARTICLES = ("a", "an", "the")
_DIGITS = dict(
    zip(
        ("none", "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
        "00123456789",
        strict=True,
    ),
    ten="10",
)
_CONTRACTED = """
'ow's'at 'twas ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't
hadn't've hasn't haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am
might've mightn't mightn't've must've mustn't needn't not've o'clock oughtn't shan't she'd've
should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've
someone'll someone's something'd something'd've something'll that's there'd there'd've there're
there's they'd they'd've they'll they're they've wasn't we'd've we've weren't what'll what're
what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're
why's won't would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're
you've
"""
# Each is found where one of its apostrophes is left out. The reference has one the wrong way round.
_CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word
    for word in _CONTRACTED.split()
    for place, char in enumerate(word)
    if char == "'"
} | {"somebody'd": "somebodyd"}

# So many of the others must have said it for the whole point.
_ENOUGH = 3
_N_PEOPLE = 10


class VqaAccuracy(Scorer):
    """VQAv2's accuracy: the mean, over each person left out, of min(1, how many others agree / 3).

    A target is a JSON list of what people answered; one answer stands for ten people who agree.
    Where they do not all agree, punctuation, articles, number words and apostrophes are treated as
    the reference does; else only case and whitespace at the ends do not count, as there, too.
    """

    name: ClassVar[str] = "vqa_accuracy"
    about: ClassVar[str] = "agreement with what ten people answered, after VQAv2's text processing"
    source: ClassVar[str] = "GT-Vision-Lab/VQA PythonEvaluationTools/vqaEvaluation/vqaEval.py"

    @override
    def score(self, answer: str, target: str) -> float:
        people = [_one_line(one) for one in _answers(target)]
        said = _one_line(answer)
        if len(set(people)) > 1:
            people = [process(one) for one in people]
            said = process(said)
        agree = [one.lower() == said.lower() for one in people]
        total = sum(agree)
        # Whoever is left out takes a vote along where it agrees.
        parts = [min(1.0, (total - own) / _ENOUGH) for own in agree]
        return sum(parts) / len(parts)

    @override
    def check_target(self, target: str) -> None:
        if (count := len(_answers(target))) <= _ENOUGH:
            raise ValueError(f"{count} people's answers, by which nothing can score 1; ten are due")


def process(text: str) -> str:
    """Treat a text as VQAv2 does: punctuation, then number words, articles and apostrophes.

    Example:
        >>> process("The two dogs, dont!")
        "2 dogs don't"
    """
    is_number = _COMMA_IN_NUMBER.search(text) is not None
    without = text
    for mark in _MARKS:
        stands_free = f"{mark} " in text or f" {mark}" in text
        without = without.replace(mark, "" if stands_free or is_number else " ")
    without = _PERIOD.sub("", without)
    words = (_DIGITS.get(word, word) for word in without.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def _answers(target: str) -> list[str]:
    found = read_references(target)
    return found * _N_PEOPLE if len(found) == 1 else found


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()
