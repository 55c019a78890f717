"""DocVQA's average normalised Levenshtein similarity."""

from typing import ClassVar

from pydantic import Field
from rapidfuzz.distance import Levenshtein
from typing_extensions import override

from vlmserve.evals.scorers.references import read_references
from vlmserve.evals.scorers.scorer import Scorer


class Anls(Scorer):
    """ANLS: one minus the edit distance to the nearest accepted answer, 0 where less than a half.

    Edit distance over the longer length, after lower case and collapsed whitespace. A target may be
    a JSON list of accepted answers.
    """

    name: ClassVar[str] = "anls"
    about: ClassVar[str] = "similarity to the nearest accepted answer, 0 where less than a half"
    source: ClassVar[str] = (
        "A. Biten et al. 2019, arXiv 1907.00490, equation 1; at exactly one half as the DocVQA "
        "evaluation script and google-research/pix2struct metrics.py anls_metric have it"
    )

    threshold: float = Field(default=0.5, ge=0.0, le=1.0)
    """Similarities below it are 0."""

    @override
    def score(self, answer: str, target: str) -> float:
        references = read_references(target)
        best = max(text_similarity(_plain(answer), _plain(one)) for one in references)
        return best if best >= self.threshold else 0.0

    @override
    def check_target(self, target: str) -> None:
        read_references(target)


def text_similarity(one: str, other: str) -> float:
    """One minus the edit distance over the longer length, 0 to 1; two empty texts are the same."""
    return float(Levenshtein.normalized_similarity(one, other))


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
