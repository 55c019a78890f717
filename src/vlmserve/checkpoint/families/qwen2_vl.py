"""Qwen2-VL, and what its successors share with it."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from typing_extensions import override

from vlmserve.checkpoint.families.base import Config, Family, Section, TensorSpec, subsection
from vlmserve.checkpoint.families.decoder import DECODERS, decoder_tensors
from vlmserve.checkpoint.processor_settings import ProcessorSettings
from vlmserve.checkpoint.tensors import Shape
from vlmserve.checkpoint.visual_tokens.qwen import Qwen2VLTokens, QwenTokens, create_qwen_tokens

PATCH_SETTINGS: Mapping[str, str] = {
    "patch_size": "patch_size",
    "merge_size": "spatial_merge_size",
    "temporal_patch_size": "temporal_patch_size",
}
"""Settings of the processors by which images are cut up, with their names in ``vision_config``."""


class QwenVL(Family):
    """What the Qwen-VL families have in common."""

    decoder: ClassVar[str]
    """The text model's key in ``DECODERS``."""

    vision_defaults: ClassVar[Mapping[str, Any]]
    """Defaults of the family's vision configuration class."""

    token_formula: ClassVar[type[QwenTokens]] = Qwen2VLTokens

    renames: ClassVar[tuple[tuple[str, str], ...]] = (
        ("model.language_model.", "language_model.model."),
        ("model.visual.", "visual."),
        ("lm_head.", "language_model.lm_head."),
        ("model.", "language_model.model."),
    )
    tower_prefixes = ("visual.",)
    projector_prefixes: ClassVar[tuple[str, ...]] = ("visual.merger.",)

    @override
    def expected_tensors(self, config: Config) -> dict[str, TensorSpec]:
        # Configurations from before transformers 4.52 have the text model's keys at the top.
        text = subsection(config, "text_config")
        tied = bool(config.get("tie_word_embeddings") or (text or {}).get("tie_word_embeddings"))
        tensors = decoder_tensors(
            DECODERS[self.decoder],
            config if text is None else text,
            where="" if text is None else "text_config.",
            tied=tied,
        )
        vision = Section(
            subsection(config, "vision_config"), self.vision_defaults, "vision_config."
        )
        for name, shape in self.vision_tensors(vision).items():
            tensors[f"visual.{name}"] = TensorSpec(shape)
        return tensors

    @override
    def takes_embedding_lora(self, config: Config) -> bool:
        return DECODERS[self.decoder].embedding_lora

    @abstractmethod
    def vision_tensors(self, vision: Section) -> dict[str, Shape]:
        """The tensors of vision tower and merger, by their name under ``visual.``."""

    def pixels_per_token(self, config: Config) -> int:
        """Pixels of an image that become one token: the merged patch's area.

        Raises:
            CheckpointError: A size in the configuration is not a positive integer.
        """
        vision = Section(
            subsection(config, "vision_config"), self.vision_defaults, "vision_config."
        )
        return (vision.size("patch_size") * vision.size("spatial_merge_size")) ** 2

    @override
    def visual_tokens(self, config: Config, settings: ProcessorSettings) -> QwenTokens | None:
        vision = {**self.vision_defaults, **(subsection(config, "vision_config") or {})}
        return create_qwen_tokens(self.token_formula, vision, settings)


def patch_embedding(vision: Section, width: int) -> dict[str, Shape]:
    """The convolution that turns patches of frames into vectors of ``width``."""
    patch = vision.size("patch_size")
    kernel = (vision.size("temporal_patch_size"), patch, patch)
    return {"patch_embed.proj.weight": (width, vision.size("in_channels"), *kernel)}


def attention(block: str, width: int) -> dict[str, Shape]:
    """The attention of one vision block with packed query, key and value."""
    return {
        f"{block}.attn.qkv.weight": (3 * width, width),
        f"{block}.attn.qkv.bias": (3 * width,),
        f"{block}.attn.proj.weight": (width, width),
        f"{block}.attn.proj.bias": (width,),
    }


def linear(name: str, rows: int, columns: int) -> dict[str, Shape]:
    """A matrix with its bias."""
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def layer_norm(name: str, width: int) -> dict[str, Shape]:
    """A normalisation with scale and shift."""
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


class Qwen2VL(QwenVL):
    """Qwen2-VL (2B, 7B, 72B) and QVQ."""

    name = "qwen2_vl"
    title = "Qwen2-VL"
    architectures = frozenset({"Qwen2VLForConditionalGeneration"})
    decoder = "qwen2_vl_text"
    vision_defaults: ClassVar[Mapping[str, Any]] = {
        "depth": 32,
        "embed_dim": 1280,
        "hidden_size": 3584,
        "mlp_ratio": 4,
        "in_channels": 3,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }

    @override
    def vision_tensors(self, vision: Section) -> dict[str, Shape]:
        width, out = vision.size("embed_dim"), vision.size("hidden_size")
        inner = width * vision.size("mlp_ratio")
        merged = width * vision.size("spatial_merge_size") ** 2
        tensors = patch_embedding(vision, width)
        for index in range(vision.size("depth")):
            block = f"blocks.{index}"
            tensors |= attention(block, width)
            tensors |= layer_norm(f"{block}.norm1", width) | layer_norm(f"{block}.norm2", width)
            tensors |= linear(f"{block}.mlp.fc1", inner, width)
            tensors |= linear(f"{block}.mlp.fc2", width, inner)
        tensors |= layer_norm("merger.ln_q", width)
        tensors |= linear("merger.mlp.0", merged, merged)
        tensors |= linear("merger.mlp.2", out, merged)
        return tensors
