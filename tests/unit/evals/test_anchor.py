"""A fixed point beside the baseline: small drops must not add up from week to week."""

from typing import Any

import pytest

from tests.unit.evals.test_session import Lab, always, wrong_below
from vlmserve.errors import ConfigError
from vlmserve.evals.eval_task import load_tasks
from vlmserve.evals.session import Session
from vlmserve.evals.store import AnswerStore


@pytest.fixture
def lab() -> Lab:
    return Lab()


@pytest.fixture
def session(suites: Any, colors: Any, store: AnswerStore) -> Session:
    suites.task("color", colors(200))
    suite = suites.load("color", gate={"margin": 0.08})
    return Session(suite, load_tasks(suite), store, "run")


def test_small_drops_that_add_up_are_a_regression_from_the_anchor(
    session: Session, lab: Lab
) -> None:
    first, before = lab.side("first", always("red")), lab.side("before", wrong_below(20))
    now = lab.side("now", wrong_below(26))
    against_last_week = session.evaluate(before, now)
    report = session.evaluate(before, now, anchor=first)
    (task,) = report.tasks

    assert against_last_week.verdict == "pass"
    assert report.verdict == task.verdict == "regression"
    assert task.reason == "regression (against the anchor: worse beyond chance)"
    assert task.anchor is not None
    assert task.anchor.decides
    assert (task.anchor.anchor, task.anchor.candidate) == (1.0, 0.87)
    assert task.anchor.n_worse == 26
    # All other numbers are those against the baseline.
    assert task.difference == pytest.approx(-6 / 200)
    assert report.anchor is not None
    assert report.anchor.name == "first"
    assert any(
        note.startswith("color against the anchor: 100.0 -> 87.0")
        and note.endswith("regression; it decided the verdict")
        for note in report.notes
    )
    assert lab.started == ["before", "now", "first"]


def test_a_verdict_that_the_baseline_decides_is_left_alone(session: Session, lab: Lab) -> None:
    bad, good = lab.side("bad", wrong_below(100)), lab.side("good", always("red"))
    report = session.evaluate(good, lab.side("now", wrong_below(60)), anchor=bad)
    (task,) = report.tasks

    assert report.verdict == task.verdict == "regression"
    assert task.reason == "regression (worse beyond chance)"
    assert task.anchor is not None
    assert (task.anchor.verdict, task.anchor.decides) == ("pass", False)


def test_both_comparisons_are_one_family(session: Session, lab: Lab) -> None:
    before, now = lab.side("before", wrong_below(4)), lab.side("now", wrong_below(30))
    alone = session.evaluate(before, now).tasks[0].adjusted_level
    twice = session.evaluate(before, now, anchor=lab.side("a", wrong_below(4))).tasks[0]

    assert alone is not None
    assert twice.anchor is not None
    assert twice.adjusted_level == twice.anchor.adjusted_level == pytest.approx(2 * alone)


def test_a_target_improves_on_the_baseline_and_only_holds_against_the_anchor(
    suites: Any, colors: Any, store: AnswerStore, lab: Lab
) -> None:
    suites.task("color", colors(200))
    entry = {"task": "color", "metric": "exact_match", "improve": True}
    suite = suites.load(entry, gate={"margin": 0.08})
    session = Session(suite, load_tasks(suite), store, "run")
    before, anchor = lab.side("before", wrong_below(80)), lab.side("anchor", always("red"))
    report = session.evaluate(before, lab.side("now", wrong_below(2)), anchor=anchor)
    worse = session.evaluate(before, lab.side("less", wrong_below(40)), anchor=anchor)

    assert (report.verdict, report.tasks[0].verdict) == ("pass", "improved")
    assert report.tasks[0].anchor is not None
    assert (report.tasks[0].anchor.verdict, report.tasks[0].anchor.margin) == ("pass", 0.08)
    assert (worse.verdict, worse.tasks[0].verdict) == ("regression", "regression")


def test_the_anchors_samples_are_kept_like_the_others(
    session: Session, lab: Lab, store: AnswerStore
) -> None:
    sides = [lab.side(name, always("red")) for name in ("before", "now", "first")]
    session.evaluate(sides[0], sides[1], anchor=sides[2])

    assert set(store.list_sides("run")) == {"anchor", "baseline", "candidate"}


def test_an_anchor_and_a_sequential_run_do_not_go_together(
    suites: Any, colors: Any, store: AnswerStore, lab: Lab
) -> None:
    suites.task("color", colors(20))
    suite = suites.load("color")
    session = Session(suite, load_tasks(suite), store, "run", sequential=True)
    sides = [lab.side(name, always("red")) for name in ("before", "now", "first")]

    with pytest.raises(ConfigError, match="--anchor: not with --sequential"):
        session.evaluate(sides[0], sides[1], anchor=sides[2])
    assert not lab.started
