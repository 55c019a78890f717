"""What a checkpoint is judged on: the model behind ``evals/*.yaml``."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import Field, PrivateAttr, field_validator, model_validator

from vlmserve.config.asking import SamplingConfig, SidesConfig
from vlmserve.config.base import StrictModel, load_config
from vlmserve.config.judge import JudgeConfig
from vlmserve.config.media import MediaConfig
from vlmserve.config.suite_entries import AnyTask, ScorerConfig, SuiteData, SuiteTask, check_margin
from vlmserve.errors import ConfigError


class NllConfig(StrictModel):
    """Whose likelihood is measured: of expected answers, by the models that are compared."""

    samples: int | None = Field(default=None, gt=0)
    """Samples of each task, drawn at random, the same in every run; all when unset."""

    max_target_bytes: int = Field(default=1000, gt=0)
    """Longest expected answer, in bytes of UTF-8; longer ones are left out and counted."""


class GateConfig(StrictModel):
    """When a checkpoint passes."""

    alpha: float = Field(default=0.05, gt=0.0, lt=0.5)
    """One minus the confidence of the intervals, and the chance of any false regression."""

    margin: float = Field(default=0.02, gt=0.0, allow_inf_nan=False)
    """The largest acceptable drop, for tasks that name none."""

    max_failed_fraction: float = Field(default=0.02, ge=0.0, le=1.0)
    """Share of a task's samples that may fail on either side before it is inconclusive."""


class SuiteConfig(StrictModel):
    """Tasks, how they are asked, and when a checkpoint passes."""

    name: str = Field(min_length=1)

    include_path: Path | None = None
    """Directory of lm-eval task files, relative to the suite."""

    task_files: tuple[Path, ...] = ()
    """lm-eval task files, relative to the suite."""

    tasks: tuple[AnyTask, ...] = Field(min_length=1)
    """Tasks of those files or of lm-eval's own library, and data sets of one's own."""

    gate: GateConfig = GateConfig()

    judge: JudgeConfig | None = None
    """The model that judges answers, for the scorers ``judge_pairs`` and ``judge_rubric``."""

    nll: NllConfig | None = None
    """Measure how unlikely both sides find the expected answers; ``true`` for all samples."""

    sampling: SamplingConfig = SamplingConfig()
    sides: SidesConfig = SidesConfig()

    media: MediaConfig = MediaConfig()
    """Where the media of data and requests may be fetched from; ``allowed_hosts`` is empty, so
    that nothing is fetched, unless it is given. What was fetched is kept."""

    _file: Path | None = PrivateAttr(default=None)

    @property
    def file(self) -> Path | None:
        """Where it was read from, for messages."""
        return self._file

    @field_validator("tasks")
    @classmethod
    def _judge_something_once(cls, tasks: tuple[AnyTask, ...]) -> tuple[AnyTask, ...]:
        counts = Counter(entry.name for entry in tasks)
        for name, count in counts.items():
            if count > 1:
                raise ValueError(f"task {name!r} is listed {count} times")
        if not any(entry.gate for entry in tasks):
            raise ValueError("no task has gate: true, so there is nothing to judge")
        return tasks

    @field_validator("tasks")
    @classmethod
    def _targets_are_gated(cls, tasks: tuple[AnyTask, ...]) -> tuple[AnyTask, ...]:
        for entry in tasks:
            if entry.improve and not entry.gate:
                raise ValueError(
                    f"task {entry.name!r} has improve: true and gate: false; keep one of them"
                )
            if entry.improve and entry.margin is not None:
                raise ValueError(
                    f"task {entry.name!r} has improve: true and a margin, which is a drop that "
                    "would be acceptable; keep one of them"
                )
        return tasks

    @field_validator("nll", mode="before")
    @classmethod
    def _as_switch(cls, nll: Any) -> Any:
        if isinstance(nll, bool):
            return {} if nll else None
        return nll

    @model_validator(mode="after")
    def _nll_is_measured(self) -> "SuiteConfig":
        for entry in self.tasks:
            if entry.nll_margin is None:
                continue
            if self.nll is None:
                raise ValueError(
                    f"task {entry.name!r} has an nll_margin, but nothing measures it; add nll: true"
                )
            if not entry.gate:
                raise ValueError(
                    f"task {entry.name!r} has an nll_margin and gate: false; keep one of them"
                )
        return self

    @model_validator(mode="after")
    def _gate_margin_in_units(self) -> "SuiteConfig":
        for entry in self.tasks:
            if entry.margin is None and not entry.improve:
                try:
                    check_margin(self.gate.margin, entry.metric)
                except ValueError as error:
                    raise ValueError(f"gate.margin: {error} (task {entry.name})") from error
        return self

    @model_validator(mode="after")
    def _one_source(self) -> "SuiteConfig":
        if self.include_path is not None and self.task_files:
            raise ValueError("include_path and task_files are both given; keep one")
        return self

    def gated_margin(self, entry: AnyTask) -> float | None:
        """Return the drop that a task is judged by; ``None`` where it is not, or must improve."""
        return self.margin_of(entry) if entry.gate and not entry.improve else None

    def margin_of(self, entry: AnyTask) -> float:
        """Return the drop that a task may show and still pass."""
        return self.gate.margin if entry.margin is None else entry.margin


def load_suite(path: Path) -> SuiteConfig:
    """Read a suite; its paths come back absolute.

    Raises:
        ConfigError: The file is missing or does not fit, or a path in it leads nowhere.
    """
    suite = load_config(path, SuiteConfig)
    suite = suite.model_copy(update=_absolute(suite, path))
    suite._file = path
    return suite


def _absolute(suite: SuiteConfig, path: Path) -> dict[str, Any]:
    folder = path.resolve().parent
    include = None if suite.include_path is None else folder / suite.include_path
    if include is not None and not include.is_dir():
        raise ConfigError(f"{path}: include_path: no such directory: {include}")
    files = tuple(folder / file for file in suite.task_files)
    for index, file in enumerate(files):
        if not file.is_file():
            raise ConfigError(f"{path}: task_files.{index}: no such file: {file}")
    tasks = tuple(
        _absolute_entry(entry, folder, f"{path}: tasks.{index}")
        for index, entry in enumerate(suite.tasks)
    )
    return {"include_path": include, "task_files": files, "tasks": tasks}


def _absolute_entry(entry: AnyTask, folder: Path, where: str) -> AnyTask:
    if isinstance(entry, SuiteTask):
        return entry
    root = None if entry.media_root is None else folder / entry.media_root
    if root is not None and not root.is_dir():
        raise ConfigError(f"{where}.media_root: no such directory: {root}")
    if isinstance(entry, SuiteData):
        return _with_absolute_data(entry, root, folder, where)
    requests = folder / entry.requests
    if not requests.is_file():
        raise ConfigError(f"{where}.requests: no such file: {requests}")
    check = entry.check.model_copy()
    if isinstance(schema := entry.check.options.get("schema"), str):
        check = ScorerConfig(
            **{**entry.check.model_dump(), "schema": _read_schema(folder / schema, where)}
        )
    return entry.model_copy(update={"requests": requests, "media_root": root, "check": check})


def _read_schema(file: Path, where: str) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{where}.check.schema: {file}: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"{where}.check.schema: {file}: not JSON: {error}") from error


def _with_absolute_data(entry: SuiteData, root: Path | None, folder: Path, where: str) -> SuiteData:
    data = folder / entry.data
    directory, colon, _ = str(data).rpartition(":")
    if not (data.exists() or (colon and Path(directory).is_dir())):
        raise ConfigError(f"{where}.data: no such file or directory: {data}")
    return entry.model_copy(update={"data": str(data), "media_root": root})
