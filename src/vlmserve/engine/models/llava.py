"""vLLM 0.32's LLaVA classes, for files of transformers 5 as well.

transformers 5 has no level ``vision_model`` in the vision tower. It puts the level back into the
files of a model that it loaded with it, but not into those of a model that was made anew, nor into
the adapters that PEFT saves. vLLM goes by the level: it refuses such a model, and drops what such
an adapter holds for the tower without a word.

vLLM also counts as many tokens of CLIP as it passes on, one fewer an image than it computes. The
tokens of a batch are then not those of their adapters: an error on CPUs, and on GPUs another
model's arithmetic.
"""

from typing import Any, ClassVar

import regex  # type: ignore[import-untyped]
from typing_extensions import override
from vllm.model_executor.models import llava, llava_next, llava_onevision
from vllm.model_executor.models.utils import WeightsMapper
from vllm.model_executor.models.vision import (
    get_num_selected_vision_tokens,
    get_vision_encoder_info,
)

from vlmserve.checkpoint.families.encoder import ENCODERS
from vlmserve.checkpoint.families.llava import FLAT_TOWER, TOWER_LEVEL

# Applied before vLLM's own renames, so that both spellings of the prefix are there.
_FLAT = WeightsMapper(orig_to_new_regex={regex.compile(FLAT_TOWER): TOWER_LEVEL})


class LlavaForConditionalGeneration(llava.LlavaForConditionalGeneration):  # type: ignore[misc]
    """LLaVA-1.5."""

    hf_to_vllm_mapper: ClassVar[WeightsMapper] = (
        _FLAT | llava.LlavaForConditionalGeneration.hf_to_vllm_mapper
    )

    @override
    def get_mm_lora_token_counts(
        self, *, modality: str, mm_kwargs: Any, num_mm_embeds: int
    ) -> tuple[int, int | None]:
        if self.config.vision_config.model_type not in ENCODERS:
            counts: tuple[int, int | None] = super().get_mm_lora_token_counts(
                modality=modality, mm_kwargs=mm_kwargs, num_mm_embeds=num_mm_embeds
            )
            return counts
        encoder = get_vision_encoder_info(self.config)
        side = encoder.get_image_size()
        per_image = encoder.get_num_image_tokens(image_width=side, image_height=side)
        passed_on = get_num_selected_vision_tokens(
            per_image, self.config.vision_feature_select_strategy
        )
        return num_mm_embeds // passed_on * per_image, num_mm_embeds


class LlavaNextForConditionalGeneration(
    llava_next.LlavaNextForConditionalGeneration  # type: ignore[misc]
):
    """LLaVA-NeXT."""

    hf_to_vllm_mapper: ClassVar[WeightsMapper] = (
        _FLAT | llava_next.LlavaNextForConditionalGeneration.hf_to_vllm_mapper
    )


class LlavaOnevisionForConditionalGeneration(
    llava_onevision.LlavaOnevisionForConditionalGeneration  # type: ignore[misc]
):
    """LLaVA-OneVision."""

    hf_to_vllm_mapper: ClassVar[WeightsMapper] = (
        _FLAT | llava_onevision.LlavaOnevisionForConditionalGeneration.hf_to_vllm_mapper
    )
