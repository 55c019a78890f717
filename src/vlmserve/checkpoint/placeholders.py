"""The tokens that stand for images and videos, and the ids that ``config.json`` gives them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmserve.checkpoint.files import read_json_if_present

_QWEN_VL: Mapping[str, tuple[str, int]] = {
    "image_token_id": ("<|image_pad|>", 151655),
    "video_token_id": ("<|video_pad|>", 151656),
    "vision_start_token_id": ("<|vision_start|>", 151652),
    "vision_end_token_id": ("<|vision_end|>", 151653),
}
_LLAVA: Mapping[str, tuple[str, int]] = {"image_token_index": ("<image>", 32000)}

# Key, usual token and the class's default: transformers 5.19 models/*/configuration_*.py and
# processing_*.py.
_BY_MODEL_TYPE: Mapping[str, Mapping[str, tuple[str, int]]] = {
    "qwen2_vl": _QWEN_VL,
    "qwen2_5_vl": _QWEN_VL,
    "qwen3_vl": _QWEN_VL,
    "qwen3_vl_moe": _QWEN_VL,
    "llava": _LLAVA,
    "llava_next": _LLAVA,
    "llava_onevision": {
        "image_token_index": ("<image>", 151646),
        "video_token_index": ("<video>", 151647),
    },
    "internvl": {"image_token_id": ("<IMG_CONTEXT>", 151667)},
}

# Classes of vLLM 0.32 that mask placeholders out before they look up the embedding
# (configure_mm_token_handling), so that an id may lie behind its last row.
_MASKED = ("llava", "llava_next")

# Processors that take the token's text from their own files or the tokenizer's.
_NAMED_BY_PROCESSOR = ("image_token", "video_token")


@dataclass(frozen=True, slots=True)
class Placeholder:
    """A token whose id the configuration must know."""

    key: str
    """Of ``config.json``."""

    token: str
    id: int
    """As the configuration has it, or its class's default."""

    may_lie_behind: bool
    """Whether vLLM serves it with an id that the embedding has no row for."""


def find_placeholders(config: Mapping[str, Any], directory: Path) -> tuple[Placeholder, ...]:
    """The placeholders of a model; none for a family that is not known here.

    Args:
        config: The model's ``config.json``.
        directory: Where its processor and tokenizer are.

    Raises:
        CheckpointError: A file of the processor or tokenizer is not JSON.
    """
    model_type = str(config.get("model_type", ""))
    return tuple(
        Placeholder(
            key,
            _token(directory, key, usual),
            _id(config, key, default),
            may_lie_behind=model_type in _MASKED,
        )
        for key, (usual, default) in _BY_MODEL_TYPE.get(model_type, {}).items()
    )


def _id(config: Mapping[str, Any], key: str, default: int) -> int:
    # Both spellings name one attribute, and the newer is set last (attribute_map).
    stated = (config.get(name) for name in (key.replace("_index", "_id"), key))
    return next((value for value in stated if type(value) is int), default)


def _token(directory: Path, key: str, usual: str) -> str:
    name = key.replace("_id", "").replace("_index", "")
    if name not in _NAMED_BY_PROCESSOR or usual == "<IMG_CONTEXT>":
        return usual
    for file in ("processor_config.json", "tokenizer_config.json"):
        value = read_json_if_present(directory / file).get(name)
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str) and text:
            return text
    return usual
