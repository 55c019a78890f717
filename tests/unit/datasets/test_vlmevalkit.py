"""VLMEvalKit's tables, as pandas writes them."""

import base64
import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vlmserve.datasets.read import load_dataset
from vlmserve.datasets.sample import BadSample, Medium, Sample
from vlmserve.errors import ConfigError


def png(color: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(buffer, "PNG")
    return buffer.getvalue()


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


RED, BLUE = png("red"), png("blue")


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, names, delimiter="\t", lineterminator="\n", restval="")
        table.writeheader()
        table.writerows(rows)
    return path


def read(tmp_path: Path, *rows: Mapping[str, Any]) -> list[Sample | BadSample]:
    dataset = load_dataset(write(tmp_path / "held.tsv", rows))
    assert dataset.format == "vlmevalkit"
    return list(dataset.rows)


def asked(row: Sample | BadSample) -> list[str | bytes | None]:
    """The question's parts; media as their bytes."""
    assert isinstance(row, Sample)
    return [part.data if isinstance(part, Medium) else part for part in row.turns[0].parts]


def reason(row: Sample | BadSample) -> str:
    assert isinstance(row, BadSample)
    return row.reason


def test_a_choice_is_asked_as_vlmevalkit_asks_it(tmp_path: Path) -> None:
    row = {
        "index": 7,
        "image": text(RED),
        "hint": "Look\tclosely.",
        "question": "Which color?",
        "A": "red",
        "B": "None",
        "C": "",
        "D": 4,
        "answer": "A",
        "category": "color",
        "l2-category": "perception",
        "split": "dev",
    }
    (sample,) = read(tmp_path, row)

    assert isinstance(sample, Sample)
    assert asked(sample) == [
        RED,
        "Hint: Look\tclosely.\nQuestion: Which color?\nOptions:\nA. red\nB. None\nD. 4\n"
        "Please select the correct answer from the options above. \n",
    ]
    assert sample.answers == ("A",)
    assert (sample.row, sample.n_placeholders["image"]) == (1, 1)


def test_a_question_without_options_is_asked_as_it_is(tmp_path: Path) -> None:
    row = {"index": 1, "image": text(RED), "question": "How many?\nSay.", "answer": 12}
    (sample,) = read(tmp_path, row)

    assert asked(sample) == [RED, "How many?\nSay."]


def test_images_may_be_lists_paths_and_those_of_earlier_rows(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(RED)
    (tmp_path / "b.png").write_bytes(BLUE)
    both = {"question": "?", "answer": "x"}
    rows = read(
        tmp_path,
        {"index": 1, "image": str([text(RED), text(BLUE)]), **both},
        {"index": 2, "image": "1", **both},
        {"index": 3, "image_path": "['a.png', 'b.png']", **both},
        {"index": 4, "image_path": "a.png", **both},
    )

    assert asked(rows[0]) == [RED, BLUE, "?"]
    assert asked(rows[1]) == [RED, BLUE, "?"]
    paths = [
        [part.path for part in row.turns[0].parts if isinstance(part, Medium)]
        for row in rows[2:]
        if isinstance(row, Sample)
    ]
    assert paths == [[tmp_path / "a.png", tmp_path / "b.png"], [tmp_path / "a.png"]]


def test_images_stand_where_the_question_says(tmp_path: Path) -> None:
    row = {
        "index": 1,
        "image": str([text(RED), text(BLUE)]),
        "question": "Is <image 2> darker than <image 1>?",
        "A": "yes",
        "B": "no",
        "answer": "A",
    }
    (sample,) = read(tmp_path, row)

    first, second, third, fourth, last = asked(sample)
    assert (first, second, third, fourth) == ("Question: Is ", BLUE, " darker than ", RED)
    assert isinstance(last, str)
    assert last.startswith("?\nOptions:\nA. yes\n")


def test_videos_are_files_or_frames(tmp_path: Path) -> None:
    rows = read(
        tmp_path,
        {"index": 1, "video": "clips/one", "question": "?", "answer": "x"},
        {"index": 2, "video": "two.webm", "question": "?", "answer": "x"},
        {"index": 3, "video_path": "['1.jpg', '2.jpg']", "question": "?", "answer": "x"},
    )
    videos = [row.media[0] for row in rows if isinstance(row, Sample)]

    assert [video.path for video in videos[:2]] == [
        tmp_path / "clips/one.mp4",
        tmp_path / "two.webm",
    ]
    assert [frame.path for frame in videos[2].frames] == [tmp_path / "1.jpg", tmp_path / "2.jpg"]


def test_bad_rows_say_what_is_wrong(tmp_path: Path) -> None:
    good = {"index": 1, "image": text(RED), "question": "?", "answer": "x"}
    rows = read(
        tmp_path,
        good,
        {**good, "index": 2, "image": "9"},
        {**good, "index": 3, "answer": ""},
        {**good, "index": 4, "question": " "},
        {**good, "index": 5, "question": "<image 2>?"},
        {**good, "index": 6, "image": str([text(RED), text(BLUE)]), "question": "<image 1>?"},
    )

    assert [reason(row) for row in rows[1:]] == [
        'image: "9" is the index of no row before this one',
        "answer: nothing is expected here",
        'question: text is expected, not " "',
        "question: <image 2>, and 1 images",
        "question: 2 images, and places for 1 of them",
    ]
    (tmp_path / "held.tsv").write_text("index\tquestion\tanswer\n1\tx\n")
    with pytest.raises(ConfigError, match=r"held\.tsv:2: 3 columns are expected"):
        load_dataset(tmp_path / "held.tsv")


def test_the_same_columns_in_json(tmp_path: Path) -> None:
    path = tmp_path / "held.json"
    path.write_text('[{"index": 1, "image_path": ["a.png"], "question": "?", "answer": 3}]')
    (sample,) = load_dataset(path).samples

    assert sample.answers == ("3",)
    assert sample.media[0].path == tmp_path / "a.png"
