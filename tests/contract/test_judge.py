"""A judging model behind a real HTTP endpoint, asked through OpenAI's client."""

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from vlmserve.cli.main import main

Run = Callable[..., int]

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("VLMSERVE_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-judge")


@pytest.fixture
def three_models(endpoint: Any, answer: Any) -> Any:
    """An endpoint with ``old``, ``new`` and ``judge``; each says what the test wants."""
    entry = {"object": "model", "created": 1, "owned_by": "us"}
    endpoint.models = [{"id": name, **entry} for name in ("old", "new", "judge")]
    endpoint.old = lambda number: f"old {number}"
    endpoint.new = lambda number: f"new {number}"
    endpoint.opinion = lambda first, second: "[[C]]"

    def reply(body: dict[str, Any]) -> tuple[int, Any]:
        content = body["messages"][-1]["content"]
        text = "".join(part.get("text", "") for part in content)
        if body["model"] == "judge":
            return answer_of(endpoint.opinion(*sections(text)))
        number = int(text.split()[1])
        return answer_of(getattr(endpoint, body["model"])(number))

    def answer_of(said: Any) -> tuple[int, Any]:
        return said if isinstance(said, tuple) else (200, answer(said))

    endpoint.reply = reply
    return endpoint


def sections(text: str) -> list[str]:
    """The answers in a question to the judge."""
    return re.findall(r"\[Answer(?: [AB])?\]\n(.*?)\n\[End of answer", text, re.DOTALL)


def judged(endpoint: Any) -> list[dict[str, Any]]:
    return [body for body in endpoint.bodies if body["model"] == "judge"]


@pytest.fixture
def write(tmp_path: Path, three_models: Any) -> Callable[..., Path]:
    """A suite of questions with a picture each, which the judge decides."""

    def create(scorer: Any, n: int = 30, **judge: Any) -> Path:
        (tmp_path / "dot.png").write_bytes(PNG)
        rows = [
            {"query": f"<image>Question {k} ?", "response": f"right {k}", "images": ["dot.png"]}
            for k in range(n)
        ]
        (tmp_path / "held.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        suite = {
            "name": "opinions",
            "gate": {"margin": 0.2},
            "judge": {"url": three_models.url, "model": "judge", **judge},
            "tasks": [{"data": "held.jsonl", "name": "help", "scorer": scorer}],
        }
        path = tmp_path / "suite.yaml"
        path.write_text(yaml.safe_dump(suite))
        return path

    return create


@pytest.fixture
def evaluate(three_models: Any, tmp_path: Path) -> Run:
    def run(suite: Path, *more: str) -> int:
        url = three_models.url
        sides = ["--ckpt", f"{url}#new", "--baseline", f"{url}#old"]
        report = ["--json", str(tmp_path / "report.json")]
        return main(["eval", *sides, "--suite", str(suite), *report, *more])

    return run


@pytest.fixture
def report(tmp_path: Path) -> Callable[[], Any]:
    return lambda: json.loads((tmp_path / "report.json").read_text())


def prefer(word: str) -> Callable[[str, str], str]:
    """An opinion for the answer with a word in it, whatever the order."""

    def opinion(first: str, second: str) -> str:
        if (word in first) == (word in second):
            return "Both are alike. [[C]]"
        return f"I think so. [[{'A' if word in first else 'B'}]]"

    return opinion


def test_pairs_are_judged_in_both_orders_and_compared_with_zero(
    three_models: Any, write: Any, evaluate: Run, report: Any
) -> None:
    three_models.opinion = prefer("old")
    suite = write("judge_pairs", prompt_price=2.0, completion_price=8.0)
    status = evaluate(suite)

    assert status == 1
    (task,) = report()["tasks"]
    assert (task["metric"], task["verdict"]) == ("judge_pairs", "regression")
    assert (task["baseline"], task["candidate"], task["difference"]) == (1.0, 0.0, -1.0)
    bodies = judged(three_models)
    assert len(bodies) == 60
    assert all(body["temperature"] == 0 for body in bodies)
    orders = [
        sections("".join(part.get("text", "") for part in body["messages"][1]["content"]))
        for body in bodies
    ]
    assert sorted(orders) == sorted(
        pair for k in range(30) for pair in ([f"old {k}", f"new {k}"], [f"new {k}", f"old {k}"])
    )
    (judge,) = report()["judges"]
    assert (judge["model"], judge["n_questions"], judge["n_requests_sent"]) == ("judge", 60, 60)
    assert (judge["n_pairs"], judge["n_equal"], judge["n_split"]) == (30, 0, 0)
    assert (judge["prompt_tokens"], judge["completion_tokens"]) == (660, 120)
    assert judge["cost"] == pytest.approx((2.0 * 660 + 8.0 * 120) / 1e6)
    assert re.fullmatch("[0-9a-f]{64}", judge["prompt_digest"])


def test_a_judge_sees_the_question_its_images_and_the_expected_answer(
    three_models: Any, write: Any, evaluate: Run
) -> None:
    evaluate(write("judge_pairs", n=2))
    system, user = judged(three_models)[0]["messages"]
    parts = user["content"]

    assert "[[A]] if answer A is better" in system["content"][0]["text"]
    image = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    assert [part["type"] for part in parts] == ["text", "image_url", "text"]
    assert parts[1]["image_url"]["url"] == image
    assert re.search(r"Question \d \?\n.*\[Expected answer\]\nright \d\n", parts[2]["text"], re.S)

    three_models.bodies.clear()
    blind = {"name": "judge_pairs", "show_media": False, "show_target": False}
    evaluate(write({**blind, "instructions": "Be harsh."}, n=2))
    system, user = judged(three_models)[0]["messages"]
    (part,) = user["content"]
    assert system["content"][0]["text"].startswith("Be harsh.\n\n")
    assert "user: <image>Question" in part["text"]
    assert "right" not in part["text"]


def test_a_judge_with_fixed_sampling_is_sent_none(
    three_models: Any, write: Any, evaluate: Run
) -> None:
    evaluate(write("judge_pairs", n=2, has_fixed_sampling=True, max_tokens=77))

    for body in judged(three_models):
        assert body.keys() == {"model", "messages", "max_completion_tokens"}
        assert body["max_completion_tokens"] == 77


def test_a_judge_that_prefers_a_place_says_nothing(
    three_models: Any, write: Any, evaluate: Run, report: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    three_models.opinion = lambda first, second: "The first is better. [[A]]"
    assert evaluate(write("judge_pairs")) == 0

    (task,) = report()["tasks"]
    assert (task["baseline"], task["candidate"], task["verdict"]) == (0.5, 0.5, "pass")
    assert report()["judges"][0]["n_split"] == 30
    assert "30 pairs were decided otherwise in the other order" in capsys.readouterr().out


def test_equal_answers_are_ties_that_cost_nothing(
    three_models: Any, write: Any, evaluate: Run, report: Any
) -> None:
    three_models.new = lambda number: f"old {number}" if number < 20 else f" old {number}\n"
    assert evaluate(write("judge_pairs")) == 0

    assert not judged(three_models)
    assert (report()["judges"][0]["n_pairs"], report()["judges"][0]["n_equal"]) == (30, 30)
    assert report()["judges"][0]["cost"] is None


def test_what_cannot_be_read_is_a_failure_and_no_tie(
    three_models: Any, write: Any, evaluate: Run, report: Any
) -> None:
    def opinion(first: str, second: str) -> Any:
        if "7" in first:
            return "I cannot decide."
        if "8" in first:
            return 400, {"error": {"message": "too long for me", "type": "x", "code": "y"}}
        return prefer("new")(first, second)

    three_models.opinion = opinion
    assert evaluate(write("judge_pairs")) == 3

    (task,) = report()["tasks"]
    assert (task["n_pairs"], task["n_failed_baseline"], task["n_failed_candidate"]) == (24, 6, 6)
    assert (task["candidate"], task["verdict"]) == (1.0, "inconclusive")
    messages = {failure["message"] for failure in task["failures"]}
    assert any(
        "the judge did not say [[A]], [[B]] or [[C]]; it ends with" in one for one in messages
    )
    assert any("too long for me" in one for one in messages)
    # Three pairs with an 8, asked in both orders: each was refused.
    assert report()["judges"][0]["n_failed"] == 6


def test_no_opinion_is_paid_for_twice(
    three_models: Any, write: Any, evaluate: Run, report: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    three_models.opinion = prefer("new")
    suite = write("judge_pairs", prompt_price=2.0, completion_price=8.0)
    evaluate(suite, "--run-id", "first")
    three_models.bodies.clear()
    evaluate(suite, "--run-id", "second")

    # Endpoints are asked anew in another run; their answers are the same, and so is the opinion.
    assert {body["model"] for body in three_models.bodies} == {"old", "new"}
    (judge,) = report()["judges"]
    assert (judge["n_questions"], judge["n_requests_sent"], judge["n_reused"]) == (60, 0, 60)
    assert judge["cost"] > 0
    assert judge["cost_of_run"] == 0
    assert "(0 of it in this run)" in capsys.readouterr().out


def test_a_judge_that_goes_away_ends_the_run_and_the_next_one_goes_on(
    three_models: Any, write: Any, evaluate: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[int] = []

    def opinion(first: str, second: str) -> Any:
        seen.append(1)
        if len(seen) > 10:
            return 503, {"error": {"message": "gone", "type": "x", "code": "y"}}
        return prefer("new")(first, second)

    three_models.opinion = opinion
    suite = write("judge_pairs", concurrency=1)
    assert evaluate(suite, "--run-id", "r") == 5
    assert "--run-id r" in capsys.readouterr().err
    three_models.opinion = prefer("new")
    three_models.bodies.clear()
    assert evaluate(suite, "--run-id", "r") == 0

    assert {body["model"] for body in three_models.bodies} == {"judge"}
    assert len(three_models.bodies) == 50


def test_the_judges_key_is_its_own(
    three_models: Any, write: Any, evaluate: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    three_models.api_key = "sk-judge"
    monkeypatch.setenv("VLMSERVE_API_KEY", "sk-judge")
    assert evaluate(write("judge_pairs")) == 0
    monkeypatch.setenv("JUDGE_KEY", "wrong")
    other = {"name": "judge_pairs", "instructions": "Other."}
    assert evaluate(write(other, api_key_env="JUDGE_KEY")) == 2


def test_answers_are_graded_by_a_rubric(
    three_models: Any, write: Any, evaluate: Run, report: Any
) -> None:
    def opinion(answer: str) -> str:
        if answer == "new 7":
            return "Off the scale: [[11]]"
        return "Good. [[9]]" if "old" in answer else "First [[8]], on second thought [[2.5]]"

    three_models.opinion = opinion
    scorer = {"name": "judge_rubric", "rubric": "Full marks for the word old."}
    suite = write(scorer)
    assert evaluate(suite) == 3

    (task,) = report()["tasks"]
    assert (task["metric"], task["n_pairs"]) == ("judge_rubric", 29)
    assert (task["baseline"], task["candidate"]) == (pytest.approx(0.9), pytest.approx(0.25))
    (failure,) = task["failures"]
    assert failure["message"] == "the judge gave 11, on a scale of 0 to 10"
    system = judged(three_models)[0]["messages"][0]["content"][0]["text"]
    assert "Rubric:\nFull marks for the word old.\n" in system
    (judge,) = report()["judges"]
    assert (judge["n_questions"], judge["n_pairs"]) == (60, None)


def test_a_rubric_may_stop_early_and_pairs_are_asked_in_full(
    three_models: Any, write: Any, evaluate: Run, report: Any
) -> None:
    three_models.opinion = lambda *answers: "[[9]]" if "old" in answers[0] else "[[1]]"
    scorer = {"name": "judge_rubric", "rubric": "old is good"}
    assert evaluate(write(scorer, n=200), "--sequential") == 1
    assert report()["tasks"][0]["n_samples"] < 200

    three_models.opinion = prefer("old")
    assert evaluate(write("judge_pairs", n=50), "--sequential") == 1
    assert report()["tasks"][0]["n_samples"] == 50


def test_requests_without_answers_can_be_judged_in_pairs(
    three_models: Any, write: Any, evaluate: Run, report: Any, tmp_path: Path
) -> None:
    three_models.opinion = prefer("new")
    suite = yaml.safe_load(write("judge_pairs").read_text())
    rows = [{"messages": [{"role": "user", "content": f"Question {k} ?"}]} for k in range(30)]
    (tmp_path / "log.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    suite["tasks"] = [
        {"requests": "log.jsonl", "name": "wins", "check": "judge_pairs", "improve": True},
        {"requests": "log.jsonl", "name": "empty", "check": "empty"},
    ]
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite))
    assert evaluate(tmp_path / "suite.yaml") == 0

    wins, empty = report()["tasks"]
    assert (wins["verdict"], wins["higher_is_better"]) == ("improved", True)
    assert (empty["verdict"], empty["higher_is_better"]) == ("pass", False)
    assert "Expected answer" not in json.dumps(judged(three_models))


@pytest.mark.parametrize(
    ("scorer", "reason"),
    [
        ("judge_rubric", r"tasks\.0\.scorer\.rubric: Field required"),
        ({"name": "judge_pairs", "rubric": "x"}, "judge_pairs has no such option; it has: "),
    ],
)
def test_what_cannot_be_judged_is_refused(
    three_models: Any,
    write: Any,
    evaluate: Run,
    capsys: pytest.CaptureFixture[str],
    scorer: Any,
    reason: str,
) -> None:
    assert evaluate(write(scorer)) == 2
    assert re.search(reason, capsys.readouterr().err)
    assert not judged(three_models)


def test_a_suite_without_a_judge_says_so(
    write: Any, evaluate: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write("judge_pairs")
    suite = yaml.safe_load(path.read_text())
    del suite["judge"]
    path.write_text(yaml.safe_dump(suite))

    assert evaluate(path) == 2
    assert "the suite names no judge" in capsys.readouterr().err


def test_pairs_of_a_kept_run_mean_nothing_beside_another_run(
    three_models: Any, write: Any, evaluate: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    three_models.opinion = prefer("new")
    suite = write("judge_pairs")
    for run in ("one", "two"):
        evaluate(suite, "--run-id", run)
    capsys.readouterr()

    assert main(["compare", "one", "two"]) == 2
    assert "judged in pairs" in capsys.readouterr().err
    assert main(["compare", "one:baseline", "one"]) == 0


def test_the_baseline_asked_twice_shows_no_noise_of_pairs(
    three_models: Any, write: Any, evaluate: Run, report: Any
) -> None:
    three_models.opinion = prefer("new")
    assert evaluate(write("judge_pairs"), "--aa") == 0
    assert report()["tasks"][0]["noise"] is None


def test_a_plan_says_what_the_judge_would_cost(
    three_models: Any, write: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    url = three_models.url
    suite = write("judge_pairs", prompt_price=2.0, completion_price=8.0, max_tokens=500)
    sides = ["--ckpt", f"{url}#new", "--baseline", f"{url}#old"]
    assert main(["eval", *sides, "--suite", str(suite), "--plan"]) == 0

    said = capsys.readouterr().out
    # 60 opinions of 500 tokens at 8 dollars the million.
    assert "judge judge: 60 opinions at most; its own words cost 0.24 USD at most" in said
    assert not three_models.bodies
    main(["eval", *sides, "--suite", str(write("judge_pairs")), "--plan"])
    assert "what they cost is not known, for the suite gives no prices" in capsys.readouterr().out
