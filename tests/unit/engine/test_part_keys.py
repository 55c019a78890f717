"""Media in parts of another type are found; what clients write anyhow passes."""

from typing import Any

import pytest

from vlmserve.engine.part_keys import find_foreign_medium

URL = {"url": "https://example.org/a"}


def find(part: Any) -> tuple[str, str] | None:
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "x"}, part]},
    ]
    return find_foreign_medium(messages)


@pytest.mark.parametrize(
    ("part", "key"),
    [
        ({"type": "text", "text": "x", "image": 1}, "image"),
        ({"type": "text", "text": "x", "image": None}, "image"),
        ({"type": "text", "text": "x", "images": []}, "images"),
        ({"type": "text", "text": "x", "image_url": URL}, "image_url"),
        ({"type": "text", "text": "x", "video": "a.mp4"}, "video"),
        ({"type": "text", "text": "x", "video_url": URL}, "video_url"),
        ({"type": "text", "text": "x", "audio_url": URL}, "audio_url"),
        ({"type": "text", "text": "x", "input_audio": URL}, "input_audio"),
        ({"type": "text", "text": "x", "image_grid_thw": [1, 2, 2]}, "image_grid_thw"),
        ({"type": "input_text", "text": "x", "image": 1}, "image"),
        ({"type": "refusal", "refusal": "x", "image": 1}, "image"),
        ({"type": "image_url", "image_url": URL, "video": 1}, "video"),
        ({"type": "image_url", "image_url": URL, "image": 1}, "image"),
        ({"type": "video_url", "video_url": URL, "image": 1}, "image"),
        ({"type": "video_url", "video_url": URL, "image_url": URL}, "image_url"),
        ({"type": "text", "text": "x", "uuid": "a", "image_url": URL}, "image_url"),
        ({"image_url": URL, "video_url": URL}, "video_url"),
        ({"image_url": URL, "image": 1}, "image"),
    ],
)
def test_medium_in_a_part_of_another_type(part: dict[str, Any], key: str) -> None:
    found = find(part)

    assert found is not None
    assert found[0] == f"messages[1].content[1].{key}"
    assert "a part of its own" in found[1]
    assert ("of type" in found[1].partition(";")[0]) == ("type" in part)


@pytest.mark.parametrize(
    "part",
    [
        "a text",
        {"type": "text", "text": "an image_url", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "x", "image_url": None},
        {"type": "image_url", "image_url": URL, "uuid": "a", "video_url": None},
        {"type": "image_url", "image_url": URL, "min_pixels": 3136},
        {"type": "input_image", "image_url": "https://example.org/a", "detail": "auto"},
        {"type": "video_url", "video_url": URL},
        {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
        {"image_url": "https://example.org/a"},
        {"type": {}, "image_url": URL},
        {"type": "imagination", "imagination": 1},
        5,
    ],
)
def test_parts_that_have_what_is_theirs(part: Any) -> None:
    assert find(part) is None


@pytest.mark.parametrize("messages", [[5], [{"role": "user"}], [{"content": {"image": 1}}]])
def test_messages_of_other_shapes_are_left_to_vllm(messages: list[Any]) -> None:
    assert find_foreign_medium(messages) is None
