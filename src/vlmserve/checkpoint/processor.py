"""Which files turn text and pixels into a model's input, and whether a directory has them.

Three layouts are about: transformers up to 4.51 (``preprocessor_config.json``), up to 4.57
(``video_preprocessor_config.json`` beside it) and 5 (one ``processor_config.json`` with nested
processors).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vlmserve.checkpoint.files import read_json, read_json_if_present, read_template

Part = Literal["image processor", "tokenizer", "chat template"]
"""What a vision-language model needs besides its weights."""

PARTS: tuple[Part, ...] = ("image processor", "tokenizer", "chat template")

CHAT_TEMPLATE = "chat_template.jinja"

PROCESSOR_FILES = (
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
)
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
)
_TEMPLATE_FILES = (CHAT_TEMPLATE, "chat_template.json")


@dataclass(frozen=True)
class ProcessorFiles:
    """The processor, tokenizer and chat template of one directory."""

    directory: Path
    files: Mapping[Part, tuple[str, ...]]
    """Names of the files that are there for each part; a part may be there only in pieces."""

    missing: tuple[Part, ...]
    """The parts that cannot be loaded from this directory."""

    template: str | None
    """The chat template's text, wherever it is kept; ``None`` for none, or for several by name."""


def find_processor(directory: Path) -> ProcessorFiles:
    """Look for the processor, tokenizer and chat template of a directory.

    Raises:
        CheckpointError: A file that has to be looked into is not JSON.
    """

    def present(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for name in names if (directory / name).is_file())

    processor, tokenizer = present(PROCESSOR_FILES), present(TOKENIZER_FILES)
    template, template_files = _find_template(directory)
    has_part: dict[Part, bool] = {
        "image processor": _has_image_processor(directory, processor),
        "tokenizer": "tokenizer.json" in tokenizer
        or "tokenizer.model" in tokenizer
        or {"vocab.json", "merges.txt"} <= set(tokenizer),
        "chat template": bool(template_files),
    }
    return ProcessorFiles(
        directory,
        {"image processor": processor, "tokenizer": tokenizer, "chat template": template_files},
        tuple(part for part in PARTS if not has_part[part]),
        template,
    )


def _has_image_processor(directory: Path, names: tuple[str, ...]) -> bool:
    if "preprocessor_config.json" in names:
        return True
    # Before transformers 5 this file held settings of the wrapper alone.
    wrapper = read_json_if_present(directory / "processor_config.json")
    return isinstance(wrapper.get("image_processor"), dict)


def _find_template(directory: Path) -> tuple[str | None, tuple[str, ...]]:
    """The template and the file it is in, in the order in which transformers looks for it."""
    jinja = directory / CHAT_TEMPLATE
    if jinja.is_file():
        return read_template(jinja), (CHAT_TEMPLATE,)
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        path = directory / name
        template: Any = read_json(path).get("chat_template") if path.is_file() else None
        if isinstance(template, str) and template:
            return template, (name,)
        if isinstance(template, list) and template:  # several templates by name
            return None, (name,)
    return None, ()
