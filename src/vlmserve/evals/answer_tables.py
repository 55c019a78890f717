"""Answers, and likelihoods of given answers, keyed by what was asked and by what answered."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from vlmserve.chat import Completion
from vlmserve.engine.base import TargetLogprobs
from vlmserve.evals.store_file import StoreFile, now

# Of how many answers a pace is taken at most, and at least; a longer pause is the end of a run.
_PACE_ANSWERS = 2000
_LEAST_ANSWERS = 10
_PAUSE_S = 60.0

_Table = Literal["answers", "likelihoods"]


@dataclass(frozen=True, slots=True)
class Answerer:
    """What gives answers; two of them are interchangeable exactly if they are equal."""

    checkpoint: str
    """Fingerprint of the weights and everything that is read with them."""

    settings: str
    """Digest of the engine's settings and versions."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast answers came."""

    seconds: float
    """From one answer to the next, as many as came at once."""

    n_answers: int
    """What that rests on."""


class AnswerTables(StoreFile):
    """The answers and likelihoods of a store file."""

    def find(self, answerer: Answerer, requests: Iterable[str]) -> dict[str, Completion]:
        """Return the kept answers among some requests, by request digest."""
        return {
            request: Completion.model_validate_json(text).model_copy(update={"latency_s": latency})
            for request, text, latency in self._rows("answers", answerer, requests)
        }

    def keep(
        self, answerer: Answerer, request: str, completion: Completion, latency_s: float
    ) -> None:
        """Commit one answer to disk; an answer that is there already stays."""
        with self._translated("the answer cannot be kept"):
            content = completion.model_dump_json(exclude={"latency_s"})
            self._insert("answers", answerer, request, content, latency_s)

    def find_pace(self, answerer: Answerer | str) -> Pace | None:
        """Say how long answers took until the next one came, as far as that is known.

        Args:
            answerer: Whose answers; or the settings of any.
        """
        where, values = "settings=?", [answerer]
        if isinstance(answerer, Answerer):
            where, values = "checkpoint=? AND settings=?", [answerer.checkpoint, answerer.settings]
        query = f"SELECT answered_at FROM answers WHERE {where} ORDER BY answered_at DESC LIMIT ?"  # noqa: S608 - of two fixed texts
        with self._translated("cannot be read"):
            rows = self._db.execute(query, (*values, _PACE_ANSWERS)).fetchall()
        times = [datetime.fromisoformat(row[0]).timestamp() for row in rows]
        if len(times) < _LEAST_ANSWERS:
            return None
        gaps = [later - earlier for later, earlier in itertools.pairwise(times)]
        busy = [gap for gap in gaps if gap <= _PAUSE_S]
        # Times are whole seconds.
        return Pace(seconds=max(sum(busy), 1.0) / max(len(busy), 1), n_answers=len(times))

    def find_likelihoods(
        self, answerer: Answerer, requests: Iterable[str]
    ) -> dict[str, TargetLogprobs]:
        """Return the kept likelihoods among some, by ``Sample.scoring_digest``."""
        return {
            request: TargetLogprobs.model_validate_json(text)
            for request, text, _ in self._rows("likelihoods", answerer, requests)
        }

    def keep_likelihood(
        self, answerer: Answerer, request: str, logprobs: TargetLogprobs, latency_s: float
    ) -> None:
        """Commit one answer's likelihood to disk; one that is there already stays."""
        with self._translated("the likelihood cannot be kept"):
            self._insert("likelihoods", answerer, request, logprobs.model_dump_json(), latency_s)

    def _rows(
        self, table: _Table, answerer: Answerer, requests: Iterable[str]
    ) -> Iterator[tuple[str, str, float]]:
        """Request, content and seconds of what a table has among some requests."""
        content = {"answers": "completion", "likelihoods": "logprobs"}[table]
        query = (
            f"SELECT {content}, latency_s FROM {table} "  # noqa: S608 - of fixed texts
            "WHERE checkpoint=? AND settings=? AND request=?"
        )
        for request in requests:
            with self._translated("cannot be read"):
                row = self._db.execute(
                    query, (answerer.checkpoint, answerer.settings, request)
                ).fetchone()
            if row is not None:
                yield request, row[0], row[1]

    def _insert(
        self, table: _Table, answerer: Answerer, request: str, content: str, latency_s: float
    ) -> None:
        self._db.execute(
            f"INSERT OR IGNORE INTO {table} VALUES (?, ?, ?, ?, ?, ?)",  # noqa: S608 - as above
            (answerer.checkpoint, answerer.settings, request, content, latency_s, now()),
        )
