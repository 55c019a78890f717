"""The fingerprint follows what decides the answers, and nothing else."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from vlmserve.checkpoint.fingerprint import fingerprint
from vlmserve.checkpoint.source import load_checkpoint


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def test_moving_and_commenting_change_nothing(write: Any, tmp_path: Path) -> None:
    directory = write.model()
    before = fingerprint(load_checkpoint(directory))
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", before)
    moved = tmp_path / "elsewhere" / "renamed"
    shutil.copytree(directory, moved)
    for name in ("README.md", "trainer_state.json", "training_args.bin", "optimizer.pt", "x.log"):
        (moved / name).write_text("{}")
    assert fingerprint(load_checkpoint(moved)) == before


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "tokenizer.json", "chat_template.json", "preprocessor_config.json"],
)
def test_each_content_counts(write: Any, name: str) -> None:
    checkpoint = load_checkpoint(write.model())
    before = fingerprint(checkpoint)
    flip(checkpoint.path / name)
    assert fingerprint(checkpoint) != before


def test_a_file_that_is_added_counts(write: Any) -> None:
    checkpoint = load_checkpoint(write.model())
    before = fingerprint(checkpoint)
    (checkpoint.path / "generation_config.json").write_text("{}")
    assert fingerprint(checkpoint) != before


@pytest.mark.parametrize("name", ["adapter/adapter_model.safetensors", "model/model.safetensors"])
def test_an_adapter_is_its_base_as_well(write: Any, tmp_path: Path, name: str) -> None:
    checkpoint = load_checkpoint(write.adapter(write.model()))
    before = fingerprint(checkpoint)
    assert before != fingerprint(checkpoint.model)
    flip(tmp_path / name)
    assert fingerprint(checkpoint) != before


def test_borrowed_files_count(write: Any, tmp_path: Path) -> None:
    base, tuned = write.model("base"), write.model("tuned")
    (tuned / "tokenizer.json").unlink()
    checkpoint = load_checkpoint(tuned, base_model=base)
    before = fingerprint(checkpoint)
    flip(tmp_path / "base" / "model.safetensors")
    assert fingerprint(checkpoint) == before
    flip(tmp_path / "base" / "tokenizer.json")
    assert fingerprint(checkpoint) != before


def test_a_template_lifted_out_of_another_file_counts(write: Any, tmp_path: Path) -> None:
    base, tuned = write.model("base"), write.model("tuned")
    for directory in (base, tuned):
        (directory / "chat_template.json").unlink()
    settings = base / "tokenizer_config.json"
    settings.write_text('{"chat_template": "one"}')
    checkpoint = load_checkpoint(tuned, base_model=base)
    before = fingerprint(checkpoint)

    settings.write_text('{"chat_template": "two"}')

    assert fingerprint(load_checkpoint(tuned, base_model=base)) != before
