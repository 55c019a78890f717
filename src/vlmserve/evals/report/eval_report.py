"""The report of one evaluation: the model behind ``--json`` and the terminal's table."""

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from vlmserve.chat import Value
from vlmserve.evals.gate import Verdict
from vlmserve.evals.records import SideName
from vlmserve.evals.report.task_report import SliceReport, TaskReport


class SideReport(Value):
    """What answered, on one side."""

    name: str
    fingerprint: str
    """Of the checkpoint's content; for an endpoint, its address and the run."""

    settings: dict[str, Any]
    """The engine's settings and the versions of what answered."""

    n_requests_sent: int
    n_reused: int
    """Answers taken from the store."""

    n_scored: int = 0
    """Expected answers that were sent to be scored."""

    n_likelihoods_reused: int = 0
    """Those whose likelihood was taken from the store."""


class JudgeReport(Value):
    """The model that judged the answers of a task."""

    task: str
    scorer: str
    """``judge_pairs`` or ``judge_rubric``."""

    model: str
    url: str
    prompt_digest: str
    """Of all that the judge is told beside what was asked and answered."""

    n_questions: int
    """Opinions that the scores rest on, or should have."""

    n_requests_sent: int
    """Those that this run asked for."""

    n_reused: int
    """Those that were taken from the store."""

    n_failed: int
    """Those that the judge did not give; what it gave and nobody can read is in ``failures``."""

    prompt_tokens: int
    """Of all opinions, whatever run asked for them."""

    completion_tokens: int
    cost: float | None
    """Of all of these tokens, at the suite's prices; ``null`` where it states none."""

    cost_of_run: float | None
    """Of those that this run asked for."""

    currency: str
    n_pairs: int | None = None
    """Pairs that both sides answered; ``null`` where answers were judged one by one."""

    n_equal: int | None = None
    """Those of them with equal answers, which are ties without a question."""

    n_split: int | None = None
    """Those that were decided otherwise in the other order, which are ties."""


class SuiteReport(Value):
    """What was asked."""

    name: str
    digest: str
    """Of all samples and of how they are asked and scored."""

    sequential: bool
    """Whether asking stopped as soon as a task was decided."""

    limit: int | None
    """Samples of each task that were asked at most; ``None`` for all."""

    gate: dict[str, Any]
    sampling: dict[str, Any]
    nll: dict[str, Any] | None = None
    """Whose likelihood was measured; ``null`` for nobody's."""


class DifferenceReport(Value):
    """A setting that the candidate is not served, or not asked, with as the other side is."""

    side: SideName
    """The other side: the baseline, or the anchor."""

    field: str
    """The setting's dotted name in ``SideReport.settings``."""

    before: Any
    candidate: Any
    reason: Literal["declared", "checkpoint", "suite"]
    """Who meant it: a configuration of one side, the checkpoint that brings it along, or the suite
    that asks its sides differently."""


class EvalReport(Value):
    """One evaluation of a candidate against a baseline."""

    schema_version: Literal[1] = 1
    verdict: Verdict
    run_id: str
    started_at: datetime
    finished_at: datetime
    n_requests_sent: int
    n_reused: int
    suite: SuiteReport
    baseline: SideReport
    candidate: SideReport
    anchor: SideReport | None = None
    """The fixed point that the candidate was held against as well."""

    differences: tuple[DifferenceReport, ...] = ()
    """How the sides are served and asked differently, all of it meant."""

    judges: tuple[JudgeReport, ...] = ()
    """Who judged the answers of which task, and what that cost."""

    versions: dict[str, str]
    """Of vlmserve and of what scored the answers."""

    tasks: tuple[TaskReport, ...]
    slices: tuple[SliceReport, ...] = ()
    """Kinds of samples, the worst first. They explain a verdict and take no part in it."""

    notes: tuple[str, ...] = Field(default=())
    """Things that a reader of the verdict should know."""
