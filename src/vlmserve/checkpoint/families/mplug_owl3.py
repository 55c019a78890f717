"""mPLUG-Owl3 (240728, 241014, 241101): Qwen2 with four layers that also attend to the images.

Facts from PaddlePaddle/PaddleMIX, ``paddlemix/models/mPLUGOwl3`` (a port; the PyTorch code is kept
with the weights). vLLM has none of them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typing_extensions import override

from vlmserve.checkpoint.families.base import Config, Family, Section, TensorSpec, subsection
from vlmserve.checkpoint.families.decoder import DECODERS, decoder_tensors
from vlmserve.checkpoint.families.encoder import ENCODERS, encoder_tensors
from vlmserve.checkpoint.families.qwen2_vl import linear
from vlmserve.checkpoint.processor_settings import ProcessorSettings
from vlmserve.checkpoint.tensors import Shape
from vlmserve.checkpoint.visual_tokens.base import VisualTokens
from vlmserve.checkpoint.visual_tokens.mplug_owl import MPlugOwl3Tokens
from vlmserve.errors import CheckpointError

# configuration_mplugowl3.py; image_size is 384 in 240728.
_VISION: Mapping[str, Any] = {
    "hidden_size": 1152,
    "image_size": 378,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "patch_size": 14,
    "vision_use_head": False,
}
# Counted from 1.
_HYPER_LAYERS = (1, 9, 17, 25)
_GATE = ".self_attn.gate"


class MplugOwl3(Family):
    """mPLUG-Owl3 (1B, 2B, 7B)."""

    name = "mplugowl3"
    title = "mPLUG-Owl3"
    architectures = frozenset({"mPLUGOwl3Model"})
    served = False
    supports_lora = False
    supports_tower_lora = False
    renames = ()
    tower_prefixes = ("vision_model.",)
    projector_prefixes = ("vision2text_model.",)
    traps = (
        "240728 and 241101 have different projectors and different attention: their code does not "
        "load each other's weights",
        "batches with text-only samples give an image to the wrong sample in ms-swift",
    )

    @override
    def expected_tensors(self, config: Config) -> dict[str, TensorSpec]:
        return self.expected_in(config, {})

    @override
    def expected_in(self, config: Config, found: Mapping[str, Shape]) -> dict[str, TensorSpec]:
        kind = DECODERS["qwen2"]
        tied = bool(config.get("tie_word_embeddings"))
        tensors = decoder_tensors(kind, config, where="", tied=tied)
        section = Section(config, kind.defaults, "")
        hidden, heads = section.size("hidden_size"), section.size("num_attention_heads")
        kv_rows = 2 * section.size("num_key_value_heads") * (hidden // heads)
        for layer in _hyper_layers(config):
            name = f"language_model.model.layers.{layer - 1}.self_attn.v_kv_proj"
            tensors |= _specs(linear(name, kv_rows, hidden))
        vision = subsection(config, "vision_config") or {}
        tower = Section(vision, _VISION, "vision_config.")
        layers, width = tower.size("num_hidden_layers"), tower.size("hidden_size")
        # The output before the last layer is used.
        tensors |= encoder_tensors(
            ENCODERS["siglip_vision_model"],
            {**_VISION, **vision},
            used_layers=layers - 1,
            prefix="vision_model.",
        )
        if _is_gated(found):
            return tensors | _specs(linear("vision2text_model", hidden, width))
        tensors |= _specs(linear("vision2text_model.0", hidden, width))
        return tensors | _specs(linear("vision2text_model.2", hidden, hidden))

    @override
    def is_benign(self, name: str) -> bool:
        return super().is_benign(name) or name.endswith((_GATE, "rotary_emb_core.inv_freq"))

    @override
    def variant(self, config: Config, found: Mapping[str, Shape], directory: Path) -> str | None:
        if not found:
            return None
        return "240728 or 241014" if _is_gated(found) else "241101"

    @override
    def takes_embedding_lora(self, config: Config) -> bool:
        return False

    @override
    def visual_tokens(self, config: Config, settings: ProcessorSettings) -> VisualTokens | None:
        tower = Section(subsection(config, "vision_config"), _VISION, "vision_config.")
        return MPlugOwl3Tokens(tower.size("image_size"), tower.size("patch_size"))


def _is_gated(found: Mapping[str, Shape]) -> bool:
    """Whether it is a release before 241101: those mix by a gate and project by one matrix."""
    return any(name.endswith(_GATE) for name in found) or "vision2text_model.weight" in found


def _hyper_layers(config: Config) -> list[int]:
    layers = config.get("hyper_layers", _HYPER_LAYERS)
    if not isinstance(layers, list | tuple) or not all(
        isinstance(layer, int) and layer > 0 for layer in layers
    ):
        raise CheckpointError(
            f"config.json: hyper_layers: a list of layers from 1 on is expected, not {layers!r}"
        )
    return list(layers)


def _specs(shapes: Mapping[str, Shape]) -> dict[str, TensorSpec]:
    return {name: TensorSpec(shape) for name, shape in shapes.items()}
