"""What the processor classes of transformers 5.19 do where a file is silent.

Read from ``models/*/image_processing_*.py`` and ``models/*/video_processing_*.py``; a test compares
them with the installed classes. Only settings that decide sizes are here.
"""

from collections.abc import Mapping
from typing import Any, Literal

_SQUARE_384 = {"height": 384, "width": 384}
_CLIP = {
    "do_resize": True,
    "size": {"shortest_edge": 224},
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
}
_ONEVISION_EDGES = range(384, 2305, 384)

_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "Qwen2VLImageProcessor": {
        "do_resize": True,
        "size": {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280},
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
    },
    "Qwen2VLVideoProcessor": {
        "do_resize": True,
        "size": {"shortest_edge": 128 * 28 * 28, "longest_edge": 28 * 28 * 768},
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "min_frames": 4,
        "max_frames": 768,
        "do_sample_frames": False,
        "max_video_tokens": 128000,
    },
    "Qwen3VLVideoProcessor": {
        "do_resize": True,
        "size": {"shortest_edge": 128 * 32 * 32, "longest_edge": 32 * 32 * 768},
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "min_frames": 4,
        "max_frames": 768,
        "do_sample_frames": True,
        "max_video_tokens": 768,
        "fps": 2,
    },
    "CLIPImageProcessor": _CLIP,
    "SiglipImageProcessor": {"do_resize": True, "size": {"height": 224, "width": 224}},
    "LlavaImageProcessor": {**_CLIP, "do_pad": False},
    "LlavaNextImageProcessor": {
        **_CLIP,
        "do_pad": True,
        "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
    },
    "LlavaOnevisionImageProcessor": {
        "do_resize": True,
        "size": _SQUARE_384,
        "do_pad": True,
        "image_grid_pinpoints": [[h, w] for h in _ONEVISION_EDGES for w in _ONEVISION_EDGES],
    },
    "LlavaOnevisionVideoProcessor": {
        "do_resize": True,
        "size": _SQUARE_384,
        "do_sample_frames": False,
    },
    "GotOcr2ImageProcessor": {
        "do_resize": True,
        "size": _SQUARE_384,
        "crop_to_patches": False,
        "min_patches": 1,
        "max_patches": 12,
    },
    "InternVLVideoProcessor": {
        "do_resize": True,
        "size": _SQUARE_384,
        "initial_shift": True,
        "do_sample_frames": False,
    },
}

# models/auto/auto_mappings.py, image_processing_auto.py and video_processing_auto.py.
_BY_MODEL_TYPE: Mapping[str, Mapping[str, str]] = {
    "image": {
        "qwen2_vl": "Qwen2VLImageProcessor",
        "qwen2_5_vl": "Qwen2VLImageProcessor",
        "qwen3_vl": "Qwen2VLImageProcessor",
        "llava": "LlavaImageProcessor",
        "llava_next": "LlavaNextImageProcessor",
        "llava_onevision": "LlavaOnevisionImageProcessor",
        "internvl": "GotOcr2ImageProcessor",
    },
    "video": {
        "qwen2_vl": "Qwen2VLVideoProcessor",
        "qwen2_5_vl": "Qwen2VLVideoProcessor",
        "qwen3_vl": "Qwen3VLVideoProcessor",
        "llava_onevision": "LlavaOnevisionVideoProcessor",
        "internvl": "InternVLVideoProcessor",
    },
}


RETIRED_CLASSES: Mapping[str, str] = {"Qwen2_5_VLImageProcessor": "Qwen2VLImageProcessor"}
"""Classes that transformers no longer has, with those that took their place.

The one here was Qwen2.5-VL's own until transformers 4.49 (transformers#36193).
"""


def processor_class(kind: Literal["image", "video"], named: Any, model_type: str) -> str:
    """The class of an image or video processor.

    Args:
        kind: Which of the two.
        named: What the file says (``image_processor_type``), if anything; the variants for other
            backends (``...Fast``, ``...Pil``) count as the class itself.
        model_type: The model's, which decides where the file is silent.

    Returns:
        The class's name, or an empty string where nothing tells.
    """
    if isinstance(named, str) and named:
        name = named.removesuffix("Fast").removesuffix("Pil")
        return RETIRED_CLASSES.get(name, name)
    return _BY_MODEL_TYPE[kind].get(model_type, "")


def processor_defaults(class_name: str) -> Mapping[str, Any]:
    """The defaults of a class; empty where it is not known here."""
    return _DEFAULTS.get(class_name, {})
