"""Forest plot: each task's difference with its interval and its margin, as inline SVG."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from vlmserve.evals.report.amounts import difference_in_words
from vlmserve.evals.report.task_report import TaskReport
from vlmserve.evals.report.visible_text import visible

_WIDTH = 1020
_LABEL_WIDTH = 170
_WORDS_WIDTH = 190
_ROW = 28
_TOP = 22
_BOTTOM = 40
_MAX_LABEL = 24
_MAX_TICKS = 7
_PADDING = 0.04


@dataclass(frozen=True, slots=True)
class _Axis:
    """Turns a difference into a place; worse is always to the left."""

    low: float
    high: float
    worse_is_lower: bool

    def x(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        left, right = _LABEL_WIDTH, _WIDTH - _WORDS_WIDTH
        place = share if self.worse_is_lower else 1 - share
        return round(left + place * (right - left), 1)


def render_forests(tasks: Sequence[TaskReport], confidence: str) -> list[Markup]:
    """Draw the differences of tasks, one plot for each kind of metric.

    Args:
        tasks: In the order of the rows; those without an interval have none.
        confidence: Of the intervals, such as ``95 %``.

    Returns:
        An ``svg`` element for scores between 0 and 1, one for each other metric, and one more where
        lower values of it are better. Its colours come from the page's style sheet.
    """
    groups: dict[tuple[str, bool], list[TaskReport]] = {}
    for task in tasks:
        ends = (task.lower, task.difference, task.upper)
        if all(end is not None and math.isfinite(end) for end in ends):
            kind = "points" if task.in_points else task.metric
            groups.setdefault((kind, task.higher_is_better), []).append(task)
    return [
        _forest(rows, unit, confidence, index)
        for index, ((unit, _), rows) in enumerate(groups.items())
    ]


def _forest(tasks: Sequence[TaskReport], unit: str, confidence: str, index: int) -> Markup:
    axis = _axis(tasks)
    height = _TOP + _ROW * len(tasks) + _BOTTOM
    words = "; ".join(
        f"{visible(task.task)} {difference_in_words(task)}, {task.verdict}" for task in tasks
    )
    title = f"Differences in {visible(unit)} with {confidence} intervals"
    parts = [
        Markup(
            '<svg class="forest" role="img" viewBox="0 0 {} {}" width="{}" height="{}" '
            'aria-labelledby="forest-title-{} forest-desc-{}">'
        ).format(_WIDTH, height, _WIDTH, height, index, index),
        Markup('<title id="forest-title-{}">{}</title>').format(index, title),
        Markup('<desc id="forest-desc-{}">{}</desc>').format(index, words),
        *_frame(axis, tasks, unit),
    ]
    for row, task in enumerate(tasks):
        parts.extend(_row(axis, task, _TOP + _ROW * row))
    return Markup("").join([*parts, Markup("</svg>")])


def _axis(tasks: Sequence[TaskReport]) -> _Axis:
    # Both signs of a margin, so that zero stands well inside.
    values = [0.0]
    for task in tasks:
        values += [each for each in (task.lower, task.upper) if each is not None]
        if task.margin is not None:
            values += [-1.25 * task.margin, 1.25 * task.margin]
    low, high = min(values), max(values)
    room = _PADDING * (high - low) or 1.0
    return _Axis(low - room, high + room, worse_is_lower=tasks[0].higher_is_better)


def _frame(axis: _Axis, tasks: Sequence[TaskReport], unit: str) -> Iterator[Markup]:
    bottom = _TOP + _ROW * len(tasks)
    for value in _ticks(axis):
        x = axis.x(value)
        kind = "zero" if value == 0 else "grid"
        yield Markup('<line class="{}" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
            kind, x, x, _TOP - 6, bottom + 4
        )
        shown = 100 * value if tasks[0].in_points else value
        label = "0" if value == 0 else f"{shown:+.4g}"
        yield _text("tick", x, bottom + 18, label)
    left, right = axis.x(axis.low), axis.x(axis.high)
    if not axis.worse_is_lower:
        left, right = right, left
    yield _text("axis start", left, bottom + 34, "← worse")
    yield _text("axis end", right, bottom + 34, "better →")
    lower = "" if axis.worse_is_lower else " (lower is better)"
    yield _text("axis", (left + right) / 2, bottom + 34, f"{visible(unit)}{lower}")


def _row(axis: _Axis, task: TaskReport, top: float) -> Iterator[Markup]:
    if task.lower is None or task.upper is None or task.difference is None:
        return
    middle = top + _ROW / 2
    name = visible(task.task)
    label = name if len(name) <= _MAX_LABEL else f"{name[: _MAX_LABEL - 1]}…"
    verdict = task.verdict.replace(" ", "-")
    yield Markup('<g class="row v-{}"><title>{}: {}</title>').format(
        verdict, name, visible(task.reason)
    )
    yield _text("name", _LABEL_WIDTH - 14, middle + 4, label)
    if task.margin is not None:
        yield from _margin(axis, task.margin, top)
    x1, x2 = sorted((axis.x(task.lower), axis.x(task.upper)))
    yield Markup('<path class="interval" d="M{0} {1}V{2}M{0} {3}H{4}M{4} {1}V{2}"/>').format(
        x1, middle - 5, middle + 5, middle, x2
    )
    yield _mark(task.verdict, axis.x(task.difference), middle)
    yield _text("words", _WIDTH - _WORDS_WIDTH + 14, middle + 4, difference_in_words(task))
    yield Markup("</g>")


def _margin(axis: _Axis, margin: float, top: float) -> Iterator[Markup]:
    edge = axis.x(-margin if axis.worse_is_lower else margin)
    yield Markup('<rect class="beyond" x="{}" y="{}" width="{}" height="{}"/>').format(
        _LABEL_WIDTH, top + 2, round(edge - _LABEL_WIDTH, 1), _ROW - 4
    )
    yield Markup('<line class="margin" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
        edge, edge, top + 2, top + _ROW - 2
    )


def _mark(verdict: str, x: float, y: float) -> Markup:
    """A shape for each verdict, so that color is not all that tells them apart."""
    if verdict in ("regression", "not improved"):
        return Markup('<path class="mark" d="M{} {}l6 6l-6 6l-6 -6z"/>').format(x, y - 6)
    if verdict in ("pass", "improved"):
        return Markup('<circle class="mark" cx="{}" cy="{}" r="5"/>').format(x, y)
    return Markup('<circle class="mark hollow" cx="{}" cy="{}" r="4.5"/>').format(x, y)


def _text(kind: str, x: float, y: float, text: str) -> Markup:
    return Markup('<text class="{}" x="{}" y="{}">{}</text>').format(kind, x, y, escape(text))


def _ticks(axis: _Axis) -> list[float]:
    """Round numbers from end to end, 0 among them."""
    span = axis.high - axis.low
    step = 10.0 ** math.floor(math.log10(span / _MAX_TICKS))
    step = next(step * times for times in (1, 2, 5, 10) if span / (step * times) <= _MAX_TICKS)
    first, last = math.ceil(axis.low / step), math.floor(axis.high / step)
    return [round(number * step, 12) + 0.0 for number in range(first, last + 1)]
