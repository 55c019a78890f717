"""mPLUG-Owl2 and 2.1: LLaMA or Qwen with two sets of keys, values and norms, by modality.

Facts from the repository X-PLUG/mPLUG-Owl (``mPLUG-Owl2/mplug_owl2/model``); vLLM has neither.
"""

from collections.abc import Mapping
from typing import Any

from typing_extensions import override

from vlmserve.checkpoint.families.base import Config, Family, Section, TensorSpec, subsection
from vlmserve.checkpoint.families.decoder import DECODERS, decoder_tensors
from vlmserve.checkpoint.families.qwen2_vl import layer_norm, linear
from vlmserve.checkpoint.processor_settings import ProcessorSettings
from vlmserve.checkpoint.tensors import Shape
from vlmserve.checkpoint.visual_tokens.base import VisualTokens
from vlmserve.checkpoint.visual_tokens.mplug_owl import MPlugOwl2Tokens

# configuration_mplug_owl2.py
_VISION: Mapping[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "image_size": 448,
    "patch_size": 14,
}
_ABSTRACTOR: Mapping[str, Any] = {
    "num_learnable_queries": 64,
    "hidden_size": 1024,
    "num_hidden_layers": 6,
    "intermediate_size": 2816,
    "encoder_hidden_size": 1024,
}
# Modules of which each layer has one for text and one for images.
_MULTIWAY = ("self_attn.k_proj", "self_attn.v_proj", "input_layernorm", "post_attention_layernorm")


class MplugOwl2(Family):
    """mPLUG-Owl2 (LLaMA) and mPLUG-Owl2.1 (Qwen): 65 tokens for an image of any size."""

    name = "mplug_owl2"
    title = "mPLUG-Owl2"
    architectures = frozenset({"MPLUGOwl2LlamaForCausalLM", "MPLUGOwl2QWenForCausalLM"})
    served = False
    supports_lora = False
    supports_tower_lora = False
    renames = (
        ("model.vision_model.", "vision_model."),
        ("model.visual_abstractor.", "visual_abstractor."),
        ("model.", "language_model.model."),
        # Qwen-1's name for the same level in 2.1.
        ("transformer.vision_model.", "vision_model."),
        ("transformer.visual_abstractor.", "visual_abstractor."),
        ("transformer.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
    )
    tower_prefixes = ("vision_model.",)
    projector_prefixes = ("visual_abstractor.",)
    traps = (
        "finetune.sh pads images to a square and the official inference resizes them to one",
        "its code needs transformers below 4.35",
    )

    @override
    def architecture_for(self, model_type: str) -> str | None:
        return {
            "mplug_owl2": "MPLUGOwl2LlamaForCausalLM",
            "mplug_owl2_1": "MPLUGOwl2QWenForCausalLM",
        }.get(model_type)

    @override
    def expected_tensors(self, config: Config) -> dict[str, TensorSpec] | None:
        if config.get("model_type") == "mplug_owl2_1" or "kv_channels" in config:
            return None  # 2.1: the names of its Qwen-1 are not in the public code's tables
        visual = subsection(config, "visual_config") or {}
        decoder = decoder_tensors(DECODERS["llama"], config, where="", tied=False)
        tensors = dict(_two_ways(decoder))
        hidden = tensors["language_model.model.norm.weight"].shape[0]
        tower = Section(subsection(visual, "visual_model"), _VISION, "visual_config.visual_model.")
        abstractor = Section(
            subsection(visual, "visual_abstractor"),
            _ABSTRACTOR,
            "visual_config.visual_abstractor.",
        )
        # The last norm's output is not used: the abstractor reads the layers' own.
        for name, shape in _tower(tower).items():
            is_used = not name.startswith("post_layernorm")
            tensors[f"vision_model.{name}"] = TensorSpec(shape, required=is_used)
        for name, shape in _abstractor(abstractor, hidden).items():
            tensors[f"visual_abstractor.{name}"] = TensorSpec(shape)
        return tensors

    @override
    def is_benign(self, name: str) -> bool:
        # Sines and cosines, which some releases save and others compute.
        return super().is_benign(name) or name.endswith(("q_pos_embed", "k_pos_embed"))

    @override
    def takes_embedding_lora(self, config: Config) -> bool:
        return False

    @override
    def visual_tokens(self, config: Config, settings: ProcessorSettings) -> VisualTokens | None:
        visual = subsection(config, "visual_config") or {}
        tower = Section(subsection(visual, "visual_model"), _VISION, "visual_config.visual_model.")
        queries = Section(
            subsection(visual, "visual_abstractor"), _ABSTRACTOR, "visual_config.visual_abstractor."
        ).size("num_learnable_queries")
        return MPlugOwl2Tokens(tower.size("image_size"), queries)


def _two_ways(tensors: Mapping[str, TensorSpec]) -> Mapping[str, TensorSpec]:
    """A decoder's tensors with a second copy of what each modality has for itself."""
    doubled = {}
    for name, spec in tensors.items():
        module, _, parameter = name.rpartition(".")
        if module.endswith(_MULTIWAY):
            for way in range(2):
                doubled[f"{module}.multiway.{way}.{parameter}"] = spec
        else:
            doubled[name] = spec
    return doubled


def _tower(vision: Section) -> dict[str, Shape]:
    width, inner = vision.size("hidden_size"), vision.size("intermediate_size")
    patch = vision.size("patch_size")
    patches = (vision.size("image_size") // patch) ** 2
    tensors: dict[str, Shape] = {
        "embeddings.patch_embed.weight": (width, 3, patch, patch),
        "embeddings.cls_token": (1, 1, width),
        "embeddings.position_embedding": (1, patches + 1, width),
        **layer_norm("embeddings.pre_layernorm", width),
        **layer_norm("post_layernorm", width),
    }
    layer: dict[str, Shape] = {
        **layer_norm("input_layernorm", width),
        **layer_norm("post_attention_layernorm", width),
        **linear("self_attn.query_key_value", 3 * width, width),
        **linear("self_attn.dense", width, width),
        **linear("mlp.fc1", inner, width),
        **linear("mlp.fc2", width, inner),
    }
    for index in range(vision.size("num_hidden_layers")):
        tensors |= {f"encoder.layers.{index}.{name}": shape for name, shape in layer.items()}
    return tensors


def _abstractor(section: Section, hidden: int) -> dict[str, Shape]:
    width, inner = section.size("hidden_size"), section.size("intermediate_size")
    source = section.size("encoder_hidden_size")
    attention = {
        **linear("attention.query", width, width),
        **linear("attention.key", width, source),
        **linear("attention.value", width, source),
        **linear("output.out_proj", source, source),
        **layer_norm("output.norm2", source),
        **linear("output.mlp.w1", inner, width),
        **linear("output.mlp.w2", width, inner),
        **linear("output.mlp.w3", inner, width),
        **layer_norm("output.mlp.ffn_ln", inner),
        **layer_norm("norm1", source),
        **layer_norm("normk", source),
    }
    tensors: dict[str, Shape] = {
        "query_embeds": (1, section.size("num_learnable_queries"), width),
        "vit_eos": (1, 1, hidden),
        **linear("visual_fc", hidden, width),
    }
    for index in range(section.size("num_hidden_layers")):
        level = f"encoder.layers.{index}.crossattention"
        tensors |= {f"{level}.{name}": shape for name, shape in attention.items()}
    return tensors
