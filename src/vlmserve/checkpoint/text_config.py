"""What ``config.json`` says of the language model, as transformers 5.19 and vLLM 0.32 read it.

The same fact stands in several places: flat, as transformers up to 4.51 wrote it, in
``text_config`` since then, and rotary settings as ``rope_scaling`` with ``rope_theta`` (4.x) or as
``rope_parameters`` (5.x). Only one of the places is read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vlmserve.errors import CheckpointError

Config = Mapping[str, Any]
"""A parsed ``config.json`` or one of its sections."""

_SECTIONS = ("text_config", "llm_config")  # vllm 0.32 transformers_utils/config.py renames the 2nd

# Defaults of ``rope_theta`` in transformers 5.19, ``default_theta`` of the text model's class.
_DEFAULT_THETA = {
    "qwen2_vl": 1e6,
    "qwen2_vl_text": 1e6,
    "qwen2_5_vl": 1e6,
    "qwen2_5_vl_text": 1e6,
    "qwen3_vl": 5e5,
    "qwen3_vl_text": 5e5,
    "qwen3_vl_moe": 5e5,
    "qwen3_vl_moe_text": 5e5,
    "llama": 1e4,
    "mistral": 1e4,
    "qwen2": 1e4,
    "qwen3": 1e4,
}

# How transformers 5.19 decides whether ``lm_head`` is tied, models/*/configuration_*.py: either
# level may say so, or the top level alone does, with its default. vLLM takes the outcome
# (config/vllm.py with_hf_config).
_TIED_BY_EITHER = frozenset({"qwen2_vl", "qwen2_5_vl", "llava", "llava_onevision"})
_TIED_BY_TOP = {"qwen3_vl": False, "qwen3_vl_moe": False, "llava_next": False, "internvl": True}

# The classes of these turn the type mrope into default before vLLM sees it: transformers 5.19
# models/qwen2_vl/configuration_qwen2_vl.py.
_RESPELLED = ("qwen2_vl", "qwen2_5_vl")

# Pairs of ``type`` and ``rope_type`` that vLLM takes for the same: patch_legacy_rope_type.
_ALIKE = (("su", "longrope"), ("mrope", "default"))


@dataclass(frozen=True, slots=True)
class TextSection:
    """Where the language model's settings are read from."""

    values: Config
    where: str
    """Dotted path with a trailing dot; empty for the top level."""

    model_type: str


@dataclass(frozen=True, slots=True)
class RopeInfo:
    """Rotary positions of the language model."""

    theta: float | None
    """Base of the frequencies; ``None`` where nothing says it and the class's default is not known
    here."""

    theta_key: str
    """Dotted path of the key that says it, or that would."""

    is_theta_stated: bool
    """Whether it stands where it is read, and is not the class's default."""

    type: str
    """``default``, ``linear``, ``dynamic``, ``yarn``, ...; ``mrope``, the old spelling of
    ``default`` with sections, is given as ``default``."""

    contradiction: tuple[str, str] | None
    """``rope_type`` and the older ``type`` where both are there and vLLM refuses the pair."""

    section: tuple[int, ...] | None
    """Frequencies for time, height and width, ``mrope_section``; ``None`` for plain positions."""

    interleaved: bool
    """Whether the three alternate, ``mrope_interleaved``."""

    rotary_share: float
    """Share of each head that is rotated, ``partial_rotary_factor``."""

    key: str
    """Dotted path of the object that this was read from."""


def find_text_section(config: Config) -> TextSection:
    """Find the section that vLLM reads the language model's settings from.

    Raises:
        CheckpointError: The section is not an object.
    """
    top_type = str(config.get("model_type", ""))
    for key in _SECTIONS:
        values = config.get(key)
        if values is None:
            continue
        if not isinstance(values, dict):
            raise CheckpointError(f"config.json: {key}: an object is expected, not {values!r}")
        # Qwen-VL's sections may leave the type out; it follows from the model's own.
        fallback = f"{top_type}_text" if top_type.startswith("qwen") else ""
        return TextSection(values, f"{key}.", str(values.get("model_type") or fallback))
    return TextSection(config, "", top_type)


def is_tied(config: Config) -> bool | None:
    """Whether ``lm_head`` shares the embedding, as transformers 5.19 and vLLM 0.32 take it.

    Returns:
        The outcome, or ``None`` for a family whose rule is not known here.
    """
    model_type = config.get("model_type")
    section = find_text_section(config)
    if model_type in _TIED_BY_EITHER:
        nested = section.values.get("tie_word_embeddings") if section.where else None
        return bool(config.get("tie_word_embeddings") or nested)
    if isinstance(model_type, str) and model_type in _TIED_BY_TOP:
        stated = config.get("tie_word_embeddings")
        return _TIED_BY_TOP[model_type] if stated is None else bool(stated)
    return None


def find_rope(config: Config) -> RopeInfo | None:
    """Read the rotary settings that count.

    Returns:
        The settings, or ``None`` where there is one object for each type of layer, which the
        families known here do not have.

    Raises:
        CheckpointError: A value is not of its type; the message names it.
    """
    section = find_text_section(config)
    chosen = next((key for key in rope_keys(section.values)), None)
    return _read_object(section, chosen)


def find_rope_at(config: Config, key: str) -> RopeInfo | None:
    """Read the rotary settings as if ``key`` of the same section were the one that counts."""
    return _read_object(find_text_section(config), key)


def rope_keys(section: Config) -> tuple[str, ...]:
    """Which of the two objects a section has; the first is the one that is read.

    transformers 5.19 modeling_rope_utils.py ``convert_rope_params_to_dict``: an empty object counts
    as absent.
    """
    return tuple(key for key in ("rope_scaling", "rope_parameters") if section.get(key))


def head_dim(section: TextSection) -> int | None:
    """Width of an attention head, or ``None`` where the configuration does not tell."""
    own = section.values.get("head_dim")
    # vllm 0.32 models/qwen2.py divides, whatever the key says.
    if isinstance(own, int) and not section.model_type.startswith(("qwen2_vl", "qwen2_5_vl")):
        return own
    hidden, heads = (section.values.get(key) for key in ("hidden_size", "num_attention_heads"))
    if isinstance(hidden, int) and isinstance(heads, int) and heads > 0:
        return hidden // heads
    return None


def _read_object(section: TextSection, key: str | None) -> RopeInfo | None:
    where = f"{section.where}{key}" if key else f"{section.where}rope_parameters"
    values = section.values.get(key) if key else {}
    if not isinstance(values, dict):
        raise CheckpointError(f"config.json: {where}: an object is expected, not {values!r}")
    if values and all(isinstance(value, dict) for value in values.values()):
        return None
    theta, theta_key = values.get("rope_theta"), f"{where}.rope_theta"
    if theta is None and section.values.get("rope_theta") is not None:
        theta, theta_key = section.values["rope_theta"], f"{section.where}rope_theta"
    default = _DEFAULT_THETA.get(section.model_type)
    new, old = values.get("rope_type"), values.get("type")
    if section.model_type.startswith(_RESPELLED) and (old if new is None else new) == "mrope":
        new = "default"
    is_refused = None not in (new, old) and new != old and (old, new) not in _ALIKE
    share = values.get("partial_rotary_factor", section.values.get("partial_rotary_factor"))
    return RopeInfo(
        theta=default if theta is None else _number(theta, theta_key),
        theta_key=theta_key,
        is_theta_stated=theta is not None,
        type=_spelled(old if new is None else new),
        contradiction=(str(new), str(old)) if is_refused else None,
        section=_section(values.get("mrope_section"), f"{where}.mrope_section"),
        interleaved=bool(values.get("mrope_interleaved", False)),
        rotary_share=1.0 if share is None else _number(share, f"{where}: partial_rotary_factor"),
        key=where,
    )


def _spelled(rope_type: object) -> str:
    """One spelling of a type for several: vllm 0.32 ``patch_legacy_rope_type``."""
    name = "default" if rope_type is None else str(rope_type)
    return {"mrope": "default", "su": "longrope"}.get(name, name)


def _section(value: object, where: str) -> tuple[int, ...] | None:
    if value is None:
        return None
    if isinstance(value, list) and value and all(type(size) is int for size in value):
        return tuple(value)
    raise CheckpointError(f"config.json: {where}: a list of whole numbers is expected: {value!r}")


def _number(value: object, where: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise CheckpointError(f"config.json: {where}: a number is expected, not {value!r}")
