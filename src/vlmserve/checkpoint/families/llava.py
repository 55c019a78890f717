"""LLaVA-1.5 in the transformers format, and what LLaVA-NeXT shares with it."""

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from typing_extensions import override

from vlmserve.checkpoint.families.base import Config, Family, Section, TensorSpec, subsection
from vlmserve.checkpoint.families.decoder import DECODERS, DecoderKind, decoder_tensors
from vlmserve.checkpoint.families.encoder import ENCODERS, encoder_tensors
from vlmserve.checkpoint.processor_settings import ProcessorSettings
from vlmserve.checkpoint.visual_tokens.base import VisualTokens
from vlmserve.checkpoint.visual_tokens.llava import create_llava_tokens
from vlmserve.errors import CheckpointError

_PROJECTOR = "multi_modal_projector."
_TOWER = "vision_tower."
TOWER_LEVEL = "vision_tower.vision_model."
"""What vLLM's names of CLIP's and SigLIP's tensors begin with."""

FLAT_TOWER = (
    r"^(?:model\.)?vision_tower\."
    r"(?=(?:embeddings|encoder|pre_layrnorm|post_layernorm|head)\.)"
)
"""What they begin with in transformers 5, as a pattern: it has no such level in memory, and so in
adapters; it puts it back into the files of a model that had it when it was loaded (5.19
conversion_mapping.py CLIPVisionModel), but not into those of a model made anew."""


class Llava(Family):
    """LLaVA-1.5 and models of its class: CLIP or SigLIP, a two-layer projector, any decoder."""

    name = "llava"
    title = "LLaVA-1.5"
    architectures = frozenset({"LlavaForConditionalGeneration"})
    renames: ClassVar[tuple[tuple[str, str], ...]] = (
        ("model.language_model.", "language_model.model."),
        ("model.vision_tower.", "vision_tower."),
        ("model.multi_modal_projector.", _PROJECTOR),
        ("lm_head.", "language_model.lm_head."),
    )
    tower_prefixes = (_TOWER,)
    projector_prefixes: ClassVar[tuple[str, ...]] = (_PROJECTOR,)
    default_decoder: ClassVar[str] = "llama"
    """Kind of a ``text_config`` that does not say."""

    default_encoder: ClassVar[str] = "clip_vision_model"
    """Kind of a ``vision_config`` that does not say."""

    default_vision: ClassVar[Mapping[str, Any]] = {
        "model_type": "clip_vision_model",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "image_size": 336,
        "patch_size": 14,
    }
    """What transformers puts in place of a ``vision_config`` that is absent altogether."""

    default_feature_layer: ClassVar[int] = -2

    @override
    def expected_tensors(self, config: Config) -> dict[str, TensorSpec] | None:
        text = subsection(config, "text_config") or {}
        vision = subsection(config, "vision_config")
        vision = dict(self.default_vision) if vision is None else vision
        decoder = self.decoder_kind(config)
        encoder = ENCODERS.get(str(vision.get("model_type", self.default_encoder)))
        if decoder is None or encoder is None:
            return None
        tensors = decoder_tensors(decoder, text, where="text_config.", tied=self.is_tied(config))
        used = self._used_layers(config, Section(vision, encoder.defaults, "vision_config."))
        tensors |= encoder_tensors(encoder, vision, used_layers=used)

        width = Section(vision, encoder.defaults, "vision_config.").size("hidden_size")
        hidden = Section(text, decoder.defaults, "text_config.").size("hidden_size")
        layers = config.get("vision_feature_layer")
        sources = len(layers) if isinstance(layers, list) else 1
        tensors[f"{_PROJECTOR}linear_1.weight"] = TensorSpec((hidden, width * sources))
        tensors[f"{_PROJECTOR}linear_2.weight"] = TensorSpec((hidden, hidden))
        if config.get("multimodal_projector_bias", True):
            tensors[f"{_PROJECTOR}linear_1.bias"] = TensorSpec((hidden,))
            tensors[f"{_PROJECTOR}linear_2.bias"] = TensorSpec((hidden,))
        return tensors

    def decoder_kind(self, config: Config) -> DecoderKind | None:
        """What is known of the text model, or ``None``."""
        text = subsection(config, "text_config") or {}
        return DECODERS.get(str(text.get("model_type", self.default_decoder)))

    def is_tied(self, config: Config) -> bool:
        """Whether ``lm_head`` shares the embedding."""
        text = subsection(config, "text_config") or {}
        return bool(config.get("tie_word_embeddings") or text.get("tie_word_embeddings"))

    @override
    def takes_embedding_lora(self, config: Config) -> bool:
        decoder = self.decoder_kind(config)
        return decoder is not None and decoder.embedding_lora

    @override
    def canonical(self, name: str) -> str:
        # engine/models/llava.py teaches vLLM the same.
        return super().canonical(re.sub(FLAT_TOWER, TOWER_LEVEL, name))

    def _used_layers(self, config: Config, vision: Section) -> int:
        """How many layers of the tower are run: those up to the deepest whose output is used.

        vllm 0.32, models/llava.py ``_get_num_hidden_layers``; negative numbers count from behind,
        where -1 is the output of the last layer.
        """
        layers = config.get("vision_feature_layer", self.default_feature_layer)
        total = vision.size("num_hidden_layers")
        wanted = layers if isinstance(layers, list) else [layers]
        depths = [layer for layer in wanted if isinstance(layer, int)]
        if not depths or len(depths) != len(wanted):
            raise CheckpointError(
                "config.json: vision_feature_layer: an integer or a list is expected, "
                f"not {layers!r}"
            )
        return max(total + layer + 1 if layer < 0 else layer for layer in depths)

    @override
    def visual_tokens(self, config: Config, settings: ProcessorSettings) -> VisualTokens | None:
        return create_llava_tokens(config)
