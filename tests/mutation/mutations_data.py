"""Damage to data sets: their files, their pixels, and samples on both sides."""

import json
import shutil
from pathlib import Path
from typing import Any

from PIL import Image

from tests.mutation.mutation import Mutation, edit_json, edit_rows
from tests.mutation.subject import Case

_ORIENTATION = 0x0112


def _data(case: Case) -> Path:
    """The file with the training rows."""
    assert case.data is not None
    directory, colon, name = case.data.rpartition(":")
    return Path(directory) / f"{name}.json" if colon else Path(case.data)


def _rows(case: Case) -> list[Any]:
    text = _data(case).read_text(encoding="utf-8")
    lines = text.splitlines()
    rows: list[Any] = [json.loads(line) for line in lines] if _is_lines(case) else json.loads(text)
    return rows


def _is_lines(case: Case) -> bool:
    return _data(case).suffix == ".jsonl"


def _edit(case: Case, edit: Any) -> None:
    (edit_rows if _is_lines(case) else edit_json)(_data(case), edit)


def _images(row: Any) -> list[str]:
    named = row.get("images") or row.get("image") or []
    return [named] if isinstance(named, str) else named


def _first_images(case: Case, count: int) -> list[Path]:
    names = dict.fromkeys(name for row in _rows(case) for name in _images(row))
    return [_data(case).parent / name for name in list(names)[:count]]


def _drop_image(case: Case) -> None:
    _first_images(case, 1)[0].unlink()


def _page_for_image(case: Case) -> None:
    _first_images(case, 1)[0].write_text("<html><title>403 Forbidden</title></html>")


def _cut_image(case: Case) -> None:
    (path,) = _first_images(case, 1)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])


def _drop_image_of_row(case: Case) -> None:
    """The row keeps its placeholder."""

    def edit(rows: list[Any]) -> None:
        row = next(row for row in rows if len(_images(row)) == 1)
        row["images"] = []

    _edit(case, edit)


def _unknown_role(case: Case) -> None:
    def edit(rows: list[Any]) -> None:
        rows[1]["messages"][0]["role"] = "narrator"

    _edit(case, edit)


def _answer_missing(case: Case) -> None:
    """LLaMA-Factory skips a conversation without an answer at its end."""

    def edit(rows: list[Any]) -> None:
        rows[1]["conversations"].pop()

    _edit(case, edit)


def _turn_images(case: Case) -> None:
    for path in _first_images(case, 3):
        with Image.open(path) as image:
            image.load()
        tags = Image.Exif()
        tags[_ORIENTATION] = 3  # upside down: the size stays as it is
        image.save(path, exif=tags)


def _add_alpha(case: Case) -> None:
    for path in _first_images(case, 3):
        with Image.open(path) as image:
            image.convert("RGBA").save(path)


def _add_transparent_colour(case: Case) -> None:
    for path in _first_images(case, 3):
        with Image.open(path) as image:
            image.convert("RGB").quantize(16).save(path, transparency=0)


def _learn_heldout(case: Case) -> None:
    """Held-out samples are copied into the training set, images and all."""
    assert case.heldout is not None
    heldout, data = Path(case.heldout), _data(case)
    lines = heldout.read_text(encoding="utf-8").splitlines()
    leaked = [row for row in map(json.loads, lines) if row.get("images")][:2]
    for row in leaked:
        for name in row["images"]:
            copy = data.parent / "images" / f"leaked-{Path(name).name}"
            shutil.copy(heldout.parent / name, copy)
        row["images"] = [f"images/leaked-{Path(name).name}" for name in row["images"]]
    _edit(case, lambda rows: rows.extend(leaked))


def _learn_heldout_as_jpeg(case: Case) -> None:
    """One held-out sample is in the training set, its image twice as large and as a JPEG."""
    assert case.heldout is not None
    heldout, data = Path(case.heldout), _data(case)
    lines = heldout.read_text(encoding="utf-8").splitlines()
    row = next(row for row in map(json.loads, lines) if len(row.get("images") or []) == 1)
    with Image.open(heldout.parent / row["images"][0]) as image:
        larger = image.convert("RGB").resize((image.width * 2, image.height * 2))
    larger.save(data.parent / "images" / "leaked.jpg", quality=95)
    turns = [
        {"from": {"user": "human", "assistant": "gpt"}[turn["role"]], "value": turn["content"]}
        for turn in row["messages"]
    ]
    leaked = {"conversations": turns, "images": ["images/leaked.jpg"]}
    _edit(case, lambda rows: rows.append(leaked))


MUTATIONS = (
    Mutation("an image deleted", "data.media", "demo-full", _drop_image),
    Mutation("a web page in place of an image", "data.media", "demo-lora", _page_for_image),
    Mutation("an image cut short", "data.media", "llava-1.5", _cut_image),
    Mutation("a row without its image", "data.media", "demo-full", _drop_image_of_row),
    Mutation("a role that is none", "data.media", "qwen2-vl", _unknown_role),
    Mutation("an answer missing", "data.media", "llama-factory", _answer_missing),
    Mutation("photos upside down", "data.image-modes", "demo-full", _turn_images),
    Mutation("photos upside down", "data.image-modes", "llava-1.5", _turn_images),
    Mutation("alpha channels", "data.image-modes", "llama-factory", _add_alpha),
    Mutation("transparent colours", "data.image-modes", "demo-full", _add_transparent_colour),
    Mutation("held-out samples learned", "data.overlap", "demo-full", _learn_heldout),
    Mutation(
        "a held-out sample learned from a larger copy",
        "data.overlap",
        "demo-lora",
        _learn_heldout_as_jpeg,
    ),
)
