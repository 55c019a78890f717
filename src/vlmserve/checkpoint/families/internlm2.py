"""The tensors of InternLM2, as InternVL and InternLM-XComposer have it inside.

Names and defaults are those of ``modeling_internlm2.py`` and ``configuration_internlm2.py`` in the
repositories OpenGVLab/InternVL and InternLM/InternLM-XComposer.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from vlmserve.checkpoint.families.base import Config, Section, TensorSpec
from vlmserve.checkpoint.tensors import Shape

_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "vocab_size": 103168,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "bias": True,
    }
)


def internlm2_tensors(
    config: Config, *, prefix: str, where: str, plora_rank: int | None = None
) -> dict[str, TensorSpec]:
    """The tensors of one InternLM2 with embeddings and head.

    Args:
        config: Its section of the configuration.
        prefix: What stands before every name, with its dot; ``output.weight`` is outside of the
            ``model.`` level.
        where: The section's dotted path with a trailing dot, for error messages.
        plora_rank: Rank of the low-rank pair for image tokens that InternLM-XComposer has beside
            every matrix; ``None`` for none.

    Raises:
        CheckpointError: A size is not a positive integer.
    """
    section = Section(config, _DEFAULTS, where)
    hidden, inner = section.size("hidden_size"), section.size("intermediate_size")
    vocab, heads = section.size("vocab_size"), section.size("num_attention_heads")
    has_kv = section.get("num_key_value_heads") is not None
    kv_heads = section.size("num_key_value_heads") if has_kv else heads
    width = hidden // heads
    has_bias = bool(section.get("bias"))
    matrices = {
        "attention.wqkv": ((heads + 2 * kv_heads) * width, hidden, has_bias),
        "attention.wo": (hidden, heads * width, has_bias),
        "feed_forward.w1": (inner, hidden, False),
        "feed_forward.w3": (inner, hidden, False),
        "feed_forward.w2": (hidden, inner, False),
    }
    layer: dict[str, Shape] = {"attention_norm.weight": (hidden,), "ffn_norm.weight": (hidden,)}
    for name, (rows, columns, bias) in matrices.items():
        layer |= dict(_matrix(name, rows, columns, bias=bias, plora_rank=plora_rank))
    is_tied = bool(config.get("tie_word_embeddings"))
    tensors = {
        f"{prefix}model.tok_embeddings.weight": TensorSpec((vocab, hidden)),
        f"{prefix}model.norm.weight": TensorSpec((hidden,)),
        f"{prefix}output.weight": TensorSpec((vocab, hidden), required=not is_tied),
    }
    for index in range(section.size("num_hidden_layers")):
        for name, shape in layer.items():
            tensors[f"{prefix}model.layers.{index}.{name}"] = TensorSpec(shape)
    return tensors


def _matrix(
    name: str, rows: int, columns: int, *, bias: bool, plora_rank: int | None
) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (rows, columns)
    if bias:
        yield f"{name}.bias", (rows,)
    if plora_rank is not None:
        yield f"{name}.Plora_A.weight", (plora_rank, columns)
        yield f"{name}.Plora_B.weight", (rows, plora_rank)
