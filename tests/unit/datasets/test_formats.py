"""Every format that people train with, read as its framework reads it."""

import json
from pathlib import Path
from typing import Any

import pytest

from vlmserve.datasets.read import load_dataset
from vlmserve.datasets.sample import BadSample, Dataset, Medium, Sample


def write_jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def only(dataset: Dataset) -> Sample:
    (row,) = dataset.rows
    assert isinstance(row, Sample), row
    return row


def spell(sample: Sample) -> list[tuple[str, list[str]]]:
    """Turns with media as ``kind:reference``."""
    return [
        (
            turn.role,
            [
                part if isinstance(part, str) else f"{part.kind}:{part.reference}"
                for part in turn.parts
            ],
        )
        for turn in sample.turns
    ]


def test_openai_parts_keep_their_order(tmp_path: Path) -> None:
    content = [
        {"type": "text", "text": "first"},
        {"type": "image_url", "image_url": {"url": "https://a.example/1.png", "detail": "low"}},
        {"type": "text", "text": "then"},
        {"type": "video", "video": ["f1.jpg", "f2.jpg"], "fps": 4},
        {"type": "image", "image": "two.png"},
    ]
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": content},
        {"role": "assistant", "content": [{"type": "text", "text": "yes"}]},
    ]
    path = write_jsonl(tmp_path / "a.jsonl", {"messages": messages})

    dataset = load_dataset(path)
    sample = only(dataset)

    assert dataset.format == "openai"
    assert spell(sample) == [
        ("system", ["Be short."]),
        (
            "user",
            ["first", "image:https://a.example/1.png", "then", "video:f1.jpg", "image:two.png"],
        ),
        ("assistant", ["yes"]),
    ]
    url, video, image = sample.media
    assert url.is_url
    assert url.path is None
    assert url.source is None
    assert [frame.path for frame in video.frames] == [tmp_path / "f1.jpg", tmp_path / "f2.jpg"]
    assert video.frames_per_second == 4
    assert image.path == image.source == tmp_path / "two.png"
    assert sample.n_placeholders == {"image": 2, "video": 1}
    assert sample.answers == ("yes",)


def test_trl_placeholders_take_the_images_column(tmp_path: Path) -> None:
    messages = [
        {
            "role": "user",
            "content": [
                {"type": "image", "text": None},
                {"type": "text", "text": "or"},
                {"type": "image"},
                {"type": "image"},
            ],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "b"}]},
    ]
    path = write_jsonl(tmp_path / "a.jsonl", {"messages": messages, "images": ["1.png", "2.png"]})

    dataset = load_dataset(path)
    sample = only(dataset)

    assert dataset.format == "openai"
    assert spell(sample)[0] == ("user", ["image:1.png", "or", "image:2.png", "<image>"])
    assert sample.n_placeholders["image"] == 3
    assert len(sample.media) == 2


def test_prompt_and_completion_are_turns(tmp_path: Path) -> None:
    row = {
        "prompt": [{"role": "user", "content": "q"}],
        "completion": [{"role": "assistant", "content": "a"}],
        "images": ["1.png"],
    }

    sample = only(load_dataset(write_jsonl(tmp_path / "a.jsonl", row)))

    assert spell(sample) == [("user", ["image:1.png", "q"]), ("assistant", ["a"])]
    assert not sample.n_placeholders


def test_tool_calls_are_the_assistants_text(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "zoom", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "done"},
        {"role": "assistant", "content": "a"},
    ]

    sample = only(load_dataset(write_jsonl(tmp_path / "a.jsonl", {"messages": messages})))

    assert [turn.role for turn in sample.turns] == ["user", "assistant", "tool", "assistant"]
    assert "zoom" in sample.turns[1].text


def test_ms_swift_tags_take_images_and_videos_in_order(tmp_path: Path) -> None:
    row = {
        "system": "s",
        "messages": [
            {"role": "user", "content": "<image>a<video>b<image>"},
            {"role": "assistant", "content": "c", "loss": False},
            {"role": "user", "content": "d"},
            {"role": "assistant", "content": "e", "loss": True},
        ],
        "images": ["1.png", "2.png"],
        "videos": "v.mp4",
        "objects": {"ref": ["cat"], "bbox": [[1, 2, 3, 4]]},
    }

    dataset = load_dataset(write_jsonl(tmp_path / "a.jsonl", row))
    sample = only(dataset)

    assert dataset.format == "ms-swift"
    assert spell(sample)[:2] == [
        ("system", ["s"]),
        ("user", ["image:1.png", "a", "video:v.mp4", "b", "image:2.png"]),
    ]
    assert sample.answers == ("e",)
    assert sample.n_placeholders == {"image": 2, "video": 1}


def test_ms_swift_puts_missing_tags_in_front_and_fills_in_order(tmp_path: Path) -> None:
    row = {
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "a<image>"},
            {"role": "assistant", "content": "b"},
        ],
        "images": ["1.png", "2.png"],
        "videos": ["v.mp4"],
    }

    sample = only(load_dataset(write_jsonl(tmp_path / "a.jsonl", row)))

    assert spell(sample)[1] == ("user", ["video:v.mp4", "image:1.png", "a", "image:2.png"])
    assert sample.n_placeholders == {"image": 1}


def test_ms_swift_query_response_history(tmp_path: Path) -> None:
    row = {
        "query": "<image>now?",
        "response": "late",
        "history": [["hello", "hi"]],
        "image": {"path": "1.png", "bytes": None},
    }

    dataset = load_dataset(write_jsonl(tmp_path / "a.jsonl", row))

    assert dataset.format == "ms-swift"
    assert spell(only(dataset)) == [
        ("user", ["hello"]),
        ("assistant", ["hi"]),
        ("user", ["image:1.png", "now?"]),
        ("assistant", ["late"]),
    ]


def test_ms_swift_inline_images(tmp_path: Path) -> None:
    row = {"query": "<img>1.png</img>what?", "response": "x"}
    messages = [{"role": "user", "content": row["query"]}, {"role": "assistant", "content": "x"}]
    path = write_jsonl(tmp_path / "a.jsonl", {"messages": messages})

    sample = only(load_dataset(path, format="ms-swift"))

    assert spell(sample)[0] == ("user", ["image:1.png", "what?"])


def test_sharegpt_with_system_and_function_calls(tmp_path: Path) -> None:
    row = {
        "conversations": [
            {"from": "human", "value": "<image>what?"},
            {"from": "function_call", "value": "{}"},
            {"from": "observation", "value": "ok"},
            {"from": "gpt", "value": "a cat"},
        ],
        "system": "s",
        "images": ["1.png"],
    }

    dataset = load_dataset(write_jsonl(tmp_path / "a.jsonl", row))

    assert dataset.format == "sharegpt"
    assert spell(only(dataset)) == [
        ("system", ["s"]),
        ("user", ["image:1.png", "what?"]),
        ("assistant", ["{}"]),
        ("tool", ["ok"]),
        ("assistant", ["a cat"]),
    ]


def test_sharegpt_media_without_a_place_stand_nowhere(tmp_path: Path) -> None:
    row = {
        "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}],
        "images": ["1.png"],
    }

    sample = only(load_dataset(write_jsonl(tmp_path / "a.jsonl", row)))

    assert spell(sample)[0] == ("user", ["q"])
    assert len(sample.media) == 1


def test_alpaca_joins_instruction_and_input(tmp_path: Path) -> None:
    row = {
        "instruction": "<image>describe",
        "input": "in French",
        "output": "un chat",
        "history": [["a", "b"]],
        "images": ["1.png"],
    }

    dataset = load_dataset(write_jsonl(tmp_path / "a.jsonl", row))

    assert dataset.format == "alpaca"
    assert spell(only(dataset))[2:] == [
        ("user", ["image:1.png", "describe\nin French"]),
        ("assistant", ["un chat"]),
    ]


def test_llava_image_string_and_list(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "what?\n<image>"}, {"from": "gpt", "value": "a"}]
    several = [{"from": "human", "value": "<image>or<image>"}, {"from": "gpt", "value": "b"}]
    text = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]
    rows = [
        {"id": 0, "conversations": text},
        {"id": 1, "image": "coco/1.jpg", "conversations": turns},
        {"id": 2, "image": ["1.jpg", "2.jpg"], "conversations": several},
    ]
    path = tmp_path / "llava.json"
    path.write_text(json.dumps(rows, indent=1))

    dataset = load_dataset(path, media_root=tmp_path / "images")
    samples = list(dataset.samples)

    assert dataset.format == "llava"
    assert [sample.row for sample in samples] == [1, 2, 3]
    assert spell(samples[1])[0] == ("user", ["what?\n", "image:coco/1.jpg"])
    assert samples[1].media[0].path == tmp_path / "images" / "coco" / "1.jpg"
    assert spell(samples[2])[0] == ("user", ["image:1.jpg", "or", "image:2.jpg"])


def test_llava_image_tag_stands_for_a_video(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "a"}]
    path = write_jsonl(tmp_path / "a.jsonl", {"video": "v.mp4", "conversations": turns})

    sample = only(load_dataset(path))

    assert spell(sample)[0] == ("user", ["video:v.mp4", "\nwhat?"])
    assert sample.n_placeholders == {"video": 1}


def test_xcomposer_placeholders(tmp_path: Path) -> None:
    turns = [
        {"from": "user", "value": "<ImageHere> <ImageHere>compare"},
        {"from": "assistant", "value": "same"},
    ]
    row = {"image": ["1.jpg", "2.jpg"], "conversations": turns}

    sample = only(load_dataset(write_jsonl(tmp_path / "a.jsonl", row)))

    assert spell(sample)[0] == ("user", ["image:1.jpg", " ", "image:2.jpg", "compare"])


def test_missing_media_leave_their_tag(tmp_path: Path) -> None:
    row = {
        "messages": [
            {"role": "user", "content": "<image><image>q"},
            {"role": "assistant", "content": "a"},
        ],
        "images": ["1.png"],
    }

    sample = only(load_dataset(write_jsonl(tmp_path / "a.jsonl", row)))

    assert spell(sample)[0] == ("user", ["image:1.png", "<image>", "q"])
    assert sample.n_placeholders["image"] == 2


def test_data_urls_and_bare_base64_are_decoded(tmp_path: Path) -> None:
    import base64

    data = bytes(range(256)) * 8
    encoded = base64.b64encode(data).decode()
    row = {
        "query": "<image><image>q",
        "response": "a",
        "images": [f"data:image/png;base64,{encoded}", encoded],
    }

    sample = only(load_dataset(write_jsonl(tmp_path / "a.jsonl", row)))

    for medium in sample.media:
        assert medium.data == data
        assert callable(medium.source)
        assert len(medium.shown) < 200


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": []}, "messages: a list of turns is expected, not []"),
        ({"messages": [{"role": "user"}]}, "messages[0].content: text is expected, not nothing"),
        ({"messages": [{"role": "narrator", "content": ""}]}, '"narrator" is no known role'),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "content[0].type"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content: text"),
        ({"messages": ["hello"]}, "messages[0]: an object is expected"),
        (["a"], "an object is expected"),
        ({"foo": 1}, 'in ["foo"]'),
        ({"query": "q", "response": None}, "neither messages"),
        ({"query": "q", "response": "r", "images": [3]}, "images[0]"),
        ({"query": "q", "response": "r", "history": "x"}, "history: a list of pairs"),
        ({"query": "q", "response": "r", "videos": [[]]}, "a video without frames"),
        (
            {"messages": [{"role": "user", "content": "", "loss": "yes"}]},
            "loss: true or false",
        ),
    ],
)
def test_bad_rows_are_kept_with_row_and_field(tmp_path: Path, row: Any, reason: str) -> None:
    good = {"query": "q", "response": "r"}
    path = write_jsonl(tmp_path / "a.jsonl", good, row)

    dataset = load_dataset(path)

    bad = dataset.rows[1]
    assert isinstance(bad, BadSample)
    assert reason in bad.reason
    assert bad.where == f"{path}:2"
    assert len(list(dataset.samples)) == 1


def test_embedded_files_come_before_their_path() -> None:
    medium = Medium("image", "gone.png", root=Path("/nowhere"), embedded=lambda: b"x")

    assert medium.path is None
    assert medium.data == b"x"
