"""The baseline against itself."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from tests.unit.evals.test_session import Lab, always, size_of
from vlmserve.evals.eval_task import load_tasks
from vlmserve.evals.session import Session
from vlmserve.evals.store import AnswerStore


@pytest.fixture
def lab() -> Lab:
    return Lab()


@pytest.fixture
def session(suites: Any, colors: Any, store: AnswerStore) -> Session:
    suites.task("color", colors(100))
    suite = suites.load("color", gate={"margin": 0.08})
    return Session(suite, load_tasks(suite), store, "run-1", repeats_baseline=True)


class Flaky:
    """Answers ten of the pictures differently each time it is asked."""

    def __init__(self) -> None:
        self.asked: Counter[int] = Counter()
        self.order: list[int] = []

    def __call__(self, request: Any) -> str:
        size = size_of(request)
        self.asked[size] += 1
        self.order.append(size)
        return "blue" if size < 10 and self.asked[size] % 2 == 0 else "red"


def test_noise_of_the_baseline_is_measured_and_said(session: Session, lab: Lab) -> None:
    old = Flaky()
    report = session.evaluate(lab.side("old", old), lab.side("new", always("red")))
    (task,) = report.tasks

    assert task.noise is not None
    assert task.noise.model_dump() == {
        "n_pairs": 100,
        "n_changed": 10,
        "n_worse": 10,
        "n_better": 0,
    }
    assert any("changed 10 of 100 answers (10.0%), 10 of them" in note for note in report.notes)
    # In one engine, and in another order.
    assert lab.started == ["old", "new"]
    assert sorted(old.order[:100]) == sorted(old.order[100:])
    assert old.order[:100] != old.order[100:]
    # The verdict rests on the first answers alone.
    assert task.difference == 0.0


def test_the_second_answers_are_kept_apart_from_the_first(session: Session, lab: Lab) -> None:
    old = lab.side("old", Flaky())
    first = session.evaluate(old, lab.side("new", always("red")))
    again = replace(session, run_id="run-2").evaluate(old, lab.side("new", always("red")))

    assert first.n_requests_sent == 300
    assert again.n_requests_sent == 0
    assert again.tasks[0].noise == first.tasks[0].noise


def test_nothing_is_said_where_it_was_not_measured(session: Session, lab: Lab) -> None:
    report = replace(session, repeats_baseline=False).evaluate(
        lab.side("old", always("red")), lab.side("new", always("red"))
    )

    assert report.tasks[0].noise is None
    assert report.n_requests_sent == 200


def test_only_what_was_asked_is_repeated(session: Session, lab: Lab) -> None:
    source = lab.source("both", always("red"), models=("old", "new"))
    old = replace(lab.side("old", always("red")), source=source, model=lambda _: "old")
    new = replace(lab.side("new", always("red")), source=source, model=lambda _: "new")
    report = replace(session, sequential=True).evaluate(old, new)
    (task,) = report.tasks

    assert task.noise is not None
    assert task.noise.n_pairs == task.n_samples < 100
    assert report.n_requests_sent < 300
