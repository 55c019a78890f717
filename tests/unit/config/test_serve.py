from pathlib import Path

import pytest

from vlmserve.config.base import load_config
from vlmserve.config.serve import ServeConfig
from vlmserve.errors import ConfigError

CONFIGS = sorted((Path(__file__).resolve().parents[3] / "configs").glob("*.yaml"))


def test_there_are_configurations_for_the_families() -> None:
    names = {path.stem for path in CONFIGS}

    assert {"cpu-demo", "qwen2-vl-7b", "qwen2.5-vl-7b", "qwen3-vl-8b", "llava-1.5-7b"} <= names


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configuration_loads(path: Path) -> None:
    assert load_config(path, ServeConfig) != ServeConfig()


@pytest.mark.parametrize("name", ["/models/x", "a\\b", " "])
def test_served_name_must_not_be_a_path(name: str) -> None:
    with pytest.raises(ConfigError, match="look like a path"):
        load_config(None, ServeConfig, overrides={"server.served_model_name": name})


def test_two_models_must_not_share_a_name() -> None:
    with pytest.raises(ConfigError, match="are the same"):
        load_config(
            None,
            ServeConfig,
            settings=["server.served_model_name=a", "server.base_served_name=a"],
        )


def test_every_field_says_what_it_is() -> None:
    schema = ServeConfig.model_json_schema()
    undocumented = [
        f"{model}.{field}"
        for model, definition in schema["$defs"].items()
        for field, about in definition["properties"].items()
        if "description" not in about and "$ref" not in about and field != "seed"
    ]

    assert undocumented == []
