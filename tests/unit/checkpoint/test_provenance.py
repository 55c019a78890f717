"""What training frameworks leave behind, and what is told about their environment."""

import json
from pathlib import Path

import pytest

from vlmserve.checkpoint.provenance import (
    TrainingInfo,
    VisionLimits,
    load_training,
    parse_train_env,
)
from vlmserve.errors import CheckpointError, ConfigError


def test_nothing_known(tmp_path: Path) -> None:
    assert load_training(tmp_path) is None


def test_swift(tmp_path: Path) -> None:
    arguments = {
        "model": "/models/Qwen2-VL-2B",
        "template": "qwen2_vl",
        "system": None,
        "max_length": 2048,
        "truncation_strategy": "delete",
        "max_pixels": 1003520,
        "swift_version": "3.7.1",
        "output_dir": "out",
    }
    (tmp_path / "args.json").write_text(json.dumps(arguments))
    (tmp_path / "trainer_state.json").write_text('{"log_history": [{"step": 1, "loss": NaN}]}')
    training = load_training(tmp_path)
    assert training is not None
    assert len(training.log_history) == 1
    assert training == TrainingInfo(
        framework="ms-swift",
        version="3.7.1",
        model="/models/Qwen2-VL-2B",
        template="qwen2_vl",
        system=None,
        max_length=2048,
        truncation_strategy="delete",
        limits=VisionLimits(max_pixels=1003520),
        log_history=training.log_history,
        files=("trainer_state.json", "args.json"),
    )
    assert (training.max_pixels, training.min_pixels) == (1003520, None)


def test_arguments_one_level_up_belong_to_a_step_only(tmp_path: Path) -> None:
    (tmp_path / "args.json").write_text('{"model": "m"}')
    for name in ("checkpoint-10", "other"):
        (tmp_path / name).mkdir()
    training = load_training(tmp_path / "checkpoint-10")
    assert training is not None
    assert training.files == ("../args.json",)
    assert load_training(tmp_path / "other") is None


def test_llama_factory(tmp_path: Path) -> None:
    (tmp_path / "trainer_log.jsonl").touch()
    training = load_training(tmp_path)
    assert training is not None
    assert (training.framework, training.max_pixels) == ("llama-factory", None)
    (tmp_path / "training_args.yaml").write_text(
        "model_name_or_path: org/base\ntemplate: qwen2_vl\ncutoff_len: 4096\n"
        "image_max_pixels: 589824\nvideo_maxlen: 128\n"
    )
    training = load_training(tmp_path)
    assert training is not None
    assert (training.model, training.max_length) == ("org/base", 4096)
    assert training.limits == VisionLimits(max_pixels=589824, fps_max_frames=128)


def test_plain_trainer(tmp_path: Path) -> None:
    (tmp_path / "training_args.bin").touch()
    training = load_training(tmp_path)
    assert training is not None
    assert training.framework == "transformers"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("args.json", '{"model": "m", "max_pixels": "1e6"}', "max_pixels: a positive whole"),
        ("args.json", "[]", "a JSON object is expected"),
        ("trainer_state.json", '{"log_history": 3}', "log_history: a list"),
        ("trainer_state.json", '{"log_history": [', "not JSON"),
        ("training_args.yaml", "a: [", "not readable YAML"),
        ("training_args.yaml", "- a", "a mapping is expected"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_training(tmp_path)
    assert str(tmp_path / name) in caught.value.message


def test_environment() -> None:
    limits = parse_train_env(
        ["MAX_PIXELS=1003520", "FPS=1.5", "FPS_MAX_FRAMES=12", "MAX_PIXELS=602112"]
    )
    assert limits == VisionLimits(max_pixels=602112, fps=1.5, fps_max_frames=12)
    assert parse_train_env([]) == VisionLimits()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("MAX_PIXELS", "expected NAME=value"),
        ("max_pixels=3", "unknown variable max_pixels"),
        ("CUDA_VISIBLE_DEVICES=0", "unknown variable"),
        ("MAX_PIXELS=1e6", "positive whole number"),
        ("MAX_PIXELS=0", "positive whole number"),
        ("FPS=nan", "positive number"),
        ("FPS=-1", "positive number"),
    ],
)
def test_wrong_environment_is_named(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"--train-env {setting}: .*{message}"):
        parse_train_env([setting])


def test_limits_in_tokens_become_pixels() -> None:
    limits = VisionLimits(image_max_token_num=1024, max_pixels=5, video_max_pixels=7, fps=2.0)
    assert limits.in_pixels(1024) == VisionLimits(
        max_pixels=1024 * 1024, video_max_pixels=7, fps=2.0
    )


def test_later_limits_win_where_they_are_known() -> None:
    limits = VisionLimits(max_pixels=5, fps=1.0).updated(VisionLimits(max_pixels=6, min_pixels=2))
    assert limits == VisionLimits(max_pixels=6, min_pixels=2, fps=1.0)
