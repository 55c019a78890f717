"""Logs of requests as tasks of a suite: asked once, measured in several ways, compared in pairs."""

import base64
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.unit.evals.answers import said
from vlmserve.chat import ImagePart, TextPart
from vlmserve.config.suite import SuiteConfig
from vlmserve.config.suite_entries import SuiteRequests
from vlmserve.engine.base import GenerationRequest
from vlmserve.engine.scripted import ScriptedEngine
from vlmserve.errors import ConfigError
from vlmserve.evals.answering import EngineSource, Side
from vlmserve.evals.eval_task import EvalTask, load_tasks
from vlmserve.evals.records import Failed, Scored
from vlmserve.evals.session import Session
from vlmserve.evals.store import AnswerStore

Write = Callable[..., SuiteConfig]


@pytest.fixture
def write(tmp_path: Path, suites: Any) -> Write:
    """Writes a log and a suite with a task for each check."""

    def create(
        rows: Sequence[Any], *checks: Any, entry: dict[str, Any] | None = None, **settings: Any
    ) -> SuiteConfig:
        (tmp_path / "log.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        tasks = [
            {
                "requests": "log.jsonl",
                "name": check if isinstance(check, str) else check["name"],
                "check": check,
                **(entry or {}),
            }
            for check in checks
        ]
        return suites.load(*tasks, include_path=None, **settings)  # type: ignore[no-any-return]

    return create


def ask(text: str, **changes: Any) -> dict[str, Any]:
    return {"model": "served", "messages": [{"role": "user", "content": text}], **changes}


def load(suite: SuiteConfig, **settings: Any) -> list[EvalTask]:
    return load_tasks(suite, **settings)


def run(suite: SuiteConfig, store: AnswerStore, answers: dict[str, Callable[[str], str]]) -> Any:
    """Judge two scripted sides; their answers are functions of the question."""
    engines = {}
    sides = []
    for name, answer in answers.items():

        def say(request: GenerationRequest, answer: Callable[[str], str] = answer) -> str:
            (part,) = request.messages[-1].parts
            assert isinstance(part, TextPart)
            return answer(part.text)

        engines[name] = engine = ScriptedEngine(say)
        sides.append(
            Side(
                name=name,
                fingerprint=name,
                settings={},
                source=EngineSource(lambda engine=engine: _Open(engine)),  # type: ignore[misc]
                model=lambda engine: engine.models[0],
            )
        )
    report = Session(suite, load(suite), store, "run").evaluate(*sides)
    return report, {name: engine.n_requests for name, engine in engines.items()}


class _Open:
    def __init__(self, engine: ScriptedEngine) -> None:
        self._engine = engine

    def __enter__(self) -> ScriptedEngine:
        return self._engine

    def __exit__(self, *_: object) -> None:
        pass


def test_bodies_batch_lines_and_bare_messages_are_asked_as_they_were(
    write: Write, tmp_path: Path, suites: Any
) -> None:
    png = suites.png("red")
    (tmp_path / "red.png").write_bytes(png)
    data = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    messages = [
        {"role": "developer", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Compare"},
                {"type": "image_url", "image_url": {"url": data}},
                {"type": "text", "text": "with"},
                {"type": "image_url", "image_url": {"url": "red.png"}},
            ],
        },
        {"role": "assistant", "content": "The same."},
        {"role": "user", "content": "Sure?"},
    ]
    batch = {
        "custom_id": "r-2",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": ask("Two", max_completion_tokens=7, temperature=0.5, stop="."),
    }
    (task,) = load(write([ask("One"), batch, messages], "empty"))

    one, two, three = task.samples
    assert one.question == "One"
    assert one.params.max_tokens == 256
    assert (two.params.max_tokens, two.params.temperature, two.params.stop) == (7, 0.5, (".",))
    assert [turn.role for turn in three.turns] == ["system", "user", "assistant", "user"]
    sent = three.request("m").messages[1].parts
    image = ImagePart(data=png, content_type="image/png")
    assert sent == (TextPart(text="Compare"), image, TextPart(text="with"), image)


def test_the_suite_wins_over_the_log(write: Write) -> None:
    suite = write([ask("One", max_tokens=7, seed=3)], "empty", sampling={"max_tokens": 99})
    (sample,) = load(suite)[0].samples

    assert (sample.params.max_tokens, sample.params.seed) == (99, 3)


def test_checks_of_one_log_share_its_answers(write: Write, store: AnswerStore) -> None:
    rows = [ask(f"Request {number}") for number in range(40)]
    suite = write(
        rows,
        "empty",
        {"name": "invalid_json"},
        "refusal",
        "answer_tokens",
        "latency_ms",
        gate={"margin": 0.1},
    )
    report, sent = run(
        suite,
        store,
        {
            "old": lambda question: '{"n": 1}',
            "new": lambda question: "I cannot help with that." if "3" in question else '{"n": 1}',
        },
    )

    assert sent == {"old": 40, "new": 40}
    tasks = {task.task: task for task in report.tasks}
    assert {name: (task.metric, task.verdict) for name, task in tasks.items()} == {
        "empty": ("empty", "pass"),
        "invalid_json": ("invalid_json", "regression"),
        "refusal": ("refusal", "regression"),
        "answer_tokens": ("answer_tokens", "not gated"),
        "latency_ms": ("latency_ms", "not gated"),
    }
    refusal = tasks["refusal"]
    assert not refusal.higher_is_better
    assert refusal.in_points
    assert (refusal.baseline, refusal.candidate) == (0.0, pytest.approx(13 / 40))
    assert not tasks["answer_tokens"].in_points
    assert tasks["answer_tokens"].baseline == 2
    assert not tasks["latency_ms"].in_points
    assert not any(task.failures for task in report.tasks)
    assert report.verdict == "regression"
    assert tasks["empty"].difference == 0.0
    assert math.copysign(1.0, tasks["empty"].difference) == 1.0


def test_becoming_worse_is_a_rise(write: Write, store: AnswerStore) -> None:
    suite = write([ask(f"Request {number}") for number in range(5)], "empty")
    report, _ = run(suite, store, {"old": lambda _: "x", "new": lambda _: "x"})

    assert "a rise of 2 points is not ruled out" in report.tasks[0].reason


def test_amounts_are_gated_only_by_a_margin_of_their_own(write: Write) -> None:
    amounts = write([ask("One")], "empty", "answer_tokens")
    assert [entry.gate for entry in amounts.tasks] == [True, False]
    stated = write([ask("One")], "answer_tokens", entry={"margin": 20})
    assert stated.tasks[0].gate

    with pytest.raises(ConfigError, match=r"suite\.yaml:\d+: tasks\.0: gate: true needs a margin"):
        write([ask("One")], "answer_tokens", entry={"gate": True})
    with pytest.raises(ConfigError, match="nothing to judge"):
        write([ask("One")], "answer_tokens")
    with pytest.raises(ConfigError, match="2 is no margin for refusal, which is a share"):
        load(write([ask("One")], "refusal", entry={"margin": 2}))


def test_an_answer_that_nobody_timed_is_a_failure(write: Write) -> None:
    (_, task) = load(write([ask("One")], "empty", "latency_ms"))
    sample_id = task.samples[0].sample_id

    assert task.score(said({sample_id: "x"}, latency_s=0.5)) == {
        sample_id: Scored(answer="x", score=500.0)
    }
    failed = task.score(said({sample_id: "x"}))[sample_id]
    assert isinstance(failed, Failed)
    assert "nobody measured" in failed.message


def test_columns_of_a_log_make_slices(write: Write) -> None:
    rows = [ask(f"{number}", route="a" if number % 2 else "b", user=7) for number in range(4)]
    (task,) = load(write(rows, "empty"))

    assert task.fields() == {"route": ["b", "a", "b", "a"]}


def test_a_schema_may_be_a_file_beside_the_suite(write: Write, tmp_path: Path) -> None:
    (tmp_path / "answer.json").write_text('{"type": "object"}')
    check = {"name": "invalid_json", "schema": "answer.json"}
    (task,) = load(write([ask("One")], check))
    sample_id = task.samples[0].sample_id

    assert task.score(said({sample_id: "[]"}))[sample_id] == Scored(answer="[]", score=1.0)
    assert task.recipe["options"]["schema"] == {"type": "object"}
    (tmp_path / "answer.json").write_text('{"type"')
    with pytest.raises(ConfigError, match=r"tasks\.0\.check\.schema: .*answer\.json: not JSON"):
        write([ask("One")], check)
    with pytest.raises(ConfigError, match=r"other\.json: No such file"):
        write([ask("One")], {**check, "schema": "other.json"})


def image(url: str) -> dict[str, Any]:
    part = {"type": "image_url", "image_url": {"url": url}}
    return {"messages": [{"role": "user", "content": [part]}]}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "x"}, "neither a request with messages, nor one under body"),
        ("x", "a request is expected, not"),
        ({"messages": []}, "messages: a list of turns is expected"),
        (
            ask("x", tools=[{"type": "function"}]),
            r"tools: it changes answers .*leave_out: \[tools\]",
        ),
        (ask("x", response_format={"type": "json_object"}), "response_format: it changes"),
        (ask("x", temperature=-1), "temperature: Input should be greater than"),
        (ask("x", n=2), "n: it changes answers"),
        (
            {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]},
            "the last turn is the assistant's, so nothing is asked",
        ),
        ({"messages": [{"role": "system", "content": "x"}]}, "no turn of a user"),
        (image("gone.png"), r"gone\.png: No such file"),
        (image("https://example.org/a.png"), r"fetching from example\.org is not allowed"),
        (image("data:image/png;base64,@@"), "not base64"),
    ],
)
def test_requests_that_cannot_be_asked_are_refused_by_line(
    write: Write, row: Any, reason: str
) -> None:
    suite = write([ask("One"), row], "empty")

    with pytest.raises(ConfigError, match=rf"(?s)1 of 2 samples.*log\.jsonl:2: .*{reason}"):
        load(suite)


def test_what_changes_nothing_and_what_is_left_out_is_no_reason_to_refuse(write: Write) -> None:
    rows = [
        ask("One", n=1, stream=True, frequency_penalty=0, tools=[], user="u", logprobs=True),
        ask("Two", tools=[{"type": "function"}], response_format={"type": "json_object"}),
    ]
    suite = write(rows, "empty", entry={"leave_out": ["tools", "response_format"]})

    assert len(load(suite)[0].samples) == 2


def test_bad_files_are_refused_by_name(write: Write, tmp_path: Path) -> None:
    suite = write([], "empty")
    with pytest.raises(ConfigError, match=r"task empty \(.*tasks\.0\): .*log\.jsonl: no requests"):
        load(suite)
    (tmp_path / "log.jsonl").write_text('{"messages": [\n')
    with pytest.raises(ConfigError, match=r"log\.jsonl:1: not JSON"):
        load(suite)
    (tmp_path / "log.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"tasks\.0\.requests: no such file"):
        write_again(suite)


def write_again(suite: SuiteConfig) -> SuiteConfig:
    from vlmserve.config.suite import load_suite

    assert suite.file is not None
    assert isinstance(suite.tasks[0], SuiteRequests)
    return load_suite(suite.file)


def test_a_limit_takes_the_first_requests(write: Write) -> None:
    rows = [ask("One"), ask("Two"), {"broken": True}]
    (task,) = load(write(rows, "empty"), limit=2)

    assert [sample.question for sample in task.samples] == ["One", "Two"]
