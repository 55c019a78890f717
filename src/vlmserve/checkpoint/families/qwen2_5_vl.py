"""Qwen2.5-VL."""

from collections.abc import Mapping
from typing import Any, ClassVar

from typing_extensions import override

from vlmserve.checkpoint.families.base import Section
from vlmserve.checkpoint.families.qwen2_vl import QwenVL, attention, linear, patch_embedding
from vlmserve.checkpoint.tensors import Shape


class Qwen25VL(QwenVL):
    """Qwen2.5-VL (3B, 7B, 32B, 72B): RMS norms and a gated feed-forward in the tower."""

    name = "qwen2_5_vl"
    title = "Qwen2.5-VL"
    architectures = frozenset({"Qwen2_5_VLForConditionalGeneration"})
    decoder = "qwen2_vl_text"
    vision_defaults: ClassVar[Mapping[str, Any]] = {
        "depth": 32,
        "hidden_size": 3584,
        "intermediate_size": 3420,
        "out_hidden_size": 3584,
        "in_channels": 3,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }

    @override
    def vision_tensors(self, vision: Section) -> dict[str, Shape]:
        width, inner = vision.size("hidden_size"), vision.size("intermediate_size")
        merged = width * vision.size("spatial_merge_size") ** 2
        tensors = patch_embedding(vision, width)
        for index in range(vision.size("depth")):
            block = f"blocks.{index}"
            tensors |= attention(block, width)
            tensors |= {f"{block}.norm1.weight": (width,), f"{block}.norm2.weight": (width,)}
            tensors |= linear(f"{block}.mlp.gate_proj", inner, width)
            tensors |= linear(f"{block}.mlp.up_proj", inner, width)
            tensors |= linear(f"{block}.mlp.down_proj", width, inner)
        tensors["merger.ln_q.weight"] = (width,)
        tensors |= linear("merger.mlp.0", merged, merged)
        tensors |= linear("merger.mlp.2", vision.size("out_hidden_size"), merged)
        return tensors
