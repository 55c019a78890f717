"""Checkpoints that a training is still writing are told from those that are whole."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from vlmserve.checkpoint.training_output import TrainingOutput, missing_part
from vlmserve.errors import CheckpointError


class Training:
    """Writes as transformers' Trainer does, step by step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now_s = 0.0

    def output(self) -> TrainingOutput:
        return TrainingOutput(self.folder, settle_s=5.0, clock=lambda: self.now_s)

    def weights(self, step: int, *, shards: int = 1, name: str = "model") -> Path:
        path = self.folder / f"checkpoint-{step}"
        path.mkdir(parents=True, exist_ok=True)
        names = [
            f"{name}.safetensors" if shards == 1 else f"{name}-{i}-of-{shards}.safetensors"
            for i in range(shards)
        ]
        for index, file in enumerate(names):
            save_file({f"w{index}": np.ones((64, 64), np.float32)}, path / file)
        if shards > 1:
            index_of = {f"w{index}": file for index, file in enumerate(names)}
            (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index_of}))
        return path

    def state(self, step: int, *, at: Path | None = None, max_steps: int = 100) -> None:
        path = at or self.folder / f"checkpoint-{step}"
        text = json.dumps({"global_step": step, "max_steps": max_steps})
        (path / "trainer_state.json").write_text(text)

    def whole(self, step: int, **more: Any) -> Path:
        path = self.weights(step, **more)
        self.state(step)
        return path


@pytest.fixture
def training(tmp_path: Path) -> Training:
    return Training(tmp_path / "out")


def lacks(output: TrainingOutput) -> dict[int, str | None]:
    return {seen.step: seen.missing for seen in output.look()}


def test_a_directory_that_is_not_there_yet_has_no_checkpoints(training: Training) -> None:
    output = training.output()
    assert output.look() == []
    assert not output.is_finished()


def test_a_checkpoint_is_complete_when_its_files_rest(training: Training) -> None:
    training.whole(10)
    output = training.output()

    (seen,) = output.look()
    assert seen.is_settling
    assert "changed less than 5 s ago" in str(seen.missing)
    training.now_s = 5.0
    assert lacks(output) == {10: None}


def test_a_file_that_grows_starts_the_wait_anew(training: Training) -> None:
    path = training.whole(10)
    output = training.output()
    output.look()
    training.now_s = 4.0
    with (path / "optimizer.pt").open("wb") as file:
        file.write(b"x" * 100)
    assert lacks(output)[10] is not None
    training.now_s = 8.0
    assert lacks(output)[10] is not None
    training.now_s = 9.0
    assert lacks(output) == {10: None}


def test_a_file_written_in_place_counts_as_changed(training: Training) -> None:
    path = training.whole(10)
    output = training.output()
    output.look()
    training.now_s = 6.0
    os.utime(path / "model.safetensors", ns=(1, 1))
    assert lacks(output)[10] is not None


def test_weights_that_are_cut_short_are_waited_for(training: Training) -> None:
    path = training.whole(10)
    file = path / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1000])
    output = training.output()
    output.look()
    training.now_s = 100.0
    assert "truncated" in str(lacks(output)[10])
    file.write_bytes(whole)
    output.look()
    training.now_s = 200.0
    assert lacks(output) == {10: None}


def test_a_shard_that_the_index_names_is_waited_for(training: Training) -> None:
    path = training.whole(10, shards=3)
    (path / "model-2-of-3.safetensors").unlink()
    training.now_s = 100.0

    assert "model-2-of-3.safetensors" in str(missing_part(path))


def test_an_adapter_is_a_checkpoint(training: Training) -> None:
    training.whole(10, name="adapter_model")
    output = training.output()
    output.look()
    training.now_s = 5.0
    assert lacks(output) == {10: None}


def test_without_the_trainers_state_the_wait_is_longer(training: Training) -> None:
    training.weights(10)
    output = training.output()
    output.look()
    training.now_s = 30.0
    assert "trainer_state.json" in str(lacks(output)[10])
    training.now_s = 60.0
    assert lacks(output) == {10: None}


@pytest.mark.parametrize(
    ("text", "said"), [('{"global_', "not JSON"), ('{"global_step": 20}', "of step 20")]
)
def test_a_state_that_is_half_written_or_of_another_step_is_said(
    training: Training, text: str, said: str
) -> None:
    path = training.weights(10)
    (path / "trainer_state.json").write_text(text)
    assert said in str(missing_part(path))


def test_no_weights_at_all_are_said(training: Training) -> None:
    path = training.weights(10)
    (path / "model.safetensors").unlink()
    assert missing_part(path) == "it has no weights"


def test_checkpoints_come_by_step_and_merged_copies_do_not(training: Training) -> None:
    for step in (100, 20, 3):
        training.whole(step)
    shutil.copytree(training.folder / "checkpoint-20", training.folder / "checkpoint-20-merged")
    assert [seen.step for seen in training.output().look()] == [3, 20, 100]


def test_a_checkpoint_that_is_removed_meanwhile_is_forgotten(training: Training) -> None:
    path = training.whole(10)
    output = training.output()
    output.look()
    shutil.rmtree(path)
    assert output.look() == []


def test_runs_one_level_down_are_found_and_several_refused(training: Training) -> None:
    root = training.folder
    training.folder = root / "v0-20261126"
    training.whole(10)
    assert [seen.step for seen in TrainingOutput(root).look()] == [10]
    training.folder = root / "v1-20261126"
    training.whole(10)
    with pytest.raises(CheckpointError, match="several runs: v0-20261126, v1-20261126"):
        TrainingOutput(root).look()


def test_the_last_step_ends_a_training(training: Training) -> None:
    training.whole(50)
    output = training.output()
    assert not output.is_finished()
    training.weights(100)
    training.state(100)
    assert output.is_finished()


def test_a_state_of_the_whole_run_ends_it_as_well(training: Training) -> None:
    training.whole(50)
    training.state(100, at=training.folder)
    assert training.output().is_finished()
