"""Are images padded, cropped, tiled and normalised as they were in training?"""

from collections.abc import Iterator, Mapping
from typing import Any

from vlmserve.checkpoint.families.base import Section, subsection
from vlmserve.checkpoint.families.llava_next import LlavaNext
from vlmserve.checkpoint.families.mplug_owl2 import MplugOwl2
from vlmserve.checkpoint.families.qwen2_vl import PATCH_SETTINGS, QwenVL
from vlmserve.checkpoint.families.xcomposer2 import XComposer2
from vlmserve.checkpoint.processor_settings import (
    PartSettings,
    ProcessorSettings,
    load_processor_settings,
)
from vlmserve.checkpoint.source import Checkpoint
from vlmserve.checkpoint.visual_tokens.tower import VisionTower
from vlmserve.doctor.check import Check
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import Evidence, Finding, Outcome, enumerate_names, shown_path
from vlmserve.doctor.image_drift import trained_processor
from vlmserve.doctor.settings_diff import differing_settings, is_same
from vlmserve.frameworks.media_limits import LIMITS_APART

_NORMALISATION = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
_PATCHES = tuple(PATCH_SETTINGS)
_KEYS = (
    "do_resize",
    "size",
    "resample",
    "do_center_crop",
    "crop_size",
    "do_pad",
    "image_grid_pinpoints",
    "crop_to_patches",
    "min_patches",
    "max_patches",
    *_PATCHES,
    *_NORMALISATION,
)

# What nobody tunes, so that another value is another model's file and not a choice.
_FIXED = (*_PATCHES, *_NORMALISATION)

_SIZES = ((640, 480), (1920, 1080), (1000, 300))


def check_geometry(exam: Examination) -> Iterator[Outcome]:
    """``proc.geometry``: padding, cropping, tiling or normalisation that training did not have."""
    checkpoint = exam.checkpoint
    settings = load_processor_settings(checkpoint)
    yield from _against_origin(checkpoint, settings)
    yield from _against_config(checkpoint, settings)
    yield from _cropped(checkpoint, settings)
    yield from _flat_tiles(checkpoint)
    yield from _inference_differs(checkpoint)


def _against_origin(checkpoint: Checkpoint, settings: ProcessorSettings) -> Iterator[Outcome]:
    origin = trained_processor(checkpoint)
    if origin is None:
        return
    keys = [key for key in _KEYS if key != "size" or not _is_area(checkpoint)]
    differences = list(differing_settings(settings.image, origin.image, keys))
    if not differences:
        return
    is_adapter = checkpoint.adapter is not None
    training = checkpoint.training
    is_apart = training is not None and training.framework in LIMITS_APART
    is_strong = is_adapter or is_apart or any(found.key in _FIXED for found in differences)
    names = enumerate_names([found.key for found in differences])
    served, other = ("base's", "training's") if is_adapter else ("checkpoint's own", "base's")
    yield Finding(
        id="proc.geometry",
        title=f"the {served} image processor is not the {other}: {names}",
        evidence=[
            evidence
            for found in differences
            for evidence in (
                _evidence(checkpoint, settings.image, found.key, found.served, "served"),
                _evidence(checkpoint, origin.image, found.key, found.other, f"the {other}"),
            )
        ],
        consequence="Every image reaches the model in another shape or range than in training."
        if is_strong
        else "Where training used the base's processor, images reach the model in another shape.",
        remedy="put the processor's files of the training into "
        f"{checkpoint.model.path if is_adapter else checkpoint.path}",
        source="transformers 5.19 image_processing_utils.py; Qwen3-VL#935",
        severity="warn" if is_strong else "info",
    )


def _is_area(checkpoint: Checkpoint) -> bool:
    """Whether ``size`` is a limit in pixels, which is ``proc.pixels``'s."""
    return isinstance(checkpoint.family, QwenVL)


def _against_config(checkpoint: Checkpoint, settings: ProcessorSettings) -> Iterator[Outcome]:
    """What the processor says of the model's vision tower, against what the model says."""
    wanted = list(_model_sizes(checkpoint, settings))
    wrong = [found for found in wanted if not is_same(found[2], found[3], found[5])]
    if not wrong:
        return
    config = shown_path(checkpoint.model.path / "config.json", checkpoint)
    evidence = []
    for part, _, key, value, config_key, expected in wrong:
        evidence.append(_evidence(checkpoint, part, key, value, "the processor"))
        evidence.append(Evidence(file=config, key=config_key, value=f"{expected} (the model)"))
    yield Finding(
        id="proc.geometry",
        title=f"the processor is made for another vision tower: "
        f"{enumerate_names([found[1] for found in wrong])}",
        evidence=evidence,
        consequence="vLLM counts one number of image tokens and the processor makes another: "
        "requests with images fail, or the model sees nonsense.",
        remedy="take the processor's files from the base model, or correct the keys to the model's "
        "configuration",
        source="vllm 0.32 models/llava_next.py get_num_image_tokens, models/qwen2_vl.py "
        "_get_vision_info",
    )


_Pair = tuple[PartSettings, str, str, Any, str, Any]
"""A processor's part, the setting's name, key and value, and the model's key and value."""


def _model_sizes(checkpoint: Checkpoint, settings: ProcessorSettings) -> Iterator[_Pair]:
    family, config, image = checkpoint.family, checkpoint.config, settings.image
    if isinstance(family, QwenVL):
        vision = Section(
            subsection(config, "vision_config"), family.vision_defaults, "vision_config."
        )
        for key, config_key in PATCH_SETTINGS.items():
            if image.source(key).path is not None:
                where = f"vision_config.{config_key}"
                yield image, key, key, image[key], where, vision.size(config_key)
    elif family is not None and family.name in ("llava", "llava_next", "llava_onevision"):
        yield from _tower_sizes(config, settings)
    elif family is not None and family.name == "internvl":
        vision_size = (subsection(config, "vision_config") or {}).get("image_size")
        side = vision_size[0] if isinstance(vision_size, list) and vision_size else vision_size
        if isinstance(side, int) and (found := _side(image)) is not None:
            yield image, found[0], found[0], found[1], "vision_config.image_size", side


def _tower_sizes(config: Mapping[str, Any], settings: ProcessorSettings) -> Iterator[_Pair]:
    image, wrapper = settings.image, settings.wrapper
    tower = VisionTower.from_config(config)
    if tower is not None:
        if (found := _side(image)) is not None:
            yield image, found[0], found[0], found[1], "vision_config.image_size", tower.image_px
        if wrapper.get("patch_size") is not None:
            value = wrapper["patch_size"]
            yield (
                wrapper,
                "patch_size",
                "patch_size",
                value,
                "vision_config.patch_size",
                (tower.patch_px),
            )
    for key in ("vision_feature_select_strategy", "image_grid_pinpoints"):
        part = image if key == "image_grid_pinpoints" else wrapper
        if part.get(key) is not None and config.get(key) is not None:
            yield part, key, key, part[key], key, config[key]


def _side(image: PartSettings) -> tuple[str, int] | None:
    """Side of the square that the processor makes, with the setting that decides it."""
    if image.get("do_center_crop"):
        key = "crop_size"
    elif image.get("do_resize", True):
        key = "size"
    else:
        return None
    size = image.get(key)
    if isinstance(size, Mapping) and size.get("height") == size.get("width"):
        size = size.get("height")
    return (key, size) if isinstance(size, int) and image.source(key).path is not None else None


def _cropped(checkpoint: Checkpoint, settings: ProcessorSettings) -> Iterator[Outcome]:
    """The original LLaVA pads to a square; the processor of its vision tower crops to one."""
    image = settings.image
    place = _aspect_ratio(checkpoint)
    if place is None or image.get("do_pad") or not image.get("do_center_crop"):
        return
    if image.source("do_center_crop").path is None and image.source("crop_size").path is None:
        return  # no file: the original code pads by itself
    file, aspect = place
    kept = ", ".join(
        f"{width}x{height} {min(width, height) / max(width, height):.0%}"
        for width, height in _SIZES
    )
    yield Finding(
        id="proc.geometry",
        title="images were padded to a square in training and are cropped to one in serving",
        evidence=[
            Evidence(file=file, key="image_aspect_ratio", value=aspect),
            _evidence(checkpoint, image, "do_center_crop", image["do_center_crop"], "served"),
            Evidence(file="geometry", key="share of the area that is kept", value=kept),
        ],
        consequence="What lies at the ends of an image is cut off before the model sees it.",
        remedy="use LlavaImageProcessor with do_pad true: in preprocessor_config.json set "
        '"image_processor_type": "LlavaImageProcessor" and "do_pad": true',
        source="haotian-liu/LLaVA llava/mm_utils.py process_images, LLaVA#591; transformers#33191",
    )


def _aspect_ratio(checkpoint: Checkpoint) -> tuple[str, str] | None:
    """Where ``image_aspect_ratio: pad`` stands."""
    for model in (checkpoint.model, checkpoint.base):
        if model is not None and model.config.get("image_aspect_ratio") == "pad":
            return shown_path(model.path / "config.json", checkpoint), "pad"
    return None


def _flat_tiles(checkpoint: Checkpoint) -> Iterator[Outcome]:
    """LLaVA-NeXT in the transformers format always ends rows of features with a newline."""
    if not isinstance(checkpoint.family, LlavaNext):
        return
    for model in (checkpoint.model, checkpoint.base):
        if model is not None and model.config.get("mm_patch_merge_type") == "flat":
            yield Finding(
                id="proc.geometry",
                title="tiles were joined flat in training, and are joined with newlines in serving",
                evidence=[
                    Evidence(
                        file=shown_path(model.path / "config.json", checkpoint),
                        key="mm_patch_merge_type",
                        value="flat",
                    )
                ],
                consequence="The features of an image come in another order, with vectors between "
                "them that training never used.",
                remedy="convert to a model without tiles, or train with mm_patch_merge_type "
                "spatial_unpad",
                source="haotian-liu/LLaVA llava/model/llava_arch.py; transformers 5.19 "
                "models/llava_next/modeling_llava_next.py pack_image_features",
            )
            return


def _inference_differs(checkpoint: Checkpoint) -> Iterator[Outcome]:
    """Families whose own training and inference code disagree."""
    family = checkpoint.family
    is_tuned = checkpoint.adapter is not None or checkpoint.training is not None
    if isinstance(family, XComposer2) and is_tuned:
        evidence = Evidence(
            file="geometry",
            key="1024x768",
            value="InternLM-XComposer2.5: 4081 tokens in its training code, 2061 in its inference",
        )
        yield _own_code(
            "its own code tiles and pads images otherwise in training than in inference",
            evidence,
            "use one hd_num and one transform in both (training: ixc_utils.py of finetune/)",
            "InternLM/InternLM-XComposer finetune/ixc_utils.py against the model's ixc_utils.py",
        )
    if isinstance(family, MplugOwl2) and checkpoint.config.get("image_aspect_ratio") == "pad":
        evidence = Evidence(file="config.json", key="image_aspect_ratio", value="pad")
        yield _own_code(
            "its training pads images to a square, its published inference stretches them",
            evidence,
            "pad in inference as well: process_images with the model's configuration",
            "X-PLUG/mPLUG-Owl mPLUG-Owl2/scripts/finetune.sh, README.md",
        )


def _own_code(title: str, evidence: Evidence, remedy: str, source: str) -> Finding:
    return Finding(
        id="proc.geometry",
        title=title,
        evidence=[evidence],
        consequence="Answers differ with the code that asks for them.",
        remedy=remedy,
        source=source,
        severity="info",
    )


def _evidence(
    checkpoint: Checkpoint, part: PartSettings, key: str, value: Any, role: str
) -> Evidence:
    source = part.source(key)
    file = source.key if source.path is None else shown_path(source.path, checkpoint)
    shown = "default of the class" if source.path is None else source.key
    return Evidence(file=file, key=shown, value=f"{_short(value)} ({role})")


def _short(value: Any) -> str:
    limit = 120
    text = str(value)
    return text if len(text) <= limit else f"{text[:limit]}..."


CHECKS = (
    Check(
        id="proc.geometry",
        run=check_geometry,
        cause="Processor files that were not saved with the checkpoint are taken from a model of "
        "another size or kind; the original LLaVA pads images in code that no processor file "
        "mentions.",
        evidence="Settings of the processor that is served against the training's (an adapter's "
        "own files), the base's and the model's `config.json`: size, crop, padding, tiles, patch "
        "sizes, normalisation. Only values that mean something else count, not other spellings. A "
        "full model whose own processor was changed in a way that people choose is information.",
        example="images were padded to a square in training and are cropped to one in serving",
        remedy="Serve with the processor files of the training.",
    ),
)
"""The checks of this theme, in the order in which they run."""
