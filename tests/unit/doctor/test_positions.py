"""Positions of training and serving: only where versions, frameworks and data tell them apart."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vlmserve.checkpoint.source import load_checkpoint
from vlmserve.datasets.sample import Dataset, Medium, Sample, Turn
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import Finding, Outcome, Unknown
from vlmserve.doctor.positions import check_mrope
from vlmserve.platform import cure_torch_extensions

SMALL = {"min_pixels": 28 * 28, "max_pixels": 28 * 28 * 64}


def prepare(
    write: Any, config: dict[str, Any], version: str | None, *, name: str = "model"
) -> Path:
    directory: Path = write.model(name)
    config = {**config, "transformers_version": version}
    (directory / "config.json").write_text(json.dumps(config))
    processor = {"image_processor_type": "Qwen2VLImageProcessor", **SMALL}
    for file in ("preprocessor_config.json", "video_preprocessor_config.json"):
        (directory / file).write_text(json.dumps(processor))
    return directory


def by_trainer(directory: Path) -> None:
    (directory / "trainer_state.json").write_text('{"log_history": []}')


def by_llama_factory(directory: Path) -> None:
    (directory / "training_args.yaml").write_text("model_name_or_path: base\n")


def by_swift(directory: Path) -> None:
    (directory / "args.json").write_text('{"model": "base", "swift_version": "2.6"}')


def dataset(root: Path, *media: Medium) -> Dataset:
    sample = Sample(
        file=root / "train.jsonl",
        row=1,
        turns=(Turn("user", (*media, "what?")), Turn("assistant", ("this",))),
        media=media,
        n_placeholders=Counter(medium.kind for medium in media),
    )
    return Dataset(root / "train.jsonl", "openai", (sample,))


def image(root: Path, name: str, size: tuple[int, int]) -> Medium:
    Image.new("RGB", size).save(root / name)
    return Medium("image", name, root=root)


def video(root: Path, n_frames: int, size: tuple[int, int], fps: float | None = None) -> Medium:
    frame = image(root, "frame.png", size)
    return Medium("video", "clip", frames=(frame,) * n_frames, frames_per_second=fps)


def run(directory: Path, base: Path | None = None, **settings: Any) -> list[Outcome]:
    exam = Examination(load_checkpoint(directory, base_model=base), fast=False, **settings)
    return list(check_mrope(exam))


@pytest.mark.parametrize("version", ["4.45.2", "4.46.3", "4.46.0.dev0"])
@pytest.mark.parametrize(
    ("trained", "severity"), [(by_trainer, "warn"), (by_llama_factory, "info"), (by_swift, None)]
)
def test_before_4_47(
    write: Any, tiny_qwen2_vl: Any, version: str, trained: Any, severity: str | None
) -> None:
    model = prepare(write, tiny_qwen2_vl, version)
    trained(model)
    outcomes = run(model)
    assert [getattr(outcome, "severity", None) for outcome in outcomes] == (
        [] if severity is None else [severity]
    )


@pytest.mark.parametrize("version", ["4.41.2", "4.47.1", "4.49.0", "5.19.0", None, "nightly"])
def test_other_versions_are_clean(write: Any, tiny_qwen2_vl: Any, version: str | None) -> None:
    model = prepare(write, tiny_qwen2_vl, version)
    by_trainer(model)
    assert run(model) == []


def test_a_published_model_is_clean(write: Any, tiny_qwen2_vl: Any) -> None:
    model = prepare(write, tiny_qwen2_vl, "4.46.3")
    assert run(model) == []
    base = prepare(write, tiny_qwen2_vl, "4.46.3", name="base")
    assert run(model, base) == []


def test_another_version_than_the_base_s_is_a_hint(write: Any, tiny_qwen2_vl: Any) -> None:
    model = prepare(write, tiny_qwen2_vl, "4.46.3")
    base = prepare(write, tiny_qwen2_vl, "4.41.2", name="base")
    (finding,) = run(model, base)
    assert isinstance(finding, Finding)
    assert finding.severity == "info"
    assert finding.title.startswith("maybe")


def test_text_alone_has_the_same_positions(write: Any, tiny_qwen2_vl: Any, tmp_path: Path) -> None:
    model = prepare(write, tiny_qwen2_vl, "4.46.3")
    by_trainer(model)
    assert run(model, data=dataset(tmp_path)) == []
    (finding,) = run(model, data=dataset(tmp_path, image(tmp_path, "a.png", (56, 56))))
    assert isinstance(finding, Finding)


def test_adapters_do_not_tell(write: Any, tiny_qwen2_vl: Any) -> None:
    base = prepare(write, tiny_qwen2_vl, "4.46.3")
    adapter = write.adapter(base)
    by_trainer(adapter)
    assert run(adapter) == []


@pytest.mark.parametrize(
    ("version", "n_frames", "found"),
    [("5.3.0", 10, True), ("5.19.0", 10, True), ("5.2.0", 10, False), ("5.19.0", 4, False)],
)
def test_behind_videos(
    write: Any, tiny_qwen2_vl: Any, tmp_path: Path, version: str, n_frames: int, found: bool
) -> None:
    model = prepare(write, tiny_qwen2_vl, version)
    data = dataset(tmp_path, video(tmp_path, n_frames, (84, 56)))
    outcomes = run(model, data=data)
    assert len(outcomes) == found
    if found:
        (finding,) = outcomes
        assert isinstance(finding, Finding)
        assert finding.severity == "warn"
        assert "starts 3 positions after" in finding.evidence[1].value
        assert "5 in vLLM" in finding.evidence[1].value


def test_qwen2_5_vl_counts_seconds(write: Any, tiny_qwen2_vl: Any, tmp_path: Path) -> None:
    config = {
        **tiny_qwen2_vl,
        "model_type": "qwen2_5_vl",
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "vision_config": {"tokens_per_second": 2},
    }
    model = prepare(write, config, "5.19.0")
    # Two steps: the second is 2 positions on at 2 frames a second, and 8 at one in 2 seconds.
    assert run(model, data=dataset(tmp_path, video(tmp_path, 4, (84, 56)))) == []
    (finding,) = run(model, data=dataset(tmp_path, video(tmp_path, 4, (84, 56), fps=0.5)))
    assert isinstance(finding, Finding)
    assert "9 in vLLM" in finding.evidence[1].value


def test_without_videos_there_is_nothing_to_say(
    write: Any, tiny_qwen2_vl: Any, tmp_path: Path
) -> None:
    model = prepare(write, tiny_qwen2_vl, "5.19.0")
    assert run(model) == []
    assert run(model, data=dataset(tmp_path, image(tmp_path, "a.png", (56, 56)))) == []


def test_videos_that_are_files_are_not_known(
    write: Any, tiny_qwen2_vl: Any, tmp_path: Path
) -> None:
    model = prepare(write, tiny_qwen2_vl, "5.19.0")
    clip = Medium("video", "clip.mp4", root=tmp_path)
    (outcome,) = run(model, data=dataset(tmp_path, clip))
    assert isinstance(outcome, Unknown)
    # One that can be measured decides.
    assert run(model, data=dataset(tmp_path, clip, video(tmp_path, 4, (84, 56)))) == []


def test_the_two_rules_are_those_of_the_installed_transformers() -> None:
    cure_torch_extensions()
    import torch
    from transformers import Qwen2VLConfig, Qwen2VLModel

    with torch.device("meta"):
        model = Qwen2VLModel(
            Qwen2VLConfig(
                text_config={
                    "vocab_size": 8,
                    "hidden_size": 16,
                    "intermediate_size": 16,
                    "num_hidden_layers": 1,
                    "num_attention_heads": 2,
                    "num_key_value_heads": 1,
                    "rope_parameters": {"rope_theta": 1e6, "mrope_section": [1, 1, 2]},
                },
                vision_config={"depth": 1, "embed_dim": 16, "num_heads": 2, "hidden_size": 16},
            )
        )
    steps, height, width = 5, 2, 3
    n_tokens = steps * height * width
    kinds = torch.tensor([[2] * n_tokens + [0]])
    grid = torch.tensor([[steps, height * 2, width * 2]])
    positions, _ = model.get_rope_index(torch.zeros_like(kinds), kinds, video_grid_thw=grid)
    assert positions[:, 0, -1].tolist() == [width] * 3
    assert int(positions[0, 0, :-1].max()) + 1 == steps
