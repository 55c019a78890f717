"""LLaVA-OneVision in the transformers format."""

from collections.abc import Mapping
from typing import Any, ClassVar

from typing_extensions import override

from vlmserve.checkpoint.families.base import Config
from vlmserve.checkpoint.families.llava import Llava
from vlmserve.checkpoint.families.llava_next import LlavaNext
from vlmserve.checkpoint.processor_settings import ProcessorSettings
from vlmserve.checkpoint.visual_tokens.base import VisualTokens
from vlmserve.checkpoint.visual_tokens.llava import create_llava_onevision_tokens


class LlavaOnevision(LlavaNext):
    """LLaVA-OneVision (0.5B, 7B, 72B): SigLIP and Qwen2, the output of the tower's last layer."""

    name = "llava_onevision"
    title = "LLaVA-OneVision"
    architectures = frozenset({"LlavaOnevisionForConditionalGeneration"})
    # vllm 0.32, models/llava_onevision.py: the class is no SupportsLoRA.
    supports_lora = False
    supports_tower_lora = False
    default_decoder = "qwen2"
    default_encoder = "siglip_vision_model"
    default_feature_layer = -1
    default_vision: ClassVar[Mapping[str, Any]] = {
        "model_type": "siglip_vision_model",
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 26,
        "image_size": 384,
        "patch_size": 14,
        "vision_use_head": False,
    }

    @override
    def is_tied(self, config: Config) -> bool:
        # This configuration class takes the setting from text_config again.
        return Llava.is_tied(self, config)

    @override
    def visual_tokens(self, config: Config, settings: ProcessorSettings) -> VisualTokens | None:
        return create_llava_onevision_tokens(config, settings)
