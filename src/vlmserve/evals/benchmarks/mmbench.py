"""MMBench: choices about one image (Y. Liu et al. 2023, arXiv 2307.06281)."""

from collections.abc import Mapping, Sequence
from typing import Any

from vlmserve.evals.benchmarks.choices import choices_of_columns, list_choices
from vlmserve.evals.benchmarks.letters import letter_of_mmbench
from vlmserve.evals.benchmarks.published import load_published


def load(**settings: Any) -> dict[str, Any]:
    """Load the rows; see ``load_published``."""
    return load_published("mmbench", ("question", "answer", "image", "A", "B", "hint"), **settings)


def prompt(doc: Mapping[str, Any]) -> str:
    """Word the question with its hint, if it has one, and its choices."""
    choices = list_choices(choices_of_columns(doc, "ABCDE"))
    question = f"{doc['question']} There are several options:\n{choices}"
    if doc["hint"] not in {None, "", "nan"}:
        question = f"{doc['hint']} {question}"
    return f"<image>{question}\n\nAnswer with the option's letter from the given choices directly."


def score(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Judge an answer by the letter it picks."""
    letter = letter_of_mmbench(results[0].strip(), choices_of_columns(doc, "ABCD"))
    return {"acc": float(letter == doc["answer"])}
