"""Fields of nested JSON."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any, ClassVar

from typing_extensions import override

from vlmserve.evals.scorers.json_text import read_json
from vlmserve.evals.scorers.scorer import Scorer, shorten


class JsonF1(Scorer):
    """F1 of the fields: what is right, over what is there and what is due.

    A field is the path of its keys and its value as text; places in lists do not count, so that
    their order does not. Empty values (null, empty text, empty lists and objects) are no fields.
    Donut's ``JSONParseEvaluator.cal_f1`` for one document; other than there, 0 and false are
    values. An answer that is no JSON scores 0; one fenced block is taken out of its prose.
    """

    name: ClassVar[str] = "json_f1"
    about: ClassVar[str] = "F1 of nested key-value pairs; order in lists does not count"
    source: ClassVar[str] = "G. Kim et al. 2022, arXiv 2111.15664; clovaai/donut util.py cal_f1"

    @override
    def score(self, answer: str, target: str) -> float:
        try:
            given = Counter(_fields(read_json(answer)))
        except (ValueError, RecursionError):
            return 0.0
        due = Counter(_fields(read_json(target)))
        return f1(given, due)

    @override
    def check_target(self, target: str) -> None:
        try:
            value = read_json(target)
            Counter(_fields(value))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"no JSON: {shorten(target)} ({error})") from error
        if not isinstance(value, dict | list):
            raise ValueError(f"a JSON object or list is expected: {shorten(target)}")  # noqa: TRY004 - a target's fault


def f1(given: Counter[Any], due: Counter[Any]) -> float:
    """F1 of two multisets, 0 to 1; two empty ones are the same."""
    total = given.total() + due.total()
    return 2 * (given & due).total() / total if total else 1.0


def _fields(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(value, dict):
        for key, child in value.items():
            yield from _fields(child, (*path, key))
    elif isinstance(value, list):
        for child in value:
            yield from _fields(child, path)
    elif value is not None:
        text = value.strip() if isinstance(value, str) else json.dumps(value)
        if text:
            yield path, text
