"""Lists whose order does not count."""

import re
import unicodedata
from typing import ClassVar

from typing_extensions import override

from vlmserve.evals.scorers.scorer import Scorer, shorten

_SEPARATORS = re.compile(r"[,;\n]")
_BULLET = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+")


class SetF1(Scorer):
    """F1 of two sets of items: 2 x shared over the sum of their sizes.

    Items are separated by commas, semicolons and line ends, or by ``separator``; bullets and
    numbers in front of them, case, full stops at the end and whitespace do not count (NFKC).
    """

    name: ClassVar[str] = "set_f1"
    about: ClassVar[str] = "F1 of listed items without their order"
    source: ClassVar[str] = "L. Dice 1945, Ecology 26, 297-302 (the same number as F1)"

    separator: str | None = None
    """What stands between items; commas, semicolons and line ends when unset."""

    @override
    def score(self, answer: str, target: str) -> float:
        given, due = self.items(answer), self.items(target)
        return 2 * len(given & due) / (len(given) + len(due))

    @override
    def check_target(self, target: str) -> None:
        if not self.items(target):
            raise ValueError(f"no items: {shorten(target)}")

    def items(self, text: str) -> set[str]:
        """Take a list apart.

        Example:
            >>> sorted(SetF1().items("Cat; dog."))
            ['cat', 'dog']
        """
        text = unicodedata.normalize("NFKC", text).casefold()
        pieces = text.split(self.separator) if self.separator else _SEPARATORS.split(text)
        items = (" ".join(_BULLET.sub("", piece).split()).rstrip(".") for piece in pieces)
        return {item for item in items if item}
