"""BLINK: perception over one to four images (X. Fu et al. 2024, arXiv 2404.12390)."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from vlmserve.evals.benchmarks.published import lead_with_images, load_published

_IMAGES = tuple(f"image_{place}" for place in range(1, 5))


def load(**settings: Any) -> dict[str, Any]:
    """Load the rows; see ``load_published``."""
    return load_published("blink", ("prompt", "choices", "answer", *_IMAGES), **settings)


def prompt(doc: Mapping[str, Any]) -> str:
    """Word the question: all images, then a note, then the published prompt."""
    letters = ", ".join(chr(ord("A") + place) for place in range(len(doc["choices"])))
    note = f"Note: You only need to respond with {letters} without providing any additional"
    return lead_with_images(f"{note} information.\n{doc['prompt']}", len(images(doc)))


def images(doc: Mapping[str, Any]) -> list[Any]:
    """The images in their order."""
    return [doc[name] for name in _IMAGES if doc[name] is not None]


def score(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Judge an answer by its first letter, whatever word that begins: the note asks for no more."""
    first = re.match(r"[(\s]*([A-Za-z])", results[0].strip())
    letter = first[1].upper() if first else ""
    return {"acc": float(letter == doc["answer"].strip("()"))}
