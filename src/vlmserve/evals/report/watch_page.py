"""A training's checkpoints on one self-contained page: curves over steps, and a table."""

import base64
import hashlib
from collections.abc import Iterator, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from vlmserve.evals.nll import NLL_UNIT
from vlmserve.evals.report.amounts import difference_in_words, score_in_words
from vlmserve.evals.report.curves import Curve, CurvePoint, render_curve
from vlmserve.evals.report.eval_report import EvalReport
from vlmserve.evals.report.task_report import TaskReport
from vlmserve.evals.report.visible_text import visible

if TYPE_CHECKING:
    from vlmserve.evals.watching import Point

_PERCENT = 100.0


def create_curves(points: "Sequence[Point]") -> list[Curve]:
    """A curve for each task, and one more where its NLL was measured, in the tasks' order."""
    tasks: dict[str, list[tuple[int, TaskReport]]] = {}
    for point in points:
        for task in () if point.report is None else point.report.tasks:
            if task.candidate is not None:
                tasks.setdefault(task.task, []).append((point.step, task))
    return [curve for name, rows in tasks.items() for curve in (_curve(name, rows), *_nll(rows))]


def _curve(name: str, rows: Sequence[tuple[int, TaskReport]]) -> Curve:
    in_points = all(task.in_points for _, task in rows)
    scale = _PERCENT if in_points else 1.0
    last = rows[-1][1]
    words = "points" if in_points else "its own units"
    lower = "" if last.higher_is_better else "; lower is better"
    return Curve(
        title=name,
        unit=f"{last.metric}, in {words}{lower}",
        points=[_point(step, task, scale) for step, task in rows],
        reference=None if last.baseline is None else scale * last.baseline,
    )


def _nll(rows: Sequence[tuple[int, TaskReport]]) -> Iterator[Curve]:
    measured = [
        (step, task, task.nll, task.nll.per_token)
        for step, task in rows
        if task.nll is not None and task.nll.per_token is not None
    ]
    if not measured:
        return
    _, task, _, last = measured[-1]
    yield Curve(
        title=f"{task.task}: NLL of the targets",
        unit=f"{NLL_UNIT}; lower is better",
        points=[
            CurvePoint(
                step,
                each.candidate,
                each.baseline + each.lower,
                each.baseline + each.upper,
                nll.verdict,
            )
            for step, _, nll, each in measured
        ],
        reference=last.baseline,
    )


def _point(step: int, task: TaskReport, scale: float) -> CurvePoint:
    low = high = None
    # The interval is that of the difference: it says how far the baseline's line is away.
    if task.baseline is not None and task.lower is not None and task.upper is not None:
        low, high = (scale * (task.baseline + end) for end in (task.lower, task.upper))
    value = scale * task.candidate if task.candidate is not None else 0.0
    return CurvePoint(step, value, low, high, task.verdict)


def render_watch_page(title: str, points: "Sequence[Point]", notes: Sequence[str]) -> str:
    """Write the page.

    Args:
        title: What is watched.
        points: By step.
        notes: What a reader should know.
    """
    folder = files("vlmserve.evals.report") / "html"
    style = (folder / "watch.css").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: (
            visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
        ),
    )
    environment.filters |= {"difference": difference_in_words}
    environment.globals["score"] = score_in_words
    template = environment.from_string((folder / "watch.html").read_text(encoding="utf-8"))
    curves = create_curves(points)
    return template.render(
        title=title,
        curves=[(curve, render_curve(curve, index)) for index, curve in enumerate(curves)],
        points=points,
        notes=notes,
        tasks=_task_names(points),
        task_of=_task_of,
        style=Markup(style),  # noqa: S704 - our own file
        style_digest=_digest(style),
    )


def _task_names(points: "Sequence[Point]") -> list[str]:
    reports = [point.report for point in points if point.report is not None]
    return list(dict.fromkeys(task.task for report in reports for task in report.tasks))


def _task_of(report: EvalReport, name: str) -> TaskReport | None:
    return next((task for task in report.tasks if task.task == name), None)


def _digest(text: str) -> str:
    """Name an inline style as a content security policy does (CSP 3, 2.3.1)."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
