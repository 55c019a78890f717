"""Answers kept in one SQLite file, keyed by what was asked and by what answered.

An answer is committed as it arrives, so a run that is killed goes on where it stopped. Failures
are never kept: the next run asks again. Reports are kept beside the answers they rest on.
"""

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from vlmserve.chat import Completion
from vlmserve.errors import ConfigError

SCHEMA_VERSION = 1

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

_RETRY_S = 0.05


@dataclass(frozen=True, slots=True)
class Answerer:
    """What gives answers; two of them are interchangeable exactly if they are equal."""

    checkpoint: str
    """Fingerprint of the weights and everything that is read with them."""

    settings: str
    """Digest of the engine's settings and versions."""


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

    def keep_report(self, run_id: str, report: str) -> None:
        """Commit a run's report, as JSON text; a run that is judged again replaces its report."""
        with self._translated("the report cannot be kept"):
            self._db.execute(
                "INSERT OR REPLACE INTO runs VALUES (?, ?, ?)", (run_id, _now(), report)
            )

    def find_report(self, run_id: str) -> str | None:
        """Return the JSON text of a run's report; ``None`` if there is none."""
        with self._translated("cannot be read"):
            row = self._db.execute("SELECT report FROM runs WHERE run_id=?", (run_id,)).fetchone()
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

    def _prepare(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._create_or_check()
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # SQLite may have rolled back by itself
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")
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
            for statement in _SCHEMA.split(";"):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA application_id={_APPLICATION_ID}")
            self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            return
        (application,) = self._db.execute("PRAGMA application_id").fetchone()
        if application != _APPLICATION_ID:
            raise ConfigError(f"{self.path}: is a database of another program")
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version != SCHEMA_VERSION:
            raise ConfigError(
                f"{self.path}: has schema version {version}, this vlmserve reads {SCHEMA_VERSION}",
                hint="name another file with --store",
            )


def _is_busy(error: sqlite3.Error) -> bool:
    # The lowest byte is the primary code; those above say why.
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
