"""The tensors of the language models inside the families: Llama's layout and its descendants.

Defaults and names are those of transformers 5.19 (``models/<type>/configuration_<type>.py`` and
``modeling_<type>.py``); the tests compare them with the real classes.
"""

from dataclasses import dataclass, field
from types import MappingProxyType

from vlmserve.checkpoint.families.base import Config, Section, TensorSpec
from vlmserve.checkpoint.tensors import Shape

PREFIX = "language_model.model."
LM_HEAD = "language_model.lm_head.weight"


@dataclass(frozen=True)
class DecoderKind:
    """What tells one kind of decoder from another."""

    defaults: Config = field(default_factory=dict)
    qkv_bias: bool = False
    """Whether query, key and value projections have a bias, whatever the configuration says."""

    attention_bias_key: str | None = None
    """Name of the setting that gives all four attention projections a bias."""

    mlp_bias_key: str | None = None
    """Name of the setting that gives the feed-forward projections a bias."""

    qk_norm: bool = False
    """Whether queries and keys are normalised in each head."""

    head_dim_key: bool = True
    """Whether ``head_dim`` in the configuration counts."""

    embedding_lora: bool = True
    """Whether vLLM's class takes LoRA on embeddings and head: its ``embedding_modules``."""


def _sizes(*sizes: int | None) -> MappingProxyType[str, int | None]:
    keys = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
    )
    return MappingProxyType(dict(zip(keys, sizes, strict=True)))


DECODERS: dict[str, DecoderKind] = {
    "llama": DecoderKind(
        _sizes(32000, 4096, 11008, 32, 32, None),
        attention_bias_key="attention_bias",
        mlp_bias_key="mlp_bias",
    ),
    "mistral": DecoderKind(_sizes(32000, 4096, 14336, 32, 32, 8), embedding_lora=False),
    "qwen2": DecoderKind(
        _sizes(151936, 4096, 22016, 32, 32, 32),
        qkv_bias=True,
        head_dim_key=False,
        embedding_lora=False,
    ),
    "qwen3": DecoderKind(
        MappingProxyType({**_sizes(151936, 4096, 22016, 32, 32, 32), "head_dim": 128}),
        attention_bias_key="attention_bias",
        qk_norm=True,
    ),
    # The text models of Qwen2-VL and Qwen2.5-VL are alike.
    "qwen2_vl_text": DecoderKind(
        _sizes(152064, 8192, 29568, 80, 64, 8),
        qkv_bias=True,
        head_dim_key=False,
        embedding_lora=False,
    ),
    "qwen3_vl_text": DecoderKind(
        MappingProxyType({**_sizes(151936, 4096, 22016, 32, 32, 32), "head_dim": 128}),
        attention_bias_key="attention_bias",
        qk_norm=True,
    ),
}


def decoder_tensors(
    kind: DecoderKind, config: Config, *, where: str, tied: bool
) -> dict[str, TensorSpec]:
    """The tensors of one decoder with embeddings and head, by canonical name.

    Args:
        kind: Which kind it is.
        config: Its section of the configuration.
        where: That section's dotted path with a trailing dot, for error messages.
        tied: Whether ``lm_head`` shares the embedding, so that it may be absent.

    Raises:
        CheckpointError: A size is not a positive integer.
    """
    section = Section(config, kind.defaults, where)
    hidden, inner = section.size("hidden_size"), section.size("intermediate_size")
    vocab, heads = section.size("vocab_size"), section.size("num_attention_heads")
    has_kv = section.get("num_key_value_heads") is not None
    kv_heads = section.size("num_key_value_heads") if has_kv else heads
    own_head_dim = kind.head_dim_key and section.get("head_dim") is not None
    head_dim = section.size("head_dim") if own_head_dim else hidden // heads

    attention_bias = _is_set(section, kind.attention_bias_key)
    mlp_bias = _is_set(section, kind.mlp_bias_key)
    qkv_bias = kind.qkv_bias or attention_bias
    layer: dict[str, Shape] = {
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
        **_linear("self_attn.q_proj", heads * head_dim, hidden, bias=qkv_bias),
        **_linear("self_attn.k_proj", kv_heads * head_dim, hidden, bias=qkv_bias),
        **_linear("self_attn.v_proj", kv_heads * head_dim, hidden, bias=qkv_bias),
        **_linear("self_attn.o_proj", hidden, heads * head_dim, bias=attention_bias),
        **_linear("mlp.gate_proj", inner, hidden, bias=mlp_bias),
        **_linear("mlp.up_proj", inner, hidden, bias=mlp_bias),
        **_linear("mlp.down_proj", hidden, inner, bias=mlp_bias),
    }
    if kind.qk_norm:
        layer |= {"self_attn.q_norm.weight": (head_dim,), "self_attn.k_norm.weight": (head_dim,)}

    tensors = {
        f"{PREFIX}embed_tokens.weight": TensorSpec((vocab, hidden)),
        f"{PREFIX}norm.weight": TensorSpec((hidden,)),
        LM_HEAD: TensorSpec((vocab, hidden), required=not tied),
    }
    for index in range(section.size("num_hidden_layers")):
        for name, shape in layer.items():
            tensors[f"{PREFIX}layers.{index}.{name}"] = TensorSpec(shape)
    return tensors


def _linear(name: str, rows: int, columns: int, *, bias: bool) -> dict[str, Shape]:
    weight: dict[str, Shape] = {f"{name}.weight": (rows, columns)}
    return weight | {f"{name}.bias": (rows,)} if bias else weight


def _is_set(section: Section, key: str | None) -> bool:
    return key is not None and bool(section.get(key))
