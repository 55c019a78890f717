"""Edits that do no harm to tokenizers, templates, adapters and data; no check may object."""

import shutil
from pathlib import Path
from typing import Any

from tests.mutation.mutation import Harmless, edit_json, edit_rows, read_json, set_key
from tests.mutation.subject import Case

_ADDED = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


def _token_in_a_spare_row(case: Case) -> None:
    """A new token; the embedding has rows to spare, as Qwen's has."""

    def edit(content: Any) -> None:
        added = content["added_tokens"]
        number = 1 + max(token["id"] for token in added)
        added.append({"id": number, "content": "<|new|>", **_ADDED, "special": True})

    edit_json(case.checkpoint / "tokenizer.json", edit)


def _processor_beside_the_adapter(case: Case) -> None:
    """What a Trainer saves that was handed the processor."""
    assert case.base is not None
    for name in (
        "tokenizer.json",
        "tokenizer_config.json",
        "processor_config.json",
        "chat_template.jinja",
    ):
        shutil.copy(case.base / name, case.checkpoint)


def _ends_in_another_order(case: Case) -> None:
    path = case.checkpoint / "generation_config.json"
    set_key(path, "eos_token_id", read_json(path)["eos_token_id"][::-1])


def _comment_in_the_template(case: Case) -> None:
    path = case.checkpoint / "chat_template.jinja"
    text = path.read_text(encoding="utf-8")
    path.write_text("{#- how to chat -#}\n" + text, encoding="utf-8")


def _image_on_the_web(case: Case) -> None:
    """Nothing is fetched, so nothing is said about it."""
    assert case.data is not None

    def edit(rows: list[Any]) -> None:
        row = next(row for row in rows if row.get("images"))
        row["images"][0] = "https://example.com/cat.jpg"

    edit_rows(Path(case.data), edit)


def _system_turns(case: Case) -> None:
    """Samples that bring their own system prompt."""
    assert case.data is not None

    def edit(rows: list[Any]) -> None:
        for row in rows[::2]:
            row["messages"].insert(0, {"role": "system", "content": "Answer in one word."})

    edit_rows(Path(case.data), edit)


def _named_by_hub_id(case: Case) -> None:
    """The run names its base as the hub does; it is given by path."""
    set_key(case.checkpoint / "args.json", "model", "Qwen/Qwen2.5-VL-7B-Instruct")
    edit_json(
        case.checkpoint / "adapter_config.json",
        lambda config: config.update(base_model_name_or_path="Qwen/Qwen2.5-VL-7B-Instruct"),
    )


HARMLESS = (
    Harmless("a token in a spare row", "qwen3-vl", _token_in_a_spare_row),
    Harmless("processor beside the adapter", "swift-lora", _processor_beside_the_adapter),
    Harmless("processor beside the adapter", "llava-lora", _processor_beside_the_adapter),
    Harmless("processor beside the adapter", "demo-lora", _processor_beside_the_adapter),
    Harmless("ends in another order", "qwen2-vl", _ends_in_another_order),
    Harmless("a comment in the template", "demo-full", _comment_in_the_template),
    Harmless("a comment in the template", "llava-next", _comment_in_the_template),
    Harmless("an image on the web", "demo-full", _image_on_the_web),
    Harmless("system turns in the data", "swift-lora", _system_turns),
    Harmless("system turns in the data", "qwen3-vl", _system_turns),
    Harmless("base named by its hub id", "swift-lora", _named_by_hub_id),
)
