"""Runs that are kept: listing them, and their reports again."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.evals.test_session import Lab, always, wrong_below
from vlmserve.cli.main import main
from vlmserve.evals.eval_task import load_tasks
from vlmserve.evals.session import Session
from vlmserve.evals.store import AnswerStore


@pytest.fixture
def kept(suites: Any, colors: Any, tmp_path: Path) -> str:
    """A store with a run that passed and one that did not."""
    path = tmp_path / "kept.sqlite"
    suites.task("color", colors(60))
    suite = suites.load("color", gate={"margin": 0.08})
    tasks = load_tasks(suite)
    lab = Lab()
    with AnswerStore(path) as store:
        for name, answer in (("fine", always("red")), ("worse", wrong_below(20))):
            session = Session(suite, tasks, store, name)
            session.evaluate(lab.side("old", always("red")), lab.side(name, answer))
    return str(path)


def test_runs_are_listed_oldest_first(kept: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "--store", kept]) == 0
    first, second = capsys.readouterr().out.splitlines()

    assert first.startswith("fine ")
    assert "pass" in first
    assert "small: fine against old" in first
    assert "regression" in second


def test_runs_as_json(kept: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "--store", kept, "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)

    assert [run["verdict"] for run in runs] == ["pass", "regression"]
    assert runs[1]["candidate_fingerprint"] == "sha256:worse"


def test_a_report_is_shown_and_written_again(
    kept: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {name: tmp_path / f"report.{name}" for name in ("json", "markdown", "junit")}
    options = [part for name, path in files.items() for part in (f"--{name}", str(path))]

    assert main(["report", "worse", "--store", kept, *options]) == 1
    assert "verdict: regression" in capsys.readouterr().out
    assert json.loads(files["json"].read_text())["run_id"] == "worse"
    assert files["markdown"].read_text().startswith("## ")
    assert "<testsuite " in files["junit"].read_text()
    assert main(["report", "fine", "--store", kept]) == 0


def test_unknown_runs_and_stores_are_said(
    kept: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "other", "--store", kept]) == 2
    error = capsys.readouterr().err
    assert "no run other" in error
    assert "fine, worse" in error
    missing = tmp_path / "none.sqlite"
    assert main(["runs", "--store", str(missing)]) == 2
    assert "no such store" in capsys.readouterr().err
    assert not missing.exists()


def test_a_report_of_another_version_is_said(kept: str, capsys: pytest.CaptureFixture[str]) -> None:
    with AnswerStore(Path(kept)) as store:
        text = json.loads(store.find_report("fine") or "")
        del text["suite"]["digest"]
        store.keep_report("old", json.dumps(text))

    assert main(["report", "old", "--store", kept]) == 2
    assert "suite.digest: Field required" in capsys.readouterr().err
