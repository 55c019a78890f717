"""Numbers with a tolerance."""

import math
from typing import ClassVar

from pydantic import Field
from typing_extensions import override

from vlmserve.evals.scorers.scorer import Scorer


class RelaxedAccuracy(Scorer):
    """ChartQA's relaxed accuracy: 1 for a number within 5 % of the target, else for equal text.

    ``7%`` is 0.07. Text is compared without case; whitespace at the ends does not count. A target
    of 0 has no relative error and is compared as text, as in the reference.
    """

    name: ClassVar[str] = "relaxed_accuracy"
    about: ClassVar[str] = "a number within 5 % of the target, or the same text without case"
    source: ClassVar[str] = (
        "ChartQA (A. Masry et al. 2022, arXiv 2203.10244, section 5.1); "
        "google-research/pix2struct metrics.py relaxed_correctness"
    )

    tolerance: float = Field(default=0.05, ge=0.0, lt=1.0)
    """Largest error relative to the target."""

    @override
    def score(self, answer: str, target: str) -> float:
        answer, target = answer.strip(), target.strip()
        given, expected = to_number(answer), to_number(target)
        if given is not None and expected:
            return float(abs(given - expected) / abs(expected) <= self.tolerance)
        return float(answer.lower() == target.lower())


def to_number(text: str) -> float | None:
    """Read a number, or a percentage as its hundredth; ``None`` for other text."""
    scale = 100.0 if text.endswith("%") else 1.0
    try:
        number = float(text.rstrip("%")) / scale
    except ValueError:
        return None
    return number if math.isfinite(number) else None
