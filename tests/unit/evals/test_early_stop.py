"""Asking no more than a decision takes."""

from dataclasses import replace
from typing import Any

import pytest

from tests.unit.evals.test_session import Lab, always, size_of, wrong_below
from vlmserve.errors import ContextLengthError
from vlmserve.evals.eval_task import load_tasks
from vlmserve.evals.session import Session
from vlmserve.evals.store import AnswerStore


@pytest.fixture
def lab() -> Lab:
    return Lab()


@pytest.fixture
def session(suites: Any, colors: Any, store: AnswerStore) -> Session:
    suites.task("color", colors(300))
    suite = suites.load("color", gate={"margin": 0.08})
    return Session(suite, load_tasks(suite), store, "run-1", sequential=True)


def every_third_wrong(request: Any) -> str:
    return "blue" if size_of(request) % 3 == 0 else "red"


def test_equal_answers_pass_early(session: Session, lab: Lab) -> None:
    report = session.evaluate(lab.side("old", always("red")), lab.side("new", always("red")))
    (task,) = report.tasks

    assert report.verdict == "pass"
    assert task.method == "betting"
    assert task.n_available == 300
    assert task.n_samples == task.n_pairs < 80
    assert task.lower is not None
    assert task.lower > -0.08
    assert report.suite.sequential
    # The baseline answered before the candidate was loaded: all of it, and once and for all.
    assert report.n_requests_sent < 300 + 100
    assert any("1 task was decided before the end" in note for note in report.notes)


def test_a_large_drop_is_a_regression_early(session: Session, lab: Lab) -> None:
    report = session.evaluate(lab.side("old", always("red")), lab.side("new", every_third_wrong))
    (task,) = report.tasks

    assert report.verdict == "regression"
    assert task.n_samples < 60
    assert task.upper is not None
    assert task.upper < 0
    assert task.p_value is not None
    assert task.p_value <= 0.05


def test_sides_of_one_engine_take_turns_and_both_stop(session: Session, lab: Lab) -> None:
    def answer(request: Any) -> str:
        return every_third_wrong(request) if request.model == "new" else "red"

    shared = lab.source("both", answer, models=("old", "new"))
    old = replace(lab.side("old", answer), source=shared, model=lambda _: "old")
    new = replace(lab.side("new", answer), source=shared, model=lambda _: "new")
    report = session.evaluate(old, new)

    assert report.verdict == "regression"
    assert lab.started == ["both"]
    assert report.n_requests_sent < 150


def test_what_is_never_decided_is_asked_to_the_end(
    suites: Any, colors: Any, store: AnswerStore, lab: Lab
) -> None:
    suites.task("color", colors(40))
    suite = suites.load("color", gate={"margin": 0.01})
    session = Session(suite, load_tasks(suite), store, "run-1", sequential=True)
    report = session.evaluate(lab.side("old", always("red")), lab.side("new", wrong_below(1)))
    (task,) = report.tasks

    assert report.verdict == "inconclusive"
    assert task.n_samples == task.n_available == 40


def test_answers_from_the_store_are_not_asked_again(session: Session, lab: Lab) -> None:
    sides = lab.side("old", always("red")), lab.side("new", every_third_wrong)
    first = session.evaluate(*sides)
    again = replace(session, run_id="run-2").evaluate(*sides)

    assert again.n_requests_sent == 0
    assert [task.model_dump() for task in again.tasks] == [
        task.model_dump() for task in first.tasks
    ]


def test_failures_delay_a_decision_that_they_could_not_have_changed(
    suites: Any, colors: Any, store: AnswerStore, lab: Lab
) -> None:
    def refuse_some(request: Any) -> str:
        if size_of(request) % 20 == 0:
            raise ContextLengthError("too long")
        return "red"

    suites.task("color", colors(300))
    suite = suites.load("color", gate={"margin": 0.15, "max_failed_fraction": 0.1})
    session = Session(suite, load_tasks(suite), store, "run-1", sequential=True)
    old = lab.side("old", always("red"))
    whole = session.evaluate(old, lab.side("clean", always("red")))
    report = session.evaluate(old, lab.side("new", refuse_some))
    (task,) = report.tasks

    assert report.verdict == "pass"
    assert task.n_failed_candidate > 0
    assert task.n_pairs == task.n_samples - task.n_failed_candidate
    assert task.n_samples > whole.tasks[0].n_samples


def test_scores_without_bounds_are_asked_in_full(
    suites: Any, colors: Any, store: AnswerStore, lab: Lab
) -> None:
    code = "def grade(doc, results):\n    return {'grade': 7.0}\n"
    (suites.folder / "grade.py").write_text(code)
    suites.task(
        "graded",
        colors(120),
        process_results="!function grade.grade",
        metric_list=[{"metric": "grade", "aggregation": "mean", "higher_is_better": True}],
    )
    suite = suites.load({"task": "graded", "metric": "grade", "margin": 2.0})
    session = Session(suite, load_tasks(suite), store, "run-1", sequential=True)
    report = session.evaluate(lab.side("old", always("red")), lab.side("new", always("red")))
    (task,) = report.tasks

    assert task.n_samples == 120
    assert task.method == "mean difference"


def test_ungated_tasks_are_asked_in_full(
    suites: Any, colors: Any, store: AnswerStore, lab: Lab
) -> None:
    suites.task("color", colors(200))
    suites.task("other", [{**row, "question": "<image>Which color?"} for row in colors(50)])
    suite = suites.load("color", {"task": "other", "metric": "exact_match", "gate": False})
    session = Session(suite, load_tasks(suite), store, "run-1", sequential=True)
    report = session.evaluate(lab.side("old", always("red")), lab.side("new", always("red")))

    assert [task.n_samples for task in report.tasks][1] == 50
    assert report.tasks[1].method == "matched proportions"
