from typing import Any

import pytest


def render(tokenizer: Any, messages: list[dict[str, Any]], **options: Any) -> str:
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, **options)
    return text


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image"},
        {"type": "image_url", "image_url": {"url": "x"}},
        {"image": "x"} | {"type": "image"},
    ],
)
def test_an_image_in_any_spelling_is_a_placeholder(part: dict[str, Any], tokenizer: Any) -> None:
    content = [part, {"type": "text", "text": "Read the digit."}]

    assert render(
        tokenizer, [{"role": "user", "content": content}], add_generation_prompt=True
    ) == (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Read the digit.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_a_system_message_is_kept_and_none_is_made_up(tokenizer: Any) -> None:
    user = {"role": "user", "content": "Hi"}

    assert render(tokenizer, [user]) == "<|im_start|>user\nHi<|im_end|>\n"
    assert render(tokenizer, [{"role": "system", "content": "Be brief."}, user]) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    )


def test_media_can_be_numbered(tokenizer: Any) -> None:
    content = [{"type": "image"}, {"type": "video"}, {"type": "image"}]

    assert render(tokenizer, [{"role": "user", "content": content}], add_vision_id=True) == (
        "<|im_start|>user\nPicture 1: <|vision_start|><|image_pad|><|vision_end|>"
        "Video 1: <|vision_start|><|video_pad|><|vision_end|>"
        "Picture 2: <|vision_start|><|image_pad|><|vision_end|><|im_end|>\n"
    )
