"""Padding, cropping, tiles and normalisation in training against those in serving."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.conftest import CheckpointWriter
from vlmserve.checkpoint.processor_settings import PartSettings
from vlmserve.checkpoint.source import load_checkpoint
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import Finding
from vlmserve.doctor.geometry import check_geometry
from vlmserve.doctor.settings_diff import differing_settings, is_same

CLIP = {
    "image_processor_type": "CLIPImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": 28},
    "do_center_crop": True,
    "crop_size": {"height": 28, "width": 28},
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
}
QWEN = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "patch_size": 14,
    "merge_size": 2,
    "temporal_patch_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
}


def set_processor(directory: Path, content: dict[str, Any], **changes: Any) -> None:
    (directory / "preprocessor_config.json").write_text(json.dumps({**content, **changes}))


def set_config(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def run(directory: Path, base: Path | None = None) -> list[Finding]:
    outcomes = list(check_geometry(Examination(load_checkpoint(directory, base_model=base))))
    assert all(isinstance(outcome, Finding) for outcome in outcomes)
    return [outcome for outcome in outcomes if isinstance(outcome, Finding)]


@pytest.fixture
def llava(write: CheckpointWriter, tiny_llava: dict[str, Any]) -> Path:
    directory = write.model("llava", tiny_llava)
    set_processor(directory, CLIP)
    return directory


@pytest.fixture
def llava_base(write: CheckpointWriter, tiny_llava: dict[str, Any]) -> Path:
    directory = write.model("llava-base", tiny_llava)
    set_processor(directory, CLIP)
    return directory


@pytest.mark.parametrize(
    ("key", "left", "right", "same"),
    [
        ("size", 336, {"shortest_edge": 336}, True),
        ("size", 336, {"height": 336, "width": 336}, True),
        ("size", 336, {"shortest_edge": 224}, False),
        ("size", {"shortest_edge": 336, "longest_edge": None}, {"shortest_edge": 336}, True),
        ("size", {"shortest_edge": 336}, {"height": 336, "width": 336}, False),
        ("crop_size", 336, {"height": 336, "width": 336}, True),
        ("crop_size", {"height": 336, "width": 336}, {"height": 336, "width": 224}, False),
        ("resample", 3, "bicubic", True),
        ("resample", 3, "PILImageResampling.BICUBIC", True),
        ("resample", 2, "bicubic", False),
        ("image_mean", [0.5, 0.5, 0.5], (0.5000001, 0.5, 0.5), True),
        ("image_mean", [0.5, 0.5, 0.5], [0.48, 0.45, 0.4], False),
        ("rescale_factor", 1 / 255, 0.00392156862745098, True),
        ("do_center_crop", 1, True, True),
        ("image_grid_pinpoints", [[336, 672], [672, 336]], [(336, 672), (672, 336)], True),
        ("image_grid_pinpoints", [[336, 672], [672, 336]], [[672, 336], [336, 672]], False),
    ],
)
def test_spellings(key: str, left: Any, right: Any, same: bool) -> None:
    assert is_same(key, left, right) is same
    assert is_same(key, right, left) is same


def test_settings_behind_a_switch_that_is_off_do_not_count() -> None:
    left = PartSettings({"do_center_crop": False, "crop_size": 336, "do_pad": True})
    right = PartSettings({"do_center_crop": False, "crop_size": 224})
    keys = ("do_center_crop", "crop_size", "do_pad")
    assert list(differing_settings(left, right, keys)) == []
    on = PartSettings({"do_center_crop": True, "crop_size": 224})
    assert [found.key for found in differing_settings(left, on, keys)] == [
        "do_center_crop",
        "crop_size",
    ]


def test_equal_processors(llava: Path, llava_base: Path) -> None:
    assert run(llava) == []
    assert run(llava, llava_base) == []
    set_processor(llava, CLIP, resample="bicubic", size=28, crop_size=28, do_pad=False)
    assert run(llava, llava_base) == []


def test_defaults_that_one_side_writes_out(llava: Path, llava_base: Path) -> None:
    kept = {key: value for key, value in CLIP.items() if key not in ("do_resize", "resample")}
    set_processor(llava, kept)
    assert run(llava, llava_base) == []


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"image_mean": [0.5, 0.5, 0.5]}, "image_mean"),
        ({"do_normalize": False}, "do_normalize"),
        ({"rescale_factor": 1 / 127.5}, "rescale_factor"),
    ],
)
def test_normalisation_of_another_model(
    llava: Path, llava_base: Path, changes: dict[str, Any], key: str
) -> None:
    set_processor(llava_base, CLIP, do_normalize=True)
    set_processor(llava, CLIP, **changes)
    (found,) = run(llava, llava_base)
    assert found.severity == "warn"
    assert key in found.title
    assert {item.key for item in found.evidence} == {key}


def test_own_choice_of_a_plain_trainer_is_worth_knowing(llava: Path, llava_base: Path) -> None:
    set_processor(llava_base, CLIP, do_pad=False)
    set_processor(llava, CLIP, image_processor_type="LlavaImageProcessor", do_pad=True)
    (found,) = run(llava, llava_base)
    assert (found.severity, "do_pad" in found.title) == ("info", True)
    # LLaMA-Factory saves the processor as it found it, so this was done afterwards.
    (llava / "trainer_log.jsonl").touch()
    (found,) = run(llava, llava_base)
    assert found.severity == "warn"


def test_adapters_own_processor_is_the_trainings(write: CheckpointWriter, llava: Path) -> None:
    modules = {"language_model.model.layers.0.self_attn.q_proj": (16, 16)}
    adapter = write.adapter(llava, modules)
    assert run(adapter) == []
    set_processor(adapter, CLIP)
    assert run(adapter) == []
    set_processor(adapter, CLIP, do_center_crop=False)
    (found,) = run(adapter)
    assert found.severity == "warn"
    assert "the base's image processor is not the training's" in found.title
    assert str(llava) in found.remedy


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"crop_size": {"height": 42, "width": 42}}, "crop_size"),
        ({"do_center_crop": False, "size": {"height": 42, "width": 42}}, "size"),
    ],
)
def test_pictures_of_another_size_than_the_towers(
    llava: Path, changes: dict[str, Any], key: str
) -> None:
    set_processor(llava, CLIP, **changes)
    (found,) = run(llava)
    assert found.severity == "warn"
    assert found.title.endswith(f"another vision tower: {key}")
    assert [item.key for item in found.evidence] == [key, "vision_config.image_size"]


@pytest.mark.parametrize(
    ("key", "value", "is_wrong"),
    [
        ("patch_size", 16, True),
        ("patch_size", 14, False),
        ("patch_size", None, False),
        ("vision_feature_select_strategy", "full", True),
        ("vision_feature_select_strategy", "default", False),
    ],
)
def test_wrapper_against_the_model(llava: Path, key: str, value: Any, is_wrong: bool) -> None:
    set_config(llava, vision_feature_select_strategy="default")
    (llava / "processor_config.json").write_text(json.dumps({key: value}))
    assert [key in found.title for found in run(llava)] == [True] * is_wrong


@pytest.mark.parametrize(
    ("key", "config_key"),
    [
        ("patch_size", "patch_size"),
        ("merge_size", "spatial_merge_size"),
        ("temporal_patch_size", "temporal_patch_size"),
    ],
)
def test_qwen_processor_against_the_model(
    write: CheckpointWriter, key: str, config_key: str
) -> None:
    directory = write.model()
    set_processor(directory, QWEN)
    assert run(directory) == []
    set_processor(directory, QWEN, **{key: 4})
    (found,) = run(directory)
    assert found.evidence[1].key == f"vision_config.{config_key}"


def test_area_limits_are_not_geometry(write: CheckpointWriter) -> None:
    base, tuned = write.model("base"), write.model("tuned")
    set_processor(base, QWEN, min_pixels=3136, max_pixels=12845056)
    set_processor(tuned, QWEN, size={"shortest_edge": 3136, "longest_edge": 50176})
    assert run(tuned, base) == []


def test_original_llava_that_is_cropped(llava: Path, llava_base: Path) -> None:
    set_config(llava, image_aspect_ratio="pad")
    (found,) = run(llava)
    assert "cropped" in found.title
    kept = next(item.value for item in found.evidence if "share" in item.key)
    assert kept == "640x480 75%, 1920x1080 56%, 1000x300 30%"
    set_processor(llava, CLIP, image_processor_type="LlavaImageProcessor", do_pad=True)
    assert run(llava) == []
    (llava / "preprocessor_config.json").unlink()
    assert run(llava) == []


def test_conversion_of_a_padded_original(llava: Path, llava_base: Path) -> None:
    set_config(llava_base, image_aspect_ratio="pad")
    (found,) = run(llava, llava_base)
    assert found.evidence[0].file == str(llava_base / "config.json")
    set_config(llava_base, image_aspect_ratio="square")
    assert run(llava, llava_base) == []


def test_flat_tiles(write: CheckpointWriter, tiny_llava: dict[str, Any]) -> None:
    tiny_llava["architectures"] = ["LlavaNextForConditionalGeneration"]
    tiny_llava["model_type"] = "llava_next"
    directory = write.model("next", tiny_llava)
    set_processor(directory, CLIP, image_processor_type="LlavaNextImageProcessor")
    assert run(directory) == []
    set_config(directory, mm_patch_merge_type="flat")
    (found,) = run(directory)
    assert "flat" in found.title
    set_config(directory, mm_patch_merge_type="spatial_unpad")
    assert run(directory) == []


def test_tiles_of_another_list(write: CheckpointWriter, tiny_llava: dict[str, Any]) -> None:
    tiny_llava["architectures"] = ["LlavaNextForConditionalGeneration"]
    tiny_llava["image_grid_pinpoints"] = [[28, 56], [56, 28]]
    directory = write.model("next", tiny_llava)
    processor = {**CLIP, "image_processor_type": "LlavaNextImageProcessor"}
    set_processor(directory, processor, image_grid_pinpoints=[[28, 56], [56, 28]])
    assert run(directory) == []
    set_processor(directory, processor, image_grid_pinpoints=[[28, 56], [56, 56]])
    (found,) = run(directory)
    assert "image_grid_pinpoints" in found.title


@pytest.mark.parametrize("name", ["Qwen2VLImageProcessor", "CLIPImageProcessor"])
def test_real_processors_in_both_layouts(
    write: CheckpointWriter, tiny_llava: dict[str, Any], name: str
) -> None:
    from vlmserve.platform import cure_torch_extensions

    cure_torch_extensions()
    import transformers

    is_qwen = name.startswith("Qwen")
    base = write.model("base") if is_qwen else write.model("base", tiny_llava)
    tuned = write.model("tuned") if is_qwen else write.model("tuned", tiny_llava)
    set_processor(base, QWEN if is_qwen else {**CLIP, "size": 28, "crop_size": 28})
    for directory in (base, tuned):
        assert run(directory) == []
    processor = getattr(transformers, name).from_pretrained(base)
    (tuned / "preprocessor_config.json").unlink()
    processor.save_pretrained(tuned)
    assert (tuned / "preprocessor_config.json").is_file()
    assert run(tuned, base) == []
    nested = json.loads((tuned / "preprocessor_config.json").read_text())
    (tuned / "preprocessor_config.json").unlink()
    (tuned / "processor_config.json").write_text(json.dumps({"image_processor": nested}))
    assert run(tuned, base) == []


def test_families_whose_own_code_disagrees(tmp_path: Path) -> None:
    from tests.mutation.subjects_fakes import write_mplug_owl2, write_xcomposer2d5

    composer, owl = tmp_path / "composer", tmp_path / "owl"
    write_xcomposer2d5(composer, layers=1)
    assert run(composer) == []
    (composer / "trainer_state.json").write_text("{}")
    (found,) = run(composer)
    assert (found.severity, "4081 tokens" in found.evidence[0].value) == ("info", True)
    write_mplug_owl2(owl, layers=1)
    assert run(owl) == []
    set_config(owl, image_aspect_ratio="pad")
    (found,) = run(owl)
    assert (found.severity, "stretches" in found.title) == ("info", True)
