"""A training's checkpoints, evaluated as they appear, with real sessions and a real store."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import save_file

from tests.unit.evals.test_session import Lab, always, wrong_below
from vlmserve.checkpoint.training_output import SeenCheckpoint, TrainingOutput
from vlmserve.errors import ConfigError
from vlmserve.evals.eval_task import load_tasks
from vlmserve.evals.report.watch_page import render_watch_page
from vlmserve.evals.report.watch_table import print_watch
from vlmserve.evals.session import Session
from vlmserve.evals.store import AnswerStore
from vlmserve.evals.watching import Patience, Point, Watch, best_points


def nothing() -> None:
    """A while in which nothing happens."""


class Listener:
    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.asked: list[int] = []
        self.steps: list[list[int]] = []

    def waiting(self, reason: str) -> None:
        self.reasons.append(reason)

    def evaluating(self, checkpoint: SeenCheckpoint) -> None:
        self.asked.append(checkpoint.step)

    def evaluated(self, point: Point, points: Iterable[Point]) -> None:
        self.steps.append([each.step for each in points])


class World:
    """A training that goes on while the watch sleeps."""

    def __init__(self, root: Path, session: Callable[[str], Session]) -> None:
        self.folder = root / "out"
        self.store_path = root / "runs.sqlite"
        self.lab = Lab()
        self.now_s = 0.0
        self.listener = Listener()
        self.events: list[Callable[[], object]] = []
        self.wrong: dict[int, int] = {}
        self.broken: dict[int, tuple[int, str]] = {}
        self._session = session

    def save(self, step: int, *, wrong: int = 0, max_steps: int = 30) -> Path:
        """A whole checkpoint that answers so many samples wrongly."""
        path = self.folder / f"checkpoint-{step}"
        path.mkdir(parents=True)
        save_file({"w": np.full((8, 8), step, np.float32)}, path / "model.safetensors")
        state = {"global_step": step, "max_steps": max_steps}
        (path / "trainer_state.json").write_text(json.dumps(state))
        self.wrong[step] = wrong
        return path

    def evaluate(self, checkpoint: Path, run_id: str) -> tuple[int, str | None]:
        step = int(checkpoint.name.rpartition("-")[2])
        if step in self.broken:
            return self.broken[step]
        session = self._session(run_id)
        with session.store:
            old = self.lab.side("base", always("red"))
            new = self.lab.side(f"step {step}", wrong_below(self.wrong[step]))
            report = session.evaluate(old, new)
        return {"pass": 0, "regression": 1, "inconclusive": 3}[report.verdict], None

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        if self.events:
            self.events.pop(0)()

    def watch(self, **patience: Any) -> Watch:
        return Watch(
            output=TrainingOutput(self.folder, settle_s=5.0, clock=lambda: self.now_s),
            store_path=self.store_path,
            name="out",
            evaluate=self.evaluate,
            listener=self.listener,
            patience=Patience(poll_s=5.0, sleep=self.sleep, clock=lambda: self.now_s, **patience),
        )


@pytest.fixture
def world(suites: Any, colors: Callable[[int], Any], tmp_path: Path) -> World:
    suites.task("color", colors(20))
    suite = suites.load("color", gate={"margin": 0.3})
    tasks = load_tasks(suite)
    made: list[World] = []

    def session(run_id: str) -> Session:
        return Session(suite, tasks, AnswerStore(made[0].store_path), run_id)

    made.append(World(tmp_path, session))
    return made[0]


def test_checkpoints_are_evaluated_as_they_appear_until_the_last_step(world: World) -> None:
    world.events = [
        partial(world.save, 10),
        nothing,
        partial(world.save, 20, wrong=15),
        nothing,
        partial(world.save, 30, wrong=2),
    ]
    points = world.watch().run()

    assert [point.step for point in points] == [10, 20, 30]
    assert [point.report.verdict for point in points if point.report] == [
        "pass",
        "regression",
        "inconclusive",
    ]
    assert world.listener.asked == [10, 20, 30]
    assert "waiting for the next checkpoint" in world.listener.reasons
    # The baseline was asked once for all of them.
    assert world.lab.started.count("base") == 1


def test_a_second_watch_pays_for_nothing_again(world: World) -> None:
    world.save(10)
    world.save(30, wrong=2)
    world.watch().run()
    started = list(world.lab.started)
    world.listener = Listener()

    points = world.watch().run()
    assert [point.report is not None for point in points] == [True, True]
    assert world.listener.asked == []
    assert world.lab.started == started


def test_an_interrupted_watch_goes_on_where_it_stopped(world: World) -> None:
    world.save(10)
    world.save(20)
    world.save(30)
    evaluate = world.evaluate

    def interrupted(checkpoint: Path, run_id: str) -> tuple[int, str | None]:
        if checkpoint.name == "checkpoint-20":
            raise KeyboardInterrupt
        return evaluate(checkpoint, run_id)

    watch = world.watch()
    watch.evaluate = interrupted
    with pytest.raises(KeyboardInterrupt):
        watch.run()
    assert [point.step for point in watch.sorted_points()] == [10]

    world.listener = Listener()
    assert [point.step for point in world.watch().run()] == [10, 20, 30]
    assert world.listener.asked == [20, 30]


def test_a_checkpoint_that_was_trained_again_is_evaluated_again(world: World) -> None:
    path = world.save(30)
    world.watch().run()
    state = path / "trainer_state.json"
    # Later than the report: a store's times are whole seconds.
    os.utime(state, (2_000_000_000, 2_000_000_000))
    world.listener = Listener()
    world.watch().run()
    assert world.listener.asked == [30]


def test_it_goes_on_after_one_that_fails(world: World) -> None:
    world.save(10)
    world.save(20)
    world.save(30)
    world.broken = {20: (4, "checkpoint-20 cannot be served")}
    points = world.watch().run()

    assert [point.error for point in points] == [None, "checkpoint-20 cannot be served", None]
    assert points[1].status == 4
    # Failures are not kept: the next watch tries again.
    world.broken = {}
    world.listener = Listener()
    assert all(point.report for point in world.watch().run())
    assert world.listener.asked == [20]


def test_what_is_wrong_with_all_ends_the_watch(world: World) -> None:
    world.save(10)

    def refuse(checkpoint: Path, run_id: str) -> tuple[int, str | None]:
        raise ConfigError("suite.yaml: no such file")

    watch = world.watch()
    watch.evaluate = refuse
    with pytest.raises(ConfigError, match="no such file"):
        watch.run()


def test_once_takes_what_is_complete_and_says_what_is_not(world: World) -> None:
    world.save(10, max_steps=100)
    growing = world.save(20, max_steps=100)
    (growing / "model.safetensors").write_bytes(b"half")
    points = world.watch(once=True).run()

    assert [point.step for point in points] == [10, 20]
    assert points[0].report is not None
    assert re.match(r"not complete: .*truncated", str(points[1].error))
    assert points[1].status == 0


def test_a_partial_checkpoint_is_waited_for(world: World) -> None:
    path = world.save(30)
    whole = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(whole[:40])

    def finish() -> None:
        assert world.listener.asked == []
        (path / "model.safetensors").write_bytes(whole)

    world.events = [nothing, finish]
    points = world.watch().run()
    assert points[0].report is not None
    assert any("checkpoint-30" in reason for reason in world.listener.reasons)


def test_a_checkpoint_that_is_removed_while_it_is_read_is_called_removed(world: World) -> None:
    path = world.save(10)
    world.save(30)

    def vanish(checkpoint: Path, run_id: str) -> tuple[int, str | None]:
        if checkpoint == path:
            shutil.rmtree(path)
            return 4, "no such file"
        return world.evaluate(checkpoint, run_id)

    watch = world.watch()
    watch.evaluate = vanish
    assert [point.error for point in watch.run()] == ["it was removed meanwhile", None]


def test_a_training_that_stands_still_is_given_up_after_the_timeout(world: World) -> None:
    world.save(10, max_steps=100)
    points = world.watch(timeout_s=60.0).run()
    assert [point.step for point in points] == [10]
    assert world.now_s >= 60.0


def test_page_and_table_show_curves_and_what_failed(world: World) -> None:
    world.save(10, wrong=15)
    world.save(20)
    world.save(30)
    world.broken = {20: (5, "the engine died <script>")}
    points = world.watch().run()

    page = render_watch_page("out/<run>", points, ["choose elsewhere"])
    assert page.count('<svg class="curve"') == 1
    assert "out/&lt;run&gt;" in page
    assert "step 10: 25, regression; step 30: 100, pass" in page
    assert "the engine died &lt;script&gt;" in page
    assert "choose elsewhere" in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert [(task, point.step) for task, point in best_points(points)] == [("color", 30)]

    console = Console(width=100, record=True, file=None, force_terminal=False)
    with console.capture() as captured:
        print_watch(points, console)
    table = captured.get()
    assert re.search(r"10\s+regression\s+25\.0", table)
    assert re.search(r"20\s+the engine died", table)
