"""LLaVA-NeXT (1.6) in the transformers format."""

from typing_extensions import override

from vlmserve.checkpoint.families.base import Config, Section, TensorSpec, subsection
from vlmserve.checkpoint.families.llava import Llava
from vlmserve.checkpoint.processor_settings import ProcessorSettings
from vlmserve.checkpoint.visual_tokens.base import VisualTokens
from vlmserve.checkpoint.visual_tokens.llava import create_llava_next_tokens


class LlavaNext(Llava):
    """LLaVA-NeXT: LLaVA with tiles, and a learned vector at the end of each row of features."""

    name = "llava_next"
    title = "LLaVA-NeXT"
    architectures = frozenset({"LlavaNextForConditionalGeneration"})
    renames = (
        ("model.language_model.", "language_model.model."),
        ("model.vision_tower.", "vision_tower."),
        ("model.multi_modal_projector.", "multi_modal_projector."),
        ("model.image_newline", "image_newline"),
        ("lm_head.", "language_model.lm_head."),
    )
    projector_prefixes = ("multi_modal_projector.", "image_newline")

    @override
    def expected_tensors(self, config: Config) -> dict[str, TensorSpec] | None:
        tensors = super().expected_tensors(config)
        if tensors is None:
            return None
        text = subsection(config, "text_config") or {}
        decoder = self.decoder_kind(config)
        defaults = {} if decoder is None else decoder.defaults
        hidden = Section(text, defaults, "text_config.").size("hidden_size")
        return tensors | {"image_newline": TensorSpec((hidden,))}

    @override
    def is_tied(self, config: Config) -> bool:
        # Unlike LLaVA's, this configuration class does not look into text_config.
        return bool(config.get("tie_word_embeddings"))

    @override
    def visual_tokens(self, config: Config, settings: ProcessorSettings) -> VisualTokens | None:
        return create_llava_next_tokens(config)
