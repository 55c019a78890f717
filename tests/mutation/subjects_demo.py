"""The demo's fine-tunes, with small training sets that the demo itself draws.

They are Qwen2-VL checkpoints with trained weights, in the layout of transformers 5, with the
``args.json`` of an ms-swift run.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.mutation.subject import Subject
from vlmserve.demo.samples import Sample, SampleGenerator, Task
from vlmserve.demo.zoo import build_zoo

if TYPE_CHECKING:
    from vlmserve.demo.splits import Split

_TASKS: tuple[Task, ...] = ("newcolor", "shape", "same", "order", "add")
_TRAIN_ROUNDS = 8
_HELDOUT_ROUNDS = 3


def draw_samples(rounds: int, *, heldout: bool = False) -> list[Sample]:
    """Draw samples of every task with none, one and several images; the same every time."""
    split: Split = "heldout" if heldout else "train"
    generator = SampleGenerator("mutation", split, multi_turn=not heldout)
    return [generator.sample(task) for _ in range(rounds) for task in _TASKS]


def write_images(samples: Sequence[Sample], directory: Path) -> list[list[str]]:
    """Write the images as PNG files into ``images/``; returns their relative paths."""
    (directory / "images").mkdir(parents=True)
    names = []
    for index, sample in enumerate(samples):
        paths = [f"images/{index:03}-{place}.png" for place in range(len(sample.media))]
        for path, medium in zip(paths, sample.media, strict=True):
            (directory / path).write_bytes(medium.file())
        names.append(paths)
    return names


def write_swift(path: Path, samples: Sequence[Sample]) -> None:
    """Write a JSONL file as ms-swift takes it, images beside it."""
    path.parent.mkdir(parents=True)
    rows = []
    for sample, images in zip(samples, write_images(samples, path.parent), strict=True):
        messages = []
        for index, turn in enumerate(sample.turns):
            marks = "" if index else "<image>" * len(images)
            messages.append({"role": "user", "content": f"{marks}{turn.question}"})
            messages.append({"role": "assistant", "content": turn.target})
        rows.append({"messages": messages, "images": images} if images else {"messages": messages})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_sharegpt(path: Path, samples: Sequence[Sample]) -> None:
    """Write a JSON file as LLaMA-Factory takes it, with its ``dataset_info.json``."""
    path.parent.mkdir(parents=True)
    rows = []
    for sample, images in zip(samples, write_images(samples, path.parent), strict=True):
        turns = []
        for index, turn in enumerate(sample.turns):
            marks = "" if index else "<image>" * len(images)
            turns.append({"from": "human", "value": f"{marks}{turn.question}"})
            turns.append({"from": "gpt", "value": turn.target})
        rows.append({"conversations": turns, "images": images})
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    info = {
        path.stem: {
            "file_name": path.name,
            "formatting": "sharegpt",
            "columns": {"messages": "conversations", "images": "images"},
        }
    }
    (path.parent / "dataset_info.json").write_text(json.dumps(info, indent=2), encoding="utf-8")


def write_llava(path: Path, samples: Sequence[Sample]) -> None:
    """Write a JSON file as the original LLaVA takes it: one image a sample, named alone."""
    path.parent.mkdir(parents=True)
    samples = [sample for sample in samples if len(sample.media) <= 1]
    rows: list[dict[str, Any]] = []
    for sample, images in zip(samples, write_images(samples, path.parent), strict=True):
        turns = []
        for index, turn in enumerate(sample.turns):
            marks = "<image>\n" if images and not index else ""
            turns.append({"from": "human", "value": f"{marks}{turn.question}"})
            turns.append({"from": "gpt", "value": turn.target})
        row: dict[str, Any] = {"id": f"{len(rows):06}", "conversations": turns}
        rows.append({**row, "image": images[0]} if images else row)
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def write_heldout(root: Path) -> None:
    """Write the held-out set of a case; none of its images or questions is in the training set."""
    write_swift(root / "heldout" / "heldout.jsonl", draw_samples(_HELDOUT_ROUNDS, heldout=True))


def _build_full(root: Path) -> None:
    _build_demo(root, "good")
    write_swift(root / "data" / "train.jsonl", draw_samples(_TRAIN_ROUNDS))
    write_heldout(root)


def _build_lora(root: Path) -> None:
    _build_demo(root, "good-lora")
    write_sharegpt(root / "data" / "train.json", draw_samples(_TRAIN_ROUNDS))
    write_heldout(root)


def _build_demo(root: Path, name: str) -> None:
    build_zoo(root, [name])
    (root / name).rename(root / "checkpoint")


SUBJECTS = (
    Subject("demo-full", "demo, full fine-tune, ms-swift data", _build_full),
    Subject(
        "demo-lora",
        "demo, LoRA adapter, LLaMA-Factory data",
        _build_lora,
        data="data:train",
    ),
)
