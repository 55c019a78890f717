"""What a judge is asked, and how its words become scores."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.evals.answers import said
from vlmserve.chat import Completion, SamplingParams, TextPart
from vlmserve.config.judge import JudgeConfig
from vlmserve.engine.base import GenerationRequest
from vlmserve.engine.scripted import ScriptedEngine
from vlmserve.errors import ConfigError
from vlmserve.evals.answering import EngineSource, Side
from vlmserve.evals.eval_task import load_tasks
from vlmserve.evals.judging.judge import Judge
from vlmserve.evals.judging.judged_task import Material, PairOptions, PairwiseTask
from vlmserve.evals.judging.prompts import ask_pair, read_grade, read_winner
from vlmserve.evals.medium import Medium
from vlmserve.evals.records import Failed, SampleRecord, Scored
from vlmserve.evals.runner import SilentListener
from vlmserve.evals.samples import Turn, create_sample
from vlmserve.evals.session import Session
from vlmserve.evals.store import AnswerStore


def opinion(text: str, **changes: Any) -> Completion:
    return said({"x": text}, **changes)["x"]


@pytest.mark.parametrize(
    ("text", "winner"),
    [
        ("[[A]]", "first"),
        ("Fine.\n[[ B ]]\n", "second"),
        ("[[C]]", "tie"),
        ("At first I thought [[A]], but [[B]]", "second"),
    ],
)
def test_the_last_verdict_counts(text: str, winner: str) -> None:
    assert read_winner(opinion(text)) == winner


@pytest.mark.parametrize("text", ["", "A", "[A]", "[[D]]", "[[a]]", "A is better"])
def test_words_without_a_verdict_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="the judge did not say"):
        read_winner(opinion(text))


def test_a_judge_that_is_cut_short_says_so() -> None:
    with pytest.raises(ValueError, match=r"no end within judge\.max_tokens"):
        read_winner(opinion("Let me think", finish_reason="length"))
    assert read_winner(opinion("[[A]] and", finish_reason="length")) == "first"


@pytest.mark.parametrize(("text", "grade"), [("[[0]]", 0.0), ("[[10]]", 1.0), ("a [[7.5]]", 0.75)])
def test_grades_are_tenths(text: str, grade: float) -> None:
    assert read_grade(opinion(text)) == grade


@pytest.mark.parametrize("text", ["[[10.5]]", "[[-1]]", "7", "[[seven]]"])
def test_grades_off_the_scale_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="the judge"):
        read_grade(opinion(text))


def test_a_question_holds_the_whole_conversation_in_its_order() -> None:
    picture = Medium("image", "image/png", "0" * 64, b"png")
    turns = [
        Turn("system", ("Be brief.",)),
        Turn("user", ("Look ", picture, " here")),
        Turn("assistant", ("A dot.",)),
        Turn("user", ("Sure?",)),
    ]
    sample = create_sample(turns, "yes", SamplingParams())
    _, user = ask_pair(sample, ("one", "two"), None, media=True, target=True)

    assert user.parts == (
        "[Conversation]\nsystem: Be brief.\nuser: Look ",
        picture,
        " here\nassistant: A dot.\nuser: Sure?\n[End of conversation]\n\n"
        "[Expected answer]\nyes\n[End of expected answer]\n\n"
        "[Answer A]\none\n[End of answer A]\n\n[Answer B]\ntwo\n[End of answer B]",
    )


def judge_by(say: Callable[[str], str], store: AnswerStore) -> tuple[Judge, ScriptedEngine]:
    def answer(request: GenerationRequest) -> str:
        (part,) = request.messages[-1].parts
        assert isinstance(part, TextPart)
        return say(part.text)

    engine = ScriptedEngine(answer)
    config = JudgeConfig(url="http://judge/v1", model="scripted")
    judge = Judge(config, lambda: contextlib.nullcontext(engine))
    judge.attach(store, SilentListener())
    return judge, engine


def pairwise(judge: Judge, n: int) -> PairwiseTask:
    samples = tuple(
        create_sample([Turn("user", (f"Q{k}",))], "", SamplingParams()) for k in range(n)
    )
    return PairwiseTask(Material("wins", samples, {}, {}), judge, PairOptions())


def records(task: PairwiseTask, *outcomes: str | Failed) -> list[SampleRecord]:
    return [
        SampleRecord(
            sample_id=sample.sample_id,
            completion=None,
            outcome=one if isinstance(one, Failed) else Scored(answer=one, score=0.5),
        )
        for sample, one in zip(task.samples, outcomes, strict=True)
    ]


def test_each_kind_of_pair_has_its_score(store: AnswerStore) -> None:
    def say(text: str) -> str:
        place_a, place_b = text.index("[Answer A]"), text.index("[Answer B]")
        first, second = text[place_a:place_b], text[place_b:]
        if "split" in text:
            return "[[A]]"
        if "mumble" in text:
            return "well"
        if "half" in text:
            return "[[C]]" if "half" in first else "[[A]]"
        return "[[A]]" if "good" in first else "[[B]]" if "good" in second else "[[C]]"

    judge, engine = judge_by(say, store)
    task = pairwise(judge, 8)
    gone = Failed(error_type="EngineError", message="gone")
    before = records(task, "bad", "good", "so", "split", "same", "x", "half", gone)
    after = records(task, "good", "bad", "soso", "b", "same ", "mumble", "b", "good")
    old, new = task.judge_pairs(before, after)

    unread = Failed(
        error_type="JudgeError",
        message="the judge did not say [[A]], [[B]] or [[C]]; it ends with: 'well'",
    )
    assert [record.outcome for record in new] == [
        Scored(answer="good", score=1.0),
        Scored(answer="bad", score=0.0),
        Scored(answer="soso", score=0.5),
        Scored(answer="b", score=0.5),
        Scored(answer="same ", score=0.5),
        unread,
        # A tie in one order and a win in the other.
        Scored(answer="b", score=0.5),
        gone,
    ]
    scores = [record.outcome.score for record in old if isinstance(record.outcome, Scored)]
    assert scores == [0.0, 1.0, 0.5, 0.5, 0.5, 0.5]
    assert (old[5].outcome, old[7].outcome) == (unread, gone)
    assert (task.n_pairs, task.n_equal, task.n_split) == (7, 1, 2)
    assert engine.n_requests == 12


def test_opinions_are_known_by_prompt_answers_and_judge(store: AnswerStore) -> None:
    judge, engine = judge_by(lambda _: "[[C]]", store)
    task = pairwise(judge, 1)
    for new in ("b", "b", "c"):
        task.judge_pairs(records(task, "a"), records(task, new))
    assert engine.n_requests == 4

    again, second = judge_by(lambda _: "[[A]]", store)
    task = pairwise(again, 1)
    task.judge_pairs(records(task, "a"), records(task, "b"))
    assert second.n_requests == 0
    assert again.usage.n_reused == 2
    told = PairwiseTask(
        Material("wins", task.samples, {}, {}), again, PairOptions(instructions="Other.")
    )
    told.judge_pairs(records(task, "a"), records(task, "b"))
    assert second.n_requests == 2
    assert told.prompt_digest != task.prompt_digest
    assert told.recipe != task.recipe


def test_a_price_in_part_is_no_price() -> None:
    config = JudgeConfig(url="http://judge/v1", model="m", prompt_price=1.0)
    assert config.cost(1_000_000, 0) is None
    assert config.model_copy(update={"completion_price": 2.0}).cost(500_000, 250_000) == 1.0


def test_pairs_go_neither_with_repetitions_nor_with_an_anchor(
    suites: Any, store: AnswerStore, tmp_path: Path
) -> None:
    (tmp_path / "log.jsonl").write_text('{"messages": [{"role": "user", "content": "Q"}]}\n')
    entry = {"requests": "log.jsonl", "name": "wins", "check": "judge_pairs"}
    judge = {"url": "http://127.0.0.1:9/v1", "model": "m"}
    suite = suites.load(entry, include_path=None, judge=judge)
    tasks = load_tasks(suite)
    source = EngineSource(lambda: contextlib.nullcontext(ScriptedEngine(lambda _: "x")))
    side = Side(name="s", fingerprint="s", settings={}, source=source, model=lambda e: e.models[0])

    with pytest.raises(ConfigError, match="--repeat: not with task wins"):
        Session(suite, tasks, store, "r", n_repetitions=2).evaluate(side, side)
    with pytest.raises(ConfigError, match="--anchor: not with task wins"):
        Session(suite, tasks, store, "r").evaluate(side, side, anchor=side)
