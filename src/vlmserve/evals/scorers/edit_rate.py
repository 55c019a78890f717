"""Character and word error rates, of transcriptions."""

import unicodedata
from typing import ClassVar

from rapidfuzz.distance import Levenshtein
from typing_extensions import override

from vlmserve.evals.scorers.scorer import Scorer, shorten


class _ErrorRate(Scorer):
    higher_is_better: ClassVar[bool] = False
    is_fraction: ClassVar[bool] = False

    ignore_case: bool = False
    """Compare without regard to case."""

    def _normalise(self, text: str) -> str:
        text = " ".join(unicodedata.normalize("NFC", text).split())
        return text.casefold() if self.ignore_case else text

    @override
    def check_target(self, target: str) -> None:
        if not target.strip():
            raise ValueError(f"no text: {shorten(target)}")


class CharacterErrorRate(_ErrorRate):
    """Characters to insert, delete and replace, over those of the target; 0 is best.

    It exceeds 1 where the answer is much too long. NFC; whitespace is collapsed.
    """

    name: ClassVar[str] = "cer"
    about: ClassVar[str] = "character edits over the target's length"
    source: ClassVar[str] = "A. Morris et al. 2004, Interspeech; as in jiwer's cer"

    @override
    def score(self, answer: str, target: str) -> float:
        expected = self._normalise(target)
        return Levenshtein.distance(self._normalise(answer), expected) / len(expected)


class WordErrorRate(_ErrorRate):
    """Words to insert, delete and replace, over those of the target; 0 is best.

    It exceeds 1 where the answer is much too long. Words are what whitespace separates, NFC.
    """

    name: ClassVar[str] = "wer"
    about: ClassVar[str] = "word edits over the target's number of words"
    source: ClassVar[str] = "A. Morris et al. 2004, Interspeech; as in jiwer's wer"

    @override
    def score(self, answer: str, target: str) -> float:
        expected = self._normalise(target).split()
        return Levenshtein.distance(self._normalise(answer).split(), expected) / len(expected)
