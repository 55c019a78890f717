"""DocVQA: questions about scanned documents (M. Mathew et al. 2021, arXiv 2007.00398)."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from vlmserve.evals.benchmarks.published import load_published
from vlmserve.evals.scorers.anls import Anls

_SCORER = Anls()


def load(**settings: Any) -> dict[str, Any]:
    """Load the rows; see ``load_published``."""
    return load_published("docvqa", ("question", "answers", "image"), **settings)


def prompt(doc: Mapping[str, Any]) -> str:
    """Word the question."""
    return f"<image>{doc['question']}\nAnswer the question using a single word or phrase."


def score(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Judge an answer by the nearest accepted one."""
    return {"anls": _SCORER.score(results[0], json.dumps(list(doc["answers"])))}
