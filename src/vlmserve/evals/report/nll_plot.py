"""NLL against metric: a point a task, as inline SVG.

Tasks on which the expected answers became less likely stand high, those on which the metric fell
stand to the left. What the metric does not show yet stands high in the middle.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from vlmserve.evals.report.amounts import difference_in_words, nll_in_words
from vlmserve.evals.report.task_report import MeasureReport, TaskReport
from vlmserve.evals.report.visible_text import visible

_WIDTH, _HEIGHT = 1020, 440
_LEFT, _RIGHT, _TOP, _BOTTOM = 90, 30, 24, 56
_PADDING = 0.06
_MAX_TICKS = 7
_MAX_LABEL = 24
_LETTER_WIDTH, _LINE_HEIGHT = 7.0, 14.0


@dataclass(frozen=True, slots=True)
class _Point:
    """A task; ``x`` ends are in points or units, worse to the left, ``y`` ends in nats a token."""

    task: TaskReport
    measure: MeasureReport
    x: tuple[float, float, float]
    y: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class _Scale:
    """Turns an amount into a place."""

    low: float
    high: float
    first: float
    last: float

    def at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.first + share * (self.last - self.first), 1)

    def ticks(self) -> list[float]:
        span = self.high - self.low
        step = 10.0 ** math.floor(math.log10(span / _MAX_TICKS))
        step = next(step * times for times in (1, 2, 5, 10) if span / (step * times) <= _MAX_TICKS)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [round(number * step, 12) + 0.0 for number in range(first, last + 1)]


def render_nll_plot(tasks: Sequence[TaskReport], confidence: str) -> Markup | None:
    """Draw how far each task's NLL and metric moved.

    Args:
        tasks: Those without intervals, and those whose scores are not between 0 and 1, have no
            point: their metrics have no scale in common.
        confidence: Of the intervals, such as ``95 %``.

    Returns:
        An ``svg`` element whose colours come from the page's style sheet; ``None`` where there is
        nothing to draw.
    """
    points = [point for task in tasks if (point := _point(task)) is not None]
    if not points:
        return None
    across = _scale([value for point in points for value in point.x], _LEFT, _WIDTH - _RIGHT)
    up = _scale([value for point in points for value in point.y], _HEIGHT - _BOTTOM, _TOP)
    words = "; ".join(
        f"{visible(point.task.task)}: {difference_in_words(point.task)} points, NLL "
        f"{nll_in_words(point.measure)[2]}"
        for point in points
    )
    parts = [
        Markup(
            '<svg class="forest nll" role="img" viewBox="0 0 {} {}" width="{}" height="{}" '
            'aria-labelledby="nll-plot-title nll-plot-desc">'
        ).format(_WIDTH, _HEIGHT, _WIDTH, _HEIGHT),
        Markup('<title id="nll-plot-title">NLL against metric, with {} intervals</title>').format(
            confidence
        ),
        Markup('<desc id="nll-plot-desc">{}</desc>').format(words),
        *_frame(across, up),
        *(
            part
            for point, place in zip(points, _places(points, across, up), strict=True)
            for part in _draw(point, across, up, place)
        ),
    ]
    return Markup("").join([*parts, Markup("</svg>")])


def _point(task: TaskReport) -> _Point | None:
    measure = None if task.nll is None else task.nll.per_token
    if measure is None or not task.in_points:
        return None
    ends = (task.lower, task.difference, task.upper)
    if any(end is None for end in ends):
        return None
    sign = 1.0 if task.higher_is_better else -1.0
    low, middle, high = (100 * sign * end for end in ends if end is not None)
    x = (min(low, high), middle, max(low, high))
    y = (measure.lower, measure.difference, measure.upper)
    if not all(math.isfinite(value) for value in (*x, *y)):
        return None
    return _Point(task, measure, x, y)


def _scale(values: Sequence[float], first: float, last: float) -> _Scale:
    low, high = min(0.0, *values), max(0.0, *values)
    room = _PADDING * (high - low) or 1.0
    return _Scale(low - room, high + room, first, last)


def _frame(across: _Scale, up: _Scale) -> Iterator[Markup]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    for value in across.ticks():
        x, kind = across.at(value), "zero" if value == 0 else "grid"
        yield _line(kind, (x, x), (_TOP, bottom))
        yield _text("tick", x, bottom + 18, "0" if value == 0 else f"{value:+.4g}")
    for value in up.ticks():
        y, kind = up.at(value), "zero" if value == 0 else "grid"
        yield _line(kind, (_LEFT, right), (y, y))
        yield _text("tick left", _LEFT - 10, y + 4, "0" if value == 0 else f"{value:+.4g}")
    yield _text("axis start", _LEFT, bottom + 42, "← metric worse, in points")
    yield _text("axis end", right, bottom + 42, "metric better →")
    yield _text("axis start", 8, 14, "↑ expected answers less likely, nats a token")


def _label(point: _Point) -> str:
    name = visible(point.task.task)
    return name if len(name) <= _MAX_LABEL else f"{name[: _MAX_LABEL - 1]}…"


def _places(points: Sequence[_Point], across: _Scale, up: _Scale) -> Iterator[tuple[float, float]]:
    """Where each label begins: right of its mark, on the nearest line that no other label has."""
    taken: list[tuple[float, float, float]] = []
    for point in points:
        x, mark = across.at(point.x[1]) + 9, up.at(point.y[1])
        end = x + _LETTER_WIDTH * len(_label(point))
        lines = [y for y, start, last in taken if start < end and x < last]
        tries = (mark - 7 + _LINE_HEIGHT * step for step in _alternating(2 * len(points)))
        y = next(y for y in tries if all(abs(y - line) >= _LINE_HEIGHT for line in lines))
        taken.append((y, x, end))
        yield x, y


def _alternating(last: int) -> Iterator[int]:
    """0, then one above and below, two above and below, and on."""
    yield 0
    for step in range(1, last + 1):
        yield -step
        yield step


def _draw(
    point: _Point, across: _Scale, up: _Scale, place: tuple[float, float]
) -> Iterator[Markup]:
    task = point.task
    (x1, x, x2), (y1, y, y2) = map(across.at, point.x), map(up.at, point.y)
    name = visible(task.task)
    warns = task.nll is not None and task.nll.is_early_warning
    tone = "inconclusive" if warns else task.verdict.replace(" ", "-")
    yield Markup('<g class="row v-{}"><title>{}: {}, NLL {}{}</title>').format(
        tone,
        name,
        difference_in_words(task),
        nll_in_words(point.measure)[2],
        ", early warning" if warns else "",
    )
    yield Markup('<path class="interval" d="M{} {}H{}M{} {}V{}"/>').format(x1, y, x2, x, y1, y2)
    if warns:
        yield Markup('<path class="mark" d="M{} {}l7 12h-14z"/>').format(x, y - 7)
    else:
        yield Markup('<circle class="mark" cx="{}" cy="{}" r="4.5"/>').format(x, y)
    yield _text("label", *place, _label(point))
    yield Markup("</g>")


def _line(kind: str, x: tuple[float, float], y: tuple[float, float]) -> Markup:
    return Markup('<line class="{}" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(kind, *x, *y)


def _text(kind: str, x: float, y: float, text: str) -> Markup:
    return Markup('<text class="{}" x="{}" y="{}">{}</text>').format(kind, x, y, escape(text))
