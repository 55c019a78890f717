"""What a report says of one task, of its samples and of kinds of them."""

from vlmserve.chat import Value
from vlmserve.evals.gate import TaskVerdictName
from vlmserve.evals.records import SideName
from vlmserve.evals.statistics import Method


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
    """Of no difference, two-sided, by the interval's own test: it is below ``gate.alpha`` exactly
    where the interval excludes 0."""

    sign_flip_p: float | None = None
    """The same by a permutation test of signs, a second look that decides nothing."""


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
    """Of no difference, two-sided, by the interval's own test: it is below ``gate.alpha`` exactly
    where the interval excludes 0; of ``betting`` of no drop. Not adjusted for the number of
    tasks."""

    sign_flip_p: float | None = None
    """Of no difference, two-sided, by flips of signs: McNemar's mid-p for scores of 0 and 1, a
    permutation test for others. A second look that decides nothing; ``null`` where asking stopped
    as soon as it was enough."""

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
    """Two-sided, of no difference, for this slice alone, by its interval's own test."""

    adjusted_p: float
    """The same adjusted for all slices of the run (Benjamini and Hochberg)."""

    is_worse: bool
    """Whether the candidate is worse here by more than the many looks explain."""
