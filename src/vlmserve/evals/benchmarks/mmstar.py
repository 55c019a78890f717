"""MMStar: questions that cannot be answered without the image (L. Chen et al. 2024, 2403.20330)."""

from collections.abc import Mapping, Sequence
from typing import Any

from vlmserve.evals.benchmarks.letters import letter_by_form
from vlmserve.evals.benchmarks.published import load_published


def load(**settings: Any) -> dict[str, Any]:
    """Load the rows; see ``load_published``."""
    return load_published("mmstar", ("question", "answer", "image"), **settings)


def prompt(doc: Mapping[str, Any]) -> str:
    """Word the question, which lists its choices."""
    question = doc["question"].strip()
    return f"<image>{question}\nAnswer with the option's letter from the given choices directly"


def score(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Judge an answer by the letter it picks."""
    return {"acc": float(letter_by_form(results[0], "ABCD") == doc["answer"].strip().upper())}
