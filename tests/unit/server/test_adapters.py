"""Where adapters may lie, and what is remembered of them."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vlmserve.errors import ConfigError, RequestError
from vlmserve.server.adapter_check import find_directory, require_fit
from vlmserve.server.adapter_state import AdapterState, load_state, save_state


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root" / "run" / "a").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "root" / "out").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "in").symlink_to(tmp_path / "root" / "run")
    (tmp_path / "root" / "file").touch()
    return (tmp_path / "root").resolve()


@pytest.mark.parametrize(
    ("path", "found"), [("run/a", "run/a"), ("run/../run/a", "run/a"), ("in/a", "run/a")]
)
def test_directories_below_the_root(root: Path, path: str, found: str) -> None:
    assert find_directory(root, path) == root / found


@pytest.mark.parametrize("path", ["..", "../elsewhere", "/", "/etc", "out", "out/x", ".", ""])
def test_ways_out_of_the_root(root: Path, path: str) -> None:
    with pytest.raises(RequestError, match="leads out"):
        find_directory(root, path)


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000, "run/" + "x" * 300])
def test_what_is_no_path(root: Path, path: str) -> None:
    with pytest.raises(RequestError, match="cannot be used"):
        find_directory(root, path)


@pytest.mark.parametrize("path", ["none", "file", "run/b"])
def test_what_is_no_directory(root: Path, path: str) -> None:
    with pytest.raises(RequestError, match="no directory"):
        find_directory(root, path)


@pytest.mark.parametrize(
    ("adapter", "room", "told"),
    [
        ({"rank": 8}, {}, None),
        ({"rank": 128}, {}, "server.max_adapter_rank"),
        ({"touches_projector": True}, {}, "server.adapters_in_vision"),
        ({"touches_vision_tower": True}, {"enable_tower_connector_lora": True}, None),
    ],
)
def test_an_adapter_must_fit_the_engine(adapter: Any, room: Any, told: str | None) -> None:
    plain = {"rank": 8, "touches_projector": False, "touches_vision_tower": False}
    checkpoint: Any = SimpleNamespace(adapter=SimpleNamespace(**{**plain, **adapter}))
    engine = {"max_lora_rank": 64, "enable_tower_connector_lora": False, **room}

    if told is None:
        require_fit(checkpoint, SimpleNamespace(**engine))
        return
    with pytest.raises(RequestError, match=told):
        require_fit(checkpoint, SimpleNamespace(**engine))


def test_state_is_kept(tmp_path: Path) -> None:
    state = AdapterState(adapters={"v2": "run/a"}, aliases={"stable": ["v1", "v2"]})
    place = str(tmp_path / "state.json")
    save_state(place, state)

    assert load_state(place) == state
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]
    save_state(None, state)
    assert load_state(None) == load_state(str(tmp_path / "none")) == AdapterState()


@pytest.mark.parametrize(
    "content", ["", "[]", "{", json.dumps({"aliases": {"a": []}}), json.dumps({"colour": 1})]
)
def test_broken_state_is_told(tmp_path: Path, content: str) -> None:
    place = tmp_path / "state.json"
    place.write_text(content)

    with pytest.raises(ConfigError, match=r"server\.adapter_state: .*state\.json"):
        load_state(str(place))


def test_state_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    save_state(str(tmp_path / "none" / "state.json"), AdapterState())
