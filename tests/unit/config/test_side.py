"""What one side of a comparison is served with."""

from pathlib import Path

import pytest

from vlmserve.config.engine import EngineConfig
from vlmserve.config.serve import ServeConfig
from vlmserve.config.server import ServerConfig
from vlmserve.config.side import load_side_config
from vlmserve.errors import ConfigError

COMMON = ServeConfig(
    engine=EngineConfig(dtype="bfloat16", max_model_len=512, mm_processor_kwargs={"min_pixels": 4}),
    server=ServerConfig(chat_template="both.jinja"),
)


def test_without_a_file_a_side_has_what_both_have() -> None:
    side = load_side_config(None, COMMON)

    assert side.config == COMMON
    assert not side.declared
    assert not side.sets


def test_a_sides_settings_lie_on_top_and_are_declared(tmp_path: Path) -> None:
    path = tmp_path / "side.yaml"
    path.write_text(
        "engine:\n  quantization: fp8\n  mm_processor_kwargs: {max_pixels: 50176}\n"
        "  limit_mm_per_prompt: {image: 3}\n"
        "server: {reasoning_parser: qwen3}\ndiffers: [versions]\n"
    )
    side = load_side_config(path, COMMON)

    assert side.config.engine.dtype == "bfloat16"
    assert side.config.engine.max_model_len == 512
    assert side.config.engine.quantization == "fp8"
    assert side.config.engine.mm_processor_kwargs == {"min_pixels": 4, "max_pixels": 50176}
    assert side.config.engine.limit_mm_per_prompt.image == 3
    assert side.config.server.chat_template == "both.jinja"
    assert side.config.server.reasoning_parser == "qwen3"
    assert set(side.sets) == {
        "quantization",
        "mm_processor_kwargs.max_pixels",
        "limit_mm_per_prompt.image",
        "asking.reasoning_parser",
    }
    assert side.declared == {*side.sets, "versions"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("engine:\n  dtpe: float32\n", r"side\.yaml:2: engine\.dtpe: unknown key"),
        ("server: {port: 8000}", r"side\.yaml:1: server\.port: unknown key"),
        ("media: {max_image_bytes: 1}", r"side\.yaml:1: media: unknown key"),
        ("differs: [dtype, weights]", r"side\.yaml:1: differs: weights: no such setting"),
    ],
)
def test_what_a_side_cannot_have_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "side.yaml"
    path.write_text(text)

    with pytest.raises(ConfigError, match=said):
        load_side_config(path, COMMON)
