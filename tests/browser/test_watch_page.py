"""A training's page in a real browser: curves are drawn, nothing is fetched, nothing runs."""

from typing import Any

import pytest

from tests.browser.conftest import OpenPage
from tests.browser.reports import report, task
from vlmserve.evals.report.task_report import MeasureReport, NllReport
from vlmserve.evals.report.watch_page import render_watch_page
from vlmserve.evals.watching import Point

pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror=\"document.title='pwned'\">"


def nll(candidate: float) -> NllReport:
    measure = MeasureReport(
        baseline=0.5,
        candidate=candidate,
        difference=candidate - 0.5,
        lower=candidate - 0.6,
        upper=candidate - 0.4,
        detectable=0.1,
        p_value=0.1,
    )
    return NllReport(
        n_samples=100,
        n_pairs=100,
        n_clusters=100,
        n_failed_baseline=0,
        n_failed_candidate=0,
        per_token=measure,
        per_byte=None,
        margin=None,
        verdict="not gated",
        reason="not gated",
        is_early_warning=False,
    )


def at(step: int, score: float, loss: float, verdict: Any = "pass") -> Point:
    shift = score - 0.8
    entry = task(
        "color",
        verdict=verdict,
        baseline=0.8,
        candidate=score,
        difference=shift,
        lower=shift - 0.05,
        upper=shift + 0.05,
        nll=nll(loss),
    )
    return Point(step, report(entry))


def test_curves_are_drawn_within_their_frames(open_page: OpenPage) -> None:
    points = [
        at(100, 0.5, 1.5, "regression"),
        Point(200, None, f"the engine died {HOSTILE}", 5),
        at(300, 0.7, 0.8, "inconclusive"),
        at(400, 0.85, 0.4),
    ]
    opened = open_page(render_watch_page(f"out/run {HOSTILE}", points, ["choose elsewhere"]))
    page = opened.page

    assert page.title() == f"out/run {HOSTILE}"
    curves = page.locator("svg.curve")
    assert curves.count() == 2
    assert page.locator("figcaption").nth(1).inner_text().startswith("color: NLL of the targets")
    for index in range(2):
        frame = curves.nth(index).bounding_box()
        assert frame is not None
        assert frame["width"] > 300
        marks = curves.nth(index).locator(".mark")
        assert marks.count() == 3
        boxes = [marks.nth(each).bounding_box() for each in range(3)]
        places = [box["x"] for box in boxes if box is not None]
        assert places == sorted(places)
        for box in boxes:
            assert box is not None
            assert frame["y"] <= box["y"] <= frame["y"] + frame["height"]
    # Rising accuracy goes up on the page, a falling NLL down.
    tops = [
        [curves.nth(index).locator(".mark").nth(each).bounding_box()["y"] for each in range(3)]  # type: ignore[index]
        for index in range(2)
    ]
    assert tops[0] == sorted(tops[0], reverse=True)
    assert tops[1] == sorted(tops[1])
    assert page.locator("tbody tr").count() == 4
    assert "not evaluated: the engine died <img" in page.locator("tbody tr").nth(1).inner_text()
    assert page.locator(".note").inner_text() == "choose elsewhere"


def test_it_is_readable_in_the_dark_and_on_a_narrow_screen(open_page: OpenPage) -> None:
    points = [at(step, 0.7, 0.5) for step in (10, 20)]
    page = open_page(render_watch_page("out", points, []), color_scheme="dark").page
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.set_viewport_size({"width": 380, "height": 800})

    assert dark == "rgb(20, 22, 26)"
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_a_page_without_any_checkpoint_opens(open_page: OpenPage) -> None:
    page = open_page(render_watch_page("out", [], ["nothing yet"])).page
    assert page.locator("svg").count() == 0
    assert page.locator("h1").inner_text() == "out"
