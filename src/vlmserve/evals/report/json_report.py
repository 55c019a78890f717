"""The report of one evaluation: the model behind ``--json`` and the terminal's table."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from vlmserve.chat import Value
from vlmserve.evals.compare import Comparison, FailedSample, Flip
from vlmserve.evals.gate import TaskVerdict, TaskVerdictName, Verdict
from vlmserve.evals.noise import Noise
from vlmserve.evals.records import SideName
from vlmserve.evals.samples import Sample
from vlmserve.evals.slices import Slice
from vlmserve.evals.statistics import Method

if TYPE_CHECKING:
    from vlmserve.evals.eval_task import AskedTask


class AnswerReport(Value):
    """What one side answered."""

    answer: str
    """What the task's filter made of the completion."""

    score: float
    nll: float | None = None
    """NLL of the target, in nats a token; ``null`` where it was not measured."""


class MediumReport(Value):
    """An image or a video of a sample, by content."""

    content_type: str
    sha256: str


class FlipReport(Value):
    """A sample on which the sides differ."""

    sample_id: str
    question: str
    """The last turn of the user, with ``<image>`` and ``<video>`` where the media were."""

    target: str
    baseline: AnswerReport
    candidate: AnswerReport
    media: tuple[MediumReport, ...]


class FlipsReport(Value):
    """Samples on which the sides differ, in the task's order."""

    regressed: tuple[FlipReport, ...]
    improved: tuple[FlipReport, ...]


class FailureReport(Value):
    """A sample that a side could not be judged on."""

    sample_id: str
    side: SideName
    question: str
    target: str = ""
    error_type: str
    message: str
    media: tuple[MediumReport, ...] = ()


class NoiseReport(Value):
    """The baseline against itself, asked a second time in another order."""

    n_pairs: int
    n_changed: int
    """Answers that differ, whatever their score."""

    n_worse: int
    n_better: int


class AnchorReport(Value):
    """A task against a fixed point: what ``TaskReport`` says of it against the baseline."""

    verdict: TaskVerdictName
    reason: str
    margin: float | None
    n_pairs: int
    n_failed: int
    """Samples that failed on the anchor."""

    anchor: float | None
    candidate: float | None
    difference: float | None
    """Candidate minus anchor."""

    lower: float | None
    upper: float | None
    p_value: float | None
    adjusted_level: float | None
    n_worse: int
    n_better: int
    decides: bool
    """Whether this is graver than what the baseline gives, and so the task's verdict."""


class MeasureReport(Value):
    """A measure on both sides; ``difference`` is candidate minus baseline."""

    baseline: float
    candidate: float
    difference: float
    lower: float
    """Ends of the interval of ``difference``, of confidence ``1 - gate.alpha``."""

    upper: float
    detectable: float
    p_value: float


class NllReport(Value):
    """How unlikely both sides find a task's expected answers: lower is better."""

    n_samples: int
    """Samples whose target was scored."""

    n_pairs: int
    n_clusters: int
    n_failed_baseline: int
    n_failed_candidate: int
    per_token: MeasureReport | None
    """Mean over the samples of nats a token, the end token included; ``null`` where fewer than 10
    independent samples were measured on both sides."""

    per_byte: MeasureReport | None
    """The same in nats a byte of the target."""

    margin: float | None
    """The acceptable rise in nats a token, where the suite states one."""

    verdict: TaskVerdictName
    reason: str
    is_early_warning: bool
    """Whether it rose beyond chance (over all tasks measured) while the metric did not fall beyond
    chance."""

    failures: tuple[FailureReport, ...] = ()


class TaskReport(Value):
    """One task. Amounts are in the metric's units; ``difference`` is candidate minus baseline."""

    task: str
    metric: str
    higher_is_better: bool
    in_points: bool
    """Whether scores lie between 0 and 1."""

    gated: bool
    improve: bool = False
    """Whether the candidate had to be better here, beyond chance."""

    margin: float | None
    """The drop that a gated task may show; for a metric whose lower values are better, the rise.
    ``null`` for a task that had to improve."""

    verdict: TaskVerdictName
    reason: str
    n_available: int
    """Samples that the task has."""

    n_samples: int
    """Those of them that the verdict rests on: fewer where asking stopped as soon as it was
    enough."""

    n_pairs: int
    """Samples that both sides were judged on; everything below rests on them."""

    n_clusters: int
    """Groups of them that ask about the same image or video; as many as pairs where none do."""

    n_failed_baseline: int
    n_failed_candidate: int
    n_cut_baseline: int
    """Answers that ended at the limit of ``max_tokens``."""

    n_cut_candidate: int
    method: Method | None
    baseline: float | None
    candidate: float | None
    difference: float | None
    lower: float | None
    """Ends of the interval of ``difference``, of confidence ``1 - gate.alpha``; of a confidence
    sequence (``betting``), each end by itself holds with that."""

    upper: float | None
    detectable: float | None
    """Smallest difference that this many samples with this spread show four times out of five."""

    p_value: float | None
    """Of no difference, two-sided; of ``betting`` of no drop. Not adjusted for the number of
    tasks."""

    adjusted_level: float | None
    """Holm's level of a drop over all tasks with a margin, see ``vlmserve.evals.gate``: a
    regression has one below ``gate.alpha``."""

    noise: NoiseReport | None = None
    """How much of this the engine does by itself; ``null`` where it was not measured."""

    anchor: AnchorReport | None = None
    """How it stands against the anchor; ``null`` where there is none. All else here is against the
    baseline, but for the verdict and its reason, which are the graver of both."""

    nll: NllReport | None = None
    """How likely both sides find the expected answers; ``null`` where it was not measured."""

    flips: FlipsReport
    failures: tuple[FailureReport, ...]


class SliceReport(Value):
    """A kind of samples of a task. Amounts are in the metric's units, as in ``TaskReport``."""

    task: str
    name: str
    """What the samples have in common, such as ``images = 2``."""

    in_points: bool
    n_pairs: int
    baseline: float
    candidate: float
    difference: float
    lower: float
    upper: float
    p_value: float
    """Two-sided, of no difference, for this slice alone."""

    adjusted_p: float
    """The same adjusted for all slices of the run (Benjamini and Hochberg)."""

    is_worse: bool
    """Whether the candidate is worse here by more than the many looks explain."""


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


def create_task_reports(
    tasks: Sequence["AskedTask"],
    comparisons: Sequence[Comparison],
    verdicts: Sequence[TaskVerdict],
    margins: Sequence[float | None],
    noise: Sequence[Noise | None],
) -> tuple[TaskReport, ...]:
    """Say of each task what was found; all arguments have one entry a task."""
    reports = (
        _task_report(task, comparison, verdict, margin)
        for task, comparison, verdict, margin in zip(
            tasks, comparisons, verdicts, margins, strict=True
        )
    )
    return tuple(
        report.model_copy(update={"noise": None if each is None else NoiseReport(**asdict(each))})
        for report, each in zip(reports, noise, strict=True)
    )


def create_slice_reports(
    slices: Sequence[Slice], comparisons: Sequence[Comparison], alpha: float
) -> tuple[SliceReport, ...]:
    """Say of each slice what was found, in the metrics' own units."""
    by_task = {comparison.task: comparison for comparison in comparisons}
    return tuple(_slice_report(each, by_task[each.task], alpha) for each in slices)


def _slice_report(found: Slice, comparison: Comparison, alpha: float) -> SliceReport:
    pairs = found.pairs
    sign = 1.0 if comparison.higher_is_better else -1.0
    lower, upper = sorted((sign * pairs.lower, sign * pairs.upper))
    turn = comparison.orientation
    return SliceReport(
        task=found.task,
        name=found.name,
        in_points=comparison.in_points,
        n_pairs=pairs.n_pairs,
        baseline=turn(pairs.baseline),
        candidate=turn(pairs.candidate),
        difference=sign * pairs.difference + 0.0,  # -0.0 is 0.0
        lower=lower,
        upper=upper,
        p_value=pairs.p_value,
        adjusted_p=found.adjusted_p,
        is_worse=pairs.difference < 0 and found.adjusted_p <= alpha,
    )


def _task_report(
    task: "AskedTask", comparison: Comparison, verdict: TaskVerdict, margin: float | None
) -> TaskReport:
    pairs = comparison.pairs
    # Results are oriented so that lower is worse; the report speaks the metric's own language.
    sign = 1.0 if comparison.higher_is_better else -1.0
    ends = None if pairs is None else sorted((sign * pairs.lower, sign * pairs.upper))
    turn = comparison.orientation
    return TaskReport(
        task=task.name,
        metric=task.metric,
        higher_is_better=comparison.higher_is_better,
        in_points=comparison.in_points,
        gated=verdict.verdict != "not gated",
        improve=verdict.must_improve,
        margin=margin,
        verdict=verdict.verdict,
        reason=verdict.reason,
        n_available=len(task.samples),
        n_samples=comparison.n_samples,
        n_pairs=0 if pairs is None else pairs.n_pairs,
        n_clusters=0 if pairs is None else pairs.n_clusters,
        n_failed_baseline=comparison.n_failed_baseline,
        n_failed_candidate=comparison.n_failed_candidate,
        n_cut_baseline=comparison.n_cut_baseline,
        n_cut_candidate=comparison.n_cut_candidate,
        method=None if pairs is None else pairs.method,
        baseline=None if pairs is None else turn(pairs.baseline),
        candidate=None if pairs is None else turn(pairs.candidate),
        difference=None if pairs is None else sign * pairs.difference + 0.0,
        lower=None if ends is None else ends[0],
        upper=None if ends is None else ends[1],
        detectable=None if pairs is None else pairs.detectable,
        p_value=None if pairs is None else pairs.p_value,
        adjusted_level=verdict.adjusted_level,
        flips=FlipsReport(
            regressed=tuple(_flip(flip) for flip in comparison.regressed),
            improved=tuple(_flip(flip) for flip in comparison.improved),
        ),
        failures=tuple(create_failure_report(failed) for failed in comparison.failures),
    )


def _flip(flip: Flip) -> FlipReport:
    return FlipReport(
        sample_id=flip.sample.sample_id,
        question=flip.sample.question,
        target=flip.sample.target,
        baseline=AnswerReport(answer=flip.baseline.answer, score=flip.baseline.score),
        candidate=AnswerReport(answer=flip.candidate.answer, score=flip.candidate.score),
        media=_media(flip.sample),
    )


def _media(sample: Sample) -> tuple[MediumReport, ...]:
    return tuple(
        MediumReport(content_type=medium.content_type, sha256=medium.sha256)
        for medium in sample.media
    )


def create_failure_report(failed: FailedSample) -> FailureReport:
    """Say of a failed sample what a reader needs to find it."""
    return FailureReport(
        sample_id=failed.sample.sample_id,
        side=failed.side,
        question=failed.sample.question,
        target=failed.sample.target,
        error_type=failed.failure.error_type,
        message=failed.failure.message,
        media=_media(failed.sample),
    )
