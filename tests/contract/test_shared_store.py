"""One store under hard conditions: two processes at once, a disk that is full."""

import json
import os
import resource
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlmserve.evals.store import AnswerStore

N_SAMPLES = 40
_PATIENCE_S = 120


@pytest.fixture
def sums(tmp_path: Path) -> Path:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Sum {number}"},
                {"role": "assistant", "content": "right"},
            ]
        }
        for number in range(N_SAMPLES)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    path = tmp_path / "sums.yaml"
    path.write_text(
        "name: sums\ngate: {margin: 0.2}\nnll: null\n"
        "tasks: [{data: rows.jsonl, name: sums, scorer: exact_match}]\n"
    )
    return path


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(sums: Path, two_models: Any, tmp_path: Path) -> Start:
    """Start ``vlmserve eval`` of ``new`` against ``old`` in a process of its own."""

    def run(name: str, **more: Any) -> "subprocess.Popen[str]":
        command = [
            sys.executable, "-m", "vlmserve", "eval", "--suite", str(sums), "--run-id", "r",
            "--ckpt", f"{two_models.url}#new", "--baseline", f"{two_models.url}#old",
            "--store", str(tmp_path / "store.sqlite"), "--json", str(tmp_path / f"{name}.json"),
            "--concurrency", "2",
        ]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        with (tmp_path / f"{name}.log").open("w") as log:
            return subprocess.Popen(
                command, stdout=log, stderr=log, text=True, env=environment, **more
            )

    return run


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_two_processes_at_once_ask_nothing_twice(
    start: Start, two_models: Any, tmp_path: Path
) -> None:
    works, waited = two_models.reply, threading.Event()

    def answer_late(body: dict[str, Any]) -> tuple[int, Any]:
        # Not before the second process has seen that the first one is at work.
        waited.wait(_PATIENCE_S)
        return works(body)  # type: ignore[no-any-return]

    two_models.reply, two_models.wrong = answer_late, 3
    processes = [start("one"), start("two")]
    deadline = time.monotonic() + _PATIENCE_S
    logs = [tmp_path / "one.log", tmp_path / "two.log"]
    while not any("waiting for its answers" in log.read_text() for log in logs):
        assert time.monotonic() < deadline, [log.read_text() for log in logs]
        time.sleep(0.05)
    waited.set()

    assert [process.wait(_PATIENCE_S) for process in processes] == [0, 0]
    one, two = read(tmp_path / "one.json"), read(tmp_path / "two.json")
    assert len(two_models.bodies) == 2 * N_SAMPLES
    assert one["n_requests_sent"] + two["n_requests_sent"] == 2 * N_SAMPLES
    assert one["n_reused"] + two["n_reused"] == 2 * N_SAMPLES
    assert (one["verdict"], one["tasks"]) == (two["verdict"], two["tasks"])
    assert one["tasks"][0]["difference"] == pytest.approx(-3 / N_SAMPLES)


def n_stored(path: Path) -> int:
    with sqlite3.connect(path) as database:
        return int(database.execute("SELECT count(*) FROM answers").fetchone()[0])


def test_a_full_disk_ends_the_run_and_the_next_one_goes_on(
    start: Start, two_models: Any, tmp_path: Path
) -> None:
    store = tmp_path / "store.sqlite"
    AnswerStore(store).close()
    # Room for some answers in the write-ahead log, and not for all.
    room = 120_000
    full = start("full", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)))
    assert full.wait(_PATIENCE_S) == 2
    said = (tmp_path / "full.log").read_text()
    assert "store.sqlite: the answer cannot be kept" in said
    assert "go on with --run-id r" in said
    assert "Traceback" not in said
    kept = n_stored(store)
    assert 0 < kept < 2 * N_SAMPLES

    assert start("again").wait(_PATIENCE_S) == 0
    again = read(tmp_path / "again.json")
    assert (again["n_reused"], again["n_requests_sent"]) == (kept, 2 * N_SAMPLES - kept)
    assert again["tasks"][0]["n_pairs"] == N_SAMPLES
    assert again["verdict"] == "pass"
