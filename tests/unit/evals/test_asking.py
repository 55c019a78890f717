"""Sides that are asked in ways of their own, and samples that are asked several times."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.evals.test_session import Lab, always, size_of
from vlmserve.chat import Message, SamplingParams, TextPart
from vlmserve.config.asking import AskingConfig, SidesConfig
from vlmserve.config.suite import load_suite
from vlmserve.engine.base import GenerationRequest
from vlmserve.errors import ConfigError, ContextLengthError
from vlmserve.evals.asking import ask_messages_as
from vlmserve.evals.eval_task import load_tasks
from vlmserve.evals.medium import Medium
from vlmserve.evals.order import order_samples
from vlmserve.evals.samples import create_sample, create_turns
from vlmserve.evals.session import Session
from vlmserve.evals.store import AnswerStore


@pytest.fixture
def lab() -> Lab:
    return Lab()


@pytest.fixture
def session(suites: Any, colors: Any, store: AnswerStore) -> Session:
    suites.task("color", colors(60))
    suite = suites.load("color", gate={"margin": 0.08})
    return Session(suite, load_tasks(suite), store, "run")


class Recorder:
    """Answers ``red`` and remembers what it was asked."""

    def __init__(self) -> None:
        self.requests: list[GenerationRequest] = []

    def __call__(self, request: GenerationRequest) -> str:
        self.requests.append(request)
        return "red"


def text(message: Message) -> str:
    return "".join(part.text for part in message.parts if isinstance(part, TextPart))


def test_each_side_is_asked_in_its_own_way(session: Session, lab: Lab) -> None:
    old, new = Recorder(), Recorder()
    sides = SidesConfig.model_validate(
        {
            "both": {"sampling": {"max_tokens": 5}, "chat_template_kwargs": {"a": 1}},
            "candidate": {
                "system": "Be brief.",
                "chat_template_kwargs": {"enable_thinking": True},
                "reasoning_parser": "qwen3",
                "sampling": {"temperature": 0.6, "seed": 7},
            },
        }
    )
    session.evaluate(
        lab.side("old", old).asked_as(sides.of("baseline")),
        lab.side("new", new).asked_as(sides.of("candidate")),
    )

    before, after = old.requests[0], new.requests[0]
    assert [message.role for message in before.messages] == ["user"]
    assert (before.params.temperature, before.params.max_tokens) == (0.0, 5)
    assert before.chat_template_kwargs == {"a": 1}
    assert before.reasoning_parser is None
    assert [message.role for message in after.messages] == ["system", "user"]
    assert text(after.messages[0]) == "Be brief."
    assert (after.params.temperature, after.params.max_tokens, after.params.seed) == (0.6, 5, 7)
    assert after.chat_template_kwargs == {"a": 1, "enable_thinking": True}
    assert after.reasoning_parser == "qwen3"


@pytest.mark.parametrize(
    "asking",
    [
        {"system": "Be brief."},
        {"chat_template_kwargs": {"enable_thinking": True}},
        {"reasoning_parser": "qwen3"},
        {"sampling": {"temperature": 0.6}},
        {"sampling": {"max_tokens": 4}},
    ],
)
def test_a_way_of_asking_is_part_of_what_answers_are_kept_under(
    session: Session, lab: Lab, asking: dict[str, Any]
) -> None:
    old, new = lab.side("old", always("red")), lab.side("new", always("red"))
    session.evaluate(old, new)
    changed = new.asked_as(AskingConfig.model_validate(asking))
    report = session.evaluate(old, changed)
    again = session.evaluate(old, changed)

    assert report.candidate.n_requests_sent == 60
    assert report.candidate.settings["asking"] == asking
    assert again.n_requests_sent == 0
    # What is said nowhere leaves old answers where they are.
    assert session.evaluate(old, new.asked_as(AskingConfig())).n_requests_sent == 0


def test_a_sides_system_prompt_takes_the_place_of_the_samples_own() -> None:
    def turn(role: Any, words: str) -> Message:
        return Message(role=role, parts=(TextPart(text=words),))

    asked = [turn("system", "Old."), turn("user", "Hi"), turn("assistant", "Ho")]
    found = ask_messages_as(asked, AskingConfig(system="New."))

    assert [(message.role, text(message)) for message in found] == [
        ("system", "New."),
        ("user", "Hi"),
        ("assistant", "Ho"),
    ]
    assert ask_messages_as(asked, AskingConfig()) == tuple(asked)


def test_sides_are_read_from_the_suite_with_file_and_line(suites: Any) -> None:
    path = suites.suite("one", sides={"candidate": {"sampling": {"temperatur": 0.5}}})

    with pytest.raises(ConfigError, match=r"suite\.yaml:\d+: sides\.candidate\.sampling\.temp"):
        load_suite(path)


def by_turns(answers: Callable[[int, int], str]) -> Callable[[GenerationRequest], str]:
    """Answers by the picture and by how often it was asked before."""
    seen: dict[int, int] = {}

    def answer(request: GenerationRequest) -> str:
        number = size_of(request)
        seen[number] = seen.get(number, -1) + 1
        return answers(number, seen[number])

    return answer


@pytest.fixture
def warm(suites: Any, colors: Any, store: AnswerStore) -> Session:
    suites.task("color", colors(30))
    suite = suites.load("color", gate={"margin": 0.2}, sampling={"temperature": 0.7})
    return Session(suite, load_tasks(suite), store, "run", n_repetitions=4)


def test_repetitions_are_averaged_sample_by_sample(warm: Session, lab: Lab) -> None:
    # Of four times the first 12 pictures are wrong once.
    mostly = by_turns(lambda number, time: "blue" if number < 12 and time == 2 else "red")
    report = warm.evaluate(lab.side("old", always("red")), lab.side("new", mostly))
    (task,) = report.tasks

    assert (report.n_requests_sent, report.candidate.n_requests_sent) == (240, 120)
    assert task.method == "mean difference"
    assert (task.n_samples, task.n_pairs) == (30, 30)
    assert task.difference == pytest.approx(-12 * 0.25 / 30)
    assert task.flips.regressed[0].candidate.score == 0.75
    assert task.flips.regressed[0].candidate.answer == "red (3x) | blue"
    assert any("every sample was asked 4 times" in note for note in report.notes)
    again = warm.evaluate(lab.side("old", always("?")), lab.side("new", always("?")))
    assert (again.n_requests_sent, again.n_reused) == (0, 240)
    assert again.tasks == report.tasks
    # One time more asks for that one alone.
    more = replace(warm, n_repetitions=5)
    assert more.evaluate(lab.side("old", always("red")), lab.side("new", mostly)).n_reused == 240


def test_a_repetition_that_fails_leaves_its_sample_without_a_score(warm: Session, lab: Lab) -> None:
    def answers(number: int, time: int) -> str:
        if number == 3 and time == 1:
            raise ContextLengthError("too long")
        return "red"

    report = warm.evaluate(lab.side("old", always("red")), lab.side("new", by_turns(answers)))
    (task,) = report.tasks

    assert (task.n_pairs, task.n_failed_candidate) == (29, 1)
    assert task.failures[0].message == "repetition 2 of 4: too long"


def test_each_repetition_has_a_seed_of_its_own(warm: Session, lab: Lab) -> None:
    new = Recorder()
    seeded = AskingConfig.model_validate({"sampling": {"seed": 100}})
    warm.evaluate(lab.side("old", always("red")), lab.side("new", new).asked_as(seeded))

    assert {request.params.seed for request in new.requests} == {100, 101, 102, 103}


def test_repetitions_and_looks_after_each_pair_go_together(warm: Session, lab: Lab) -> None:
    sequential = replace(warm, sequential=True)
    report = sequential.evaluate(lab.side("old", always("red")), lab.side("new", always("blue")))

    assert report.verdict == "regression"
    assert report.tasks[0].n_samples < 30


def test_greedy_answers_are_not_asked_for_again(session: Session, lab: Lab) -> None:
    sides = lab.side("old", always("red")), lab.side("new", always("red"))

    with pytest.raises(ConfigError, match="--repeat 3: task color is asked at temperature 0"):
        replace(session, n_repetitions=3).evaluate(*sides)
    with pytest.raises(ConfigError, match="--aa: not with --repeat"):
        replace(session, n_repetitions=3, repeats_baseline=True).evaluate(*sides)
    assert not lab.started


def test_samples_about_one_image_are_neighbours_and_long_ones_come_first(tmp_path: Path) -> None:
    def medium(name: str, kind: str, n_bytes: int) -> Medium:
        path = tmp_path / name
        path.write_bytes(b"x" * n_bytes)
        return Medium(
            kind="video" if kind == "video" else "image",
            content_type=f"{kind}/x",
            sha256=name,
            source=path,
        )

    small = medium("small", "image", 1000)
    large = medium("large", "image", 400_000)
    video = medium("video", "video", 9_000_000)

    def sample(question: str, *media: Medium, max_tokens: int = 16) -> Any:
        marks = "".join(f"<{each.kind}>" for each in media)
        turns = create_turns([{"role": "user", "content": f"{marks}{question}"}], media)
        return create_sample(turns, "x", SamplingParams(max_tokens=max_tokens))

    samples = [
        sample("a", small),
        sample("b", large),
        sample("c"),
        sample("d", video),
        sample("e", small),
        sample("f", large),
        sample("g", max_tokens=200_000),
    ]
    ordered = order_samples(samples)

    assert [each.question.replace("<image>", "").replace("<video>", "") for each in ordered] == [
        *("g", "d", "b", "f", "a", "e", "c")
    ]
