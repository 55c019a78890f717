"""Images and videos that are served otherwise than they were trained; weights that nobody saved."""

import shutil
from typing import Any

import yaml

from tests.mutation.mutation import (
    ADAPTER_WEIGHTS,
    Mutation,
    drop_tensors,
    edit_json,
    read_json,
    set_key,
    write_json,
)
from tests.mutation.subject import Case
from vlmserve.checkpoint.provenance import VisionLimits

_SHIPPED_PIXELS = 12845056
_PREPROCESSOR = "preprocessor_config.json"
_PROCESSOR = "processor_config.json"


def _serve(case: Case, **engine: Any) -> None:
    case.serve_settings = {"engine": engine}


def _drop_recorded_limit(case: Case) -> None:
    """A run by the command line: nothing records the limit that was LLaMA-Factory's default."""
    assert case.base is not None
    path = case.checkpoint / "training_args.yaml"
    settings = yaml.safe_load(path.read_text())
    for key in ("image_max_pixels", "image_min_pixels"):
        settings.pop(key, None)
    path.write_text(yaml.safe_dump(settings))
    shutil.copyfile(case.base / _PREPROCESSOR, case.checkpoint / _PREPROCESSOR)
    _set_area(case, _SHIPPED_PIXELS)
    shutil.copyfile(case.checkpoint / _PREPROCESSOR, case.base / _PREPROCESSOR)
    case.data = None


def _set_area(case: Case, largest: int) -> None:
    def edit(content: Any) -> None:
        content["max_pixels"] = largest
        content["size"]["longest_edge"] = largest

    edit_json(case.checkpoint / _PREPROCESSOR, edit)


def _undo_recorded_limit(case: Case) -> None:
    """A limit in args.json that the operator's own setting wins over."""
    set_key(case.checkpoint / "args.json", "max_pixels", 200704)
    _serve(case, mm_processor_kwargs={"max_pixels": _SHIPPED_PIXELS})
    case.data = None


def _undo_limit_of_the_data(case: Case) -> None:
    set_key(case.checkpoint / "args.json", "max_pixels", 3136)
    _serve(case, mm_processor_kwargs={"max_pixels": _SHIPPED_PIXELS})


def _edit_area_after_the_run(case: Case) -> None:
    set_key(case.checkpoint / _PROCESSOR, "image_processor.size.longest_edge", 50176)
    case.data = None


def _other_mean(case: Case) -> None:
    set_key(case.checkpoint / _PREPROCESSOR, "image_mean", [0.5, 0.5, 0.5])


def _class_that_is_gone(case: Case) -> None:
    key = "image_processor.image_processor_type"
    set_key(case.checkpoint / _PROCESSOR, key, "Qwen2_5_VLImageProcessor")


def _other_crop(case: Case) -> None:
    size = read_json(case.checkpoint / _PREPROCESSOR)["crop_size"]["height"]
    other = {"height": 2 * size, "width": 2 * size}
    set_key(case.checkpoint / _PREPROCESSOR, "crop_size", other)
    set_key(case.checkpoint / _PREPROCESSOR, "size", {"shortest_edge": 2 * size})


def _padded_in_training(case: Case) -> None:
    set_key(case.checkpoint / "config.json", "image_aspect_ratio", "pad")


def _other_patches(case: Case) -> None:
    path = case.checkpoint / _PROCESSOR
    patch = read_json(path)["image_processor"]["patch_size"]
    set_key(path, "image_processor.patch_size", patch + 2)


def _adapter_of_padded_images(case: Case) -> None:
    """The adapter's own processor, which vLLM does not look at."""
    assert case.base is not None
    shutil.copyfile(case.base / _PROCESSOR, case.checkpoint / _PROCESSOR)
    set_key(case.checkpoint / _PROCESSOR, "image_processor.do_center_crop", False)


def _tiles_of_another_list(case: Case) -> None:
    path = case.checkpoint / _PROCESSOR
    points = read_json(path)["image_processor"]["image_grid_pinpoints"]
    set_key(path, "image_processor.image_grid_pinpoints", points[:1])


def _sampled_twice(case: Case) -> None:
    set_key(case.checkpoint / _PROCESSOR, "video_processor.do_sample_frames", True)


def _other_steps(case: Case) -> None:
    set_key(case.checkpoint / _PROCESSOR, "video_processor.temporal_patch_size", 1)


def _other_rate(case: Case) -> None:
    case.train_env = VisionLimits(fps=0.5)
    _serve(case, media_io_kwargs={"video": {"fps": 4}})


def _adapter_of_small_frames(case: Case) -> None:
    """The adapter's own video processor, which vLLM does not look at."""
    assert case.base is not None
    path = case.checkpoint / _PROCESSOR
    shutil.copyfile(case.base / _PROCESSOR, path)
    set_key(path, "video_processor.size", {"shortest_edge": 3136, "longest_edge": 65536})
    case.train_env = VisionLimits(fps=2.0)


def _without_one_module(case: Case) -> None:
    drop_tensors(case.checkpoint / ADAPTER_WEIGHTS, r"layers\.0\.self_attn\.v_proj\.")


def _without_the_tower(case: Case) -> None:
    set_key(case.checkpoint / "args.json", "freeze_vit", False)


def _without_the_projector(case: Case) -> None:
    """An intermediate step of the original LLaVA's LoRA."""
    config = {
        "architectures": ["LlavaLlamaForCausalLM"],
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_tower": "openai/clip-vit-large-patch14-336",
        "model_type": "llava_llama",
    }
    write_json(case.checkpoint.parent / "config.json", config)


MUTATIONS = (
    Mutation(
        "limit of the run not recorded",
        "proc.pixels",
        "llama-factory",
        _drop_recorded_limit,
        fast=True,
    ),
    Mutation(
        "max_pixels of the run overridden",
        "proc.pixels",
        "swift-lora",
        _undo_recorded_limit,
        fast=True,
    ),
    Mutation(
        "max_pixels overridden, by the data", "proc.pixels", "swift-lora", _undo_limit_of_the_data
    ),
    Mutation(
        "longest_edge changed after the run",
        "proc.pixels",
        "swift-merged",
        _edit_area_after_the_run,
        fast=True,
    ),
    Mutation("a class that is gone", "proc.present", "qwen2.5-vl", _class_that_is_gone, fast=True),
    Mutation("another image_mean", "proc.geometry", "qwen2-vl-4x", _other_mean, fast=True),
    Mutation("twice the crop_size", "proc.geometry", "llava-1.5-4x", _other_crop, fast=True),
    Mutation(
        "padded in training, cropped", "proc.geometry", "llava-1.5", _padded_in_training, fast=True
    ),
    Mutation("another patch_size", "proc.geometry", "qwen2.5-vl", _other_patches, fast=True),
    Mutation(
        "adapter trained without cropping",
        "proc.geometry",
        "llava-lora",
        _adapter_of_padded_images,
        fast=True,
    ),
    Mutation(
        "one image_grid_pinpoint", "proc.geometry", "llava-next", _tiles_of_another_list, fast=True
    ),
    Mutation("do_sample_frames", "proc.video", "qwen2.5-vl", _sampled_twice, fast=True),
    Mutation("another temporal_patch_size", "proc.video", "qwen3-vl", _other_steps, fast=True),
    Mutation("eight times the frames", "proc.video", "swift-lora", _other_rate, fast=True),
    Mutation(
        "adapter trained on small frames",
        "proc.video",
        "swift-lora",
        _adapter_of_small_frames,
        fast=True,
    ),
    Mutation(
        "one module dropped", "ckpt.lost-tensors", "demo-lora", _without_one_module, fast=True
    ),
    Mutation(
        "freeze_vit false, no tower",
        "ckpt.lost-tensors",
        "swift-lora",
        _without_the_tower,
        fast=True,
    ),
    Mutation(
        "LLaVA without its projector",
        "ckpt.lost-tensors",
        "llava-lora",
        _without_the_projector,
        fast=True,
    ),
)
