"""Are the rotary positions those that the model was made with?"""

from collections.abc import Iterator

from vlmserve.checkpoint.source import Checkpoint
from vlmserve.checkpoint.text_config import (
    RopeInfo,
    TextSection,
    find_rope,
    find_rope_at,
    find_text_section,
    head_dim,
    rope_keys,
)
from vlmserve.doctor.check import Check
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import (
    Evidence,
    Finding,
    Outcome,
    at_model,
    config_evidence,
)

# Models whose language part has only ever had positions of three axes; section of the published
# models, which transformers 5.19 falls back on and vLLM does not.
_MROPE_SECTIONS = {
    "qwen2_vl": "[16, 24, 24]",
    "qwen2_5_vl": "[16, 24, 24]",
    "qwen3_vl": "[24, 20, 20]",
    "qwen3_vl_moe": "[24, 20, 20]",
}
_INTERLEAVED = ("qwen3_vl", "qwen3_vl_moe")

# The types for which vLLM 0.32 looks at mrope_section.
_MROPE_TYPES = ("default", "yarn", "bailing_mrope", "openpangu")

_VLLM_ROPE = "vllm 0.32 model_executor/layers/rotary_embedding/__init__.py get_rope"
_TRANSFORMERS = "transformers 5.19 modeling_rope_utils.py convert_rope_params_to_dict"


def check_rope(exam: Examination) -> Iterator[Outcome]:
    """``cfg.rope``: rotary settings that were lost, do not fit, or differ from the base's.

    All spellings that transformers 4 and 5 have written are alike here: ``mrope`` and ``default``,
    ``type`` and ``rope_type``, ``rope_scaling`` with ``rope_theta`` and ``rope_parameters``.
    """
    checkpoint = exam.checkpoint
    section = find_text_section(checkpoint.config)
    rope = find_rope(checkpoint.config)
    if rope is None:
        return
    base = None
    if checkpoint.adapter is None and checkpoint.base is not None:
        base = find_rope(checkpoint.base.config)
    broken = list(_unusable(checkpoint, section, rope, base))
    if broken:
        yield from broken
        return
    lost = list(_lost_theta(checkpoint, section, rope, base))
    if lost:
        yield from lost
        return
    yield from _two_spellings(checkpoint, section, rope, base)
    if base is not None:
        yield from _other_than_base(checkpoint, rope, base)


def _unusable(
    checkpoint: Checkpoint, section: TextSection, rope: RopeInfo, base: RopeInfo | None
) -> Iterator[Outcome]:
    """Settings with which vLLM fails or computes positions that no training had."""
    needs_section = checkpoint.model_type in _MROPE_SECTIONS or (
        base is not None and base.section is not None
    )
    if rope.contradiction is not None:
        new, old = rope.contradiction
        yield Finding(
            id="cfg.rope",
            title=f"rope_type {new} and type {old} contradict each other",
            evidence=[
                config_evidence(checkpoint, f"{rope.key}.rope_type", new),
                config_evidence(checkpoint, f"{rope.key}.type", old),
            ],
            consequence="vLLM refuses to start.",
            remedy=at_model(checkpoint, f"remove the wrong one from {rope.key} in config.json"),
            source="vllm 0.32 transformers_utils/config.py patch_legacy_rope_type",
        )
    elif needs_section and rope.section is None:
        usual = _MROPE_SECTIONS.get(checkpoint.model_type, "")
        if base is not None and base.section is not None:
            usual = str(list(base.section))
        evidence = [_seen(checkpoint, rope, "mrope_section")]
        evidence += _unread_section(checkpoint, section)
        yield Finding(
            id="cfg.rope",
            title="mrope_section is lost: the positions of images would be those of text",
            evidence=evidence,
            consequence="vLLM counts positions in one dimension, so the model no longer knows "
            "where in an image something is; it starts and answers fluently.",
            remedy=at_model(
                checkpoint, f'set "mrope_section": {usual} in {rope.key} of config.json'
            ),
            source="vllm 0.32 transformers_utils/config.py uses_mrope; ms-swift#2340",
        )
    elif rope.section is not None and rope.type not in _MROPE_TYPES:
        yield Finding(
            id="cfg.rope",
            title=f"rope type {rope.type} switches M-RoPE off",
            evidence=[
                _seen(checkpoint, rope, "rope_type"),
                _seen(checkpoint, rope, "mrope_section"),
            ],
            consequence="vLLM applies mrope_section with the types default and yarn alone: it "
            "fails at the start, or images get the positions of text.",
            remedy=at_model(
                checkpoint,
                f'set "rope_type": "default" in {rope.key} of config.json, or the base\'s value',
            ),
            source=_VLLM_ROPE,
        )
    elif rope.section is not None:
        yield from _section_misfit(checkpoint, section, rope)


def _section_misfit(
    checkpoint: Checkpoint, section: TextSection, rope: RopeInfo
) -> Iterator[Outcome]:
    width = head_dim(section)
    total = sum(rope.section or ())
    if width is not None and total != int(width * rope.rotary_share) // 2:
        half = int(width * rope.rotary_share) // 2
        yield Finding(
            id="cfg.rope",
            title=f"mrope_section adds up to {total}, and half a head's width is {half}",
            evidence=[
                _seen(checkpoint, rope, "mrope_section"),
                config_evidence(checkpoint, f"{section.where}hidden_size", f"a head has {width}"),
            ],
            consequence="vLLM refuses to start.",
            remedy=at_model(checkpoint, f"copy {rope.key} from the base model's config.json"),
            source="vllm 0.32 model_executor/layers/rotary_embedding/mrope.py",
        )
    elif checkpoint.model_type in _INTERLEAVED and not rope.interleaved:
        yield Finding(
            id="cfg.rope",
            title="mrope_interleaved is lost",
            evidence=[_seen(checkpoint, rope, "mrope_interleaved")],
            consequence="transformers always interleaves time, height and width for this model; "
            "vLLM does so only if told, and otherwise computes positions that the model never saw.",
            remedy=at_model(
                checkpoint, f'set "mrope_interleaved": true in {rope.key} of config.json'
            ),
            source=_VLLM_ROPE,
        )


def _lost_theta(
    checkpoint: Checkpoint, section: TextSection, rope: RopeInfo, base: RopeInfo | None
) -> Iterator[Outcome]:
    """``rope_theta`` is not where it is read, so that the class's default counts."""
    if rope.is_theta_stated or rope.theta is None:
        return
    stated = base.theta if base is not None else None
    evidence = [_seen(checkpoint, rope, "rope_theta")]
    if section.where:
        stray = _top_level_theta(checkpoint)
        if stray is not None:
            key, value = stray
            evidence.append(config_evidence(checkpoint, key, f"{value:g}; not read here"))
            stated = value if stated is None else stated
    if stated is None or stated == rope.theta:
        return
    if base is not None:
        evidence.append(_of_base(checkpoint, base, "rope_theta"))
    yield Finding(
        id="cfg.rope",
        title=f"rope_theta is lost: {rope.theta:g} in place of {stated:g}",
        evidence=evidence,
        consequence="Every position is rotated by other angles than in training: answers fall "
        "apart, the sooner the longer the prompt.",
        remedy=at_model(checkpoint, f'set "rope_theta": {stated:.1f} in {rope.key} of config.json'),
        source=_TRANSFORMERS,
    )


def _two_spellings(
    checkpoint: Checkpoint, section: TextSection, rope: RopeInfo, base: RopeInfo | None
) -> Iterator[Outcome]:
    """Both generations of keys in one section, or settings at both levels, that differ."""
    others: list[RopeInfo] = []
    for key in rope_keys(section.values)[1:]:
        other = find_rope_at(checkpoint.config, key)
        others += [other] if other is not None else []
    top = _top_level_rope(checkpoint) if section.where else None
    others += [top] if top is not None else []
    for other in others:
        differs = _difference(rope, other)
        # The base's own double bookkeeping is none of the fine-tune's doing.
        if differs is None or (base is not None and _difference(rope, base) is None):
            continue
        yield Finding(
            id="cfg.rope",
            title=f"{differs} stands twice with different values",
            evidence=[
                _seen(checkpoint, rope, differs, note="; this one is read"),
                _seen(checkpoint, other, differs, note="; not read"),
            ],
            consequence="If the training stack read the other one, the model is served with "
            "positions that it was not trained with.",
            remedy=at_model(
                checkpoint, f"remove the wrong one of {rope.key} and {other.key} from config.json"
            ),
            source=_TRANSFORMERS,
            severity="warn",
        )


def _other_than_base(checkpoint: Checkpoint, rope: RopeInfo, base: RopeInfo) -> Iterator[Outcome]:
    differs = _difference(rope, base)
    if differs is None:
        return
    # Context is extended on purpose by both; a model trained so is served so.
    yield Finding(
        id="cfg.rope",
        title=f"{differs} differs from the base model's",
        evidence=[_seen(checkpoint, rope, differs), _of_base(checkpoint, base, differs)],
        consequence="Unless it was trained with this value, every position is rotated by other "
        "angles than in training.",
        remedy=at_model(
            checkpoint,
            f"set {rope.key} as in the base model's config.json, unless the training changed it",
        ),
        source=_TRANSFORMERS,
        severity="warn",
    )


def _difference(rope: RopeInfo, other: RopeInfo) -> str | None:
    """The first setting in which two differ, by its name in the file."""
    pairs = {
        "rope_theta": (rope.theta, other.theta),
        "mrope_section": (rope.section, other.section),
        "rope_type": (rope.type, other.type),
    }
    return next((name for name, (ours, theirs) in pairs.items() if ours != theirs), None)


def _top_level_rope(checkpoint: Checkpoint) -> RopeInfo | None:
    """What the top level says beside ``text_config``, if it is a whole set of settings."""
    flat = {key: value for key, value in checkpoint.config.items() if key != "text_config"}
    if not rope_keys(flat) or "llm_config" in flat:
        return None
    rope = find_rope(flat)
    return rope if rope is not None and rope.is_theta_stated else None


def _top_level_theta(checkpoint: Checkpoint) -> tuple[str, float] | None:
    config = checkpoint.config
    places: list[tuple[str, object]] = [("rope_theta", config.get("rope_theta"))]
    for key in ("rope_parameters", "rope_scaling"):
        values = config.get(key)
        if isinstance(values, dict):
            places.append((f"{key}.rope_theta", values.get("rope_theta")))
    for name, value in places:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return name, float(value)
    return None


def _unread_section(checkpoint: Checkpoint, section: TextSection) -> list[Evidence]:
    """An ``mrope_section`` somewhere it is not read from."""
    places = {}
    for where, values in (("", checkpoint.config), (section.where, section.values)):
        for key in ("rope_scaling", "rope_parameters"):
            inner = values.get(key)
            if isinstance(inner, dict) and inner.get("mrope_section"):
                places[f"{where}{key}.mrope_section"] = inner["mrope_section"]
    return [config_evidence(checkpoint, key, f"{value}; not read") for key, value in places.items()]


def _seen(checkpoint: Checkpoint, rope: RopeInfo, name: str, note: str = "") -> Evidence:
    return config_evidence(checkpoint, _key(rope, name), f"{_value(rope, name)}{note}")


def _of_base(checkpoint: Checkpoint, base: RopeInfo, name: str) -> Evidence:
    path = "" if checkpoint.base is None else str(checkpoint.base.path / "config.json")
    return Evidence(file=path, key=_key(base, name), value=_value(base, name))


def _key(rope: RopeInfo, name: str) -> str:
    return rope.theta_key if name == "rope_theta" else f"{rope.key}.{name}"


def _value(rope: RopeInfo, name: str) -> str:
    if name == "rope_theta":
        default = "" if rope.is_theta_stated else " (absent, so the class's default)"
        return f"{rope.theta:g}{default}" if rope.theta is not None else "absent"
    if name == "mrope_section":
        return "absent" if rope.section is None else str(list(rope.section))
    if name == "mrope_interleaved":
        return str(rope.interleaved).lower()
    return rope.type


CHECKS = (
    Check(
        id="cfg.rope",
        run=check_rope,
        cause="Rotary settings moved between versions: `rope_scaling` with `rope_theta` in "
        "transformers 4, `rope_parameters` in 5, at the top level or in `text_config`, with the "
        "type `mrope` or `default`. Converters and merge scripts drop or rewrite them.",
        evidence="The settings that vLLM 0.32 reads, after its own respelling: whether M-RoPE "
        "models still have `mrope_section` with a sum of half a head's width, a type that uses it "
        "and Qwen3-VL's `mrope_interleaved`; and the same settings of the base and of the other "
        "places in the file. A respelling by another version of transformers is no finding.",
        example="mrope_section is lost: the positions of images would be those of text",
        remedy="Copy the object that the finding names from the base model's `config.json`.",
    ),
)
"""The checks of this theme, in the order in which they run."""
