"""The tensors of the vision towers that LLaVA models use: CLIP and SigLIP.

Defaults and names are those of transformers 5.19 with the ``vision_model.`` level that vLLM 0.32
keeps; the tests compare them with the real classes.
"""

from dataclasses import dataclass

from vlmserve.checkpoint.families.base import Config, Section, TensorSpec
from vlmserve.checkpoint.tensors import Shape

PREFIX = "vision_tower.vision_model."


@dataclass(frozen=True)
class EncoderKind:
    """What tells one kind of vision tower from another."""

    defaults: Config
    class_token: bool
    """Whether a class token with its own position leads, and a norm follows the embedding."""

    pooling_head: bool
    """Whether the file also holds an attention-pooling head, which LLaVA does not run."""


ENCODERS = {
    "clip_vision_model": EncoderKind(
        {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_channels": 3,
            "image_size": 224,
            "patch_size": 32,
        },
        class_token=True,
        pooling_head=False,
    ),
    "siglip_vision_model": EncoderKind(
        {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_channels": 3,
            "image_size": 224,
            "patch_size": 16,
        },
        class_token=False,
        pooling_head=True,
    ),
}


def encoder_tensors(
    kind: EncoderKind, config: Config, *, used_layers: int, prefix: str = PREFIX
) -> dict[str, TensorSpec]:
    """The tensors of one vision tower, by canonical name.

    Args:
        kind: Which kind it is.
        config: Its section of the configuration.
        used_layers: Layers that are run; later ones, the last norm and the pooling head may be
            absent.
        prefix: What stands before every name.

    Raises:
        CheckpointError: A size is not a positive integer.
    """
    section = Section(config, kind.defaults, "vision_config.")
    width, inner = section.size("hidden_size"), section.size("intermediate_size")
    patch, layers = section.size("patch_size"), section.size("num_hidden_layers")
    positions = (section.size("image_size") // patch) ** 2 + kind.class_token

    embeddings: dict[str, Shape] = {
        "embeddings.patch_embedding.weight": (width, section.size("num_channels"), patch, patch),
        "embeddings.position_embedding.weight": (positions, width),
    }
    if kind.class_token:
        embeddings["embeddings.class_embedding"] = (width,)
        embeddings |= _norm("pre_layrnorm", width)  # sic, in every CLIP checkpoint
    else:
        embeddings["embeddings.patch_embedding.bias"] = (width,)
    tensors = {f"{prefix}{name}": TensorSpec(shape) for name, shape in embeddings.items()}

    layer = _norm("layer_norm1", width) | _norm("layer_norm2", width)
    for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
        layer |= _linear(f"self_attn.{projection}", width, width)
    layer |= _linear("mlp.fc1", inner, width) | _linear("mlp.fc2", width, inner)
    for index in range(layers):
        for name, shape in layer.items():
            spec = TensorSpec(shape, required=index < used_layers)
            tensors[f"{prefix}encoder.layers.{index}.{name}"] = spec

    # vLLM builds the last norm only where it runs every layer, and LLaVA reads the output before
    # that norm even then.
    unused = _norm("post_layernorm", width)
    if kind.pooling_head and section.get("vision_use_head") is not False:
        unused |= _pooling_head(width, inner)
    for name, shape in unused.items():
        tensors[f"{prefix}{name}"] = TensorSpec(shape, required=False)
    return tensors


def _pooling_head(width: int, inner: int) -> dict[str, Shape]:
    return {
        "head.probe": (1, 1, width),
        "head.attention.in_proj_weight": (3 * width, width),
        "head.attention.in_proj_bias": (3 * width,),
        **_linear("head.attention.out_proj", width, width),
        **_norm("head.layernorm", width),
        **_linear("head.mlp.fc1", inner, width),
        **_linear("head.mlp.fc2", width, inner),
    }


def _linear(name: str, rows: int, columns: int) -> dict[str, Shape]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def _norm(name: str, width: int) -> dict[str, Shape]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}
