"""What a run would ask and could show, before anything is asked."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.evals.test_session import Lab, always
from vlmserve.checkpoint.source import load_checkpoint
from vlmserve.config.asking import AskingConfig
from vlmserve.config.serve import ServeConfig
from vlmserve.engine.scripted import ScriptedEngine
from vlmserve.evals.answering import EngineSource, Side
from vlmserve.evals.eval_task import load_tasks
from vlmserve.evals.forecast import Forecast, create_forecast, token_counter
from vlmserve.evals.session import Session
from vlmserve.evals.store import AnswerStore


@pytest.fixture
def lab() -> Lab:
    return Lab()


@pytest.fixture
def session(suites: Any, colors: Any, store: AnswerStore) -> Session:
    suites.task("color", colors(60))
    suites.task("shape", colors(20))
    suite = suites.load(
        {"task": "color", "metric": "exact_match"},
        {"task": "shape", "metric": "exact_match", "improve": True},
        gate={"margin": 0.02},
        nll=None,
    )
    return Session(suite, load_tasks(suite), store, "run")


def forecast(session: Session, lab: Lab, **more: Any) -> Forecast:
    sides = {
        "baseline": lab.side("old", always("red")),
        "candidate": lab.side("new", always("red")),
    }
    given: Any = {**sides, **more}
    return create_forecast(session, given, lambda task: 100 * len(task.samples))


def test_requests_tokens_and_what_can_be_seen_are_told(session: Session, lab: Lab) -> None:
    found = forecast(session, lab)
    color, shape = found.tasks

    # Twenty pictures are asked about by both tasks: once.
    assert [(side.side, side.n_requests) for side in found.sides] == [
        ("baseline", 60),
        ("candidate", 60),
    ]
    assert found.n_requests == 120
    assert (color.n_samples, color.prompt_tokens, color.max_answer_tokens) == (60, 6000, 480)
    assert 0.1 < color.detectable < 0.15
    assert shape.detectable > color.detectable
    assert color.aim == "margin 0.02"
    assert color.n_needed is not None
    assert color.n_needed > 1000
    assert (shape.aim, shape.n_needed) == ("must improve", None)
    assert found.seconds is None
    assert "no answers that were served the same way" in found.sides[0].basis
    assert not lab.started


def test_repetitions_a_second_baseline_and_an_anchor_are_counted(
    session: Session, lab: Lab
) -> None:
    again = forecast(replace(session, repeats_baseline=True), lab)
    anchored = forecast(
        replace(session, n_repetitions=3), lab, anchor=lab.side("first", always("red"))
    )

    assert [side.side for side in again.sides] == ["baseline", "candidate", "repeat"]
    assert again.n_requests == 180
    assert [(side.side, side.n_requests) for side in anchored.sides] == [
        ("baseline", 180),
        ("anchor", 180),
        ("candidate", 180),
    ]


def test_what_the_store_has_is_not_asked_and_says_how_long_the_rest_takes(
    session: Session, lab: Lab, store: AnswerStore
) -> None:
    old, new = lab.side("old", always("red")), lab.side("new", always("red"))
    session.evaluate(old, new)
    # As if answers had come one in two seconds, with a night between two of them.
    with sqlite3.connect(store.path) as database:
        rows = database.execute("SELECT checkpoint, request FROM answers").fetchall()
        for number, (checkpoint, request) in enumerate(rows):
            at = (
                f"2026-01-0{1 + (number >= 60)}T00:{number * 2 // 60:02}:{number * 2 % 60:02}+00:00"
            )
            database.execute(
                "UPDATE answers SET answered_at=? WHERE checkpoint=? AND request=?",
                (at, checkpoint, request),
            )
    found = forecast(session, lab, candidate=lab.side("newer", always("red")))
    baseline, candidate = found.sides

    assert (baseline.n_requests, baseline.n_reused, baseline.seconds) == (0, 60, 0.0)
    assert candidate.n_requests == 60
    assert candidate.seconds == pytest.approx(120.0)
    assert candidate.basis == "120 answers of other checkpoints, served the same way"
    assert found.seconds == candidate.seconds
    # Another way of being asked is not known to take as long.
    asked = lab.side("newer", always("red")).asked_as(AskingConfig(system="Be brief."))
    assert forecast(session, lab, candidate=asked).seconds is None


def test_tokens_are_counted_by_the_checkpoints_own_tokenizer_and_formula(
    suites: Any, zoo: Path
) -> None:
    for name, size in (("small", 56), ("large", 112)):
        rows = [suites.row("<image>Color?", "red", suites.png("red", size)) for _ in range(5)]
        suites.task(name, rows)
    small, large = load_tasks(suites.load("small", "large"))
    count = token_counter(load_checkpoint(zoo / "base"), ServeConfig())
    few, many = count(small), count(large)

    assert isinstance(few, int)
    assert isinstance(many, int)
    # One token for 28 pixels squared: 4 of the small image, 16 of the large one.
    assert many - few == 5 * (16 - 4)
    assert few > 5 * 4


def test_tokens_that_cannot_be_counted_are_said_to_be_unknown(session: Session, write: Any) -> None:
    broken = token_counter(load_checkpoint(write.model()), ServeConfig())
    unknown = token_counter(None, ServeConfig())

    assert unknown(session.tasks[0]) == "no side is a checkpoint on this machine"
    assert "not a tokenizer" in str(broken(session.tasks[0]))


def test_likelihoods_that_are_known_are_not_measured_again(
    suites: Any, colors: Any, store: AnswerStore, lab: Lab
) -> None:
    suites.task("color", colors(12))
    suite = suites.load("color", nll={"samples": 5})
    session = Session(suite, load_tasks(suite), store, "run")

    @contextmanager
    def start() -> Iterator[ScriptedEngine]:
        yield ScriptedEngine(always("red"), logprob=lambda _: -1.0)

    def side(name: str) -> Side:
        return replace(lab.side(name, always("red")), source=EngineSource(start))

    sides: Any = {"baseline": side("old"), "candidate": side("new")}

    def n_targets() -> list[int]:
        return [each.n_targets for each in create_forecast(session, sides, lambda _: 0).sides]

    assert n_targets() == [5, 5]
    session.evaluate(sides["baseline"], sides["candidate"])
    assert n_targets() == [0, 0]
