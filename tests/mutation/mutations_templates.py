"""Prompts other than those of the training, marks in pieces, answers that are not learned."""

from pathlib import Path
from typing import Any

from tests.mutation.mutation import (
    Mutation,
    drop_key,
    edit_json,
    edit_rows,
    read_json,
    replace_text,
    set_key,
)
from tests.mutation.subject import Case

_TEMPLATE = "chat_template.jinja"


def _own_system_prompt(case: Case) -> None:
    """A run with ms-swift's default system prompt, served with a template that has none."""
    drop_key(case.checkpoint / "args.json", "system")


def _prompt_of_the_run(case: Case) -> None:
    set_key(case.checkpoint / "args.json", "system", "You name colours and shapes.")


def _no_default_prompt(case: Case) -> None:
    """A LLaMA-Factory run without a system prompt, served with the template's own."""
    replace_text(
        case.checkpoint / "training_args.yaml", "template: qwen2_vl", "template: qwen3_vl_nothink"
    )


def _lost_line_break(case: Case) -> None:
    replace_text(case.checkpoint / _TEMPLATE, "<|im_end|>\n", "<|im_end|>")


def _other_role_name(case: Case) -> None:
    """Nothing tells which framework trained it: the base's template is all there is."""
    path = case.checkpoint / "chat_template.json"
    template = read_json(path)["chat_template"]
    set_key(
        path, "chat_template", template.replace("USER", "Human").replace("<image>\n", "<image>")
    )


def _system_prompt_put_in(case: Case) -> None:
    def edit(content: Any) -> None:
        old = content["chat_template"]
        content["chat_template"] = old.replace(
            "You are a helpful assistant.", "You are a careful assistant."
        )
        assert content["chat_template"] != old

    edit_json(case.checkpoint / "chat_template.json", edit)


def _foreign_marks(case: Case) -> None:
    """Base and fine-tune alike have a template whose end of turn their tokenizer does not have."""
    assert case.base is not None
    for directory in (case.base, case.checkpoint):
        path = directory / "chat_template.json"
        template = read_json(path)["chat_template"]
        set_key(path, "chat_template", template.replace("<|im_end|>", "<|eot_id|>"))


def _no_mark_for_images(case: Case) -> None:
    assert case.base is not None
    for directory in (case.base, case.checkpoint):
        path = directory / "chat_template.json"
        template = read_json(path)["chat_template"]
        assert "<image>" in template
        set_key(path, "chat_template", template.replace("<image>", "<|image|>"))


def _all_muted(case: Case) -> None:
    _edit_answers(case, lambda message: message.update(loss=False))


def _empty_answers(case: Case) -> None:
    _edit_answers(case, lambda message: message.update(content=""))


def _blank_answers(case: Case) -> None:
    def edit(rows: Any) -> None:
        for turn in (turn for row in rows for turn in row["conversations"]):
            turn["value"] = " " if turn["from"] == "gpt" else turn["value"]

    edit_json(case.root / "data" / "train.json", edit)


def _edit_answers(case: Case, edit: Any) -> None:
    def change(rows: list[Any]) -> None:
        for row in rows:
            for message in row["messages"]:
                if message["role"] == "assistant":
                    edit(message)

    assert case.data is not None
    edit_rows(Path(case.data), change)


MUTATIONS = (
    Mutation(
        "ms-swift's default system prompt, not served",
        "template.render-diff",
        "demo-full",
        _own_system_prompt,
        fast=True,
    ),
    Mutation(
        "a system prompt of the run, not served",
        "template.render-diff",
        "swift-lora",
        _prompt_of_the_run,
        fast=True,
    ),
    Mutation(
        "a system prompt that LLaMA-Factory trained without",
        "template.render-diff",
        "llama-factory",
        _no_default_prompt,
        fast=True,
    ),
    Mutation(
        "a line break taken out of the chat template",
        "template.render-diff",
        "demo-full",
        _lost_line_break,
        fast=True,
    ),
    Mutation(
        "another role name and no line break after an image",
        "template.render-diff",
        "llava-1.5-4x",
        _other_role_name,
        fast=True,
    ),
    Mutation(
        "another default system prompt in the chat template",
        "template.render-diff",
        "qwen2-vl-4x",
        _system_prompt_put_in,
        fast=True,
    ),
    Mutation(
        "an end of turn that the tokenizer does not have",
        "template.sep-atomic",
        "qwen2-vl-4x",
        _foreign_marks,
    ),
    Mutation(
        "a placeholder that the tokenizer does not have",
        "template.sep-atomic",
        "llava-1.5-4x",
        _no_mark_for_images,
    ),
    Mutation("every answer marked loss: false", "data.labels-text", "demo-full", _all_muted),
    Mutation("empty answers", "data.labels-text", "demo-full", _empty_answers),
    Mutation("answers of a blank", "data.labels-text", "llama-factory", _blank_answers),
)
