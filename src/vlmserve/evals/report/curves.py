"""Numbers over the steps of a training, as inline SVG: one small plot for each."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from vlmserve.evals.report.visible_text import visible

_WIDTH = 500
_HEIGHT = 230
_LEFT = 52
_RIGHT = 14
_TOP = 16
_BOTTOM = 36
_PADDING = 0.08
_MAX_X_TICKS = 6
_MAX_Y_TICKS = 5


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One checkpoint's value."""

    step: int
    value: float
    low: float | None = None
    """Ends of an interval, where there is one."""

    high: float | None = None
    verdict: str = "not gated"


@dataclass(frozen=True, slots=True)
class Curve:
    """One number over the steps."""

    title: str
    unit: str
    """What the number is, such as ``exact_match, in points``."""

    points: Sequence[CurvePoint]
    """By step; at least one."""

    reference: float | None = None
    """The baseline's value, drawn as a line."""


@dataclass(frozen=True, slots=True)
class _Scale:
    low: float
    high: float
    start: float
    end: float

    def place(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, most: int) -> list[float]:
        """Round numbers within the scale."""
        span = self.high - self.low
        step = 10.0 ** math.floor(math.log10(span / most))
        step = next(step * times for times in (1, 2, 5, 10) if span / (step * times) <= most)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [round(number * step, 12) + 0.0 for number in range(first, last + 1)]


def render_curve(curve: Curve, index: int) -> Markup:
    """Draw one number over the steps.

    Args:
        curve: What to draw.
        index: Tells the elements of several plots on one page apart.

    Returns:
        An ``svg`` element; its colours come from the page's style sheet.
    """
    x, y = _scales(curve)
    words = "; ".join(
        f"step {point.step}: {point.value:.4g}, {point.verdict}" for point in curve.points
    )
    parts = [
        Markup(
            '<svg class="curve" role="img" viewBox="0 0 {} {}" '
            'aria-labelledby="curve-title-{} curve-desc-{}">'
        ).format(_WIDTH, _HEIGHT, index, index),
        Markup('<title id="curve-title-{}">{} over steps</title>').format(
            index, visible(curve.title)
        ),
        Markup('<desc id="curve-desc-{}">{}</desc>').format(index, words),
        *_frame(x, y),
        *_reference(curve, x, y),
        *_line(curve.points, x, y),
        *(mark for point in curve.points for mark in _mark(point, x, y)),
    ]
    return Markup("").join([*parts, Markup("</svg>")])


def _scales(curve: Curve) -> tuple[_Scale, _Scale]:
    steps = [point.step for point in curve.points]
    values = [
        value
        for point in curve.points
        for value in (point.value, point.low, point.high)
        if value is not None and math.isfinite(value)
    ]
    if curve.reference is not None:
        values.append(curve.reference)
    return (
        _scale(min(steps), max(steps), _LEFT, _WIDTH - _RIGHT),
        _scale(min(values), max(values), _HEIGHT - _BOTTOM, _TOP),
    )


def _scale(low: float, high: float, start: float, end: float) -> _Scale:
    room = _PADDING * (high - low) or max(abs(high), 1.0) * _PADDING
    return _Scale(low - room, high + room, start, end)


def _frame(x: _Scale, y: _Scale) -> Iterator[Markup]:
    for value in y.ticks(_MAX_Y_TICKS):
        place = y.place(value)
        yield Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
            _LEFT, _WIDTH - _RIGHT, place, place
        )
        yield _text("tick end", _LEFT - 8, place + 4, f"{value:.4g}")
    bottom = _HEIGHT - _BOTTOM
    for value in x.ticks(_MAX_X_TICKS):
        if value.is_integer():
            yield _text("tick", x.place(value), bottom + 18, f"{int(value)}")
    yield Markup('<line class="zero" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
        _LEFT, _WIDTH - _RIGHT, bottom, bottom
    )
    yield _text("axis", (_LEFT + _WIDTH - _RIGHT) / 2, bottom + 33, "step")


def _reference(curve: Curve, x: _Scale, y: _Scale) -> Iterator[Markup]:
    if curve.reference is None:
        return
    place = y.place(curve.reference)
    yield Markup('<line class="reference" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
        x.start, x.end, place, place
    )
    # On the side of the line where the curve does not end.
    above = curve.points[-1].value <= curve.reference
    yield _text("axis end", x.end, place - 5 if above else place + 14, "baseline")


def _line(points: Sequence[CurvePoint], x: _Scale, y: _Scale) -> Iterator[Markup]:
    places = " ".join(f"{x.place(point.step)},{y.place(point.value)}" for point in points)
    yield Markup('<polyline class="line" points="{}"/>').format(places)


def _mark(point: CurvePoint, x: _Scale, y: _Scale) -> Iterator[Markup]:
    across, down = x.place(point.step), y.place(point.value)
    yield Markup('<g class="v-{}"><title>step {}: {:.4g}, {}</title>').format(
        point.verdict.replace(" ", "-"), point.step, point.value, point.verdict
    )
    if point.low is not None and point.high is not None:
        yield Markup('<line class="interval" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
            across, across, y.place(point.low), y.place(point.high)
        )
    # A shape for each verdict, so that color is not all that tells them apart.
    if point.verdict in ("regression", "not improved"):
        yield Markup('<path class="mark" d="M{} {}l6 6l-6 6l-6 -6z"/>').format(across, down - 6)
    else:
        kind = "mark" if point.verdict in ("pass", "improved") else "mark hollow"
        yield Markup('<circle class="{}" cx="{}" cy="{}" r="5"/>').format(kind, across, down)
    yield Markup("</g>")


def _text(kind: str, x: float, y: float, text: str) -> Markup:
    return Markup('<text class="{}" x="{}" y="{}">{}</text>').format(kind, x, y, escape(text))
