"""One run's sample logs with the results beside them: what lm-eval and lmms-eval log alike."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmserve.evals.imports.json_lines import find_logs, read_results

if TYPE_CHECKING:
    import re

    from vlmserve.evals.imports.imported import ImportedTask

ReadTask = Callable[[str, Path, Mapping[str, Any]], "ImportedTask"]
"""Reads the log of a task: its name, the file, and the results beside it."""


@dataclass(frozen=True, slots=True)
class LoggedRun:
    """The logs of one model."""

    tasks: Sequence["ImportedTask"]
    files: Sequence[Path]
    """Logs and results, in the order in which they were read."""

    results: Mapping[str, Any]
    """Those of the last task that has any; empty where none has."""

    @property
    def config(self) -> Mapping[str, Any]:
        """How the harness was called, as far as the results say."""
        return self.results.get("config") or {}

    @property
    def model(self) -> str:
        """What the harness calls the model."""
        return str(self.results.get("model_name") or self.config.get("model") or "unknown model")


def read_run(
    given: Sequence[Path],
    names: "re.Pattern[str]",
    harness: str,
    *,
    results_name: str,
    read_task: ReadTask,
) -> LoggedRun:
    """Read all logs of a run.

    Args:
        given: Files, or directories that are searched with all below them.
        names: The logs' names, with the groups ``task`` and ``date``.
        harness: Who wrote them, for messages.
        results_name: The name of the results that lie beside a log, with ``{date}`` in it.
        read_task: Reads one log.

    Raises:
        ConfigError: As ``find_logs``, ``read_results`` and ``read_task`` do.
    """
    tasks: list[ImportedTask] = []
    files: list[Path] = []
    results: dict[str, Any] = {}
    for task, (file, date) in find_logs(given, names, harness).items():
        beside = file.with_name(results_name.format(date=date))
        results = read_results(beside) or results
        files += [file, beside] if beside.is_file() else [file]
        tasks.append(read_task(task, file, results))
    return LoggedRun(tasks=tasks, files=list(dict.fromkeys(files)), results=results)
