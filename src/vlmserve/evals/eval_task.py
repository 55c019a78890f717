"""Tasks of a suite: samples to ask and answers to score, wherever they come from."""

import contextlib
import io
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from vlmserve.chat import Completion
from vlmserve.config.suite import SuiteConfig
from vlmserve.config.suite_entries import SuiteData, SuiteRequests, SuiteTask
from vlmserve.errors import ConfigError
from vlmserve.evals.asked_turns import Asking
from vlmserve.evals.judging.create import OPTIONS, create_judged_task
from vlmserve.evals.judging.judged_task import Material
from vlmserve.evals.media_library import MediaLibrary
from vlmserve.evals.records import Failed, Scored
from vlmserve.evals.samples import Sample

if TYPE_CHECKING:
    from vlmserve.evals.request_log import RequestLog

_Load = Callable[[], "EvalTask"]


class AskedTask(Protocol):
    """One task of a suite: its samples, and what is known of them."""

    @property
    def name(self) -> str:
        """What the suite calls it."""
        ...

    @property
    def metric(self) -> str:
        """What is compared."""
        ...

    @property
    def samples(self) -> tuple[Sample, ...]:
        """In the order of the data set."""
        ...

    @property
    def higher_is_better(self) -> bool:
        """The metric's direction."""
        ...

    @property
    def is_relative(self) -> bool:
        """Whether scores say how one side did against the other side of its run.

        They mean nothing beside the scores of another run.
        """
        ...

    @property
    def is_amount(self) -> bool:
        """Whether scores are amounts, such as tokens, rather than grades: never points."""
        ...

    def fields(self) -> dict[str, list[str]]:
        """The columns of the data that tell kinds of samples apart.

        Returns:
            By column, the value of each of ``samples``, as text; of columns with a few different
            words or whole numbers.
        """
        ...


class EvalTask(AskedTask, Protocol):
    """One task of a suite, ready to be asked and scored."""

    @property
    def recipe(self) -> dict[str, Any]:
        """How answers are scored, as JSON values: part of a suite's digest."""
        ...

    def score(self, answers: Mapping[str, Completion]) -> dict[str, Scored | Failed]:
        """Judge answers.

        Args:
            answers: Completions by sample id; samples that are not in it are left out.

        Returns:
            The outcome of each answer. What goes wrong with an answer is a failure of its sample.
        """
        ...


def load_tasks(
    suite: SuiteConfig, *, limit: int | None = None, only: int | None = None
) -> list[EvalTask]:
    """Load the tasks of a suite with their samples; no request is sent.

    lm-eval is imported only where the suite has a task of its kind.

    Args:
        suite: The suite, with absolute paths.
        limit: Take only this many samples of each task, the first ones.
        only: Load this one of the suite's tasks, counted from 0; all when ``None``.

    Returns:
        The tasks in the suite's order.

    Raises:
        ConfigError: A task is unknown or empty, its file is wrong, or a sample cannot be asked as
            it stands; the message names task, field and row.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"--limit {limit}: at least one sample of each task is needed")
    asked = [(index, entry) for index, entry in enumerate(suite.tasks) if only in {None, index}]
    entries = [entry for _, entry in asked if isinstance(entry, SuiteTask)]
    own = _OwnTasks(suite, limit)
    with contextlib.ExitStack() as stack:
        loads = _lm_eval_loads(entries, suite, limit, stack) if entries else {}
        return [
            loads[entry.name]() if isinstance(entry, SuiteTask) else own.load(index, entry)
            for index, entry in asked
        ]


class _OwnTasks:
    """Loads the user's own data and requests; what several tasks share is read once."""

    def __init__(self, suite: SuiteConfig, limit: int | None) -> None:
        self._suite = suite
        self._asking = Asking(suite.sampling, MediaLibrary(suite.media), limit)
        self._logs: dict[str, RequestLog] = {}

    def load(self, index: int, entry: SuiteData | SuiteRequests) -> EvalTask:
        place = f"{self._suite.file or self._suite.name}: tasks.{index}"
        if isinstance(entry, SuiteData):
            return self._load_data(entry, place)
        return self._load_requests(entry, place)

    def _load_data(self, entry: SuiteData, place: str) -> EvalTask:
        from vlmserve.evals.data_task import load_data_task, load_material

        if entry.scorer.name in OPTIONS:
            material = load_material(entry, self._asking, place=place)
            return create_judged_task(material, entry.scorer, self._suite, place=f"{place}.scorer")
        margin = self._suite.margin_of(entry)
        return load_data_task(entry, self._asking, margin=margin, place=place)

    def _load_requests(self, entry: SuiteRequests, place: str) -> EvalTask:
        from vlmserve.evals.request_log import load_requests
        from vlmserve.evals.request_task import create_request_task

        key = repr((entry.requests, entry.media_root, entry.leave_out))
        if key not in self._logs:
            try:
                self._logs[key] = load_requests(entry, self._asking)
            except ConfigError as error:
                raise ConfigError(
                    f"task {entry.name} ({place}): {error.message}", hint=error.hint
                ) from error
        log = self._logs[key]
        if entry.check.name in OPTIONS:
            material = Material(entry.name, log.samples, log.fields, {})
            return create_judged_task(material, entry.check, self._suite, place=f"{place}.check")
        margin = self._suite.margin_of(entry) if entry.gate else 0.0
        return create_request_task(entry, log, margin=margin, place=place)


def _lm_eval_loads(
    entries: Sequence[SuiteTask],
    suite: SuiteConfig,
    limit: int | None,
    stack: contextlib.ExitStack,
) -> dict[str, _Load]:
    from vlmserve.evals.lm_eval_task import load_lm_eval_task
    from vlmserve.evals.task_files import find_task_files
    from vlmserve.evals.tasks import TaskSource

    found = find_task_files(suite)
    groups = {
        entry.task: found.members(entry.task) for entry in entries if entry.task in found.groups
    }
    names = [name for entry in entries for name in groups.get(entry.task, [entry.task])]
    files = {name: found.find(name) for name in names}
    scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="vlmserve-tasks-"))
    source = TaskSource(found, files, groups, Path(scratch))
    # lm-eval and datasets draw progress bars on stderr; log lines have their own handle on it.
    stack.enter_context(contextlib.redirect_stderr(io.StringIO()))

    def load(entry: SuiteTask) -> _Load:
        return lambda: load_lm_eval_task(entry, source, suite.sampling, limit)

    return {entry.name: load(entry) for entry in entries}
