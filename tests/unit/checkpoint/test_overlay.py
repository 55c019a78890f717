"""Which parts of a processor are there, and how gaps are filled without touching anything."""

import json
from pathlib import Path
from typing import Any

import pytest

from vlmserve.checkpoint.overlay import create_overlay, find_gaps, missing_files
from vlmserve.checkpoint.processor import find_processor
from vlmserve.checkpoint.source import Checkpoint, load_checkpoint
from vlmserve.errors import CheckpointError

ALL = ["preprocessor_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]


def tuned(write: Any, *removed: str) -> Checkpoint:
    base, directory = write.model("base"), write.model("tuned")
    for name in removed:
        (directory / name).unlink()
    return load_checkpoint(directory, base_model=base)


@pytest.mark.parametrize(
    ("files", "missing"),
    [
        ({}, ("image processor", "tokenizer", "chat template")),
        # transformers up to 4.5x
        (
            {
                "preprocessor_config.json": {},
                "vocab.json": {},
                "merges.txt": {},
                "tokenizer_config.json": {"chat_template": "x"},
            },
            (),
        ),
        # transformers 5
        (
            {
                "processor_config.json": {"image_processor": {}},
                "tokenizer.json": {},
                "chat_template.jinja": {},
            },
            (),
        ),
        # a wrapper's settings are no image processor, half a vocabulary is no tokenizer
        (
            {"processor_config.json": {"processor_class": "X"}, "vocab.json": {}},
            ("image processor", "tokenizer", "chat template"),
        ),
        # several templates by name
        (
            {
                "preprocessor_config.json": {},
                "tokenizer.model": {},
                "tokenizer_config.json": {"chat_template": [{"name": "a", "template": "x"}]},
            },
            (),
        ),
    ],
)
def test_parts(tmp_path: Path, files: Any, missing: Any) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert find_processor(tmp_path).missing == missing


def test_jinja_file_goes_first(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "old"}')
    assert find_processor(tmp_path).template == "old"
    (tmp_path / "chat_template.jinja").write_text("new")
    assert find_processor(tmp_path).template == "new"


def test_a_template_that_is_given_is_no_gap(write: Any, tmp_path: Path) -> None:
    directory = write.model("alone")
    (directory / "chat_template.json").unlink()
    checkpoint = load_checkpoint(directory)
    assert [gap.part for gap in find_gaps(checkpoint)] == ["chat template"]
    assert find_gaps(checkpoint, has_template=True) == []
    assert create_overlay(checkpoint, tmp_path / "overlays", has_template=True).borrowed == []


def test_internvl_in_its_own_format_needs_no_image_processor(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["InternVLChatModel"]}')
    parts = [gap.part for gap in find_gaps(load_checkpoint(tmp_path))]
    assert parts == ["tokenizer", "chat template"]


def test_what_an_unknown_family_needs_is_not_known(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["SomethingNew"]}')
    assert find_gaps(load_checkpoint(tmp_path)) == []


def test_nothing_to_fill(write: Any) -> None:
    assert find_gaps(tuned(write)) == []


def test_full_model_borrows_from_its_base(write: Any, tmp_path: Path) -> None:
    checkpoint = tuned(
        write,
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.json",
    )
    assert missing_files(checkpoint) == ALL
    before = sorted(path.name for path in checkpoint.path.iterdir())
    overlay = create_overlay(checkpoint, tmp_path / "overlays")
    assert overlay.path == tmp_path / "overlays" / "tuned"
    assert overlay.borrowed == ALL
    assert sorted(path.name for path in checkpoint.path.iterdir()) == before
    # It is whole, its weights are the fine-tune's, the rest the base's.
    completed = load_checkpoint(overlay.path)
    assert find_gaps(completed) == []
    weights, tokenizer = overlay.path / "model.safetensors", overlay.path / "tokenizer.json"
    assert weights.resolve() == checkpoint.path / "model.safetensors"
    assert checkpoint.base is not None
    assert tokenizer.resolve() == checkpoint.base.path / "tokenizer.json"
    assert find_processor(overlay.path).template == "{{ messages }}"


def test_only_what_is_missing_is_borrowed(write: Any, tmp_path: Path) -> None:
    checkpoint = tuned(write, "chat_template.json")
    (checkpoint.path / "tokenizer.json").write_text('{"own": 1}')
    overlay = create_overlay(checkpoint, tmp_path / "overlays")
    assert overlay.borrowed == ["chat_template.jinja"]
    assert (overlay.path / "tokenizer.json").read_text() == '{"own": 1}'


def test_own_template_survives_a_borrowed_tokenizer(write: Any, tmp_path: Path) -> None:
    checkpoint = tuned(write, "chat_template.json", "tokenizer.json")
    (checkpoint.path / "tokenizer_config.json").write_text('{"chat_template": "mine"}')
    overlay = create_overlay(checkpoint, tmp_path / "overlays")
    assert find_processor(overlay.path).missing == ()
    assert find_processor(overlay.path).template == "mine"


def test_adapter_fills_its_bases_gaps(write: Any, tmp_path: Path) -> None:
    base = write.model("base")
    adapter = write.adapter(base)
    (base / "preprocessor_config.json").rename(adapter / "preprocessor_config.json")
    checkpoint = load_checkpoint(adapter)
    overlay = create_overlay(checkpoint, tmp_path / "overlays")
    assert overlay.path.name == "base"
    assert overlay.borrowed == ["preprocessor_config.json"]
    assert (overlay.path / "model.safetensors").exists()


def test_nothing_to_borrow_from(write: Any, tmp_path: Path) -> None:
    directory = write.model()
    (directory / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match="image processor missing") as caught:
        create_overlay(load_checkpoint(directory), tmp_path / "overlays")
    assert "--base-model" in (caught.value.hint or "")
    assert not (tmp_path / "overlays").exists()


def test_an_existing_directory_is_left_alone(write: Any, tmp_path: Path) -> None:
    checkpoint = tuned(write, "chat_template.json")
    create_overlay(checkpoint, tmp_path / "overlays")
    with pytest.raises(CheckpointError, match="File exists"):
        create_overlay(checkpoint, tmp_path / "overlays")
