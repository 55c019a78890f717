"""ChartQA: questions about charts (A. Masry et al. 2022, arXiv 2203.10244)."""

from collections.abc import Mapping, Sequence
from typing import Any

from vlmserve.evals.benchmarks.published import load_published
from vlmserve.evals.scorers.numeric import RelaxedAccuracy

_SCORER = RelaxedAccuracy()


def load(**settings: Any) -> dict[str, Any]:
    """Load the rows; see ``load_published``."""
    return load_published("chartqa", ("question", "answer", "image"), **settings)


def prompt(doc: Mapping[str, Any]) -> str:
    """Word the question."""
    return f"<image>{doc['question']}\nAnswer the question with a single word."


def score(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Judge an answer."""
    return {"relaxed_accuracy": _SCORER.score(results[0], doc["answer"])}
