#!/usr/bin/env python3
"""Draw results/zoo_verdicts.json: how often each verdict falls, from harmless to bad."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 760, 320, 60, 40, 220

CURVES: tuple[tuple[str, str, Callable[[dict[str, Any]], float]], ...] = (
    ("pass", "#2e7d4f", lambda rates: rates["verdicts"].get("pass", 0.0)),
    ("inconclusive", "#8a8a8a", lambda rates: rates["verdicts"].get("inconclusive", 0.0)),
    ("regression", "#b3261e", lambda rates: rates["verdicts"].get("regression", 0.0)),
    ("early warning", "#1f5fa8", lambda rates: rates["early_warnings"].get("all", 0.0)),
)


def main() -> int:
    """Write results/zoo_verdicts.svg."""
    found = json.loads((RESULTS / "zoo_verdicts.json").read_text(encoding="utf-8"))
    parts = [*_frame(), *_curves(found["series"]), *_truth(found["series"])]
    picture = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="11" role="img">\n'
        "<title>Share of draws with each verdict, by learning rate of the fine-tune</title>\n"
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )
    (RESULTS / "zoo_verdicts.svg").write_text(picture, encoding="utf-8")
    return 0


def worst_task(step: dict[str, Any]) -> tuple[str, float]:
    """The task that truly lost most, and its difference."""
    truth = step["truth"]
    task = min(truth, key=lambda name: truth[name]["difference"])
    return task, truth[task]["difference"]


def _frame() -> Iterator[str]:
    yield _text(LEFT, 22, "share of draws of the suite's size", style="font-weight:bold")
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        yield _text(LEFT - 8, _y(share) + 4, f"{share:.0%}", anchor="end")
        yield (
            f'<line x1="{LEFT}" y1="{_y(share):.1f}" x2="{WIDTH - 30}" y2="{_y(share):.1f}" '
            'stroke="#ddd"/>'
        )


def _curves(series: list[dict[str, Any]]) -> Iterator[str]:
    for number, (name, color, share) in enumerate(CURVES):
        points = [
            (_x(place, len(series)), _y(share(step["rates"]))) for place, step in enumerate(series)
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        yield f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>'
        for x, y in points:
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>'
        yield _text(290 + 105 * number, 22, name, style=f"fill:{color};font-weight:bold")


def _truth(series: list[dict[str, Any]]) -> Iterator[str]:
    """Under the curves: the learning rate, and what was truly lost."""
    yield _text(LEFT, BOTTOM + 72, "learning rate; true difference of the worst task, in points")
    for place, step in enumerate(series):
        x = _x(place, len(series))
        task, difference = worst_task(step)
        yield _text(x, BOTTOM + 20, f"{step['learning_rate']:.3g}", anchor="middle")
        yield _text(x, BOTTOM + 36, f"{100 * difference:+.1f}", anchor="middle")
        yield _text(x, BOTTOM + 50, task, anchor="middle")


def _x(place: int, count: int) -> float:
    return LEFT + 30 + place * (WIDTH - LEFT - 100) / (count - 1)


def _y(share: float) -> float:
    return BOTTOM - share * (BOTTOM - TOP)


def _text(x: float, y: float, text: str, *, anchor: str = "start", style: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" style="{style}">{text}</text>'


if __name__ == "__main__":
    sys.exit(main())
