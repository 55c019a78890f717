from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from vlmserve.config.base import StrictModel, load_config
from vlmserve.errors import ConfigError


class Inner(StrictModel):
    port: int = 8000
    """TCP port to listen on."""

    hosts: tuple[str, ...] = ()


class Outer(StrictModel):
    server: Inner = Inner()
    name: str = "x"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "serve.yaml"


def test_later_sources_win(file: Path) -> None:
    file.write_text("server:\n  port: 1\nname: from-file\n")

    config = load_config(
        file, Outer, settings=["server.port=2", "name=set"], overrides={"server.port": "3"}
    )

    assert config == Outer(server=Inner(port=3), name="set")


def test_no_file_gives_the_defaults() -> None:
    assert load_config(None, Outer) == Outer()


def test_empty_file_gives_the_defaults(file: Path) -> None:
    file.write_text("# nothing\n")

    assert load_config(file, Outer) == Outer()


def test_setting_takes_yaml_values() -> None:
    config = load_config(None, Outer, settings=["server.hosts=[a, b]"])

    assert config.server.hosts == ("a", "b")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("server:\n  prot: 1\n", "serve.yaml:2: server.prot: unknown key"),
        ("name: a\nserver:\n  port: many\n", "serve.yaml:3: server.port: Input should be a valid"),
        ("name: a\nserver: {port: 1}\nname: b\n", "serve.yaml:3: key 'name' is given twice"),
        ("server:\n  port: 1\n  port: 2\n", "serve.yaml:3: key 'port' is given twice"),
        ("- a\n- b\n", "serve.yaml:1: a mapping of keys to values is expected"),
        ("name: [\n", "serve.yaml:2: "),
        ("server:\n  hosts:\n    - a\n    - {}\n", "serve.yaml:4: server.hosts.1: "),
    ],
)
def test_fault_names_file_line_and_field(file: Path, text: str, expected: str) -> None:
    file.write_text(text)

    with pytest.raises(ConfigError) as caught:
        load_config(file, Outer)

    assert expected in caught.value.message


def test_every_fault_is_told(file: Path) -> None:
    file.write_text("nmae: a\nserver:\n  port: x\n")

    with pytest.raises(ConfigError) as caught:
        load_config(file, Outer)

    assert caught.value.message.count("serve.yaml:") == 2


class Numbers(StrictModel):
    n: int = Field(default=1, gt=0)
    seconds: float = 1.0
    margin: float | None = None
    each: tuple[int, ...] = ()
    by_name: dict[str, float] = Field(default_factory=dict)
    either: bool | int = 0
    anything: dict[str, Any] = Field(default_factory=dict)
    inner: Inner = Inner()


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("n: yes", "1: n"),
        # Not that it must be greater than 0.
        ("n: no", "1: n"),
        ("seconds: yes", "1: seconds"),
        ("margin: on", "1: margin"),
        ("n: 2\neach: [1, true]", "2: each.1"),
        ("by_name:\n  a: 1\n  b: off", "3: by_name.b"),
        ("inner:\n  port: yes", "2: inner.port"),
    ],
)
def test_yes_and_no_are_no_numbers(file: Path, text: str, place: str) -> None:
    file.write_text(text)

    with pytest.raises(ConfigError) as caught:
        load_config(file, Numbers)

    assert caught.value.message == (
        f"{file}:{place}: a number is expected; YAML reads yes, no, on and off as true and false"
    )


def test_whole_numbers_are_numbers_and_other_fields_may_be_true(file: Path) -> None:
    file.write_text("seconds: 600\neach: [1, 2]\neither: yes\nanything: {a: no, b: [on]}\n")

    config = load_config(file, Numbers)

    assert config.seconds == 600
    assert config.either is True
    assert config.anything == {"a": False, "b": [True]}


def test_a_list_is_called_a_list(file: Path) -> None:
    file.write_text("server:\n  hosts: a\n")
    with pytest.raises(ConfigError) as caught:
        load_config(file, Outer)
    assert caught.value.message == f"{file}:2: server.hosts: a list is expected"


class Listed(StrictModel):
    servers: tuple[Inner, ...] = Field(min_length=1)


def test_what_only_follows_from_a_fault_is_not_told(file: Path) -> None:
    file.write_text("servers:\n  - {prot: 1}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(file, Listed)
    assert caught.value.message == f"{file}:2: servers.0.prot: unknown key"


def test_a_word_where_a_section_is_due_is_told_without_names_of_classes(file: Path) -> None:
    file.write_text("server: yes please\n")
    with pytest.raises(ConfigError) as caught:
        load_config(file, Outer)
    assert caught.value.message == f"{file}:1: server: a mapping of keys to values is expected"


def test_fault_of_a_setting_names_the_setting(file: Path) -> None:
    file.write_text("server:\n  port: 1\n")

    with pytest.raises(ConfigError, match=r"^--set server\.port=x: server\.port: "):
        load_config(file, Outer, settings=["server.port=x"])


def test_fault_of_a_flag_names_the_flag() -> None:
    with pytest.raises(ConfigError, match=r"^--port x: server\.port: "):
        load_config(None, Outer, overrides={"server.port": "x"})


@pytest.mark.parametrize("setting", ["server.port", "=1", "server..port=1", "name.x=1"])
def test_malformed_setting_is_refused(file: Path, setting: str) -> None:
    file.write_text("name: a\n")

    with pytest.raises(ConfigError):
        load_config(file, Outer, settings=[setting])


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: No such file"):
        load_config(tmp_path / "nowhere.yaml", Outer)


def test_text_that_is_not_utf8_is_refused(file: Path) -> None:
    file.write_bytes(b"name: \xff\n")

    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(file, Outer)


def test_docstring_becomes_the_field_description() -> None:
    properties = Inner.model_json_schema()["properties"]

    assert properties["port"]["description"] == "TCP port to listen on."


@pytest.mark.parametrize("text", ["{{ x }}: 1\n", "name: 2026-13-45\n"])
def test_values_that_yaml_cannot_build_are_refused(file: Path, text: str) -> None:
    file.write_text(text)

    with pytest.raises(ConfigError, match="not usable YAML"):
        load_config(file, Outer)


def test_mistyped_section_of_a_setting_names_the_setting(file: Path) -> None:
    file.write_text("name: a\n")

    with pytest.raises(ConfigError, match=r"^--set sever\.port=1: sever: unknown key"):
        load_config(file, Outer, settings=["sever.port=1"])


def test_setting_with_a_key_given_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="given twice"):
        load_config(None, Outer, settings=["server={port: 1, port: 2}"])
