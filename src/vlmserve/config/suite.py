"""What a checkpoint is judged on: the model behind ``evals/*.yaml``."""

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from vlmserve.config.base import UNION_MARK, StrictModel, load_config
from vlmserve.config.judge import JudgeConfig
from vlmserve.config.media import MediaConfig
from vlmserve.errors import ConfigError

# lm-eval's metrics that are fractions of samples, whatever the task.
_FRACTIONS = frozenset({"acc", "acc_norm", "exact_match"})

_LM_EVAL = f"{UNION_MARK}lm-eval"
_DATA = f"{UNION_MARK}data"
_REQUESTS = f"{UNION_MARK}requests"

# Checks of answers that are amounts: what is tolerable of them nobody can guess.
AMOUNT_CHECKS = frozenset({"answer_tokens", "prompt_tokens", "latency_ms"})


def _check_margin(margin: float, metric: str | None) -> None:
    if metric in _FRACTIONS and margin >= 1.0:
        raise ValueError(
            f"{margin:g} is no margin for {metric}, which lies between 0 and 1; 8 points are 0.08"
        )


class NllConfig(StrictModel):
    """Whose likelihood is measured: of expected answers, by the models that are compared."""

    samples: int | None = Field(default=None, gt=0)
    """Samples of each task, drawn at random, the same in every run; all when unset."""

    max_target_bytes: int = Field(default=1000, gt=0)
    """Longest expected answer, in bytes of UTF-8; longer ones are left out and counted."""


class SuiteTask(StrictModel):
    """One of lm-eval's tasks, and how it is judged."""

    task: str = Field(min_length=1)
    """The task's name in its lm-eval file."""

    metric: str = Field(min_length=1)
    """One of the task's metrics, such as ``exact_match``."""

    filter: str | None = None
    """One of the task's filters; needed only where it has several."""

    margin: float | None = Field(default=None, gt=0.0, allow_inf_nan=False)
    """The largest drop that is acceptable, in units of the metric: 0.08 of an accuracy is 8 points.
    The gate's own when unset."""

    nll_margin: float | None = Field(default=None, gt=0.0, allow_inf_nan=False)
    """The largest acceptable rise of the expected answers' NLL, in nats a token; when unset it is
    only reported."""

    gate: bool = True
    """Whether the verdict rests on this task; otherwise it is only reported."""

    improve: bool = False
    """Whether the candidate must be better here, beyond chance; such a task has no margin."""

    @property
    def name(self) -> str:
        """What the task is called in the suite."""
        return self.task

    @field_validator("margin")
    @classmethod
    def _margin_in_units(cls, margin: float | None, info: ValidationInfo) -> float | None:
        if margin is not None:
            _check_margin(margin, info.data.get("metric"))
        return margin


class ScorerConfig(StrictModel):
    """A scorer by its name, and its options."""

    model_config = ConfigDict(extra="allow")

    name: str = Field(min_length=1)

    @property
    def options(self) -> dict[str, Any]:
        """What is given beside the name."""
        return dict(self.__pydantic_extra__ or {})


class SuiteData(StrictModel):
    """Held-out data in the format in which a model was trained, and how it is judged."""

    data: str = Field(min_length=1)
    """A file, or a directory with LLaMA-Factory's ``dataset_info.json`` as ``DIR:NAME``; relative
    to the suite."""

    name: str = Field(min_length=1)
    """What the task is called."""

    scorer: ScorerConfig
    """What judges an answer by the target; a name, or a mapping of ``name`` and options."""

    media_root: Path | None = None
    """What relative paths of media count from, relative to the suite; found by itself when
    unset."""

    format: Literal["openai", "ms-swift", "sharegpt", "alpaca", "llava", "vlmevalkit"] | None = None
    """How rows are written; told from their shape when unset."""

    system: str | None = None
    """A system prompt for the rows that have none of their own."""

    margin: float | None = Field(default=None, gt=0.0, allow_inf_nan=False)
    """The largest drop that is acceptable, in units of the metric: 0.08 of an accuracy is 8 points.
    The gate's own when unset."""

    nll_margin: float | None = Field(default=None, gt=0.0, allow_inf_nan=False)
    """The largest acceptable rise of the expected answers' NLL, in nats a token; when unset it is
    only reported."""

    gate: bool = True
    """Whether the verdict rests on this task; otherwise it is only reported."""

    improve: bool = False
    """Whether the candidate must be better here, beyond chance; such a task has no margin."""

    @property
    def metric(self) -> str:
        """What is compared: the scorer's name."""
        return self.scorer.name

    @field_validator("scorer", mode="before")
    @classmethod
    def _by_name(cls, scorer: Any) -> Any:
        return {"name": scorer} if isinstance(scorer, str) else scorer


class SuiteRequests(StrictModel):
    """Requests without expected answers, such as a log, and what is measured of the answers.

    Several tasks may name one file: each request is asked once.
    """

    requests: Path
    """A file of OpenAI requests, one a line; relative to the suite."""

    name: str = Field(min_length=1)
    """What the task is called."""

    check: ScorerConfig
    """What is measured of an answer; a name, or a mapping of ``name`` and options."""

    media_root: Path | None = None
    """What relative paths of media count from; the file's directory when unset."""

    leave_out: tuple[str, ...] = ()
    """Fields of the requests that are not sent although they change answers, such as ``tools``."""

    margin: float | None = Field(default=None, gt=0.0, allow_inf_nan=False)
    """The largest rise that is acceptable, in units of the check: 0.02 of a share is 2 points. The
    gate's own when unset."""

    gate: bool = True
    """Whether the verdict rests on this task; otherwise it is only reported. Tokens and latency
    are only reported unless a margin is given."""

    improve: bool = False
    """Whether the candidate must be better here, beyond chance; such a task has no margin."""

    @property
    def metric(self) -> str:
        """What is compared: the check's name."""
        return self.check.name

    @property
    def nll_margin(self) -> None:
        """There is no expected answer that could become less likely."""
        return

    @field_validator("check", mode="before")
    @classmethod
    def _by_name(cls, check: Any) -> Any:
        return {"name": check} if isinstance(check, str) else check

    @model_validator(mode="after")
    def _amounts_need_a_margin(self) -> "SuiteRequests":
        is_open = self.check.name in AMOUNT_CHECKS and self.margin is None and not self.improve
        if not is_open or not self.gate:
            return self
        if "gate" in self.model_fields_set:
            raise ValueError(
                f"gate: true needs a margin here, in units of {self.check.name}: what rise is "
                "tolerable nobody else can know"
            )
        return self.model_copy(update={"gate": False})


_KINDS: dict[str, tuple[str, type[StrictModel]]] = {
    "data": (_DATA, SuiteData),
    "requests": (_REQUESTS, SuiteRequests),
}
"""What tells entries of a suite apart: a key that no other kind has."""


def _kind(entry: Any) -> str:
    for key, (tag, model) in _KINDS.items():
        if key in entry if isinstance(entry, dict) else isinstance(entry, model):
            return tag
    return _LM_EVAL


AnyTask = Annotated[
    Annotated[SuiteTask, Tag(_LM_EVAL)]
    | Annotated[SuiteData, Tag(_DATA)]
    | Annotated[SuiteRequests, Tag(_REQUESTS)],
    Discriminator(_kind),
]
"""An entry of a suite's ``tasks``."""


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


class AskingConfig(StrictModel):
    """How one side is asked, where it differs from what the tasks say."""

    system: str | None = None
    """The system prompt of every request, in the place of the samples' own."""

    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the chat template, such as ``{enable_thinking: true}``."""

    reasoning_parser: str | None = None
    """vLLM's name of a reasoning format, such as ``qwen3``, by which reasoning is told from the
    answer; it is kept and not scored. Endpoints separate it themselves."""

    sampling: SamplingConfig = SamplingConfig()
    """Wins over the suite's own sampling and the tasks'."""

    def over(self, other: "AskingConfig") -> "AskingConfig":
        """Return the other's settings with this one's on top."""
        given = self.model_dump(exclude_unset=True)
        below = other.model_dump(exclude_unset=True)
        for key in ("sampling", "chat_template_kwargs"):
            if key in given and key in below:
                given[key] = {**below[key], **given[key]}
        return AskingConfig.model_validate({**below, **given})

    def as_settings(self) -> dict[str, Any]:
        """What is set, as JSON values; empty where nothing is."""
        given = self.model_dump(mode="json", exclude_defaults=True)
        return {key: value for key, value in given.items() if value}


class SidesConfig(StrictModel):
    """How each side is asked; for models that want another prompt, template or sampling."""

    both: AskingConfig = AskingConfig()
    """What holds for every side."""

    baseline: AskingConfig = AskingConfig()
    """What holds for the baseline alone, on top."""

    candidate: AskingConfig = AskingConfig()
    """What holds for the candidate alone, and for an anchor."""

    def of(self, side: Literal["baseline", "candidate"]) -> AskingConfig:
        """Return how a side is asked."""
        own = self.baseline if side == "baseline" else self.candidate
        return own.over(self.both)


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
                    _check_margin(self.gate.margin, entry.metric)
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
