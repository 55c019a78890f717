"""Samples that were too long for their training."""

from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from tests.mutation.mutation import Mutation, edit_rows, set_key
from tests.mutation.subject import Case

_LARGE_PX = 224  # the demo's largest image: 64 tokens
_MANY = 9


def _short_max_length(case: Case) -> None:
    set_key(case.checkpoint / "args.json", "max_length", 64)


def _told_length(case: Case) -> None:
    case.max_length = 64


def _short_cutoff(case: Case) -> None:
    path = case.checkpoint / "training_args.yaml"
    args = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump({**args, "cutoff_len": 64}), encoding="utf-8")


def _many_large_images(case: Case) -> None:
    """One sample of forty gets nine images of full size: 576 tokens, where 512 were allowed."""
    assert case.data is not None
    data = Path(case.data)
    names = []
    for index in range(_MANY):
        name = f"images/large-{index}.png"
        # Each of its own: none may look like a held-out image.
        picture = Image.linear_gradient("L").rotate(10 * index).resize((_LARGE_PX, _LARGE_PX))
        picture.convert("RGB").save(data.parent / name)
        names.append(name)

    def add(rows: list[Any]) -> None:
        row = next(row for row in rows if row.get("images"))
        row["images"] = names
        question = row["messages"][0]
        text = question["content"].replace("<image>", "")
        question["content"] = "<image>" * _MANY + text

    edit_rows(data, add)


MUTATIONS = (
    Mutation("max_length lowered in args.json", "data.budget", "demo-full", _short_max_length),
    Mutation("nine large images in one sample", "data.budget", "demo-full", _many_large_images),
    Mutation("--max-length 64", "data.budget", "qwen2.5-vl", _told_length),
    Mutation("cutoff_len lowered", "data.budget", "llama-factory", _short_cutoff),
)
