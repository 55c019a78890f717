"""Runs: their reports, and what each side was asked and answered."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vlmserve.evals.store_file import StoreFile, now


@dataclass(frozen=True, slots=True)
class KeptRow:
    """A sample of a task on one side of a run; texts are JSON."""

    task: str
    position: int
    """In the order of the data set, from 0."""

    asked_at: int | None
    """In the order of asking, from 0; ``None`` where asking had stopped before."""

    sample: str
    """What was asked."""

    outcome: str | None
    """What became of it; ``None`` where it was not asked."""


@dataclass(frozen=True, slots=True)
class KeptSide:
    """One side of a run with its samples; texts are JSON."""

    side: str
    record: str
    rows: Sequence[KeptRow]


class RunTables(StoreFile):
    """The runs of a store file."""

    def keep_report(self, run_id: str, report: str) -> None:
        """Commit a run's report, as JSON text; a run that is judged again replaces its report."""
        with self._translated("the report cannot be kept"):
            self._db.execute(
                "INSERT OR REPLACE INTO runs VALUES (?, ?, ?)", (run_id, now(), report)
            )

    def keep_run(self, run_id: str, report: str | None, sides: Iterable[KeptSide]) -> None:
        """Commit a run whole: its sides, their samples, and its report, as JSON text.

        A run that is judged again replaces what was kept of it.

        Args:
            run_id: The run's name.
            report: The report; ``None`` for a run that was not judged, as an imported one.
            sides: What was compared.
        """
        with self._translated("the run cannot be kept"), self._transaction():
            self._db.execute("DELETE FROM outcomes WHERE run_id=?", (run_id,))
            self._db.execute("DELETE FROM sides WHERE run_id=?", (run_id,))
            self._db.execute("DELETE FROM runs WHERE run_id=?", (run_id,))
            for side in sides:
                self._keep_side(run_id, side)
            if report is not None:
                self._db.execute("INSERT INTO runs VALUES (?, ?, ?)", (run_id, now(), report))

    def _keep_side(self, run_id: str, side: KeptSide) -> None:
        self._db.execute("INSERT INTO sides VALUES (?, ?, ?)", (run_id, side.side, side.record))
        digests = [hashlib.sha256(row.sample.encode()).hexdigest() for row in side.rows]
        self._db.executemany(
            "INSERT OR IGNORE INTO samples VALUES (?, ?)",
            zip(digests, (row.sample for row in side.rows), strict=True),
        )
        self._db.executemany(
            "INSERT INTO outcomes VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                (run_id, side.side, row.task, row.position, row.asked_at, digest, row.outcome)
                for row, digest in zip(side.rows, digests, strict=True)
            ),
        )

    def find_side(self, run_id: str, side: str) -> KeptSide | None:
        """Return a side of a run with its samples in the order of the data set, or ``None``."""
        with self._translated("cannot be read"), self._snapshot():
            found = self._db.execute(
                "SELECT record FROM sides WHERE run_id=? AND side=?", (run_id, side)
            ).fetchone()
            if found is None:
                return None
            rows = self._db.execute(
                "SELECT task, position, asked_at, samples.sample, outcome FROM outcomes "
                "JOIN samples ON samples.digest = outcomes.sample "
                "WHERE run_id=? AND side=? ORDER BY task, position",
                (run_id, side),
            ).fetchall()
        return KeptSide(side=side, record=str(found[0]), rows=[KeptRow(*row) for row in rows])

    def list_sides(self, run_id: str) -> list[str]:
        """Return the sides that are kept of a run; none where only its report is."""
        with self._translated("cannot be read"):
            rows = self._db.execute(
                "SELECT side FROM sides WHERE run_id=? ORDER BY side", (run_id,)
            ).fetchall()
        return [str(side) for (side,) in rows]

    def list_side_records(self) -> list[tuple[str, str, str]]:
        """Return run id, side and record (JSON text) of every side, runs in alphabetical order."""
        with self._translated("cannot be read"):
            rows = self._db.execute(
                "SELECT run_id, side, record FROM sides ORDER BY run_id, side"
            ).fetchall()
        return [(str(run), str(side), str(record)) for run, side, record in rows]

    def find_report(self, run_id: str) -> str | None:
        """Return the JSON text of a run's report; ``None`` if there is none."""
        with self._translated("cannot be read"):
            row = self._db.execute("SELECT report FROM runs WHERE run_id=?", (run_id,)).fetchone()
        return None if row is None else str(row[0])

    def report_time(self, run_id: str) -> str | None:
        """Return when a run's report was kept (ISO 8601, UTC); ``None`` if there is none."""
        with self._translated("cannot be read"):
            row = self._db.execute(
                "SELECT finished_at FROM runs WHERE run_id=?", (run_id,)
            ).fetchone()
        return None if row is None else str(row[0])

    def list_reports(self) -> list[tuple[str, str, str]]:
        """Return run id, time (ISO 8601, UTC) and report (JSON text) of every run, oldest first."""
        with self._translated("cannot be read"):
            rows = self._db.execute(
                "SELECT run_id, finished_at, report FROM runs ORDER BY finished_at, run_id"
            ).fetchall()
        return [(str(run), str(time), str(report)) for run, time, report in rows]
