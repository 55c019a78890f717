import json
from pathlib import Path

import pytest

from vlmserve.checkpoint.files import read_json, read_template, read_yaml
from vlmserve.errors import CheckpointError


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 1,\n}', "config.json:2: not JSON"),
        ("[]", "a JSON object is expected, not list"),
        ("\ufeff{}", "config.json:1: not JSON"),
        ('{"a": %s}' % ("9" * 5000), "not readable as JSON"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_file_that_is_no_json_object_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(content, encoding="utf-8")

    with pytest.raises(CheckpointError, match=message):
        read_json(path)


def test_windows_line_ends_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b'{\r\n  "a": 1\r\n}\r\n')

    assert read_json(path) == json.loads('{"a": 1}')


@pytest.mark.parametrize("content", ["a: [", "when: 2026-13-45", "- a", "\x00"])
def test_a_file_that_is_no_yaml_mapping_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "training_args.yaml"
    path.write_text(content, encoding="utf-8")

    with pytest.raises(CheckpointError, match=r"training_args\.yaml: "):
        read_yaml(path)


def test_a_template_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"chat_template\.jinja: No such file"):
        read_template(tmp_path / "chat_template.jinja")
