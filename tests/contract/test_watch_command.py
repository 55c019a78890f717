"""``vlmserve watch`` from the command line, as far as it goes without an engine."""

import argparse
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vlmserve.cli.child import run_child
from vlmserve.cli.main import main
from vlmserve.cli.watch import Evaluation
from vlmserve.evals.trackers import create_tracker


def flat(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def test_ctrl_c_ends_it_cleanly(suite: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    command = [sys.executable, "-m", "vlmserve", "watch", str(folder), "--suite", str(suite)]
    with subprocess.Popen(
        [*command, "--store", str(tmp_path / "runs.sqlite"), "--poll", "0.1"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "XDG_DATA_HOME": str(tmp_path)},
    ) as process:
        assert process.stderr is not None
        while "waiting for the next checkpoint" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()

    assert process.returncode == 130
    assert "0 checkpoints are evaluated and kept; the same command goes on from here" in flat(err)
    assert "Traceback" not in err
    assert out == ""


def test_an_empty_directory_once_is_said(
    suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    store = ["--store", str(tmp_path / "runs.sqlite")]
    assert main(["watch", str(tmp_path / "out"), "--suite", str(suite), "--once", *store]) == 0
    assert "no checkpoint was complete" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--poll", "0"], "--poll 0: must be above 0"),
        (["--html", "/proc/page.html"], "--html /proc/page.html: cannot be written"),
        (["--timeout", "-1"], "--timeout -1: must be above 0"),
    ],
)
def test_what_cannot_be_watched_is_said(
    suite: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    said: str,
) -> None:
    command = ["watch", str(tmp_path), "--suite", str(suite)]
    assert main([*command, *more]) == 2
    assert said in flat(capsys.readouterr().err)


def test_a_directory_that_is_missing_is_said(
    suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["watch", str(tmp_path / "no"), "--suite", str(suite), "--once"]) == 2
    assert "no such directory" in flat(capsys.readouterr().err)


def whole_checkpoint(folder: Path, step: int) -> Path:
    import numpy as np
    from safetensors.numpy import save_file

    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    save_file({"w": np.ones((4, 4), np.float32)}, path / "model.safetensors")
    (path / "trainer_state.json").write_text(f'{{"global_step": {step}, "max_steps": {step}}}')
    return path


def test_a_checkpoint_that_cannot_be_served_does_not_end_the_watch(
    suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The real ``vlmserve eval`` refuses both, each in a process of its own."""
    folder = tmp_path / "out"
    for step in (10, 20):
        whole_checkpoint(folder, step)
    page = tmp_path / "page" / "watch.html"
    command = ["watch", str(folder), "--suite", str(suite), "--settle", "0.1", "--poll", "0.1"]
    store = ["--store", str(tmp_path / "runs.sqlite")]
    status = main([*command, *store, "--html", str(page), "--baseline", str(folder)])
    out = capsys.readouterr().out

    assert status == 4
    assert re.search(r"step 10: not evaluated: .*checkpoint-10", out)
    assert re.search(r"step 20: not evaluated: .*checkpoint-20", out)
    assert "not evaluated" in page.read_text()


def test_a_wrong_option_for_eval_ends_the_watch(
    suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    whole_checkpoint(folder, 10)
    command = ["watch", str(folder), "--suite", str(suite), "--settle", "0.1", "--poll", "0.1"]
    store = ["--store", str(tmp_path / "runs.sqlite")]
    assert main([*command, *store, "--", "--limit", "0"]) == 2
    assert "--limit 0: must be at least 1" in flat(capsys.readouterr().err)


def test_an_endpoint_is_asked_once_for_all_checkpoints(
    evaluate: Callable[..., int], suite: Path, tmp_path: Path
) -> None:
    store = tmp_path / "data" / "vlmserve" / "evals.sqlite"
    args = argparse.Namespace(
        suite=suite, baseline="http://host/v1#old", passed_on=["--limit", "3"]
    )
    watched = Evaluation(args, store, "out")
    before = watched.command(tmp_path / "checkpoint-10", "out-10")
    evaluate("--run-id", "out-10")
    evaluate("--run-id", "another-10")
    after = watched.command(tmp_path / "checkpoint-20", "out-20")

    assert before[before.index("--baseline") + 1] == "http://host/v1#old"
    assert after[after.index("--baseline") + 1] == "run:out-10:baseline"
    assert after[-2:] == ["--limit", "3"]
    # What the command says is what ``vlmserve eval`` takes.
    assert evaluate(*after[after.index("--baseline") :][:2], "--run-id", "out-20") == 0


def test_an_error_of_a_child_is_heard_whole() -> None:
    program = "import sys; print('error: one\\ntwo\\nhint: three', file=sys.stderr); sys.exit(5)"
    assert run_child([sys.executable, "-c", program]) == (5, "one\ntwo")
    killed = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert run_child([sys.executable, "-c", killed]) == (137, None)


@pytest.mark.parametrize("kind", ["wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_is_said(
    kind: str,
    suite: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, kind, None)
    assert main(["watch", str(tmp_path), "--suite", str(suite), "--log-to", kind]) == 2
    err = flat(capsys.readouterr().err)
    assert f"--log-to {kind}: {kind} is not installed" in err
    assert "pip install" in err


def test_mlflow_goes_on_with_a_run_of_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path / 'mlruns'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    for rows in ({10: 0.5, 20: 0.6}, {10: 0.9, 30: 0.7}):
        tracker = create_tracker("mlflow", "watch-1")
        for step, value in rows.items():
            tracker.log(step, {"color/exact_match": value})
        tracker.close()
    client = mlflow.MlflowClient()
    place = client.get_experiment_by_name("vlmserve").experiment_id
    (run,) = client.search_runs([place])
    history = client.get_metric_history(run.info.run_id, "color/exact_match")

    assert [(each.step, each.value) for each in history] == [(10, 0.5), (20, 0.6), (30, 0.7)]
    assert run.info.status == "FINISHED"


def test_wandb_writes_each_step_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    tracker = create_tracker("wandb", "watch-1")
    tracker.log(20, {"color/exact_match": 0.6})
    # Not in order: W&B's own steps could not go back.
    tracker.log(10, {"color/exact_match": 0.5})
    tracker.log(10, {"color/exact_match": 0.9})
    tracker.close()
    (run,) = (tmp_path / "wandb").glob("offline-run-*-watch-1")

    assert any(run.glob("*.wandb"))


def test_a_flag_that_eval_does_not_know_is_told_before_there_is_a_checkpoint(
    suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["watch", str(tmp_path), "--suite", str(suite), "--once", "--", "--limitt", "3"]
    with pytest.raises(SystemExit, match="2"):
        main(command)
    assert "unrecognized arguments: --limitt 3" in capsys.readouterr().err
