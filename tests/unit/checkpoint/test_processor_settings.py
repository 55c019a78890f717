import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.conftest import TINY_QWEN2_VL, CheckpointWriter
from vlmserve.checkpoint.processor_defaults import (
    _BY_MODEL_TYPE,
    _DEFAULTS,
    processor_class,
    processor_defaults,
)
from vlmserve.checkpoint.processor_settings import (
    SettingSource,
    load_processor_settings,
    read_processor_settings,
)
from vlmserve.checkpoint.source import load_checkpoint
from vlmserve.errors import CheckpointError
from vlmserve.platform import cure_torch_extensions


def _write(directory: Path, name: str, content: dict[str, Any]) -> Path:
    path = directory / name
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("name", sorted(_DEFAULTS))
def test_defaults_are_those_of_the_class(name: str) -> None:
    cure_torch_extensions()
    import transformers

    real = getattr(transformers, name)

    for key, value in processor_defaults(name).items():
        assert getattr(real, key) == value, key


@pytest.mark.parametrize("kind", ["image", "video"])
def test_classes_are_those_that_transformers_builds(kind: Any) -> None:
    cure_torch_extensions()
    from transformers.models.auto import image_processing_auto, video_processing_auto

    module = {"image": image_processing_auto, "video": video_processing_auto}[kind]
    real = getattr(module, f"{kind.upper()}_PROCESSOR_MAPPING_NAMES")

    for model_type, name in _BY_MODEL_TYPE[kind].items():
        named = real[model_type]
        assert (named["torchvision"] if isinstance(named, dict) else named) == name


def test_settings_of_transformers_4_51(tmp_path: Path) -> None:
    path = _write(
        tmp_path,
        "preprocessor_config.json",
        {"image_processor_type": "Qwen2VLImageProcessor", "max_pixels": 99_999, "patch_size": 16},
    )

    settings = read_processor_settings(tmp_path, "qwen2_vl")

    assert settings.image["max_pixels"] == 99_999
    assert settings.image["size"] == {"shortest_edge": 3136, "longest_edge": 99_999}
    assert settings.image["min_pixels"] == 3136
    assert settings.image["merge_size"] == 2
    assert settings.source("max_pixels") == SettingSource(path, "max_pixels")
    assert settings.source("merge_size") == SettingSource(None, "Qwen2VLImageProcessor")
    # There was no video processor, and transformers still reads the image's file for it.
    assert settings.video["max_pixels"] == 99_999
    assert settings.source("max_pixels", "video") == SettingSource(path, "max_pixels")


def test_settings_of_transformers_4_57(tmp_path: Path) -> None:
    size = {"shortest_edge": 100_352, "longest_edge": 301_056}
    _write(tmp_path, "preprocessor_config.json", {"size": {**size, "longest_edge": 401_408}})
    path = _write(tmp_path, "video_preprocessor_config.json", {"size": size, "fps": 1})

    settings = read_processor_settings(tmp_path, "qwen2_vl")

    assert settings.image["max_pixels"] == 401_408
    assert settings.video["max_pixels"] == 301_056
    assert settings.video["fps"] == 1
    assert settings.source("max_pixels", "video") == SettingSource(path, "size.longest_edge")


def test_settings_of_transformers_5(tmp_path: Path) -> None:
    _write(tmp_path, "preprocessor_config.json", {"max_pixels": 1})
    path = _write(
        tmp_path,
        "processor_config.json",
        {
            "image_processor": {"size": {"shortest_edge": 4096, "longest_edge": 65_536}},
            "video_processor": {"num_frames": 8},
            "image_seq_length": 64,
        },
    )

    settings = read_processor_settings(tmp_path, "qwen3_vl")

    assert settings.image["max_pixels"] == 65_536
    assert settings.source("max_pixels").key == "image_processor.size.longest_edge"
    assert settings.video["num_frames"] == 8
    assert settings.video["patch_size"] == 16
    assert settings.wrapper["image_seq_length"] == 64
    assert settings.source("image_seq_length", "wrapper") == SettingSource(path, "image_seq_length")
    assert "image_processor" not in settings.wrapper


def test_variants_of_a_class_count_as_the_class() -> None:
    assert processor_class("image", "LlavaNextImageProcessorFast", "llava") == (
        "LlavaNextImageProcessor"
    )
    assert processor_class("image", "CLIPImageProcessorPil", "llava") == "CLIPImageProcessor"
    assert processor_class("video", None, "llava") == ""


@pytest.mark.parametrize("value", [0, -1, True, "28", None])
def test_a_malformed_setting_is_named(value: Any, tmp_path: Path) -> None:
    path = _write(tmp_path, "processor_config.json", {"image_processor": {"patches": value}})
    settings = read_processor_settings(tmp_path, "")

    with pytest.raises(CheckpointError) as caught:
        settings.image.integer("patches")

    assert str(path) in caught.value.message
    assert "image_processor.patches" in caught.value.message


def test_settings_are_borrowed_as_for_serving(write: CheckpointWriter) -> None:
    base = write.model("base")
    _write(base, "preprocessor_config.json", {"max_pixels": 12_345_678})
    tuned = write.model("tuned", TINY_QWEN2_VL)
    (tuned / "preprocessor_config.json").unlink()

    borrowed = load_processor_settings(load_checkpoint(tuned, base_model=base))
    assumed = load_processor_settings(load_checkpoint(tuned))

    assert borrowed.image["max_pixels"] == 12_345_678
    assert borrowed.source("max_pixels").path == base / "preprocessor_config.json"
    assert assumed.image["max_pixels"] == 1_003_520
    assert assumed.source("max_pixels").path is None


def test_an_adapter_has_its_base_models_settings(write: CheckpointWriter) -> None:
    base = write.model("base")
    _write(base, "preprocessor_config.json", {"max_pixels": 12_345_678})
    adapter = write.adapter(base)
    _write(adapter, "preprocessor_config.json", {"max_pixels": 1})

    settings = load_processor_settings(load_checkpoint(adapter))

    assert settings.image["max_pixels"] == 12_345_678
