"""LLaVA in the format of its own code: 1.5, 1.6, and the LLaVA-NeXT, -OneVision and -Video lines.

Facts from haotian-liu/LLaVA (``llava/model``) and LLaVA-VL/LLaVA-NeXT; vLLM reads none of it.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typing_extensions import override

from vlmserve.checkpoint.families.base import Config, Family, Section, TensorSpec
from vlmserve.checkpoint.families.decoder import DECODERS, DecoderKind, decoder_tensors
from vlmserve.checkpoint.families.encoder import ENCODERS, encoder_tensors
from vlmserve.checkpoint.families.qwen2_vl import linear
from vlmserve.checkpoint.processor_settings import ProcessorSettings
from vlmserve.checkpoint.tensors import Shape
from vlmserve.checkpoint.visual_tokens.base import VisualTokens
from vlmserve.checkpoint.visual_tokens.llava_original import create_llava_original_tokens

_TOWER = "vision_tower."
_CLIP_LARGE: Mapping[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "patch_size": 14,
}
# Sizes of the towers that mm_vision_tower names, by the last part of the name. LLaVA-NeXT's
# siglip_encoder.py takes SigLIP's last layer and its head away before it saves.
_TOWERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "clip-vit-large-patch14": ("clip_vision_model", {**_CLIP_LARGE, "image_size": 224}),
    "clip-vit-large-patch14-336": ("clip_vision_model", {**_CLIP_LARGE, "image_size": 336}),
    "siglip-so400m-patch14-384": (
        "siglip_vision_model",
        {
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 26,
            "image_size": 384,
            "patch_size": 14,
            "vision_use_head": False,
        },
    ),
}
_DECODERS = {
    "LlavaLlamaForCausalLM": "llama",
    "LlavaMistralForCausalLM": "mistral",
    "LlavaQwenForCausalLM": "qwen2",
    "LlavaQwen2ForCausalLM": "qwen2",
}
_MODEL_TYPES = {
    "llava_llama": "LlavaLlamaForCausalLM",
    "llava_mistral": "LlavaMistralForCausalLM",
    "llava_qwen": "LlavaQwenForCausalLM",
    "llava_qwen2": "LlavaQwen2ForCausalLM",
    "llava_mpt": "LlavaMptForCausalLM",
    "llava_gemma": "LlavaGemmaForCausalLM",
    "llava_mixtral": "LlavaMixtralForCausalLM",
}
_MLP = re.compile(r"mlp(\d+)x_gelu")


class LlavaOriginal(Family):
    """The original LLaVA, whatever its language model."""

    name = "llava_original"
    title = "LLaVA in the original format"
    architectures = frozenset(_MODEL_TYPES.values())
    served = False
    supports_lora = False
    supports_tower_lora = False
    renames = (
        ("model.vision_tower.vision_tower.", _TOWER),
        ("model.mm_projector.", "mm_projector."),
        ("model.image_newline", "image_newline"),
        ("model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
    )
    tower_prefixes = (_TOWER,)
    projector_prefixes = ("mm_projector.", "image_newline")
    traps = (
        "its loader reads the vision tower from mm_vision_tower again and ignores a fine-tuned one "
        "unless unfreeze_mm_vision_tower is set",
        "its loader goes by the directory's name: llava, lora, mistral and mpt in it change what "
        "is loaded",
        "image_aspect_ratio pad has to become do_pad of the image processor on conversion, or "
        "images are cropped",
    )

    @override
    def architecture_for(self, model_type: str) -> str | None:
        return _MODEL_TYPES.get(model_type)

    @override
    def expected_tensors(self, config: Config) -> dict[str, TensorSpec] | None:
        return self.expected_in(config, {})

    @override
    def expected_in(
        self, config: Config, found: Mapping[str, Shape]
    ) -> dict[str, TensorSpec] | None:
        decoder = _decoder(config)
        if decoder is None or "mm_vision_tower" not in config:
            return None
        tied = bool(config.get("tie_word_embeddings"))
        tensors = decoder_tensors(decoder, config, where="", tied=tied)
        projector = _projector(config, tensors["language_model.model.norm.weight"].shape[0])
        if projector is None:
            return None
        tensors |= {name: TensorSpec(shape) for name, shape in projector.items()}
        return tensors | _tower_tensors(config, found)

    @override
    def variant(self, config: Config, found: Mapping[str, Shape], directory: Path) -> str | None:
        tower = config.get("mm_vision_tower")
        merge = str(config.get("mm_patch_merge_type", "flat"))
        is_tiled = str(config.get("image_aspect_ratio", "")).startswith("anyres")
        parts = ["tiles" if is_tiled else "one view of an image"]
        parts += [merge] if merge != "flat" else []
        parts += [Path(tower).name] if isinstance(tower, str) and tower else []
        return ", ".join(parts)

    @override
    def takes_embedding_lora(self, config: Config) -> bool:
        return False

    @override
    def visual_tokens(self, config: Config, settings: ProcessorSettings) -> VisualTokens | None:
        # Only LLaVA-NeXT's later code knows Qwen, and with it videos.
        has_video = "qwen" in str(config.get("architectures", config.get("model_type"))).lower()
        return create_llava_original_tokens(config, has_video=has_video)


def is_llava_original(config: Config) -> bool:
    """Whether a configuration was written by LLaVA's own code, whatever class it names.

    Derived projects keep its settings and choose names of their own.
    """
    return "mm_vision_tower" in config and "mm_projector_type" in config


def _decoder(config: Config) -> DecoderKind | None:
    named = config.get("architectures")
    by_type = _MODEL_TYPES.get(str(config.get("model_type")), "")
    architecture = str(named[0]) if isinstance(named, list) and named else by_type
    kind = _DECODERS.get(architecture)
    return None if kind is None else DECODERS[kind]


def _projector(config: Config, hidden: int) -> dict[str, Shape] | None:
    """The projector and what belongs to it, or ``None`` for one of an unknown kind."""
    width = Section(config, {"mm_hidden_size": 1024}, "").size("mm_hidden_size")
    kind = str(config.get("mm_projector_type", "linear"))
    depth = _MLP.fullmatch(kind)
    if kind == "linear":
        tensors = linear("mm_projector", hidden, width)
    elif depth is not None:
        tensors = linear("mm_projector.0", hidden, width)
        for index in range(1, int(depth[1])):
            tensors |= linear(f"mm_projector.{2 * index}", hidden, hidden)
    else:
        return None
    if "unpad" in str(config.get("mm_patch_merge_type", "")):
        tensors["image_newline"] = (hidden,)
    return tensors


def _tower_tensors(config: Config, found: Mapping[str, Shape]) -> dict[str, TensorSpec]:
    """The tower, which may be absent as a whole: then it is read from ``mm_vision_tower``."""
    there = {name: shape for name, shape in found.items() if name.startswith(_TOWER)}
    name = Path(str(config.get("mm_vision_tower", ""))).name
    if name not in _TOWERS:
        return {name: TensorSpec(shape, required=False) for name, shape in there.items()}
    kind, sizes = _TOWERS[name]
    layer = config.get("mm_vision_select_layer", -2)
    total = int(sizes["num_hidden_layers"])
    used = total + layer + 1 if isinstance(layer, int) and -total <= layer < 0 else total
    # LLaVA-NeXT's SigLIP has lost the layer that -2 would leave out.
    used = total if kind == "siglip_vision_model" else used
    tensors = encoder_tensors(ENCODERS[kind], sizes, used_layers=used)
    if there:
        return tensors
    return {name: TensorSpec(spec.shape, required=False) for name, spec in tensors.items()}
