"""What a server states of its settings, by which its answers are kept."""

from pathlib import Path
from typing import Any

from vlmserve.checkpoint.source import load_checkpoint
from vlmserve.config.engine import EngineConfig
from vlmserve.config.serve import ServeConfig
from vlmserve.config.server import ServerConfig
from vlmserve.engine.plan import plan_serving
from vlmserve.engine.settings import serving_settings
from vlmserve.server.identity import Identity, served_models, served_settings


def state(write: Any, tmp_path: Path, *flags: str, **config: Any) -> Any:
    serve = ServeConfig(**config)
    path = write.root / "model"
    checkpoint = load_checkpoint(path if path.exists() else write.model())
    plan = plan_serving(checkpoint, serve, tmp_path)
    settings = served_settings(plan, serve, flags)
    said = Identity(served_models(checkpoint, plan), None, settings).describe()["settings"]
    assert serving_settings(plan, serve).items() <= said.items()
    return said


def test_whatever_changes_answers_changes_what_is_stated(write: Any, tmp_path: Path) -> None:
    plain = state(write, tmp_path)
    other = [
        state(write, tmp_path, engine=EngineConfig(dtype="float32")),
        state(write, tmp_path, server=ServerConfig(chat_template="{{ messages }}")),
        state(write, tmp_path, server=ServerConfig(reasoning_parser="qwen3")),
        state(write, tmp_path, "--quantization", "fp8"),
    ]

    assert all(each != plain for each in other)
    assert state(write, tmp_path) == plain
    assert state(write, tmp_path, server=ServerConfig(port=9000)) == plain


def test_flags_are_not_told_word_by_word(write: Any, tmp_path: Path) -> None:
    assert "secret" not in str(state(write, tmp_path, "--hf-token", "secret"))
