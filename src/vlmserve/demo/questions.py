"""A few held-out questions to show a server with: a new colour, several images, a video."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmserve.chat import ImagePart, Message, Part, TextPart, VideoPart
from vlmserve.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ShownQuestion:
    """One request of the tour."""

    title: str
    """What the request holds, in words."""

    text: str
    target: str
    """The expected answer."""

    message: Message


def load_questions(data: Path) -> list[ShownQuestion]:
    """Take questions from the demo's held-out sets.

    Args:
        data: The folder of the Parquet files, ``evals/demo/data``.

    Raises:
        ConfigError: A file is missing.
    """
    color, digits, motion = (_first(data, task) for task in ("newcolor", "larger", "video"))
    return [
        _ask("one image, a colour that only the fine-tune has seen", [color]),
        _ask("two images", [digits]),
        _ask("two images and a video", [digits, motion]),
    ]


def _first(data: Path, task: str) -> dict[str, Any]:
    import pyarrow.parquet as pq

    path = data / f"{task}.parquet"
    if not path.is_file():
        raise ConfigError(f"{path}: no such file", hint="write it with: vlmserve demo data")
    row: dict[str, Any] = pq.read_table(path).slice(0, 1).to_pylist()[0]
    return row


def _ask(title: str, rows: list[dict[str, Any]]) -> ShownQuestion:
    """Put the media of all rows before the question of the last one."""
    text = rows[-1]["question"].replace("<image>", "").replace("<video>", "").strip()
    parts: list[Part] = [_part(medium) for row in rows for medium in row["media"]]
    message = Message(role="user", parts=(*parts, TextPart(text=text)))
    return ShownQuestion(title, text, rows[-1]["target"], message)


def _part(medium: dict[str, Any]) -> Part:
    if medium["path"].endswith(".mp4"):
        return VideoPart(data=medium["bytes"], content_type="video/mp4")
    return ImagePart(data=medium["bytes"], content_type="image/png")
