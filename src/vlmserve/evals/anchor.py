"""A fixed point beside the baseline, so that small drops from week to week cannot add up.

The candidate is held against both with the same margin, and the graver verdict counts. All these
comparisons are one family for Holm's procedure (see ``vlmserve.evals.gate``): a second look at each
task does not raise the chance of a false regression.
"""

from collections.abc import Iterator, Sequence

from vlmserve.evals.gate import TaskVerdictName
from vlmserve.evals.report.amounts import difference_in_words, score_in_words
from vlmserve.evals.report.task_report import AnchorReport, TaskReport

# The gravest first. A target is held against the anchor by a margin, like any other task.
_GRAVEST: tuple[TaskVerdictName, ...] = (
    "regression",
    "not improved",
    "inconclusive",
    "improved",
    "pass",
    "not gated",
)


def weigh_anchor(task: TaskReport, against_anchor: TaskReport) -> TaskReport:
    """Put what a task is against the anchor into its report, and let the graver verdict count.

    Args:
        task: The task against the baseline.
        against_anchor: The same task with the anchor in the baseline's place.
    """
    anchor = AnchorReport(
        verdict=against_anchor.verdict,
        reason=against_anchor.reason,
        margin=against_anchor.margin,
        n_pairs=against_anchor.n_pairs,
        n_failed=against_anchor.n_failed_baseline,
        anchor=against_anchor.baseline,
        candidate=against_anchor.candidate,
        difference=against_anchor.difference,
        lower=against_anchor.lower,
        upper=against_anchor.upper,
        p_value=against_anchor.p_value,
        adjusted_level=against_anchor.adjusted_level,
        n_worse=len(against_anchor.flips.regressed),
        n_better=len(against_anchor.flips.improved),
        decides=gravity(against_anchor.verdict) < gravity(task.verdict),
    )
    update: dict[str, object] = {"anchor": anchor}
    if anchor.decides:
        update["verdict"] = anchor.verdict
        update["reason"] = anchor.reason.replace("(", "(against the anchor: ", 1)
    return task.model_copy(update=update)


def gravity(verdict: TaskVerdictName) -> int:
    """Order verdicts, the gravest first."""
    return _GRAVEST.index(verdict)


def anchor_notes(
    tasks: Sequence[TaskReport], against_anchor: Sequence[TaskReport]
) -> Iterator[str]:
    """Say of each gated task how it stands against the anchor, and which comparison decided."""
    for task, other in zip(tasks, against_anchor, strict=True):
        if task.anchor is None or not task.gated:
            continue
        scores = (
            f"{score_in_words(other.baseline, other)} -> {score_in_words(other.candidate, other)}"
        )
        decided = "; it decided the verdict" if task.anchor.decides else ""
        yield (
            f"{task.task} against the anchor: {scores}, {difference_in_words(other)}, "
            f"{task.anchor.verdict}{decided}"
        )
