"""Qwen3-VL, the dense models."""

from collections.abc import Mapping
from typing import Any, ClassVar

from typing_extensions import override

from vlmserve.checkpoint.families.base import Section
from vlmserve.checkpoint.families.qwen2_vl import (
    QwenVL,
    attention,
    layer_norm,
    linear,
    patch_embedding,
)
from vlmserve.checkpoint.tensors import Shape
from vlmserve.checkpoint.visual_tokens.qwen import Qwen3VLTokens
from vlmserve.errors import CheckpointError


class Qwen3VL(QwenVL):
    """Qwen3-VL (2B, 4B, 8B, 32B): learned positions, and features of several depths (deepstack)."""

    name = "qwen3_vl"
    title = "Qwen3-VL"
    architectures = frozenset({"Qwen3VLForConditionalGeneration"})
    decoder = "qwen3_vl_text"
    token_formula = Qwen3VLTokens
    # There never was a layout with the text model directly under ``model.``.
    renames = (
        ("model.visual.", "visual."),
        ("lm_head.", "language_model.lm_head."),
        ("model.language_model.", "language_model.model."),
    )
    projector_prefixes = ("visual.merger.", "visual.deepstack_merger_list.")
    vision_defaults: ClassVar[Mapping[str, Any]] = {
        "depth": 27,
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "out_hidden_size": 3584,
        "in_channels": 3,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": (8, 16, 24),
    }

    @override
    def vision_tensors(self, vision: Section) -> dict[str, Shape]:
        width, inner = vision.size("hidden_size"), vision.size("intermediate_size")
        merged = width * vision.size("spatial_merge_size") ** 2
        out = vision.size("out_hidden_size")
        tensors = patch_embedding(vision, width)
        tensors["patch_embed.proj.bias"] = (width,)
        tensors["pos_embed.weight"] = (vision.size("num_position_embeddings"), width)
        for index in range(vision.size("depth")):
            block = f"blocks.{index}"
            tensors |= attention(block, width)
            tensors |= layer_norm(f"{block}.norm1", width) | layer_norm(f"{block}.norm2", width)
            tensors |= linear(f"{block}.mlp.linear_fc1", inner, width)
            tensors |= linear(f"{block}.mlp.linear_fc2", width, inner)
        # The last merger normalises patches, the others merged patches.
        tensors |= _merger("merger", width, merged, out)
        depths = vision.get("deepstack_visual_indexes")
        if not isinstance(depths, list | tuple):
            raise CheckpointError(
                f"config.json: vision_config.deepstack_visual_indexes: a list is expected, "
                f"not {depths!r}"
            )
        for index in range(len(depths)):
            tensors |= _merger(f"deepstack_merger_list.{index}", merged, merged, out)
        return tensors


def _merger(name: str, norm: int, merged: int, out: int) -> dict[str, Shape]:
    return {
        **layer_norm(f"{name}.norm", norm),
        **linear(f"{name}.linear_fc1", merged, merged),
        **linear(f"{name}.linear_fc2", out, merged),
    }
