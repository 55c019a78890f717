"""Numbers of a report in words: points for scores between 0 and 1, plain numbers for others."""

from vlmserve.evals.report.task_report import MeasureReport, NllReport, SliceReport, TaskReport


def score_in_words(score: float | None, task: TaskReport) -> str:
    """A mean score, ``-`` where there is none."""
    if score is None:
        return "-"
    return f"{100 * score:.1f}" if task.in_points else f"{score:.4g}"


def difference_in_words(task: TaskReport | SliceReport) -> str:
    """The difference with the ends of its interval, ``-`` where there is none."""
    if task.difference is None or task.lower is None or task.upper is None:
        return "-"
    if task.in_points:
        middle, low, high = (100 * x for x in (task.difference, task.lower, task.upper))
        return f"{middle:+z.1f} [{low:+z.1f}, {high:+z.1f}]"
    return f"{task.difference:+.3g} [{task.lower:+.3g}, {task.upper:+.3g}]"


def nll_in_words(measure: MeasureReport | None) -> tuple[str, str, str]:
    """An NLL on both sides and the difference with the ends of its interval, in nats."""
    if measure is None:
        return "-", "-", "-"
    ends = f"{measure.difference:+.3f} [{measure.lower:+.3f}, {measure.upper:+.3f}]"
    return f"{measure.baseline:.3f}", f"{measure.candidate:.3f}", ends


def nll_finding(nll: NllReport) -> str:
    """What an NLL says, in a word or two."""
    if nll.verdict != "not gated":
        return nll.verdict
    return "early warning" if nll.is_early_warning else ""


def p_value_in_words(p_value: float | None) -> str:
    """A p-value to three places, ``-`` where there is none."""
    if p_value is None:
        return "-"
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"  # noqa: PLR2004 - three places shown


def one_line(text: str) -> str:
    """A text without line breaks."""
    return " ".join(text.split()) or "(empty)"
