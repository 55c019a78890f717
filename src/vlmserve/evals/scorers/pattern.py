"""What a regular expression finds."""

import re
from typing import ClassVar

from pydantic import field_validator
from typing_extensions import override

from vlmserve.evals.scorers.scorer import Scorer, shorten


class Pattern(Scorer):
    """1 where the pattern finds the same in answer and target, else 0.

    What counts is the first match: its first group where the pattern has one, else all of it,
    without whitespace at the ends. An answer in which it finds nothing is wrong.
    """

    name: ClassVar[str] = "regex"
    about: ClassVar[str] = "the same text found by a pattern, its first group where it has one"
    source: ClassVar[str] = "Python's re.search"

    pattern: str
    """A regular expression, as Python's ``re`` takes it."""

    ignore_case: bool = False
    """Find and compare without regard to case."""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"no regular expression: {error}") from error
        return pattern

    @override
    def score(self, answer: str, target: str) -> float:
        found = self._find(answer)
        return float(found is not None and found == self._find(target))

    @override
    def check_target(self, target: str) -> None:
        if self._find(target) is None:
            raise ValueError(f"the pattern finds nothing in it: {shorten(target)}")

    def _find(self, text: str) -> str | None:
        match = re.search(self.pattern, text, re.IGNORECASE if self.ignore_case else 0)
        if match is None:
            return None
        found = (match[1] if match.re.groups else match[0]) or ""
        return (found.casefold() if self.ignore_case else found).strip()
