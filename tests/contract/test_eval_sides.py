"""What the sides of ``vlmserve eval`` may be: endpoints, several of them, and kept runs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlmserve.cli.main import main

Run = Callable[..., int]

pytestmark = pytest.mark.usefixtures("caches")


@pytest.fixture
def judge(suite: Path, tmp_path: Path) -> Callable[..., tuple[int, Any]]:
    """Judge a candidate against a baseline: the exit status and the report, if there is one."""

    def run(candidate: str, baseline: str, *more: str) -> tuple[int, Any]:
        path = tmp_path / "report.json"
        path.unlink(missing_ok=True)
        sides = ["--ckpt", candidate, "--baseline", baseline, "--suite", str(suite)]
        status = main(["eval", *sides, "--json", str(path), *more])
        return status, json.loads(path.read_text()) if path.is_file() else None

    return run


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_a_run_is_the_baseline_of_the_next_and_nothing_is_asked_again(
    evaluate: Run, two_models: Any, judge: Any
) -> None:
    assert evaluate("--run-id", "monday") == 0
    n_asked = len(two_models.bodies)
    two_models.wrong = 12
    status, report = judge(f"{two_models.url}#new", "monday")

    assert status == 1
    assert report["baseline"]["name"] == f"new at {two_models.url} (run monday)"
    assert report["baseline"]["n_reused"] == 20
    assert len(two_models.bodies) == n_asked + 20
    # The same by another spelling, and of the other side of that run.
    assert judge("run:monday", "monday:baseline")[0] == 0
    assert len(two_models.bodies) == n_asked + 20


def test_an_anchor_is_a_run_and_the_graver_verdict_counts(
    evaluate: Run, two_models: Any, judge: Any
) -> None:
    evaluate("--run-id", "first")
    two_models.wrong = 12
    evaluate("--run-id", "last")
    status, report = judge("last", "last", "--anchor", "first")

    assert status == 1
    assert report["anchor"]["name"].endswith("(run first)")
    (task,) = report["tasks"]
    assert task["anchor"]["decides"]
    assert task["difference"] == 0
    assert judge("last", "last")[0] == 0


def test_answers_that_a_run_lacks_are_counted(
    evaluate: Run,
    two_models: Any,
    judge: Any,
    answer: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def some_fail(body: dict[str, Any]) -> tuple[int, Any]:
        number = int(body["messages"][0]["content"][0]["text"].split()[1])
        if number < 3 and body["model"] == "new":
            return 400, {"error": {"message": "too long", "code": "x"}}
        return 200, answer("right")

    two_models.reply = some_fail
    evaluate("--run-id", "monday")
    capsys.readouterr()
    status, _ = judge(f"{two_models.url}#old", "monday")

    assert status == 2
    assert "(run monday): 3 of 20 answers are not in the store" in said(capsys)


def test_a_run_of_another_suite_is_refused_and_the_reason_named(
    evaluate: Run, two_models: Any, judge: Any, suite: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate("--run-id", "few", "--limit", "10")
    evaluate("--run-id", "all")
    new = f"{two_models.url}#new"
    n_asked = len(two_models.bodies)
    capsys.readouterr()
    assert judge(new, "few")[0] == 2
    assert "it was of another suite: --limit: 10 there, unset here" in said(capsys)
    suite.write_text(suite.read_text() + "sampling: {max_tokens: 9}\n")
    assert judge(new, "all")[0] == 2
    assert "sampling.max_tokens: unset there, 9 here" in said(capsys)
    assert len(two_models.bodies) == n_asked


@pytest.mark.parametrize("place", ["--ckpt", "--baseline", "--anchor"])
@pytest.mark.parametrize("name", ["nosuch", "nosuch:baseline", "run:nosuch"])
def test_an_unknown_run_is_the_command_lines_fault_as_it_is_of_compare(
    evaluate: Run,
    two_models: Any,
    suite: Path,
    capsys: pytest.CaptureFixture[str],
    place: str,
    name: str,
) -> None:
    evaluate("--run-id", "monday")
    n_asked = len(two_models.bodies)
    sides = {"--ckpt": f"{two_models.url}#new", "--baseline": "monday", place: name}
    capsys.readouterr()

    assert (
        main(["eval", "--suite", str(suite), *[word for pair in sides.items() for word in pair]])
        == 2
    )
    told = said(capsys)
    assert "no run" in told
    assert "the latest runs are monday" in told
    assert len(two_models.bodies) == n_asked
    assert main(["compare", "monday", name]) == 2


def test_a_checkpoint_that_is_not_there_may_have_been_meant_for_a_run(
    two_models: Any, judge: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert judge(f"{two_models.url}#new", "/nosuch")[0] == 4
    assert "--baseline takes a run, too" in said(capsys)


def test_a_run_that_was_asked_otherwise_is_refused_until_it_is_declared(
    evaluate: Run,
    two_models: Any,
    judge: Any,
    suite: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    evaluate("--run-id", "plain")
    new = f"{two_models.url}#new"
    text = suite.read_text()
    suite.write_text(text + "sides: {both: {system: Be brief.}}\n")
    capsys.readouterr()
    assert judge(new, "plain")[0] == 2
    error = said(capsys)
    assert 'they differ in asking.system: unset | "Be brief."' in error
    assert "differs: [asking.system]" in error
    declared = tmp_path / "side.yaml"
    declared.write_text("differs: [asking]\n")
    status, report = judge(new, "plain", "--candidate-config", str(declared))
    assert status == 0
    assert report["differences"] == [
        {
            "side": "baseline",
            "field": "asking.system",
            "before": None,
            "candidate": "Be brief.",
            "reason": "declared",
        }
    ]
    assert (
        'served differently (baseline | candidate), as declared: asking.system: unset | "Be brief."'
    ) in report["notes"]
    # What the suite itself asks differently needs no other word.
    suite.write_text(text + "sides: {candidate: {system: Be brief.}}\n")
    status, report = judge(new, "plain")
    assert (status, report["differences"][0]["reason"]) == (0, "suite")


def test_other_versions_are_a_difference_like_any_other(
    two_models: Any,
    other_endpoint: Any,
    judge: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    two_models.version, other_endpoint.version = {"version": "0.31.0"}, {"version": "0.32.0"}
    old, new = f"{two_models.url}#old", other_endpoint.url
    assert judge(new, old)[0] == 2
    error = said(capsys)
    assert 'they differ in versions.vllm: "0.31.0" | "0.32.0"' in error
    assert not other_endpoint.bodies
    declared = tmp_path / "side.yaml"
    declared.write_text("differs: [versions.vllm]\n")
    other_endpoint.reply = two_models.reply
    _, report = judge(new, old, "--baseline-config", str(declared))
    assert report["differences"][0]["field"] == "versions.vllm"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("differs: [dtpe]", "side.yaml:1: differs: dtpe: no such setting"),
        ("engine: {dtpe: float32}", "side.yaml:1: engine.dtpe: unknown key"),
        ("engine: {dtype: float32}", "--candidate-config: dtype cannot be set for http"),
    ],
)
def test_settings_that_a_side_cannot_have_are_refused(
    two_models: Any,
    judge: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: str,
    expected: str,
) -> None:
    path = tmp_path / "side.yaml"
    path.write_text(text)
    url = two_models.url
    assert judge(f"{url}#new", f"{url}#old", "--candidate-config", str(path))[0] == 2
    assert expected in said(capsys)
    assert not two_models.bodies


def test_an_endpoint_separates_reasoning_by_itself(
    evaluate: Run, two_models: Any, suite: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite.write_text(suite.read_text() + "sides: {candidate: {reasoning_parser: qwen3}}\n")

    assert evaluate() == 2
    assert "separates reasoning by itself" in said(capsys)
    assert not two_models.bodies


def stated(name: str, **settings: Any) -> dict[str, Any]:
    """What ``vlmserve serve`` says of itself."""
    return {
        "vlmserve": "0.1.0",
        "vllm": "0.32.0",
        "models": [
            {"id": each, "parent": None, "fingerprint": f"sha256:{name}-{each}"}
            for each in ("old", "new")
        ],
        "settings": {"engine": "vllm", "dtype": "bfloat16", **settings},
    }


def test_an_endpoint_that_states_what_it_serves_is_not_asked_again(
    evaluate: Run, two_models: Any
) -> None:
    two_models.version = stated("a")
    evaluate()
    evaluate()
    assert len(two_models.bodies) == 40
    # Another checkpoint, other settings, or no more than its packages: all of it again.
    two_models.version = stated("b")
    evaluate()
    assert len(two_models.bodies) == 80
    two_models.version = stated("b", dtype="float32")
    evaluate()
    assert len(two_models.bodies) == 120
    two_models.version = {**stated("b"), "models": [{"id": "old", "fingerprint": "pending"}]}
    evaluate()
    evaluate()
    assert len(two_models.bodies) == 200


def test_two_endpoints_share_the_work(
    two_models: Any, other_endpoint: Any, judge: Any, answer: Any
) -> None:
    other_endpoint.models = [{**two_models.models[1], "id": "renamed"}]
    other_endpoint.reply = lambda _: (200, answer("right"))
    two_models.delay_s = other_endpoint.delay_s = 0.02
    both = f"{two_models.url}#new,{other_endpoint.url}#renamed"
    status, report = judge(both, f"{two_models.url}#old", "--concurrency", "2")

    assert status == 0
    asked = [body["model"] for body in two_models.bodies if body["model"] == "new"]
    assert len(asked) + len(other_endpoint.bodies) == 20
    assert len(asked) >= 5
    assert len(other_endpoint.bodies) >= 5
    assert {body["model"] for body in other_endpoint.bodies} == {"renamed"}
    assert report["candidate"]["name"] == f"new at {two_models.url} and {other_endpoint.url}"


def test_an_endpoint_that_dies_leaves_its_work_to_the_others(
    two_models: Any,
    other_endpoint: Any,
    judge: Any,
    answer: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    answered: list[Any] = []

    def dies(body: Any) -> tuple[int, Any]:
        if len(answered) < 3:
            answered.append(body)
            return 200, answer("right")
        return 503, {"error": {"message": "shutting down"}}

    other_endpoint.models, other_endpoint.reply = [two_models.models[1]], dies
    two_models.delay_s = other_endpoint.delay_s = 0.01
    both = f"{two_models.url},{other_endpoint.url}#new"
    status, report = judge(both, f"{two_models.url}#old", "--concurrency", "2")

    assert status == 0
    assert report["candidate"]["n_requests_sent"] == 20
    assert sum(body["model"] == "new" for body in two_models.bodies) == 20 - len(answered)
    assert "1 of 2 endpoints are left" in said(capsys)
    # Nobody is left: the run ends and says so, and what was answered is kept.
    two_models.reply = lambda _: (503, {"error": {"message": "gone as well"}})
    other_endpoint.reply = two_models.reply
    assert judge(both, f"{two_models.url}#old")[0] == 5


def test_endpoints_that_state_different_things_are_no_pair(
    two_models: Any, other_endpoint: Any, judge: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    two_models.version, other_endpoint.version = stated("a"), stated("b")
    other_endpoint.models = two_models.models
    both = f"{two_models.url},{other_endpoint.url}#new"

    assert judge(both, f"{two_models.url}#old")[0] == 2
    assert "these endpoints do not serve the same" in said(capsys)
    assert not two_models.bodies


def test_samples_are_asked_several_times_with_seeds_of_their_own(
    evaluate: Run, two_models: Any, suite: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate("--repeat", "3") == 2
    assert "--repeat 3: task sums is asked at temperature 0" in said(capsys)
    suite.write_text(suite.read_text() + "sampling: {temperature: 0.5}\n")
    assert evaluate("--repeat", "3", "--seed", "40", "--run-id", "r") == 0
    assert len(two_models.bodies) == 120
    assert {body["seed"] for body in two_models.bodies} == {40, 41, 42}
    evaluate("--repeat", "4", "--seed", "40", "--run-id", "r")
    assert len(two_models.bodies) == 160
    # Who gives no seed asks for none.
    evaluate("--run-id", "other")
    assert "seed" not in two_models.bodies[-1]


def test_a_plan_asks_nothing_and_says_what_would_be(
    evaluate: Run, two_models: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate("--plan", "--sequential") == 0
    out = " ".join(capsys.readouterr().out.split())

    assert not two_models.bodies
    assert "baseline old at" in out
    assert "20 requests to send, 0 answers reused" in out
    assert "prompt tokens of sums are not known: no side is a checkpoint on this machine" in out
    assert "in all 40 requests, an unknown time" in out
    assert "with --sequential this is the most" in out
    evaluate("--run-id", "r")
    capsys.readouterr()
    assert evaluate("--run-id", "r", "--plan") == 0
    assert "in all 0 requests, 0 s" in capsys.readouterr().out
    assert evaluate("--plan", "--json", "plan.json") == 2
    assert "--plan: there is no report to write to --json" in said(capsys)
    assert evaluate("--plan", "--repeat", "2") == 2
    assert "asked at temperature 0" in said(capsys)
