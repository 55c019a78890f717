#!/usr/bin/env python3
"""Draw results/verdict_validity.json: coverage of every setting, and when sequential mode stops."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
WIDTH, HEIGHT, LEFT, TOP = 760, 300, 56, 40
PANEL, GAP = 300, 60
LOW, HIGH = 0.93, 1.0
SAMPLES = 2600


def main() -> int:
    """Write results/verdict_validity.svg."""
    found = json.loads((RESULTS / "verdict_validity.json").read_text(encoding="utf-8"))
    parts = [*_coverage(found["fixed"]), *_samples(found["sequential"])]
    picture = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="11" role="img">\n'
        "<title>Coverage of 95 % intervals, and samples until a sequential decision</title>\n"
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )
    (RESULTS / "verdict_validity.svg").write_text(picture, encoding="utf-8")
    return 0


def _coverage(rows: list[dict[str, Any]]) -> Iterator[str]:
    """One dot a setting, by number of samples; the band is one point around the nominal."""
    bottom = HEIGHT - 50

    def y(share: float) -> float:
        return TOP + (HIGH - share) / (HIGH - LOW) * (bottom - TOP)

    sizes = sorted({row["n"] for row in rows})
    step = PANEL / len(sizes)
    yield _text(LEFT, 22, f"coverage of the 95 % interval, {len(rows)} settings", weight="bold")
    yield (
        f'<rect x="{LEFT}" y="{y(0.96):.1f}" width="{PANEL}" '
        f'height="{y(0.94) - y(0.96):.1f}" fill="#cfe8d5"/>'
    )
    yield _line(LEFT, y(0.95), LEFT + PANEL, y(0.95))
    for share in (0.93, 0.95, 0.97, 0.99):
        yield _text(LEFT - 8, y(share) + 4, f"{share:.0%}", anchor="end")
    for place, size in enumerate(sizes):
        members = sorted((row for row in rows if row["n"] == size), key=lambda r: r["coverage"])
        for number, row in enumerate(members):
            x = LEFT + step * (place + 0.15 + 0.7 * number / len(members))
            yield f'<circle cx="{x:.1f}" cy="{y(row["coverage"]):.1f}" r="2" fill="#1f5fa8"/>'
        yield _text(LEFT + step * (place + 0.5), bottom + 18, f"n = {size}", anchor="middle")


def _samples(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Median and nine tenths of the samples that a decision takes."""
    left = LEFT + PANEL + GAP + 70
    width = WIDTH - left - 40
    shown = [row for row in rows if row["undecided"] < 0.01]  # noqa: PLR2004 - those that stop
    step = (HEIGHT - 50 - TOP) / len(shown)
    yield _text(left, 22, "samples until a decision: median, 90 %", weight="bold")
    for place, row in enumerate(sorted(shown, key=lambda r: (r["difference"], r["discordance"]))):
        y = TOP + step * (place + 0.5)
        label = f"{100 * row['difference']:g} at {100 * row['discordance']:g} %"
        yield _text(left - 8, y + 4, label, anchor="end")
        for key, color, height in (
            ("p90_samples", "#c9d8ee", 10),
            ("median_samples", "#1f5fa8", 6),
        ):
            length = min(row[key], SAMPLES) / SAMPLES * width
            yield (
                f'<rect x="{left}" y="{y - height / 2:.1f}" width="{length:.1f}" '
                f'height="{height}" fill="{color}"/>'
            )
        end = left + min(row["p90_samples"], SAMPLES) / SAMPLES * width
        yield _text(end + 4, y + 4, f"{row['median_samples']:g}")
    yield _text(left, HEIGHT - 18, "points at discordance; margin 3 points")


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}">{text}</text>'
    )


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#2b7a3d"/>'


if __name__ == "__main__":
    sys.exit(main())
