"""Tables, entry by entry."""

import itertools
import re
from typing import ClassVar

import numpy as np
from pydantic import Field
from scipy.optimize import linear_sum_assignment
from typing_extensions import override

from vlmserve.evals.scorers.anls import text_similarity
from vlmserve.evals.scorers.numeric import to_number
from vlmserve.evals.scorers.scorer import Scorer, shorten

_RULE = re.compile(r"[\s|:-]*-[\s|:-]*")
_TITLE = "title |"

_Entries = list[tuple[str, str]]


class TableF1(Scorer):
    """Relative mapping similarity: F1 of a table's entries, matched one to one by their headers.

    An entry is the headers of row and column and the cell; the title is one, too. Texts count by
    their similarity, 0 below a half, numbers by their relative error, 0 from a tenth on. The
    answer's table may be transposed. Tables are lines with ``|`` between cells, with or without
    Markdown's outer bars and rule. An answer without a table scores 0.
    """

    name: ClassVar[str] = "table_f1"
    about: ClassVar[str] = "F1 of a table's entries, with partial credit for near texts and numbers"
    source: ClassVar[str] = (
        "F. Liu et al. 2023 (DePlot), arXiv 2212.10505, section 3.2; "
        "google-research/google-research deplot/metrics.py table_datapoints_precision_recall"
    )

    text_threshold: float = Field(default=0.5, ge=0.0, le=1.0)
    """Largest edit distance over the longer length at which texts have anything in common."""

    number_threshold: float = Field(default=0.1, gt=0.0, le=1.0)
    """Relative error from which on a number is wrong."""

    @override
    def score(self, answer: str, target: str) -> float:
        due = read_entries(target)
        return max(
            self._f1(due, read_entries(answer, transposed=transposed))
            for transposed in (False, True)
        )

    @override
    def check_target(self, target: str) -> None:
        if not read_entries(target):
            raise ValueError(f"no table of two rows and two columns: {shorten(target)}")
        super().check_target(target)

    def _f1(self, due: _Entries, given: _Entries) -> float:
        if not given:
            return 0.0
        alike = np.array([[self._alike(key, other) for other, _ in given] for key, _ in due])
        pairs = zip(*linear_sum_assignment(alike, maximize=True), strict=True)
        score = sum(alike[i, j] * self._value(due[i][1], given[j][1]) for i, j in pairs)
        return float(2 * score / (len(due) + len(given)))

    def _value(self, expected: str, given: str) -> float:
        number, other = to_number(expected), to_number(given)
        if number and other is not None:
            error = abs((number - other) / number)
            return 1.0 - error if error < self.number_threshold else 0.0
        return 1.0 if expected == given else self._alike(expected, given)

    def _alike(self, one: str, other: str) -> float:
        similarity = text_similarity(one, other)
        return similarity if 1.0 - similarity <= self.text_threshold else 0.0


def read_entries(text: str, *, transposed: bool = False) -> _Entries:
    """Read the entries of a table in a text.

    Args:
        text: What holds it; lines without ``|`` are prose.
        transposed: Take rows for columns.

    Returns:
        Headers and cells, in lower case; of two entries with the same headers the last.
    """
    lines = [line.strip() for line in text.lower().splitlines() if "|" in line]
    entries: dict[str, str] = {}
    if lines and lines[0].startswith(_TITLE):
        entries["title"] = lines.pop(0).removeprefix(_TITLE).strip()
    rows = [
        [cell.strip() for cell in line.removeprefix("|").removesuffix("|").split("|")]
        for line in lines
        if not _RULE.fullmatch(line)
    ]
    if transposed:
        rows = [list(column) for column in itertools.zip_longest(*rows, fillvalue="")]
    for row in rows[1:]:
        for header, cell in zip(rows[0][1:], row[1:], strict=False):
            entries[f"{row[0]} {header}"] = cell
    return list(entries.items())
