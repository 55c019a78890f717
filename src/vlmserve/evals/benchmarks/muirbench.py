"""MuirBench: several images in one question (F. Wang et al. 2024, arXiv 2406.09411)."""

from collections.abc import Mapping, Sequence
from typing import Any

from vlmserve.evals.benchmarks.choices import choices_of_columns, letter_choices, list_choices
from vlmserve.evals.benchmarks.letters import letter_by_matching
from vlmserve.evals.benchmarks.published import lead_with_images, load_published


def load(**settings: Any) -> dict[str, Any]:
    """Load the rows; see ``load_published``.

    VLMEvalKit's table calls ``image_list`` ``image``, and has a column for each choice.
    """
    (split, rows), *_ = load_published("muirbench", ("question", "answer"), **settings).items()
    if "image_list" not in rows.column_names:
        rows = rows.rename_column("image", "image_list")
    return {split: rows}


def prompt(doc: Mapping[str, Any]) -> str:
    """Word the question; images stand where question and choices have ``<image>``."""
    text = (
        f"{doc['question']}\n{list_choices(_choices(doc))}\n"
        "Answer with the option's letter from the given choices directly."
    )
    return lead_with_images(text, len(doc["image_list"]))


def score(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Judge an answer by the letter it picks."""
    return {"acc": float(letter_by_matching(results[0], _choices(doc)) == doc["answer"])}


def _choices(doc: Mapping[str, Any]) -> dict[str, str]:
    options = doc.get("options")
    return choices_of_columns(doc) if options is None else letter_choices(options)
