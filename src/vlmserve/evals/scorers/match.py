"""Equality of texts, as they stand or after normalisation."""

import re
import unicodedata
from typing import ClassVar

from typing_extensions import override

from vlmserve.evals.scorers.scorer import Scorer, shorten

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
# A sign or a decimal point belongs to its number.
_IN_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+\.?\d*|\.\d+)")


class ExactMatch(Scorer):
    """1 where the texts are the same, else 0; whitespace at the ends does not count."""

    name: ClassVar[str] = "exact_match"
    about: ClassVar[str] = "the same text; whitespace at the ends does not count"
    source: ClassVar[str] = "SQuAD's exact match without its normalisation"

    ignore_case: bool = False
    """Compare without regard to case."""

    @override
    def score(self, answer: str, target: str) -> float:
        if self.ignore_case:
            answer, target = answer.casefold(), target.casefold()
        return float(answer.strip() == target.strip())


class NormalisedMatch(Scorer):
    """1 where answer and target are the same after normalisation, else 0.

    NFKC, lower case, punctuation and symbols away, English articles away, whitespace collapsed:
    SQuAD's ``normalize_answer`` (evaluate-v1.1), which knows ASCII's punctuation only. Other than
    there, a number keeps its sign and its decimal point, since -5 is not 5.
    """

    name: ClassVar[str] = "normalised_match"
    about: ClassVar[str] = (
        "the same text after NFKC, without case, punctuation, articles; numbers keep sign and point"
    )
    source: ClassVar[str] = "SQuAD evaluate-v1.1 normalize_answer, widened to Unicode"

    drop_articles: bool = True
    """Take a, an and the away; turn it off where A is an answer."""

    @override
    def score(self, answer: str, target: str) -> float:
        return float(self.normalise(answer) == self.normalise(target))

    @override
    def check_target(self, target: str) -> None:
        if not self.normalise(target):
            raise ValueError(f"nothing is left of it after normalisation: {shorten(target)}")

    def normalise(self, text: str) -> str:
        """Bring a text into the form in which it is compared.

        Example:
            >>> NormalisedMatch().normalise("The  U.S.A.!")
            'usa'
        """
        text = unicodedata.normalize("NFKC", text).casefold()
        pieces = []
        end = 0
        for number in _IN_NUMBER.finditer(text):
            pieces += [_without_marks(text[end : number.start()]), number.group().rstrip(".")]
            end = number.end()
        text = "".join([*pieces, _without_marks(text[end:])])
        if self.drop_articles:
            text = _ARTICLES.sub(" ", text)
        return " ".join(text.split())


def _without_marks(text: str) -> str:
    # P are punctuation marks and S symbols, ASCII's among them.
    return "".join(char for char in text if unicodedata.category(char)[0] not in "PS")
