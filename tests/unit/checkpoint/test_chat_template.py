"""Chat templates render as transformers renders them."""

from pathlib import Path
from typing import Any

import pytest

from tests.unit.chat_templates import LLAVA_1_5, QWEN2_VL, REAL
from vlmserve.checkpoint.chat_template import ChatTemplateError, render_chat
from vlmserve.platform import cure_torch_extensions

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "ü", "parameters": {"a<b": 1}}}


def text(value: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": value}]


CHATS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": text("Hi <b>there</b> & 'you'")}],
    [
        {"role": "system", "content": text("Be brief.")},
        {"role": "user", "content": [{"type": "image"}, *text(" What?\n")]},
        {"role": "assistant", "content": text("A cat.")},
        {"role": "user", "content": [{"type": "video"}, {"type": "image"}, *text("And?")]},
    ],
    [{"role": "user", "content": text("Hi")}, {"role": "assistant", "content": text("Yes.")}],
]


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("chat", CHATS, ids=["question", "rounds", "answered"])
@pytest.mark.parametrize("is_open", [True, False])
@pytest.mark.parametrize("tools", [None, [TOOL]], ids=["", "tools"])
def test_like_transformers(
    name: str, chat: list[dict[str, Any]], is_open: bool, tools: list[dict[str, Any]] | None
) -> None:
    cure_torch_extensions()
    from transformers.utils.chat_template_utils import render_jinja_template

    (wanted,), _ = render_jinja_template(
        [chat], tools=tools, chat_template=REAL[name], add_generation_prompt=is_open, **TOKENS
    )
    assert wanted == render_chat(
        REAL[name], chat, special_tokens=TOKENS, add_generation_prompt=is_open, tools=tools
    )
    assert wanted.strip()


def test_the_demo_template_like_transformers() -> None:
    from vlmserve.demo.tokenizer import CHAT_TEMPLATE

    assert render_chat(CHAT_TEMPLATE, CHATS[2], add_generation_prompt=False) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>\n"
    )


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% if %}", "line 1"),
        ("{{ raise_exception('no system role') }}", "no system role"),
        ("{{ messages[0]['role'] + 1 }}", "can only concatenate"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ range(10000000) | list | length }}", "too big"),
    ],
)
def test_broken_and_hostile_templates_are_errors(template: str, said: str) -> None:
    with pytest.raises(ChatTemplateError, match=said):
        render_chat(template, CHATS[0])


def test_known_texts() -> None:
    assert render_chat(QWEN2_VL, CHATS[0]).startswith(
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nHi <b>"
    )
    assert render_chat(LLAVA_1_5, CHATS[1]) == (
        "Be brief. USER: <image>\n What?\n ASSISTANT: A cat. USER: <image>\nAnd? ASSISTANT:"
    )


def test_templates_cannot_write_files(tmp_path: Path) -> None:
    with pytest.raises(ChatTemplateError):
        render_chat(f"{{% include '{tmp_path}/x' %}}", CHATS[0])
