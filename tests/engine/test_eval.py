"""The verdicts on the demo's fine-tunes: real command, real lm-eval, real vLLM, every sample."""

import json
from pathlib import Path
from typing import Any

import pytest

from vlmserve.cli.main import main


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all: the base is asked once for every fine-tune that shares its settings."""
    return tmp_path_factory.mktemp("store") / "evals.sqlite"


def evaluate(root: Path, store: Path, checkpoint: Path, *more: str) -> tuple[int, Any]:
    report = store.parent / f"{checkpoint.name}.json"
    report.unlink(missing_ok=True)
    status = main(
        [
            "eval", "--ckpt", str(checkpoint), "--suite", str(root / "evals" / "demo.yaml"),
            "--config", str(root / "configs" / "cpu-demo.yaml"), "--store", str(store),
            "--json", str(report), *more,
        ]
    )  # fmt: skip
    return status, json.loads(report.read_text()) if report.exists() else None


def task(report: Any, name: str) -> Any:
    return next(entry for entry in report["tasks"] if entry["task"] == name)


def test_good_fine_tune_passes(root: Path, store: Path, zoo: Path) -> None:
    status, report = evaluate(root, store, zoo / "good")

    assert status == 0
    assert report["verdict"] == "pass"
    assert report["n_reused"] == 0
    gated = [entry for entry in report["tasks"] if entry["gated"]]
    assert len(gated) == 8
    for entry in gated:
        assert entry["lower"] > -0.08
        assert entry["n_failed_baseline"] == entry["n_failed_candidate"] == 0
    assert task(report, "newcolor")["difference"] > 0.8


def test_forgetful_fine_tune_is_a_regression_and_the_base_is_not_asked_again(
    root: Path, store: Path, zoo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, before = evaluate(root, store, zoo / "good")
    assert before["n_requests_sent"] == 0

    status, report = evaluate(root, store, zoo / "forgetful")

    assert status == 1
    assert report["verdict"] == "regression"
    n_samples = sum(entry["n_pairs"] for entry in report["tasks"])
    assert report["n_requests_sent"] == n_samples
    assert report["n_reused"] == n_samples
    worse = [entry for entry in report["tasks"] if entry["verdict"] == "regression"]
    assert worse
    for entry in worse:
        assert entry["upper"] < 0
        assert entry["flips"]["regressed"]
        flip = entry["flips"]["regressed"][0]
        assert flip["baseline"] != flip["candidate"]
    assert "regression" in capsys.readouterr().out


def test_adapter_passes_beside_its_base_in_one_engine(root: Path, store: Path, zoo: Path) -> None:
    status, report = evaluate(root, store, zoo / "good-lora")

    assert status == 0
    assert report["verdict"] == "pass"
    assert task(report, "newcolor")["difference"] > 0.8


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
    root: Path, store: Path, zoo: Path, server: Any
) -> None:
    """The shared server as both sides: what is served is what was judged offline."""
    _, offline = evaluate(root, store, zoo / "good-lora", "--limit", "10")
    report_path = store.parent / "endpoint.json"
    status = main(
        [
            "eval", "--ckpt", f"{server.url}/v1#good-lora", "--baseline", f"{server.url}/v1#base",
            "--suite", str(root / "evals" / "demo.yaml"), "--store", str(store),
            "--json", str(report_path), "--limit", "10",
        ]
    )  # fmt: skip
    served = json.loads(report_path.read_text())

    assert status in (0, 3)
    for name in ("color", "digit", "video", "reverse", "newcolor"):
        ours, theirs = task(offline, name), task(served, name)
        assert (ours["baseline"], ours["candidate"]) == (theirs["baseline"], theirs["candidate"])
