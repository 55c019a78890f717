"""Images in training against images in serving."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.unit.conftest import CheckpointWriter
from vlmserve.checkpoint.provenance import VisionLimits
from vlmserve.checkpoint.source import load_checkpoint
from vlmserve.config.serve import ServeConfig
from vlmserve.datasets.sample import Dataset, Medium, Sample, Turn
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import Finding, Unknown
from vlmserve.doctor.pixels import check_pixels

SHIPPED = {"min_pixels": 3136, "max_pixels": 12845056}


def set_processor(directory: Path, **settings: Any) -> None:
    content = {"image_processor_type": "Qwen2VLImageProcessor", **settings}
    (directory / "preprocessor_config.json").write_text(json.dumps(content))


def set_serve(**engine: Any) -> ServeConfig:
    return ServeConfig.model_validate({"engine": engine})


def run(directory: Path, base: Path | None = None, **settings: Any) -> list[Any]:
    exam = Examination(load_checkpoint(directory, base_model=base), **settings)
    return list(check_pixels(exam))


def the_finding(outcomes: list[Any]) -> Finding:
    (found,) = outcomes
    assert isinstance(found, Finding)
    return found


def table(found: Finding) -> dict[str, str]:
    return {item.key: item.value for item in found.evidence if item.file == "tokens"}


def swift_args(directory: Path, **args: Any) -> None:
    (directory / "args.json").write_text(json.dumps({"swift_version": "4.6.0", **args}))


def images(directory: Path, sizes: list[tuple[int, int]]) -> Dataset:
    directory.mkdir()
    rows = []
    for index, size in enumerate(sizes):
        path = directory / f"{index}.png"
        Image.new("RGB", size).save(path)
        medium = Medium("image", path.name, directory)
        turns = (Turn("user", (medium, "?")), Turn("assistant", ("!",)))
        rows.append(Sample(directory / "x.jsonl", index + 1, turns, (medium,), Counter()))
    return Dataset(directory / "x.jsonl", "openai", tuple(rows))


@pytest.fixture
def tuned(write: CheckpointWriter) -> Path:
    directory = write.model("tuned")
    set_processor(directory, **SHIPPED)
    return directory


def test_nothing_is_said_of_an_unknown_training(tuned: Path) -> None:
    assert run(tuned) == []
    assert run(tuned, serve=set_serve(mm_processor_kwargs={"max_pixels": 3136})) == []


def test_llama_factory_without_a_record(tuned: Path) -> None:
    (tuned / "trainer_log.jsonl").touch()
    found = the_finding(run(tuned))
    assert found.severity == "warn"
    assert "probably" in found.title
    assert "3000x2000 was 748 tokens, is 7597 tokens" in found.title
    assert table(found) == {
        "224x224": "64 tokens in training, 64 tokens in vlmserve serve",
        "640x480": "391 tokens in training, 391 tokens in vlmserve serve",
        "1024x768": "768 tokens in training, 999 tokens in vlmserve serve",
        "1920x1080": "777 tokens in training, 2691 tokens in vlmserve serve",
        "3000x2000": "748 tokens in training, 7597 tokens in vlmserve serve",
    }
    assert "MAX_PIXELS=589824" in found.remedy
    assert found.evidence[0].file == "trainer_log.jsonl"


def test_llama_factory_that_was_told(tuned: Path) -> None:
    (tuned / "trainer_log.jsonl").touch()
    found = the_finding(run(tuned, train_env=VisionLimits(max_pixels=589824)))
    assert found.severity == "info"
    assert table(found)["1920x1080"] == (
        "777 tokens in training, 2691 tokens in plain vLLM, 720 tokens in vlmserve serve"
    )


def test_recorded_limit_is_carried_over(tuned: Path) -> None:
    swift_args(tuned, max_pixels=1003520)
    found, unknown = run(tuned)
    assert found.severity == "info"
    assert "the processor's files lack the image limit" in found.title
    assert isinstance(unknown, Unknown)
    assert "MAX_PIXELS" in unknown.reason


def test_recorded_limit_that_is_the_processors_own(tuned: Path) -> None:
    swift_args(tuned, max_pixels=1003520)
    set_processor(tuned, min_pixels=3136, max_pixels=1003520)
    (unknown,) = run(tuned)
    assert isinstance(unknown, Unknown)


def test_limit_of_the_environment_in_tokens(tuned: Path) -> None:
    swift_args(tuned)
    found = the_finding(run(tuned, train_env=VisionLimits(image_max_token_num=256)))
    assert found.severity == "info"
    assert found.evidence[0].key == "IMAGE_MAX_TOKEN_NUM"


def test_operator_overrides_the_training(tuned: Path) -> None:
    swift_args(tuned, max_pixels=1003520)
    serve = set_serve(mm_processor_kwargs={"images_kwargs": {"size": {"longest_edge": 12845056}}})
    found = the_finding(run(tuned, serve=serve))
    assert found.severity == "warn"
    assert any(item.key == "engine.mm_processor_kwargs" for item in found.evidence)


def test_limits_without_an_effect_on_usual_sizes(tuned: Path) -> None:
    swift_args(tuned, max_pixels=9000000)
    (unknown,) = run(tuned)
    assert isinstance(unknown, Unknown)


@pytest.mark.parametrize("record", [True, False])
def test_processor_that_is_not_the_bases(
    write: CheckpointWriter, tuned: Path, record: bool
) -> None:
    base = write.model("base")
    set_processor(base, min_pixels=3136, max_pixels=1003520)
    if record:
        swift_args(tuned)
    found = the_finding(run(tuned, base))
    # A plain trainer saves the processor that it used.
    assert found.severity == ("warn" if record else "info")
    assert ("not the base model's" in found.title) is not record


def test_spellings_of_one_limit(write: CheckpointWriter, tuned: Path) -> None:
    base = write.model("base")
    set_processor(base, size={"shortest_edge": 3136, "longest_edge": 12845056})
    assert run(tuned, base) == []
    (base / "preprocessor_config.json").unlink()
    processor = {"size": {"shortest_edge": 3136, "longest_edge": 12845056}}
    (base / "processor_config.json").write_text(json.dumps({"image_processor": processor}))
    assert run(tuned, base) == []


def test_adapter_saved_with_another_processor(write: CheckpointWriter, tuned: Path) -> None:
    adapter = write.adapter(tuned)
    assert run(adapter) == []
    set_processor(adapter, min_pixels=3136, max_pixels=200704)
    found = the_finding(run(adapter))
    assert found.severity == "warn"
    shown = [item.value for item in found.evidence if item.key == "max_pixels"]
    assert shown == ["12845056 (served)", "200704 (of the training)"]


def test_the_users_own_images_decide(tuned: Path, tmp_path: Path) -> None:
    (tuned / "trainer_log.jsonl").touch()
    small = images(tmp_path / "small", [(320, 240)] * 4)
    assert run(tuned, data=small, fast=False) == []
    mixed = images(tmp_path / "mixed", [(320, 240)] * 3 + [(1920, 1080)])
    found = the_finding(run(tuned, data=mixed, fast=False))
    (row,) = [item for item in found.evidence if item.key == "4 images"]
    assert row.value == (
        "median 99, p95 777 tokens in training, median 99, p95 2691 tokens in vlmserve serve"
    )
    # The fast pass opens no image.
    assert "3000x2000" in the_finding(run(tuned, data=small, fast=True)).title


def test_family_whose_images_have_one_size(
    write: CheckpointWriter, tiny_llava: dict[str, Any]
) -> None:
    directory = write.model("llava", tiny_llava)
    (directory / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "CLIPImageProcessor", "crop_size": 28, "size": 28})
    )
    swift_args(directory, max_pixels=50176)
    assert run(directory) == []


def test_family_without_a_formula(tuned: Path) -> None:
    (tuned / "config.json").write_text('{"architectures": ["SomethingNew"]}')
    assert run(tuned) == []
    swift_args(tuned, max_pixels=50176)
    (unknown,) = run(tuned)
    assert "SomethingNew" in unknown.reason


def test_internvl_by_llama_factory(write: CheckpointWriter) -> None:
    config = {
        "architectures": ["InternVLForConditionalGeneration"],
        "model_type": "internvl",
        "image_seq_length": 256,
        "text_config": {
            "model_type": "qwen2",
            "vocab_size": 40,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
        },
        "vision_config": {
            "hidden_size": 8,
            "intermediate_size": 12,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": [448, 448],
            "patch_size": [14, 14],
        },
    }
    directory = write.model("internvl", config)
    size = {"height": 448, "width": 448}
    processor = {"image_processor_type": "GotOcr2ImageProcessor", "size": size}
    (directory / "preprocessor_config.json").write_text(json.dumps(processor))
    assert run(directory) == []
    (directory / "trainer_log.jsonl").touch()
    found = the_finding(run(directory))
    assert found.severity == "warn"
    assert table(found)["1920x1080"].startswith("258 tokens in training, ")
    assert "crop_to_patches: false" in found.remedy
    assert [item.key for item in found.evidence][:2] == ["crop_to_patches", "image_max_pixels"]
    decided = set_serve(mm_processor_kwargs={"crop_to_patches": False})
    assert run(directory, serve=decided) == []
