"""Does the configuration contradict itself where only one of two places is read?"""

from collections.abc import Iterator, Mapping
from typing import Any

from vlmserve.checkpoint.quantisation import is_quantised
from vlmserve.checkpoint.source import Checkpoint
from vlmserve.checkpoint.tensors import Shape
from vlmserve.checkpoint.text_config import find_text_section, is_tied
from vlmserve.doctor.check import Check
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import (
    Evidence,
    Finding,
    Outcome,
    Severity,
    at_model,
    config_evidence,
    shown_path,
)

# Settings of the language model that transformers up to 4.51 wrote at the top level and later
# versions write in text_config. Both are found in one file when one version saved what another
# had loaded.
_MOVED_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "rms_norm_eps",
    "hidden_act",
)

# The families whose top level was the language model's: elsewhere such a key means another thing.
_ONCE_FLAT = ("qwen2_vl", "qwen2_5_vl")

_DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


def check_two_truths(exam: Examination) -> Iterator[Outcome]:
    """``cfg.two-truths``: a setting that stands twice, with different values, and matters."""
    checkpoint = exam.checkpoint
    if not find_text_section(checkpoint.config).where:
        return
    yield from _tied(checkpoint)
    yield from _moved_keys(checkpoint)
    yield from _dtype(checkpoint)


def _tied(checkpoint: Checkpoint) -> Iterator[Outcome]:
    """The one contradiction about tying that does harm: no head, and none made of the embedding.

    With a head in the files vLLM loads it and looks afterwards whether it equals the embedding
    (vllm 0.32 config/model.py ``maybe_untie_word_embeddings``).
    """
    config = checkpoint.config
    section = find_text_section(config)
    top, nested = config.get("tie_word_embeddings"), section.values.get("tie_word_embeddings")
    if not nested or is_tied(config) is not False:
        return
    # Quantised, it has a name of its own, such as lm_head.qweight.
    if any("lm_head." in name for name in checkpoint.tensors):
        return
    where = f"{section.where}tie_word_embeddings"
    yield Finding(
        id="cfg.two-truths",
        title="lm_head would be left empty: the two tie_word_embeddings contradict each other",
        evidence=[
            config_evidence(checkpoint, "tie_word_embeddings", f"{_json(top)}; this one is read"),
            config_evidence(
                checkpoint, where, f"{_json(nested)}; not read for {checkpoint.model_type}"
            ),
            Evidence(
                file=_first_shard(checkpoint),
                key="lm_head.weight",
                value="in no file: the model was saved with tied embeddings",
            ),
        ],
        consequence="The output layer is built apart from the embedding and no file fills it: vLLM "
        "0.32 refuses to start, and stacks that do not check answer with noise.",
        remedy=at_model(
            checkpoint, 'set "tie_word_embeddings": true at the top level of config.json'
        ),
        source="vllm 0.32 config/vllm.py with_hf_config; transformers 5.19 "
        f"models/{checkpoint.model_type}; vllm#51063, transformers#44976",
    )


def _moved_keys(checkpoint: Checkpoint) -> Iterator[Outcome]:
    if checkpoint.model_type not in _ONCE_FLAT:
        return
    config, section = checkpoint.config, find_text_section(checkpoint.config)
    for key in _MOVED_KEYS:
        top, read = config.get(key), section.values.get(key)
        if top is None or read is None or top == read:
            continue
        severity, proof = _which_is_right(checkpoint, key, top, read)
        if severity is None:
            continue
        yield Finding(
            id="cfg.two-truths",
            title=f"{key} stands twice: {read!r} is read and {top!r} is not",
            evidence=[
                config_evidence(checkpoint, key, f"{top!r}; not read where text_config is there"),
                config_evidence(checkpoint, f"{section.where}{key}", f"{read!r}; this one is read"),
                *proof,
            ],
            consequence="vLLM builds a model of other sizes than the weights have, and fails to "
            "load them or computes something else."
            if severity == "block"
            else f"If the model was trained with {top!r}, it is served as another.",
            remedy=at_model(
                checkpoint,
                f"set {section.where}{key} to {top!r} in config.json"
                if severity == "block"
                else f"remove the wrong one from config.json: {key} or {section.where}{key}",
            ),
            source="transformers 5.19 models/qwen2_vl/configuration_qwen2_vl.py __post_init__; "
            "vllm#18983",
            severity=severity,
        )


def _which_is_right(
    checkpoint: Checkpoint, key: str, top: object, read: object
) -> tuple[Severity | None, list[Evidence]]:
    """Judge by the weights, else by the base; ``None`` where the value that is read is right."""
    actual = _size_in_weights(checkpoint, key)
    if actual is not None:
        name, size = actual
        # Where neither fits, the tensors' own check says so.
        severity: Severity | None = "block" if size == top else None
        return severity, [Evidence(file=_first_shard(checkpoint), key=name, value=f"{key} {size}")]
    base = checkpoint.base
    if base is None or checkpoint.adapter is not None:
        return "warn", []
    expected = find_text_section(base.config).values.get(key)
    if expected == read:
        return None, []
    proof = [Evidence(file=str(base.path / "config.json"), key=key, value=repr(expected))]
    return ("block" if expected == top else "warn"), proof


def _size_in_weights(checkpoint: Checkpoint, key: str) -> tuple[str, int] | None:
    """A size as the language model's tensors have it, with the name of one that shows it."""
    family = checkpoint.family
    if family is None or not checkpoint.weights.shards or is_quantised(checkpoint):
        return None
    shapes = _language_shapes({family.canonical(n): t.shape for n, t in checkpoint.tensors.items()})
    if key == "num_hidden_layers":
        layers = {int(name.split(".")[1]) for name in shapes if name.startswith("layers.")}
        return ("layers", max(layers) + 1) if layers else None
    name, axis = {
        "vocab_size": ("embed_tokens.weight", 0),
        "hidden_size": ("embed_tokens.weight", 1),
        "intermediate_size": ("layers.0.mlp.gate_proj.weight", 0),
    }.get(key, ("", 0))
    shape = shapes.get(name, ())
    return (name, shape[axis]) if len(shape) > axis else None


def _language_shapes(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    prefix = "language_model.model."
    return {
        name.removeprefix(prefix): shape
        for name, shape in shapes.items()
        if name.startswith(prefix)
    }


def _dtype(checkpoint: Checkpoint) -> Iterator[Outcome]:
    """Half precision is read where the weights, and the other place, have a wider exponent."""
    config, section = checkpoint.config, find_text_section(checkpoint.config)
    top, nested = _stated_dtype(config), _stated_dtype(section.values)
    if top != "float16" or nested not in ("bfloat16", "float32"):
        return
    if not checkpoint.weights.shards:
        return
    types = [tensor.dtype for tensor in checkpoint.tensors.values()]
    if types.count(_DTYPES[nested]) * 2 <= len(types):
        return
    yield Finding(
        id="cfg.two-truths",
        title=f"float16 is read, and the weights are {nested}",
        evidence=[
            config_evidence(checkpoint, "dtype", "float16; this one is read"),
            config_evidence(checkpoint, f"{section.where}dtype", nested),
            Evidence(file=_first_shard(checkpoint), key="", value=f"most tensors are {nested}"),
        ],
        consequence="Values beyond 65504 overflow, and answers turn to noise on some images.",
        remedy=f'serve with --set engine.dtype={nested}, or set "dtype": "{nested}" at the top '
        "level of config.json",
        source="vllm 0.32 transformers_utils/model_arch_config_convertor.py get_torch_dtype",
        severity="warn",
    )


def _stated_dtype(values: Mapping[str, Any]) -> str | None:
    # transformers 5.19 configuration_utils.py: of the two spellings, dtype wins.
    value = values.get("dtype") or values.get("torch_dtype")
    return str(value).removeprefix("torch.") if value else None


def _first_shard(checkpoint: Checkpoint) -> str:
    return shown_path(checkpoint.weights.shards[0], checkpoint)


def _json(value: object) -> str:
    return "absent" if value is None else str(value).lower()


CHECKS = (
    Check(
        id="cfg.two-truths",
        run=check_two_truths,
        cause="transformers moved the language model's settings from the top level to "
        "`text_config` in 4.52 and `tie_word_embeddings` back in 5.0. Scripts that merge, convert "
        "or resize edit one of the two places.",
        evidence="`tie_word_embeddings`, sizes and `dtype` at both levels of `config.json`, by the "
        "rule of the family's class, against the tensors' headers and the base. Two values of "
        "which the right one is read are no finding.",
        example="lm_head would be left empty: the two tie_word_embeddings contradict each other",
        remedy="Put the right value where it is read and remove the other; the finding says which "
        "is which.",
    ),
)
"""The checks of this theme, in the order in which they run."""
