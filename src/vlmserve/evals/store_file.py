"""The SQLite file of a store: its tables, its version, and how several processes share it."""

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

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


class StoreFile:
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

    def __enter__(self) -> Self:
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


def now() -> str:
    """Give the time as it is kept: ISO 8601 in UTC, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _is_busy(error: sqlite3.Error) -> bool:
    # The lowest byte is the primary code; those above say why.
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
