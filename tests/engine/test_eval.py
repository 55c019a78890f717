"""The verdicts on the demo's fine-tunes: real command, real lm-eval, real vLLM, every sample."""

import contextlib
import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import Server
from vlmserve.cli.main import main


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all: the base is asked once for every fine-tune that shares its settings."""
    return tmp_path_factory.mktemp("store") / "evals.sqlite"


def evaluate(root: Path, store: Path, checkpoint: str | Path, *more: str) -> tuple[int, Any]:
    report = store.parent / "report.json"
    report.unlink(missing_ok=True)
    status = main(
        [
            "eval", "--ckpt", str(checkpoint), "--suite", str(root / "evals" / "demo.yaml"),
            "--config", str(root / "configs" / "cpu-demo.yaml"), "--store", str(store),
            "--json", str(report), *more,
        ]
    )  # fmt: skip
    return status, json.loads(report.read_text()) if report.exists() else None


@pytest.fixture(scope="module")
def good(root: Path, store: Path, zoo: Path) -> Any:
    """Exit status and report of the good fine-tune, judged first."""
    return evaluate(root, store, zoo / "good")


def task(report: Any, name: str) -> Any:
    return next(entry for entry in report["tasks"] if entry["task"] == name)


def test_good_fine_tune_passes(good: Any) -> None:
    status, report = good

    assert status == 0
    assert report["verdict"] == "pass"
    assert report["n_reused"] == 0
    assert report["n_requests_sent"] == 2 * sum(entry["n_pairs"] for entry in report["tasks"])
    gated = [entry for entry in report["tasks"] if entry["gated"]]
    assert len(gated) == 8
    for entry in gated:
        assert entry["lower"] > -0.08
        assert entry["n_failed_baseline"] == entry["n_failed_candidate"] == 0
    assert task(report, "newcolor")["difference"] > 0.8
    for entry in report["tasks"]:
        nll = entry["nll"]
        assert nll["n_pairs"] == min(100, entry["n_pairs"])
        assert nll["n_failed_baseline"] == nll["n_failed_candidate"] == 0
    # What it learned is what it finds likelier.
    assert task(report, "newcolor")["nll"]["per_token"]["upper"] < -1


def test_the_kept_run_gives_every_number_again(good: Any, store: Path, tmp_path: Path) -> None:
    _, report = good
    path, run = tmp_path / "again.json", report["run_id"]
    status = main(["compare", f"{run}:baseline", run, "--store", str(store), "--json", str(path)])
    again = json.loads(path.read_text())

    assert status == 0
    for field in ("verdict", "tasks", "slices"):
        assert again[field] == report[field]


def test_the_same_again_sends_nothing(root: Path, store: Path, zoo: Path, good: Any) -> None:
    status, report = evaluate(root, store, zoo / "good")

    assert status == 0
    assert report["n_requests_sent"] == 0
    assert report["baseline"]["n_scored"] == report["candidate"]["n_scored"] == 0
    assert report["tasks"] == good[1]["tasks"]


@pytest.mark.usefixtures("good")
@pytest.mark.parametrize(
    ("name", "harmed"), [("forgetful", "color"), ("wrong-template", "reverse")]
)
def test_harmed_fine_tune_is_a_regression_and_the_base_is_not_asked_again(
    root: Path, store: Path, zoo: Path, name: str, harmed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, report = evaluate(root, store, zoo / name)

    assert status == 1
    assert report["verdict"] == "regression"
    n_samples = sum(entry["n_pairs"] for entry in report["tasks"])
    assert report["n_requests_sent"] == n_samples
    assert report["n_reused"] == n_samples
    worse = task(report, harmed)
    assert worse["verdict"] == "regression"
    assert worse["upper"] < 0
    flip = worse["flips"]["regressed"][0]
    assert flip["baseline"]["answer"] != flip["candidate"]["answer"]
    assert worse["nll"]["per_token"]["lower"] > 0
    assert "regression" in capsys.readouterr().out


def test_adapter_passes_beside_its_base_in_one_engine(root: Path, store: Path, zoo: Path) -> None:
    status, report = evaluate(root, store, zoo / "good-lora")

    assert status == 0
    assert report["verdict"] == "pass"
    assert task(report, "newcolor")["difference"] > 0.8


def test_training_without_signal_is_no_regression(root: Path, store: Path, zoo: Path) -> None:
    """It equals its base: no answer differs. That it learned nothing is for the doctor to say."""
    status, report = evaluate(root, store, zoo / "no-signal")

    assert status == 0
    assert all(entry["difference"] == 0 for entry in report["tasks"])


def test_missing_vision_tower_fails_at_load(
    root: Path, store: Path, zoo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, report = evaluate(root, store, zoo / "no-vision")

    assert status == 4
    assert report is None
    printed = capsys.readouterr().err
    assert "[ckpt.tensors]" in printed
    assert "vision tower" in printed


def test_unknown_baseline_is_a_configuration_error(
    root: Path, store: Path, zoo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _ = evaluate(root, store, zoo / "base")

    assert status == 2
    assert "--baseline" in capsys.readouterr().err


def test_endpoint_gives_the_answers_of_the_engine_in_process(
    root: Path, store: Path, zoo: Path, server: Server
) -> None:
    """What is served is what was judged offline: answer by answer, for base and adapter."""
    _, offline = evaluate(root, store, zoo / "good-lora", "--limit", "10")
    endpoint = store.with_name("endpoint.sqlite")
    _, served = evaluate(
        root, endpoint, f"{server.url}/v1#good-lora",
        "--baseline", f"{server.url}/v1#base", "--limit", "10",
    )  # fmt: skip

    assert served["n_requests_sent"] == 2 * sum(entry["n_pairs"] for entry in served["tasks"])
    # It states what it serves by the fingerprints of the directories: it is known by them.
    assert served["baseline"]["fingerprint"] == offline["baseline"]["fingerprint"]
    assert served["candidate"]["fingerprint"] == offline["candidate"]["fingerprint"]
    assert served["candidate"]["settings"]["dtype"] == offline["candidate"]["settings"]["dtype"]
    _, repeated = evaluate(
        root, endpoint, f"{server.url}/v1#good-lora",
        "--baseline", f"{server.url}/v1#base", "--limit", "10",
    )  # fmt: skip
    assert repeated["n_requests_sent"] == 0
    for side in ("baseline", "candidate"):
        judged = answers(store, offline[side]["fingerprint"])
        given = answers(endpoint, served[side]["fingerprint"])
        assert len(given) == sum(entry["n_pairs"] for entry in served["tasks"])
        assert given == {request: judged[request] for request in given}
        for entry in served["tasks"]:
            expected = task(offline, entry["task"])["nll"]["per_token"][side]
            assert entry["nll"]["per_token"][side] == pytest.approx(expected, abs=1e-4)


def test_transformers_judges_like_vllm(root: Path, store: Path, zoo: Path, tmp_path: Path) -> None:
    """The reference engine by the command: same answers, same likelihoods, kept apart."""
    tasks = "".join(f"  - {{task: {name}, metric: exact_match}}\n" for name in ("ref", "video"))
    suite = tmp_path / "few.yaml"
    suite.write_text(
        f"name: few\ninclude_path: {root / 'evals' / 'demo'}\nnll: true\n"
        f"gate: {{margin: 0.5}}\nsampling: {{temperature: 0}}\ntasks:\n{tasks}"
    )
    reports = []
    for engine in ("vllm", "transformers"):
        file = tmp_path / f"{engine}.json"
        # In a process of its own, as the command is: both engines change what they import.
        command = [
            sys.executable, "-m", "vlmserve", "eval", "--ckpt", str(zoo / "good-lora"),
            "--suite", str(suite), "--limit", "12", "--store", str(store), "--json", str(file),
            "--config", str(root / "configs" / "cpu-demo.yaml"), "--engine", engine,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        reports.append(json.loads(file.read_text()))

    served, reference = reports
    assert reference["candidate"]["settings"]["engine"] == "transformers"
    assert reference["n_requests_sent"] == 48
    for name in ("ref", "video"):
        ours, theirs = task(served, name), task(reference, name)
        for side in ("baseline", "candidate"):
            assert ours[side] == theirs[side]
            assert ours["nll"]["per_token"][side] == pytest.approx(
                theirs["nll"]["per_token"][side], abs=1e-4
            )


def answers(store: Path, fingerprint: str) -> dict[str, str]:
    """What a checkpoint answered, by the digest of the request."""
    with contextlib.closing(sqlite3.connect(store)) as connection:
        rows = connection.execute(
            "SELECT request, completion FROM answers WHERE checkpoint = ?", (fingerprint,)
        ).fetchall()
    return {request: json.loads(completion)["text"] for request, completion in rows}
