"""What a suite lists under ``tasks``: lm-eval's tasks, data and requests of one's own."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from vlmserve.config.base import UNION_MARK, StrictModel

# lm-eval's metrics that are fractions of samples, whatever the task.
_FRACTIONS = frozenset({"acc", "acc_norm", "exact_match"})

_LM_EVAL = f"{UNION_MARK}lm-eval"
_DATA = f"{UNION_MARK}data"
_REQUESTS = f"{UNION_MARK}requests"

# Checks of answers that are amounts: what is tolerable of them nobody can guess.
AMOUNT_CHECKS = frozenset({"answer_tokens", "prompt_tokens", "latency_ms"})


def check_margin(margin: float, metric: str | None) -> None:
    """Refuse a margin that is no drop of the metric.

    Raises:
        ValueError: The metric lies between 0 and 1, and the margin does not.
    """
    if metric in _FRACTIONS and margin >= 1.0:
        raise ValueError(
            f"{margin:g} is no margin for {metric}, which lies between 0 and 1; 8 points are 0.08"
        )


class _Judged(StrictModel):
    """How a task with expected answers is judged, beside its margin."""

    nll_margin: float | None = Field(default=None, gt=0.0, allow_inf_nan=False)
    """The largest acceptable rise of the expected answers' NLL, in nats a token; when unset it is
    only reported."""

    gate: bool = True
    """Whether the verdict rests on this task; otherwise it is only reported."""

    improve: bool = False
    """Whether the candidate must be better here, beyond chance; such a task has no margin."""


class SuiteTask(_Judged):
    """One of lm-eval's tasks, and how it is judged."""

    task: str = Field(min_length=1)
    """Its name in its lm-eval file; a group or a tag stands for all its tasks together."""

    metric: str = Field(min_length=1)
    """One of the task's metrics, such as ``exact_match``."""

    filter: str | None = None
    """One of the task's filters; needed only where it has several."""

    margin: float | None = Field(default=None, gt=0.0, allow_inf_nan=False)
    """The largest drop that is acceptable, in units of the metric: 0.08 of an accuracy is 8 points.
    The gate's own when unset."""

    @property
    def name(self) -> str:
        """What the task is called in the suite."""
        return self.task

    @field_validator("margin")
    @classmethod
    def _margin_in_units(cls, margin: float | None, info: ValidationInfo) -> float | None:
        if margin is not None:
            check_margin(margin, info.data.get("metric"))
        return margin


class ScorerConfig(StrictModel):
    """A scorer by its name, and its options."""

    model_config = ConfigDict(extra="allow")

    name: str = Field(min_length=1)

    @property
    def options(self) -> dict[str, Any]:
        """What is given beside the name."""
        return dict(self.__pydantic_extra__ or {})


class SuiteData(_Judged):
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
