"""InternLM-XComposer2, 2-VL, 4KHD and 2.5: InternLM2 with a low-rank pair for image tokens.

Facts from the repository InternLM/InternLM-XComposer (``build_mlp.py``, ``modeling_internlm2.py``,
``modeling_internlm_xcomposer2.py``); vLLM has none of them.
"""

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from typing_extensions import override

from vlmserve.checkpoint.families.base import Config, Family, TensorSpec
from vlmserve.checkpoint.families.encoder import ENCODERS, encoder_tensors
from vlmserve.checkpoint.families.internlm2 import internlm2_tensors
from vlmserve.checkpoint.families.qwen2_vl import linear
from vlmserve.checkpoint.tensors import Shape

_TOWER = "vit.vision_tower.vision_model."
_POSITIONS = f"{_TOWER}embeddings.position_embedding.weight"
_PROJECTION = "vision_proj.0.weight"
# CLIP-L/14, which build_mlp.py builds whatever config.json says, but for the image's size.
_CLIP_LARGE: Mapping[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "patch_size": 14,
}
_PATCH_PX = 14
_PLORA_RANK = 256
# Width of vision_proj and of the separators: written into the code, not into config.json.
_PROJECTED = 4096
# Rows of the position embedding: one for each patch, and the class token's.
_VARIANTS = {257: "2, 224 px", 577: "4KHD, 336 px", 1226: "2-VL, 490 px", 1601: "2.5, 560 px"}
_DEFAULT_ROWS = 1601
# Task-specific pairs of 2.5 for writing and web pages; chat does not use them. And the projector
# for a memory of video in 2.5-OmniLive.
_UNUSED = re.compile(r"\.lora_(sft|dpo|web)_[AB]\.weight$|^video_mem_proj\.|rotary_emb")


class XComposer2(Family):
    """InternLM-XComposer2 to 2.5."""

    name = "internlmxcomposer2"
    title = "InternLM-XComposer2"
    architectures = frozenset({"InternLMXComposer2ForCausalLM"})
    served = False
    supports_lora = False
    supports_tower_lora = False
    renames = ()
    tower_prefixes = ("vit.",)
    projector_prefixes = ("vision_proj.", "plora_glb_GN", "plora_sub_GN", "video_mem_proj.")
    traps = (
        "the official LoRA recipe trains plora_glb_GN and plora_sub_GN and PEFT does not save them",
        "4KHD declares the architecture InternLM2ForCausalLM, the text model's: only auto_map "
        "tells",
        "the official fine-tuning of 2.5 enlarges images by half before tiling and the official "
        "inference does not",
    )

    @override
    def expected_tensors(self, config: Config) -> dict[str, TensorSpec]:
        return self.expected_in(config, {})

    @override
    def expected_in(self, config: Config, found: Mapping[str, Shape]) -> dict[str, TensorSpec]:
        tensors = internlm2_tensors(config, prefix="", where="", plora_rank=_PLORA_RANK)
        rows = _rows(found) or _DEFAULT_ROWS
        side = math.isqrt(rows - 1) * _PATCH_PX
        tower = {**_CLIP_LARGE, "image_size": side}
        tensors |= encoder_tensors(
            ENCODERS["clip_vision_model"], tower, used_layers=24, prefix=_TOWER
        )
        # 2 and 2-VL project single patches; 4KHD and 2.5 squares of four, with separators.
        is_tiled = _is_tiled(found)
        shapes = linear("vision_proj.0", _PROJECTED, 4096 if is_tiled else 1024)
        shapes |= linear("vision_proj.2", _PROJECTED, _PROJECTED)
        if is_tiled:
            shapes["plora_glb_GN"] = (1, 1, _PROJECTED)
            shapes["plora_sub_GN"] = (1, 1, 1, _PROJECTED)
        return tensors | {name: TensorSpec(shape) for name, shape in shapes.items()}

    @override
    def is_benign(self, name: str) -> bool:
        return super().is_benign(name) or _UNUSED.search(name) is not None

    @override
    def variant(self, config: Config, found: Mapping[str, Shape], directory: Path) -> str | None:
        by_rows = _VARIANTS.get(_rows(found) or 0)
        if by_rows is not None:
            return by_rows
        with suppress(OSError, UnicodeDecodeError):
            code = (directory / "ixc_utils.py").read_text(encoding="utf-8")
            # The names of the functions that cut an image up, and who has which.
            if "def Image_transform" in code:
                return "2.5"
            if "def HD_transform" in code:
                return "4KHD"
        return None

    @override
    def takes_embedding_lora(self, config: Config) -> bool:
        return False


def _rows(found: Mapping[str, Shape]) -> int | None:
    """Rows of the position embedding, where they make a square and one."""
    match found.get(_POSITIONS):
        case (int(rows), _) if rows > 1 and math.isqrt(rows - 1) ** 2 == rows - 1:
            return rows
    return None


def _is_tiled(found: Mapping[str, Shape]) -> bool:
    rows = _rows(found)
    if rows in _VARIANTS:
        return rows in {577, 1601}
    is_narrow = found.get(_PROJECTION) == (_PROJECTED, _CLIP_LARGE["hidden_size"])
    return "plora_sub_GN" in found or not is_narrow
