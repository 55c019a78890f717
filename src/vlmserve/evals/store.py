"""Answers kept in one SQLite file, keyed by what was asked and by what answered.

An answer is committed as it arrives, so a run that is killed goes on where it stopped. Failures
are never kept: the next run asks again. A run's report is kept together with every sample that it
rests on, in one transaction: either all of it is there or nothing.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from vlmserve.evals.answer_tables import AnswerTables
from vlmserve.evals.run_tables import RunTables


def default_store_path(environ: Mapping[str, str] | None = None) -> Path:
    """Return where answers are kept unless the user names a file.

    Args:
        environ: The environment; the process's own when ``None``.
    """
    environ = os.environ if environ is None else environ
    home = environ.get("XDG_DATA_HOME") or Path("~/.local/share").expanduser()
    return Path(home) / "vlmserve" / "evals.sqlite"


class AnswerStore(AnswerTables, RunTables):
    """A store file with the answers and the runs that it keeps."""
