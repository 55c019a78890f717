"""OCRBench: reading text in images (Y. Liu et al. 2023, arXiv 2305.07895)."""

from collections.abc import Mapping, Sequence
from typing import Any

from vlmserve.evals.benchmarks.published import load_published, read_list

_FORMULAS = "Handwritten Mathematical Expression Recognition"

# Full-width forms of ASCII, U+FF01 to U+FF5E, and the ideographic space.
_NARROW = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: " "}


def load(**settings: Any) -> dict[str, Any]:
    """Load the rows; see ``load_published``.

    VLMEvalKit's table calls ``question_type`` ``category``.
    """
    (split, rows), *_ = load_published(
        "ocrbench", ("question", "answer", "image"), **settings
    ).items()
    if "question_type" not in rows.column_names:
        rows = rows.rename_column("category", "question_type")
    return {split: rows}


def prompt(doc: Mapping[str, Any]) -> str:
    """Word the question: as it stands."""
    return f"<image>{doc['question'].strip()}"


def target(doc: Mapping[str, Any]) -> list[str]:
    """The accepted answers."""
    answer = doc["answer"]
    if isinstance(answer, str) and not answer.startswith("["):
        return [answer]
    return read_list(answer)


def score(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Judge an answer: 1 if it contains an accepted one."""
    plain = _formula if doc["question_type"] == _FORMULAS else _text
    answer = plain(results[0])
    return {"acc": float(any(plain(one) in answer for one in target(doc)))}


def _formula(text: str) -> str:
    return text.strip().replace("\n", "").replace(" ", "")


def _text(text: str) -> str:
    return text.translate(_NARROW).lower().strip().replace("\n", " ")
