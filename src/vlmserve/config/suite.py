"""What a checkpoint is judged on: the model behind ``evals/*.yaml``."""

from collections import Counter
from pathlib import Path

from pydantic import Field, ValidationInfo, field_validator, model_validator

from vlmserve.config.base import StrictModel, load_config
from vlmserve.errors import ConfigError

# lm-eval's metrics that are fractions of samples, whatever the task.
_FRACTIONS = frozenset({"acc", "acc_norm", "exact_match"})


def _check_margin(margin: float, metric: str | None) -> None:
    if metric in _FRACTIONS and margin >= 1.0:
        raise ValueError(
            f"{margin:g} is no margin for {metric}, which lies between 0 and 1; 8 points are 0.08"
        )


class SuiteTask(StrictModel):
    """One task of a suite and how it is judged."""

    task: str = Field(min_length=1)
    """The task's name in its lm-eval file."""

    metric: str = Field(min_length=1)
    """One of the task's metrics, such as ``exact_match``."""

    filter: str | None = None
    """One of the task's filters; needed only where it has several."""

    margin: float | None = Field(default=None, gt=0.0, allow_inf_nan=False)
    """The largest drop that is acceptable, in units of the metric: 0.08 of an accuracy is 8 points.
    The gate's own when unset."""

    gate: bool = True
    """Whether the verdict rests on this task; otherwise it is only reported."""

    @field_validator("margin")
    @classmethod
    def _margin_in_units(cls, margin: float | None, info: ValidationInfo) -> float | None:
        if margin is not None:
            _check_margin(margin, info.data.get("metric"))
        return margin


class GateConfig(StrictModel):
    """When a checkpoint passes."""

    alpha: float = Field(default=0.05, gt=0.0, lt=0.5)
    """One minus the confidence of the intervals, and the chance of any false regression."""

    margin: float = Field(default=0.02, gt=0.0, allow_inf_nan=False)
    """The largest acceptable drop, for tasks that name none."""

    max_failed_fraction: float = Field(default=0.02, ge=0.0, le=1.0)
    """Share of a task's samples that may fail on either side before it is inconclusive."""


class SamplingConfig(StrictModel):
    """How answers are sampled.

    What is unset is as the task's file says, which is greedy unless it says otherwise.
    """

    temperature: float | None = Field(default=None, ge=0.0, allow_inf_nan=False)
    """0 is greedy."""

    top_p: float | None = Field(default=None, gt=0.0, le=1.0)

    max_tokens: int | None = Field(default=None, gt=0)
    """Tokens to generate at most."""

    seed: int | None = None


class SuiteConfig(StrictModel):
    """Tasks, how they are asked, and when a checkpoint passes."""

    name: str = Field(min_length=1)

    include_path: Path | None = None
    """Directory of lm-eval task files, relative to the suite."""

    task_files: tuple[Path, ...] = ()
    """lm-eval task files, relative to the suite."""

    tasks: tuple[SuiteTask, ...] = Field(min_length=1)
    """Tasks of those files, or of lm-eval's own library."""

    gate: GateConfig = GateConfig()
    sampling: SamplingConfig = SamplingConfig()

    @field_validator("tasks")
    @classmethod
    def _judge_something_once(cls, tasks: tuple[SuiteTask, ...]) -> tuple[SuiteTask, ...]:
        counts = Counter(entry.task for entry in tasks)
        for name, count in counts.items():
            if count > 1:
                raise ValueError(f"task {name!r} is listed {count} times")
        if not any(entry.gate for entry in tasks):
            raise ValueError("no task has gate: true, so there is nothing to judge")
        return tasks

    @model_validator(mode="after")
    def _gate_margin_in_units(self) -> "SuiteConfig":
        for entry in self.tasks:
            if entry.margin is None:
                try:
                    _check_margin(self.gate.margin, entry.metric)
                except ValueError as error:
                    raise ValueError(f"gate.margin: {error} (task {entry.task})") from error
        return self

    @model_validator(mode="after")
    def _one_source(self) -> "SuiteConfig":
        if self.include_path is not None and self.task_files:
            raise ValueError("include_path and task_files are both given; keep one")
        return self

    def margin_of(self, entry: SuiteTask) -> float:
        """Return the drop that a task may show and still pass."""
        return self.gate.margin if entry.margin is None else entry.margin


def load_suite(path: Path) -> SuiteConfig:
    """Read a suite; its paths come back absolute.

    Raises:
        ConfigError: The file is missing or does not fit, or a path in it leads nowhere.
    """
    suite = load_config(path, SuiteConfig)
    folder = path.resolve().parent
    if suite.include_path is not None:
        directory = folder / suite.include_path
        if not directory.is_dir():
            raise ConfigError(f"{path}: include_path: no such directory: {directory}")
        return suite.model_copy(update={"include_path": directory})
    files = tuple(folder / file for file in suite.task_files)
    for index, file in enumerate(files):
        if not file.is_file():
            raise ConfigError(f"{path}: task_files.{index}: no such file: {file}")
    return suite.model_copy(update={"task_files": files})
