"""Rotary settings: every legal spelling is clean, and what changes positions is found."""

import copy
from pathlib import Path
from typing import Any

import pytest

from tests.unit.doctor.configs import PUBLIC, SECTION
from tests.unit.doctor.test_config import findings, write_config
from vlmserve.doctor.rope import check_rope

FLAT = "Qwen2-VL, as published (4.41)"
NESTED = "Qwen2.5-VL-7B, saved by 4.53 (float32 in text_config)"
QWEN3 = "Qwen3-VL, saved by 4.57"
MISTRAL = "LLaVA-NeXT Mistral (4.39)"


def config_of(name: str, **text: Any) -> dict[str, Any]:
    """A public configuration with settings of the language model changed; ``None`` drops one."""
    config = copy.deepcopy(PUBLIC[name])
    section = config.get("text_config", config)
    for key, value in text.items():
        if value is None:
            section.pop(key, None)
        else:
            section[key] = value
    return config


@pytest.mark.parametrize(
    "rope",
    [
        {"type": "mrope", "mrope_section": SECTION},
        {"type": "default", "mrope_section": SECTION},
        {"rope_type": "default", "mrope_section": SECTION},
        {"rope_type": "default", "type": "mrope", "mrope_section": SECTION},
        {"rope_type": "mrope", "mrope_section": SECTION},
        {"mrope_section": SECTION},
        {
            "type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 32768,
            "mrope_section": SECTION,
        },
    ],
)
def test_spellings_of_mrope(tmp_path: Path, rope: dict[str, Any]) -> None:
    model = write_config(tmp_path / "model", config_of(FLAT, rope_scaling=rope))
    assert findings(check_rope, model) == []


@pytest.mark.parametrize(
    ("name", "text", "title"),
    [
        (FLAT, {"rope_scaling": None}, "mrope_section is lost"),
        (FLAT, {"rope_scaling": {"type": "mrope"}}, "mrope_section is lost"),
        (NESTED, {"rope_scaling": None}, "mrope_section is lost"),
        (QWEN3, {"rope_scaling": {"rope_type": "default"}}, "mrope_section is lost"),
        (
            FLAT,
            {"rope_scaling": {"type": "linear", "factor": 2.0, "mrope_section": SECTION}},
            "rope type linear switches M-RoPE off",
        ),
        (
            FLAT,
            {"rope_scaling": {"type": "dynamic", "factor": 2.0, "mrope_section": SECTION}},
            "rope type dynamic switches M-RoPE off",
        ),
        (
            FLAT,
            {"rope_scaling": {"type": "mrope", "rope_type": "yarn", "mrope_section": SECTION}},
            "rope_type yarn and type mrope contradict",
        ),
        (
            QWEN3,
            {"rope_scaling": {"rope_type": "mrope", "type": "default", "mrope_section": SECTION}},
            "rope_type mrope and type default contradict",
        ),
        (
            FLAT,
            {"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}},
            "adds up to 64, and half a head's width is 8",
        ),
        (
            QWEN3,
            {"rope_scaling": {"rope_type": "default", "mrope_section": [4, 2, 2]}},
            "mrope_interleaved is lost",
        ),
    ],
)
def test_broken(tmp_path: Path, name: str, text: dict[str, Any], title: str) -> None:
    model = write_config(tmp_path / "model", config_of(name, **text))
    (finding,) = findings(check_rope, model)
    assert finding.severity == "block"
    assert title in finding.title


def test_a_section_that_is_not_read_is_shown(tmp_path: Path) -> None:
    config = config_of(NESTED, rope_scaling=None)
    (finding,) = findings(check_rope, write_config(tmp_path / "model", config))
    assert "rope_scaling.mrope_section" in [evidence.key for evidence in finding.evidence]


def test_theta_that_is_at_the_top_alone(tmp_path: Path) -> None:
    config = config_of(QWEN3, rope_theta=None) | {"rope_theta": 5e6}
    (finding,) = findings(check_rope, write_config(tmp_path / "model", config))
    assert finding.severity == "block"
    assert finding.title == "rope_theta is lost: 500000 in place of 5e+06"
    assert '"rope_theta": 5000000.0' in finding.remedy


def test_theta_that_only_the_base_has(tmp_path: Path) -> None:
    base = write_config(tmp_path / "base", PUBLIC[MISTRAL])
    model = write_config(tmp_path / "model", config_of(MISTRAL, rope_theta=None))
    assert findings(check_rope, model) == []
    (finding,) = findings(check_rope, model, base)
    assert finding.severity == "block"
    assert "10000 in place of 1e+06" in finding.title


def test_a_default_that_equals_what_was_stated_is_not_lost(tmp_path: Path) -> None:
    base = write_config(tmp_path / "base", PUBLIC[FLAT])
    model = write_config(tmp_path / "model", config_of(FLAT, rope_theta=None))
    assert findings(check_rope, model, base) == []


@pytest.mark.parametrize(
    ("name", "text", "key"),
    [
        (FLAT, {"rope_theta": 10000.0}, "rope_theta"),
        (FLAT, {"rope_scaling": {"type": "mrope", "mrope_section": [4, 2, 2]}}, "mrope_section"),
        (MISTRAL, {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type"),
    ],
)
def test_other_than_the_base(tmp_path: Path, name: str, text: dict[str, Any], key: str) -> None:
    base = write_config(tmp_path / "base", PUBLIC[name])
    model = write_config(tmp_path / "model", config_of(name, **text))
    assert findings(check_rope, model) == []
    (finding,) = findings(check_rope, model, base)
    assert finding.severity == "warn"
    assert finding.title == f"{key} differs from the base model's"


def test_both_generations_of_keys(tmp_path: Path) -> None:
    stale = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": SECTION}
    config = config_of(FLAT, rope_parameters=stale)
    (finding,) = findings(check_rope, write_config(tmp_path / "model", config))
    assert finding.severity == "warn"
    assert finding.title == "rope_theta stands twice with different values"
    assert "this one is read" in finding.evidence[0].value
    base = write_config(tmp_path / "base", PUBLIC[FLAT])
    assert findings(check_rope, tmp_path / "model", base) == []


def test_both_generations_that_agree(tmp_path: Path) -> None:
    same = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": SECTION}
    model = write_config(tmp_path / "model", config_of(FLAT, rope_parameters=same))
    assert findings(check_rope, model) == []


def test_top_level_and_section_differ(tmp_path: Path) -> None:
    config = PUBLIC[NESTED] | {"rope_theta": 2e6}
    (finding,) = findings(check_rope, write_config(tmp_path / "model", config))
    assert finding.severity == "warn"
    assert [evidence.key for evidence in finding.evidence] == [
        "text_config.rope_theta",
        "rope_theta",
    ]
