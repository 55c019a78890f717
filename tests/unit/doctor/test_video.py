"""Videos in training against videos in serving."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.unit.conftest import CheckpointWriter
from vlmserve.checkpoint.provenance import VisionLimits
from vlmserve.checkpoint.source import load_checkpoint
from vlmserve.config.serve import ServeConfig
from vlmserve.datasets.sample import Dataset, Medium, Sample, Turn
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import Finding
from vlmserve.doctor.video import check_video

SHIPPED = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "min_pixels": 3136,
    "max_pixels": 12845056,
}


def run(directory: Path, base: Path | None = None, **settings: Any) -> list[Finding]:
    exam = Examination(load_checkpoint(directory, base_model=base), fast=False, **settings)
    outcomes = list(check_video(exam))
    assert all(isinstance(outcome, Finding) for outcome in outcomes)
    return [outcome for outcome in outcomes if isinstance(outcome, Finding)]


def table(found: Finding) -> dict[str, str]:
    return {item.key: item.value for item in found.evidence if item.file == "frames"}


def set_video(directory: Path, **settings: Any) -> None:
    path = directory / "video_preprocessor_config.json"
    path.write_text(json.dumps({"video_processor_type": "Qwen2VLVideoProcessor", **settings}))


def set_serve(**engine: Any) -> ServeConfig:
    return ServeConfig.model_validate({"engine": engine})


@pytest.fixture
def tuned(write: CheckpointWriter) -> Path:
    directory = write.model("tuned")
    (directory / "preprocessor_config.json").write_text(json.dumps(SHIPPED))
    return directory


@pytest.fixture
def videos(tmp_path: Path) -> Dataset:
    medium = Medium("video", "a.mp4", tmp_path)
    turns = (Turn("user", (medium, "?")), Turn("assistant", ("!",)))
    sample = Sample(tmp_path / "x.jsonl", 1, turns, (medium,), Counter())
    return Dataset(tmp_path / "x.jsonl", "openai", (sample,))


def swift_args(directory: Path) -> None:
    (directory / "args.json").write_text(json.dumps({"swift_version": "4.6.0"}))


def test_nothing_is_said_without_a_sign_of_videos(tuned: Path, videos: Dataset) -> None:
    assert run(tuned) == []
    assert run(tuned, data=videos) == []  # nothing tells how it was trained
    (tuned / "trainer_log.jsonl").touch()
    assert run(tuned) == []
    assert run(tuned, train_env=VisionLimits(max_pixels=589824)) == []


def test_llama_factory_by_default(tuned: Path, videos: Dataset) -> None:
    (tuned / "trainer_log.jsonl").touch()
    (found,) = run(tuned, data=videos)
    assert found.severity == "warn"
    assert "probably" in found.title
    # 341x192 is 12x7 tokens for two frames; 1920x1080 is 69x39.
    assert table(found)["300 s of 1920x1080"] == (
        "128 frames of 42 tokens in training, 600 frames of 1345.5 tokens in vlmserve serve"
    )
    assert found.evidence[0].value == "1 samples with videos"
    assert "--train-env FPS_MAX_FRAMES=128 --train-env VIDEO_MAX_PIXELS=65536" in found.remedy


def test_what_the_user_tells_is_carried_over(tuned: Path, videos: Dataset) -> None:
    (tuned / "trainer_log.jsonl").touch()
    told = VisionLimits(fps=2.0, fps_max_frames=128, video_max_pixels=65536)
    assert run(tuned, data=videos, train_env=told) == []


def test_swift_by_default(tuned: Path, videos: Dataset) -> None:
    swift_args(tuned)
    (found,) = run(tuned, data=videos)
    # The frames are the same; qwen-vl-utils shrinks those of high resolution.
    assert table(found)["10 s of 640x360"] == (
        "20 frames of 149.5 tokens in training, 20 frames of 149.5 tokens in vlmserve serve"
    )
    assert "1345.5 tokens in vlmserve serve" in table(found)["300 s of 1920x1080"]
    assert run(tuned, data=videos, train_env=VisionLimits(video_max_pixels=602112)) == []


def test_operator_overrides_the_frames(tuned: Path) -> None:
    swift_args(tuned)
    told = VisionLimits(fps=1.0, video_max_pixels=602112)
    assert run(tuned, train_env=told) == []
    (found,) = run(tuned, train_env=told, serve=set_serve(media_io_kwargs={"video": {"fps": 4}}))
    assert "60 frames" in table(found)["60 s of 1280x720"]
    assert "240 frames" in table(found)["60 s of 1280x720"]
    assert "engine.media_io_kwargs" in found.remedy
    size = {"shortest_edge": 3136, "longest_edge": 12845056}
    chosen = {"videos_kwargs": {"size": size}}
    (found,) = run(tuned, train_env=told, serve=set_serve(mm_processor_kwargs=chosen))
    assert "1345.5 tokens" in table(found)["300 s of 1920x1080"]


def test_family_with_vllms_uniform_frames(
    write: CheckpointWriter, tiny_llava: dict[str, Any], videos: Dataset
) -> None:
    directory = write.model("llava", tiny_llava)
    (directory / "trainer_log.jsonl").touch()
    (found,) = run(directory, data=videos)
    assert table(found)["60 s of 1280x720"] == (
        "120 frames in training, 32 frames in vlmserve serve"
    )
    chosen = set_serve(media_io_kwargs={"video": {"fps": 2, "num_frames": 128}})
    assert "fps: 2, num_frames: 128" in found.remedy
    assert run(directory, data=videos, serve=chosen) == []


@pytest.mark.parametrize(
    ("settings", "key", "said"),
    [
        ({"temporal_patch_size": 1}, "temporal_patch_size", "the model's is 2"),
        ({"patch_size": 16}, "patch_size", "the model's is 14"),
        ({"merge_size": 1}, "merge_size", "the model's is 2"),
        ({"do_sample_frames": True, "fps": 2}, "do_sample_frames", "taken already"),
        ({"size": {"shortest_edge": 100352, "longest_edge": 50176}}, "size", "larger than"),
    ],
)
def test_contradictions(tuned: Path, settings: dict[str, Any], key: str, said: str) -> None:
    set_video(tuned, **settings)
    (found,) = run(tuned)
    assert found.severity == "warn"
    assert said in found.title
    assert found.evidence[0].key == key


def test_settings_that_do_no_harm(tuned: Path) -> None:
    set_video(tuned, patch_size=14, temporal_patch_size=2, merge_size=2, do_sample_frames=False)
    assert run(tuned) == []
    # vLLM's own loader takes the frames, whatever the processor would take.
    set_video(tuned, fps=1, min_frames=8, max_frames=16, num_frames=None)
    assert run(tuned) == []


def test_class_default_enlarges_small_frames(
    write: CheckpointWriter, tuned: Path, videos: Dataset
) -> None:
    base = write.model("base")
    (base / "preprocessor_config.json").write_text(json.dumps(SHIPPED))
    assert run(tuned, base, data=videos) == []
    set_video(tuned)  # a file without sizes: those of the class
    assert run(tuned, base) == []
    (found,) = run(tuned, base, data=videos)
    assert found.severity == "info"
    assert "8 frames of 56x56 are 576 tokens, were 16" in found.title
    assert found.evidence[1].key == "default of the class"


def test_adapters_own_video_processor(
    write: CheckpointWriter, tuned: Path, videos: Dataset
) -> None:
    adapter = write.adapter(tuned)
    set_video(adapter, size={"shortest_edge": 3136, "longest_edge": 65536})
    assert run(adapter, data=videos) == []  # the adapter has no image processor of its own
    (adapter / "preprocessor_config.json").write_text(json.dumps(SHIPPED))
    (found,) = run(adapter, data=videos)
    assert found.severity == "warn"
    assert "not the training's" in found.title


def test_frames_taken_twice_are_what_transformers_fails_on() -> None:
    from vlmserve.platform import cure_torch_extensions

    cure_torch_extensions()
    import numpy as np
    from transformers import Qwen2VLVideoProcessor
    from transformers.video_utils import VideoMetadata

    processor = Qwen2VLVideoProcessor(do_sample_frames=True, fps=2, cap_pixels_per_frame=False)
    frames = np.zeros((20, 56, 56, 3), np.uint8)
    indices = list(range(0, 300, 15))
    metadata = VideoMetadata(total_num_frames=300, fps=30.0, duration=10.0, frames_indices=indices)
    with pytest.raises(IndexError):
        processor(videos=[frames], video_metadata=[metadata])
