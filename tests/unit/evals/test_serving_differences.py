"""Differences between sides: those that are meant are told, the others refused."""

from typing import Any

import pytest

from vlmserve.errors import ConfigError
from vlmserve.evals.answering import EngineSource, Side
from vlmserve.evals.serving_differences import find_serving_differences

SETTINGS = {
    "engine": "vllm",
    "dtype": "bfloat16",
    "versions": {"vllm": "0.32.0", "torch": "2.12"},
    "mm_processor_kwargs": {},
    "lora": None,
}


def side(name: str, own: frozenset[str] = frozenset(), **changes: Any) -> Side:
    return Side(
        name=name,
        fingerprint=name,
        settings={**SETTINGS, **changes},
        source=EngineSource(None),
        model=lambda _: name,
        own_settings=own,
    )


def find(old: Side, new: Side, *declared: str) -> dict[str, tuple[Any, Any, str]]:
    found = find_serving_differences(old, new, declared=declared)
    return {each.field: (each.before, each.after, each.reason) for each in found}


def test_equal_sides_do_not_differ() -> None:
    assert find(side("a"), side("b")) == {}


def test_what_nobody_declared_is_refused_by_name() -> None:
    new = side("b", dtype="float32", versions={"vllm": "0.33.0", "torch": "2.12"})

    with pytest.raises(ConfigError, match=r'dtype: "bfloat16" \| "float32"') as caught:
        find(side("a"), new)
    assert 'versions.vllm: "0.32.0" | "0.33.0"' in caught.value.message
    assert caught.value.hint is not None
    assert "differs: [dtype, versions.vllm]" in caught.value.hint
    with pytest.raises(ConfigError, match="differ in\n  dtype"):
        find(side("a"), new, "versions")


def test_what_is_declared_is_told_with_all_that_lies_below_it() -> None:
    new = side("b", dtype="float32", versions={"vllm": "0.33.0", "torch": "2.13"})

    assert find(side("a"), new, "dtype", "versions") == {
        "dtype": ("bfloat16", "float32", "declared"),
        "versions.vllm": ("0.32.0", "0.33.0", "declared"),
        "versions.torch": ("2.12", "2.13", "declared"),
    }


def test_what_a_checkpoint_brings_along_is_told() -> None:
    own = frozenset({"mm_processor_kwargs.max_pixels", "lora"})
    new = side("b", own, mm_processor_kwargs={"max_pixels": 9}, lora={"rank": 8, "vision": False})

    assert find(side("a"), new) == {
        "lora.rank": (None, 8, "checkpoint"),
        "lora.vision": (None, False, "checkpoint"),
        "mm_processor_kwargs.max_pixels": (None, 9, "checkpoint"),
    }
    # What the operator chose is another matter.
    with pytest.raises(ConfigError, match=r"mm_processor_kwargs\.max_pixels: unset \| 9"):
        find(side("a"), side("b", mm_processor_kwargs={"max_pixels": 9}))


def endpoint(name: str, **settings: Any) -> Side:
    return Side(
        name=name,
        fingerprint=name,
        settings={"engine": "endpoint", "url": name, "model": "m", **settings},
        source=EngineSource(None),
        model=lambda _: "m",
    )


def test_of_what_an_endpoint_does_not_state_nothing_is_said() -> None:
    assert find(side("a"), endpoint("b")) == {}
    assert find(endpoint("a"), endpoint("b")) == {}
    assert find(side("a"), endpoint("b", versions={"vllm": "0.32.0"})) == {}
    assert find(side("a"), endpoint("b", dtype="bfloat16", quantization="fp8")) == {}


def test_what_an_endpoint_states_is_compared() -> None:
    with pytest.raises(ConfigError, match=r"versions\.vllm"):
        find(side("a"), endpoint("b", versions={"vllm": "0.31.0"}))
    with pytest.raises(ConfigError, match=r'dtype: "bfloat16" \| "float32"'):
        find(side("a"), endpoint("b", dtype="float32"))
    with pytest.raises(ConfigError, match=r'asking\.system: unset \| "Hi"'):
        find(side("a"), endpoint("b", asking={"system": "Hi"}))
