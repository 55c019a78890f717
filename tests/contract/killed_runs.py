"""Kills evaluations at random moments and lets them go on; run by ``test_kill.py``.

A program of its own: it forks, which a test process with threads must not, and so loads the tasks
once instead of forty times.
"""

import hashlib
import json
import os
import random
import signal
import sqlite3
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from typing_extensions import override

from vlmserve.config.suite import load_suite
from vlmserve.engine.base import Engine, GenerationRequest, GenerationResult
from vlmserve.engine.scripted import ScriptedEngine
from vlmserve.evals.answering import EngineSource, Side
from vlmserve.evals.eval_task import EvalTask, load_tasks
from vlmserve.evals.session import Session
from vlmserve.evals.store import AnswerStore

KILLS = 20
ANSWER_S = 0.002


class SlowEngine(ScriptedEngine):
    """Takes its time, so that there is a moment to be killed at."""

    @override
    def generate(self, requests: Iterable[GenerationRequest]) -> Iterator[GenerationResult]:
        """Answer in the order of the requests."""
        for result in super().generate(requests):
            time.sleep(ANSWER_S)
            yield result


def side(name: str, wrong_below: int) -> Side:
    """A side that answers the first numbers wrongly."""

    def answer(request: GenerationRequest) -> str:
        part = request.messages[-1].parts[0]
        number = int(str(getattr(part, "text", "")).split()[1])
        return "wrong" if number < wrong_below else "right"

    @contextmanager
    def start() -> Iterator[Engine]:
        yield SlowEngine(answer)

    return Side(name, f"sha256:{name}", {}, EngineSource(start), lambda engine: engine.models[0])


def evaluate(tasks: list[EvalTask], suite: Any, store: Path, out: Path) -> None:
    """One whole run; its report goes to ``out``."""
    with AnswerStore(store) as opened:
        session = Session(suite, tasks, opened, "run")
        report = session.evaluate(side("old", 3), side("new", 40))
    out.write_text(report.model_dump_json())


def fork(tasks: list[EvalTask], suite: Any, store: Path, out: Path) -> int:
    """Run an evaluation in a child."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            evaluate(tasks, suite, store, out)
            status = 0
        finally:
            os._exit(status)
    return child


def stored(store: Path) -> int:
    """How many answers are on disk."""
    if not store.is_file():
        return 0
    with sqlite3.connect(store) as database:
        (tables,) = database.execute(
            "SELECT count(*) FROM sqlite_master WHERE name = 'answers'"
        ).fetchone()
        return int(database.execute("SELECT count(*) FROM answers").fetchone()[0]) if tables else 0


def kept(store: Path) -> str:
    """A digest of every sample that is kept of the run, but for the time that answers took."""
    with sqlite3.connect(store) as database:
        rows = database.execute(
            "SELECT side, task, position, asked_at, sample, "
            "json_remove(outcome, '$.completion.latency_s') FROM outcomes "
            "ORDER BY side, task, position"
        ).fetchall()
    assert rows
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def main(folder: Path) -> int:
    """Kill twenty runs, resume each, and print what became of them as JSON lines."""
    suite = load_suite(folder / "suite.yaml")
    tasks = load_tasks(suite)
    whole = folder / "whole.json"
    began = time.monotonic()
    evaluate(tasks, suite, folder / "whole.sqlite", whole)
    duration_s = time.monotonic() - began
    chance = random.Random(0)  # noqa: S311 - moments, not secrets
    for number in range(KILLS):
        store, out = folder / f"{number}.sqlite", folder / f"{number}.json"
        child = fork(tasks, suite, store, out)
        time.sleep(chance.uniform(0.0, duration_s))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        n_stored = stored(store)
        resumed = fork(tasks, suite, store, out)
        _, resumed_status = os.waitpid(resumed, 0)
        row = {
            "was_killed": os.WIFSIGNALED(status),
            "n_stored": n_stored,
            "resumed_status": resumed_status,
            "report": json.loads(out.read_text()),
            "kept": kept(store),
        }
        sys.stdout.write(json.dumps(row) + "\n")
    undisturbed = {"report": json.loads(whole.read_text()), "kept": kept(folder / "whole.sqlite")}
    sys.stdout.write(json.dumps(undisturbed) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
