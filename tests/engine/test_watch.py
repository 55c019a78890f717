"""``vlmserve watch`` over a training's checkpoints with real vLLM: interrupted, and resumed."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from vlmserve.cli.main import main
from vlmserve.evals.report.eval_report import EvalReport
from vlmserve.evals.store import AnswerStore

LIMIT = "12"


def save(zoo: Path, folder: Path, step: int) -> None:
    """The good fine-tune, as a Trainer would have left it at a step of 20."""
    path = folder / f"checkpoint-{step}"
    shutil.copytree(zoo / "good", path)
    state = {"global_step": step, "max_steps": 20}
    (path / "trainer_state.json").write_text(json.dumps(state))


def test_an_interrupted_watch_goes_on_and_pays_for_nothing_twice(
    root: Path, zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, store, page = tmp_path / "out", tmp_path / "runs.sqlite", tmp_path / "watch.html"
    save(zoo, folder, 10)
    command = [
        "watch", str(folder), "--suite", str(root / "evals" / "demo.yaml"), "--name", "run",
        "--store", str(store), "--html", str(page), "--settle", "0.2", "--poll", "0.2",
    ]  # fmt: skip
    base = ["--base-model", str(zoo / "base")]
    passed_on = ["--", "--limit", LIMIT, *base, "--config", str(root / "configs/cpu-demo.yaml")]

    with subprocess.Popen(
        [sys.executable, "-m", "vlmserve", *command, *passed_on],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=os.environ,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("loading "):
                break
        engine = psutil.Process(process.pid).children(recursive=True)
        assert engine
        process.send_signal(signal.SIGINT)
        process.stderr.read()
    assert process.returncode == 130
    _, alive = psutil.wait_procs(engine, timeout=30)
    assert not alive

    # What the training saved meanwhile has the same weights: there is nothing to ask of it.
    save(zoo, folder, 20)
    assert main([*command, *passed_on]) == 0
    out = capsys.readouterr().out
    assert "step 10: " in out
    assert "step 20: " in out
    assert "took no part in choosing" in out
    with AnswerStore(store) as opened:
        texts = [opened.find_report(f"run-{step}") for step in (10, 20)]
    first, second = (EvalReport.model_validate_json(text or "") for text in texts)
    assert first.n_requests_sent > 0
    assert second.n_requests_sent == 0
    assert [task.candidate for task in first.tasks] == [task.candidate for task in second.tasks]
    assert page.read_text().count('<svg class="curve"') >= len(first.tasks)

    # A third call finds everything in the store.
    assert main([*command, "--once", *passed_on]) == 0
    assert "evaluating" not in capsys.readouterr().err
