"""What a gate that only warns lets through: what the samples leave open, and not what failed."""

from vlmserve.evals.gate import EXIT_STATUS
from vlmserve.evals.report.eval_report import EvalReport
from vlmserve.evals.report.task_report import TaskReport


def is_let_through(report: EvalReport, task: TaskReport) -> bool:
    """Whether a gate that warns of undecided tasks lets this one pass.

    A checkpoint, or an endpoint, of which too many answers failed was not judged at all: to let it
    through would pass what answers nothing.
    """
    if task.verdict != "inconclusive":
        return False
    n_failed = max(task.n_failed_baseline, task.n_failed_candidate)
    return bool(n_failed <= report.suite.gate["max_failed_fraction"] * task.n_samples)


def exit_status(report: EvalReport, *, inconclusive_fails: bool) -> int:
    """Give the status that a command ends with.

    Args:
        report: What was found.
        inconclusive_fails: Whether undecided tasks fail; else they are let through, unless too
            many of their requests failed.
    """
    undecided = [task for task in report.tasks if task.verdict == "inconclusive"]
    lets_through = not inconclusive_fails and all(is_let_through(report, t) for t in undecided)
    if report.verdict == "inconclusive" and lets_through:
        return 0
    return EXIT_STATUS[report.verdict]
