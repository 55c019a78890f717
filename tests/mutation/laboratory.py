"""Runs the checks over subjects and their mutations, each once."""

from dataclasses import dataclass
from pathlib import Path

from tests.mutation.mutation import Harmless, Mutation
from tests.mutation.subject import Case, Stock
from tests.mutation.subjects import SUBJECTS
from vlmserve.doctor.report import DoctorReport


@dataclass(frozen=True)
class Result:
    """What the two passes said about one case."""

    full: DoctorReport
    fast: DoctorReport


class Laboratory:
    """Keeps what was found, so that tests and the page of the checks share one run."""

    def __init__(self, directory: Path) -> None:
        self._stock = Stock(directory, SUBJECTS)
        self._results: dict[str, Result] = {}

    def untouched(self, subject: str) -> Result:
        """What is said about a subject as it is."""
        if subject not in self._results:
            self._results[subject] = _examine(subject, self._stock.pristine(subject))
        return self._results[subject]

    def mutated(self, mutation: Mutation | Harmless) -> Result:
        """What is said about a damaged copy of its subject."""
        if mutation.key not in self._results:
            with self._stock.copy(mutation.subject) as case:
                mutation.apply(case)
                self._results[mutation.key] = _examine(mutation.subject, case)
        return self._results[mutation.key]


def _examine(subject: str, case: Case) -> Result:
    fast = case.examine(fast=True)
    return Result(full=fast if SUBJECTS[subject].header_only else case.examine(), fast=fast)
