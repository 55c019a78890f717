"""``vlmserve eval`` from the command line to the exit status, between two endpoints."""

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlmserve.cli.main import main

Run = Callable[..., int]


pytestmark = pytest.mark.usefixtures("caches")


@pytest.mark.parametrize(
    ("wrong", "expected"), [(0, (0, "pass")), (12, (1, "regression")), (2, (3, "inconclusive"))]
)
def test_the_verdict_is_the_exit_status(
    evaluate: Run, two_models: Any, tmp_path: Path, wrong: int, expected: tuple[int, str]
) -> None:
    status, verdict = expected
    two_models.wrong = wrong
    path = tmp_path / "reports" / "report.json"

    assert evaluate("--json", str(path)) == status
    report = json.loads(path.read_text())
    assert report["verdict"] == report["tasks"][0]["verdict"] == verdict
    assert (report["n_requests_sent"], report["n_reused"]) == (40, 0)
    assert len(report["tasks"][0]["flips"]["regressed"]) == wrong
    assert len(two_models.bodies) == 40


def test_the_terminal_says_what_was_found(
    evaluate: Run, two_models: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    two_models.wrong = 12
    evaluate("--limit", "18", "--json", str(tmp_path / "report.json"))
    out = capsys.readouterr().out

    assert "sums: 12 worse, 3 shown" in out
    assert "Sum 0  target right  baseline right  candidate wrong" in out
    assert "verdict: regression" in out
    assert "only the first 18 samples" in out
    assert f"report: {tmp_path / 'report.json'}" in out
    assert str(tmp_path / "data" / "vlmserve" / "evals.sqlite") in out


def test_the_page_is_written_with_its_samples_and_written_again(
    evaluate: Run, two_models: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    two_models.wrong = 12
    page, again = tmp_path / "report.html", tmp_path / "again.html"
    assert evaluate("--run-id", "r", "--html", str(page)) == 1
    assert f"report: {page}" in capsys.readouterr().out
    assert main(["report", "r", "--html", str(again)]) == 1

    text = page.read_text(encoding="utf-8")
    assert '<h1 id="verdict">Regression</h1>' in text
    assert text.count('"question":"Sum ') == 12
    assert again.read_text(encoding="utf-8") == text


def test_an_endpoint_is_asked_again_by_another_run_and_not_by_the_same(
    evaluate: Run, two_models: Any
) -> None:
    evaluate("--run-id", "one")
    evaluate("--run-id", "one")
    assert len(two_models.bodies) == 40
    evaluate("--run-id", "two")
    assert len(two_models.bodies) == 80
    evaluate()
    assert len(two_models.bodies) == 120


def test_what_an_endpoint_says_of_its_weights_is_not_trusted(
    evaluate: Run, two_models: Any
) -> None:
    for model in two_models.models:
        model["fingerprint"] = f"sha256:{model['id']}"
    evaluate()
    evaluate()
    assert len(two_models.bodies) == 80


def test_a_run_goes_on_after_the_endpoint_was_gone(
    evaluate: Run, two_models: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    works = two_models.reply
    two_models.reply = lambda body: (
        (404, {"error": {"message": "unloaded"}})
        if body["messages"][0]["content"][0]["text"] == "Sum 15"
        else works(body)
    )
    assert evaluate("--run-id", "one", "--concurrency", "1") == 2
    sent = len(two_models.bodies)
    two_models.reply = works
    assert evaluate("--run-id", "one") == 0

    assert len(two_models.bodies) == 41
    assert sent == 16
    assert "unloaded" in capsys.readouterr().err


def test_a_gate_that_only_warns_lets_no_failing_endpoint_through(
    evaluate: Run, two_models: Any, tmp_path: Path
) -> None:
    works = two_models.reply
    junit = tmp_path / "report.xml"
    two_models.wrong = 2
    assert evaluate("--on-inconclusive", "warn") == 0
    two_models.reply = lambda body: (500, "out of order") if body["model"] == "new" else works(body)
    assert evaluate("--on-inconclusive", "warn", "--junit", str(junit)) == 3
    assert 'errors="1"' in junit.read_text()


def test_flags_that_do_not_go_together_are_refused_before_there_is_a_run(
    evaluate: Run, two_models: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate("--sequential", "--anchor", f"{two_models.url}#old") == 2
    said = capsys.readouterr().err
    assert "--anchor: not with --sequential" in said
    assert "go on with" not in said


def test_a_run_that_takes_the_place_of_another_says_so(
    evaluate: Run, two_models: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    two_models.wrong = 12
    evaluate("--run-id", "one")
    evaluate("--run-id", "one")
    assert "takes its place" not in capsys.readouterr().err
    evaluate("--run-id", "one", "--limit", "3")
    assert "there is a run one of other samples (regression, " in capsys.readouterr().err


def test_an_imported_run_is_never_replaced(
    evaluate: Run, two_models: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "m_MMBench_result.tsv"
    table.write_text("index\tquestion\tprediction\tanswer\thit\n1\tWhich?\tA\tA\t1\n")
    assert main(["import", str(table), "--format", "vlmevalkit", "--name", "theirs"]) == 0
    assert evaluate("--run-id", "theirs") == 2
    assert "--run-id theirs: an imported run has this name" in capsys.readouterr().err
    assert not two_models.bodies


def test_an_interrupted_run_says_how_to_go_on(
    evaluate: Run, two_models: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    works = two_models.reply

    def interrupt(body: dict[str, Any]) -> tuple[int, Any]:
        if len(two_models.bodies) == 6:
            # What Ctrl-C does, once the main thread waits for this answer.
            time.sleep(0.1)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            time.sleep(0.5)
        return works(body)  # type: ignore[no-any-return]

    two_models.reply = interrupt
    assert evaluate("--concurrency", "1") == 130
    said = capsys.readouterr().err
    found = re.search(r"^run (\w+)$", said, re.MULTILINE)
    assert found is not None
    assert said.index(found[0]) < said.index("requests to send")
    assert f"go on with --run-id {found[1]}" in said
    two_models.reply = works
    assert evaluate("--run-id", found[1]) == 0
    assert len(two_models.bodies) == 41


def test_what_training_took_is_nothing_to_endpoints(
    evaluate: Run, two_models: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate("--train-env", "MAX_PIXELS=1003520") == 2
    assert "--train-env: no side is a checkpoint" in capsys.readouterr().err
    assert evaluate("--train-env", "MAX_PIXLES=1") == 2
    assert "unknown variable MAX_PIXLES" in capsys.readouterr().err
    assert not two_models.bodies


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--limit", "0"], "--limit 0: must be at least 1"),
        (["--concurrency", "0"], "--concurrency 0: must be at least 1"),
        (["--set", "engine.dtpe=float32"], "engine.dtpe: unknown key"),
        (["--store", "/dev/null/store"], "/dev/null/store: cannot be opened"),
        (["--json", "/dev/null/report.json"], "--json /dev/null/report.json: cannot be written"),
        (["--json", "/"], "--json /: cannot be written: it is a directory"),
        (["--html", "/proc/page.html"], "--html /proc/page.html: cannot be written"),
        (["--junit", "/proc/new/junit.xml"], "--junit /proc/new/junit.xml: cannot be written"),
        (["--markdown", "/proc/version"], "--markdown /proc/version: cannot be written"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_sent(
    evaluate: Run, two_models: Any, capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    assert evaluate(*more) == 2
    assert said in capsys.readouterr().err
    assert not two_models.bodies


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        (["URL", "URL#old"], (2, "several models or none are served (old, new)")),
        (["URL#newer", "URL#old"], (2, "no model 'newer'; served are: old, new")),
        (["URL#new"], (2, "what an endpoint or a run is compared with must be said")),
        (["URL#new", "http://127.0.0.1:9/v1#old"], (5, "no connection")),
        (["URL#new", "/nosuch"], (4, "/nosuch: no such directory")),
    ],
)
def test_wrong_sides_are_refused(
    two_models: Any,
    suite: Path,
    capsys: pytest.CaptureFixture[str],
    sides: list[str],
    expected: tuple[int, str],
) -> None:
    arguments = ["eval", "--suite", str(suite)]
    for flag, ref in zip(("--ckpt", "--baseline"), sides, strict=False):
        arguments += [flag, ref.replace("URL", two_models.url)]
    status, said = expected

    assert main(arguments) == status
    assert said in capsys.readouterr().err
    assert not two_models.bodies


def test_the_key_comes_from_the_environment(
    evaluate: Run, two_models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_models.api_key = "sesame"
    assert evaluate() == 2
    monkeypatch.setenv("MY_KEY", "sesame")
    assert evaluate("--api-key-env", "MY_KEY") == 0


def test_a_missing_suite_is_a_configuration_error(
    two_models: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    url = two_models.url
    arguments = ["--ckpt", f"{url}#new", "--baseline", f"{url}#old", "--suite", "nosuch.yaml"]

    assert main(["eval", *arguments]) == 2
    assert "nosuch.yaml: No such file" in capsys.readouterr().err


def test_help_imports_nothing_heavy() -> None:
    heavy = ("torch", "vllm", "lm_eval", "scipy", "datasets", "numpy", "pyarrow", "openai")
    script = (
        "import sys\nfrom vlmserve.cli.main import main\n"
        "try:\n    main(['eval', '--help'])\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )

    assert ran.stderr.strip() == "[]"
    assert "--baseline DIR|RUN|URL" in ran.stdout
