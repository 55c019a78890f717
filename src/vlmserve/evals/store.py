"""Answers kept in one SQLite file, keyed by what was asked and by what answered.

An answer is committed as it arrives, so a run that is killed goes on where it stopped. Failures
are never kept: the next run asks again. A run's report is kept together with every sample that it
rests on, in one transaction: either all of it is there or nothing.
"""

import contextlib
import hashlib
import itertools
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from vlmserve.chat import Completion
from vlmserve.engine.base import TargetLogprobs
from vlmserve.errors import ConfigError

SCHEMA_VERSION = 2

# "vlms" in ASCII: tells our files from other SQLite files.
_APPLICATION_ID = 0x766C6D73

_SCHEMA = """
CREATE TABLE answers (
    checkpoint TEXT NOT NULL,
    settings TEXT NOT NULL,
    request TEXT NOT NULL,
    completion TEXT NOT NULL,
    latency_s REAL NOT NULL,
    answered_at TEXT NOT NULL,
    PRIMARY KEY (checkpoint, settings, request)
) WITHOUT ROWID;
CREATE TABLE runs (
    run_id TEXT PRIMARY KEY,
    finished_at TEXT NOT NULL,
    report TEXT NOT NULL
) WITHOUT ROWID;
"""

# Since version 2. Samples are named by what is known of them, so that many runs of one suite keep
# them once; the JSON in these tables is that of vlmserve.evals.run_record.
_RECORDS_SCHEMA = """
CREATE TABLE IF NOT EXISTS sides (
    run_id TEXT NOT NULL,
    side TEXT NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (run_id, side)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS samples (
    digest TEXT PRIMARY KEY,
    sample TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS likelihoods (
    checkpoint TEXT NOT NULL,
    settings TEXT NOT NULL,
    request TEXT NOT NULL,
    logprobs TEXT NOT NULL,
    latency_s REAL NOT NULL,
    scored_at TEXT NOT NULL,
    PRIMARY KEY (checkpoint, settings, request)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outcomes (
    run_id TEXT NOT NULL,
    side TEXT NOT NULL,
    task TEXT NOT NULL,
    position INTEGER NOT NULL,
    asked_at INTEGER,
    sample TEXT NOT NULL REFERENCES samples (digest),
    outcome TEXT,
    PRIMARY KEY (run_id, side, task, position)
) WITHOUT ROWID;
"""

_RETRY_S = 0.05

# Of how many answers a pace is taken at most, and at least; a longer pause is the end of a run.
_PACE_ANSWERS = 2000
_LEAST_ANSWERS = 10
_PAUSE_S = 60.0


@dataclass(frozen=True, slots=True)
class Answerer:
    """What gives answers; two of them are interchangeable exactly if they are equal."""

    checkpoint: str
    """Fingerprint of the weights and everything that is read with them."""

    settings: str
    """Digest of the engine's settings and versions."""


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


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast answers came."""

    seconds: float
    """From one answer to the next, as many as came at once."""

    n_answers: int
    """What that rests on."""


def default_store_path(environ: Mapping[str, str] | None = None) -> Path:
    """Return where answers are kept unless the user names a file.

    Args:
        environ: The environment; the process's own when ``None``.
    """
    environ = os.environ if environ is None else environ
    home = environ.get("XDG_DATA_HOME") or Path("~/.local/share").expanduser()
    return Path(home) / "vlmserve" / "evals.sqlite"


class AnswerStore:
    """One store file, opened for reading and writing; not for use from several threads.

    Several processes may use one file at a time.

    Args:
        path: The file; it and its directory are created where they are missing.
        busy_timeout_s: Seconds to wait for another process that is writing to it.

    Raises:
        ConfigError: The file is not a store, of a version that this vlmserve does not know, or
            cannot be read and written. Every method may raise it for the last reason.
    """

    def __init__(self, path: Path, *, busy_timeout_s: float = 30.0) -> None:
        self.path = path
        self._busy_timeout_s = busy_timeout_s
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=busy_timeout_s, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"{path}: cannot be opened: {error}") from error
        try:
            with self._translated("cannot be opened"):
                self._prepare()
        except BaseException:
            self._db.close()
            raise

    def __enter__(self) -> "AnswerStore":
        """Use the store in a ``with`` block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the store."""
        self.close()

    def close(self) -> None:
        """Close the file; safe to call twice."""
        self._db.close()

    def find(self, answerer: Answerer, requests: Iterable[str]) -> dict[str, Completion]:
        """Return the kept answers among some requests, by request digest."""
        found = {}
        query = (
            "SELECT completion, latency_s FROM answers "
            "WHERE checkpoint=? AND settings=? AND request=?"
        )
        for request in requests:
            with self._translated("cannot be read"):
                row = self._db.execute(
                    query, (answerer.checkpoint, answerer.settings, request)
                ).fetchone()
            if row is not None:
                completion = Completion.model_validate_json(row[0])
                found[request] = completion.model_copy(update={"latency_s": row[1]})
        return found

    def keep(
        self, answerer: Answerer, request: str, completion: Completion, latency_s: float
    ) -> None:
        """Commit one answer to disk; an answer that is there already stays."""
        with self._translated("the answer cannot be kept"):
            self._db.execute(
                "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?)",
                (
                    answerer.checkpoint,
                    answerer.settings,
                    request,
                    completion.model_dump_json(exclude={"latency_s"}),
                    latency_s,
                    _now(),
                ),
            )

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
        found = {}
        query = "SELECT logprobs FROM likelihoods WHERE checkpoint=? AND settings=? AND request=?"
        for request in requests:
            with self._translated("cannot be read"):
                row = self._db.execute(
                    query, (answerer.checkpoint, answerer.settings, request)
                ).fetchone()
            if row is not None:
                found[request] = TargetLogprobs.model_validate_json(row[0])
        return found

    def keep_likelihood(
        self, answerer: Answerer, request: str, logprobs: TargetLogprobs, latency_s: float
    ) -> None:
        """Commit one answer's likelihood to disk; one that is there already stays."""
        with self._translated("the likelihood cannot be kept"):
            self._db.execute(
                "INSERT OR IGNORE INTO likelihoods VALUES (?, ?, ?, ?, ?, ?)",
                (
                    answerer.checkpoint,
                    answerer.settings,
                    request,
                    logprobs.model_dump_json(),
                    latency_s,
                    _now(),
                ),
            )

    def keep_report(self, run_id: str, report: str) -> None:
        """Commit a run's report, as JSON text; a run that is judged again replaces its report."""
        with self._translated("the report cannot be kept"):
            self._db.execute(
                "INSERT OR REPLACE INTO runs VALUES (?, ?, ?)", (run_id, _now(), report)
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
                self._db.execute("INSERT INTO runs VALUES (?, ?, ?)", (run_id, _now(), report))

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

    @contextlib.contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            # Errors of the binding itself, as of a closed file, have no code.
            code = getattr(error, "sqlite_errorcode", None)
            if code == sqlite3.SQLITE_NOTADB:
                raise ConfigError(f"{self.path}: is not a store of answers: {error}") from error
            hint = None
            if _is_busy(error):
                hint = "another process is writing to it; wait for it, or name another --store"
            raise ConfigError(f"{self.path}: {what}: {error}", hint=hint) from error

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # SQLite may have rolled back by itself
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[None]:
        """See one state of the file, whatever others write meanwhile."""
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("COMMIT")

    def _prepare(self) -> None:
        with self._transaction():
            self._create_or_check()
        # Not before the check: it would change another program's file.
        self._switch_to_wal()
        # An answer may have cost minutes of a GPU: it survives a power cut, too.
        self._db.execute("PRAGMA synchronous=FULL")

    def _switch_to_wal(self) -> None:
        # SQLite does not wait here for others that have the file open, whatever its timeout.
        deadline = time.monotonic() + self._busy_timeout_s
        while True:
            try:
                self._db.execute("PRAGMA journal_mode=WAL")
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or time.monotonic() > deadline:
                    raise
                time.sleep(_RETRY_S)
            else:
                return

    def _create_or_check(self) -> None:
        (n_tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if n_tables == 0:
            self._create(_SCHEMA)
            self._create(_RECORDS_SCHEMA)
            self._db.execute(f"PRAGMA application_id={_APPLICATION_ID}")
            self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            return
        (application,) = self._db.execute("PRAGMA application_id").fetchone()
        if application != _APPLICATION_ID:
            raise ConfigError(f"{self.path}: is a database of another program")
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if not 1 <= version <= SCHEMA_VERSION:
            raise ConfigError(
                f"{self.path}: has schema version {version}, this vlmserve reads {SCHEMA_VERSION}",
                hint="name another file with --store",
            )
        # Version 2 adds tables and leaves those of version 1 as they are.
        self._create(_RECORDS_SCHEMA)
        self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")

    def _create(self, schema: str) -> None:
        for statement in schema.split(";"):
            self._db.execute(statement)


def _is_busy(error: sqlite3.Error) -> bool:
    # The lowest byte is the primary code; those above say why.
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
