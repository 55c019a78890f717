"""InternVL: the transformers format and the original one. vLLM serves both, by two classes."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from typing_extensions import override

from vlmserve.checkpoint.families.base import Config, Family, Section, TensorSpec, subsection
from vlmserve.checkpoint.families.decoder import DECODERS, decoder_tensors
from vlmserve.checkpoint.families.internlm2 import internlm2_tensors
from vlmserve.checkpoint.families.qwen2_vl import layer_norm, linear
from vlmserve.checkpoint.processor_settings import ProcessorSettings
from vlmserve.checkpoint.tensors import Shape
from vlmserve.checkpoint.visual_tokens.base import VisualTokens
from vlmserve.checkpoint.visual_tokens.internvl import (
    create_internvl_chat_tokens,
    create_internvl_tokens,
)

# What vLLM drops by prefix (vllm 0.32, models/internvl.py hf_to_vllm_mapper): heads of other tasks.
_DROPPED = (
    "action_embed",
    "temporal_embed",
    "track_embed",
    "box_token",
    "cg_criterion",
    "cg_model",
    "loc_encoder",
    "loc_decoder",
    "sam",
    "temporal_token",
    "track_token",
)
# transformers 5.19, models/internvl/configuration_internvl.py; the original InternViT-300M is the
# same model (OpenGVLab/InternVL, configuration_intern_vit.py has those of InternViT-6B).
_VISION_300M: Mapping[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 448,
    "patch_size": 14,
    "num_channels": 3,
}
_VISION_6B: Mapping[str, Any] = {
    **_VISION_300M,
    "hidden_size": 3200,
    "intermediate_size": 12800,
    "num_hidden_layers": 48,
    "num_attention_heads": 25,
    "image_size": 224,
    "qkv_bias": False,
    "qk_normalization": True,
    "norm_type": "rms_norm",
}


class InternVL(Family):
    """InternVL in the transformers format (InternVL3-hf, InternVL3.5-HF)."""

    name = "internvl"
    title = "InternVL"
    architectures = frozenset({"InternVLForConditionalGeneration"})
    renames = (
        ("lm_head.", "language_model.lm_head."),
        ("model.language_model.", "language_model.model."),
        ("model.vision_tower.", "vision_tower."),
        ("model.multi_modal_projector.", "multi_modal_projector."),
    )
    tower_prefixes = ("vision_tower.",)
    projector_prefixes = ("multi_modal_projector.",)
    # vllm 0.32, models/interns1.py does not set supports_tower_connector_lora.
    supports_tower_lora = False

    @override
    def expected_tensors(self, config: Config) -> dict[str, TensorSpec] | None:
        text = subsection(config, "text_config") or {}
        decoder = DECODERS.get(str(text.get("model_type", "qwen2")))
        if decoder is None:
            return None
        tied = bool(config.get("tie_word_embeddings", True))
        tensors = decoder_tensors(decoder, text, where="text_config.", tied=tied)
        vision = Section(subsection(config, "vision_config"), _VISION_300M, "vision_config.")
        hidden = Section(text, decoder.defaults, "text_config.").size("hidden_size")
        width = vision.size("hidden_size")
        merged = width * _shuffle(config)
        shapes = {f"vision_tower.{name}": shape for name, shape in _tower(vision).items()}
        shapes |= layer_norm("multi_modal_projector.layer_norm", merged)
        shapes |= linear("multi_modal_projector.linear_1", hidden, merged)
        shapes |= linear("multi_modal_projector.linear_2", hidden, hidden)
        return tensors | {name: TensorSpec(shape) for name, shape in shapes.items()}

    @override
    def takes_embedding_lora(self, config: Config) -> bool:
        text = subsection(config, "text_config") or {}
        decoder = DECODERS.get(str(text.get("model_type", "qwen2")))
        return decoder is not None and decoder.embedding_lora

    @override
    def visual_tokens(self, config: Config, settings: ProcessorSettings) -> VisualTokens | None:
        return create_internvl_tokens(settings)


class InternVLChat(Family):
    """InternVL in its own format (1.5, 2, 2.5, 3, 3.5), with code beside the weights."""

    name = "internvl_chat"
    title = "InternVL in the original format"
    architectures = frozenset({"InternVLChatModel"})
    renames = ()
    tower_prefixes = ("vision_model.",)
    projector_prefixes = ("mlp1.",)
    # vllm 0.32, models/internvl.py InternVLProcessingInfo builds it from config.json; the original
    # training saves none.
    reads_image_processor = False
    # Defaults of the decoder's class, by the class that llm_config names.
    _DECODERS: ClassVar[Mapping[str, str]] = {
        "LlamaForCausalLM": "llama",
        "MistralForCausalLM": "mistral",
        "Qwen2ForCausalLM": "qwen2",
        "Qwen3ForCausalLM": "qwen3",
    }

    @override
    def expected_tensors(self, config: Config) -> dict[str, TensorSpec] | None:
        text = subsection(config, "llm_config") or {}
        architecture = self._decoder_class(text)
        tied = bool(config.get("tie_word_embeddings") or text.get("tie_word_embeddings"))
        if architecture == "InternLM2ForCausalLM":
            tensors = internlm2_tensors(text, prefix="language_model.", where="llm_config.")
            hidden = tensors["language_model.model.norm.weight"].shape[0]
        elif architecture in self._DECODERS:
            decoder = DECODERS[self._DECODERS[architecture]]
            tensors = decoder_tensors(decoder, text, where="llm_config.", tied=tied)
            hidden = tensors["language_model.model.norm.weight"].shape[0]
        else:
            return None
        vision = Section(subsection(config, "vision_config"), _VISION_6B, "vision_config.")
        merged = vision.size("hidden_size") * _shuffle(config)
        used = _used_layers(config, vision)
        for name, shape in _chat_tower(vision).items():
            layer = name.removeprefix("encoder.layers.").partition(".")[0]
            is_used = not layer.isdigit() or int(layer) < used
            tensors[f"vision_model.{name}"] = TensorSpec(shape, required=is_used)
        shapes = layer_norm("mlp1.0", merged)
        shapes |= linear("mlp1.1", hidden, merged) | linear("mlp1.3", hidden, hidden)
        return tensors | {name: TensorSpec(shape) for name, shape in shapes.items()}

    @override
    def takes_embedding_lora(self, config: Config) -> bool:
        text = subsection(config, "llm_config") or {}
        decoder = self._DECODERS.get(self._decoder_class(text))
        return decoder is not None and DECODERS[decoder].embedding_lora

    @override
    def is_benign(self, name: str) -> bool:
        return super().is_benign(name) or name.startswith(_DROPPED)

    @override
    def explain(self, missing: frozenset[str], unexpected: frozenset[str]) -> str | None:
        if any(".lora_A." in name for name in unexpected):
            return (
                "InternVL's own training leaves its adapter wrapped around the weights: run "
                "tools/merge_lora.py of OpenGVLab/InternVL"
            )
        return super().explain(missing, unexpected)

    @staticmethod
    def _decoder_class(text: Config) -> str:
        named = text.get("architectures")
        return str(named[0]) if isinstance(named, list) and named else ""

    @override
    def visual_tokens(self, config: Config, settings: ProcessorSettings) -> VisualTokens | None:
        return create_internvl_chat_tokens(config)


def _shuffle(config: Config) -> int:
    """How many neighbouring vectors of the tower one token of the text model is made of."""
    ratio = config.get("downsample_ratio", 0.5)
    is_number = isinstance(ratio, int | float) and not isinstance(ratio, bool)
    return int(1 / ratio) ** 2 if is_number and ratio > 0 else 1


def _used_layers(config: Config, vision: Section) -> int:
    """Layers of the tower that vLLM builds (vllm 0.32, models/internvl.py _init_vision_model)."""
    layer, total = config.get("select_layer", -1), vision.size("num_hidden_layers")
    if isinstance(layer, bool) or not isinstance(layer, int):
        return total
    return total + layer + 1 if layer < 0 else layer + 1


def _sides(vision: Section, key: str) -> tuple[int, int]:
    """A size that is one number or two."""
    value = vision.get(key)
    match value:
        case [height, width]:
            section = Section({"0": height, "1": width}, {}, f"vision_config.{key}.")
            return section.size("0"), section.size("1")
    return vision.size(key), vision.size(key)


def _tower(vision: Section) -> dict[str, Shape]:
    """The tower in the transformers format, by its names under ``vision_tower.``."""
    width, inner = vision.size("hidden_size"), vision.size("intermediate_size")
    image, patch = _sides(vision, "image_size"), _sides(vision, "patch_size")
    patches = math.prod(side // step for side, step in zip(image, patch, strict=True))
    has_norm_bias = vision.get("norm_type") != "rms_norm"
    tensors: dict[str, Shape] = {
        "embeddings.cls_token": (1, 1, width),
        "embeddings.patch_embeddings.projection.weight": (
            width,
            vision.size("num_channels"),
            *patch,
        ),
        "embeddings.patch_embeddings.projection.bias": (width,),
    }
    if vision.get("use_absolute_position_embeddings") is not False:
        tensors["embeddings.position_embeddings"] = (1, patches + 1, width)
    if vision.get("use_mask_token"):
        tensors["embeddings.mask_token"] = (1, 1, width)
    layer: dict[str, Shape] = {"lambda_1": (width,), "lambda_2": (width,)}
    for projection in ("q_proj", "k_proj", "v_proj"):
        layer |= linear(f"attention.{projection}", width, width)
        if not vision.get("attention_bias"):
            del layer[f"attention.{projection}.bias"]
    layer |= linear("attention.projection_layer", width, width)
    if vision.get("use_qk_norm"):
        layer |= {"attention.q_norm.weight": (width,), "attention.k_norm.weight": (width,)}
    layer |= linear("mlp.fc1", inner, width) | linear("mlp.fc2", width, inner)
    for norm in ("layernorm_before", "layernorm_after"):
        layer |= _norm(norm, width, has_bias=has_norm_bias)
    for index in range(vision.size("num_hidden_layers")):
        tensors |= {f"encoder.layer.{index}.{name}": shape for name, shape in layer.items()}
    if vision.get("use_mean_pooling") is False:
        tensors |= layer_norm("layernorm", width)
    return tensors


def _chat_tower(vision: Section) -> dict[str, Shape]:
    """The tower in the original format, by its names under ``vision_model.``."""
    width, inner = vision.size("hidden_size"), vision.size("intermediate_size")
    patch = vision.size("patch_size")
    positions = (vision.size("image_size") // patch) ** 2 + 1
    has_norm_bias = vision.get("norm_type") != "rms_norm"
    tensors: dict[str, Shape] = {
        "embeddings.class_embedding": (1, 1, width),
        "embeddings.patch_embedding.weight": (width, 3, patch, patch),
        "embeddings.patch_embedding.bias": (width,),
        "embeddings.position_embedding": (1, positions, width),
    }
    layer: dict[str, Shape] = {
        "ls1": (width,),
        "ls2": (width,),
        "attn.qkv.weight": (3 * width, width),
    }
    if vision.get("qkv_bias"):
        layer["attn.qkv.bias"] = (3 * width,)
    if vision.get("qk_normalization"):
        layer |= {"attn.q_norm.weight": (width,), "attn.k_norm.weight": (width,)}
    layer |= linear("attn.proj", width, width)
    layer |= linear("mlp.fc1", inner, width) | linear("mlp.fc2", width, inner)
    for norm in ("norm1", "norm2"):
        layer |= _norm(norm, width, has_bias=has_norm_bias)
    for index in range(vision.size("num_hidden_layers")):
        tensors |= {f"encoder.layers.{index}.{name}": shape for name, shape in layer.items()}
    return tensors


def _norm(name: str, width: int, *, has_bias: bool) -> dict[str, Shape]:
    return layer_norm(name, width) if has_bias else {f"{name}.weight": (width,)}
