"""Samples as VLMEvalKit's tables have them: a question, its options, and images in base64.

Read from VLMEvalKit e8e78f05 dataset/image_base.py ``ImageBaseDataset`` and dataset/image_mcq.py
``ImageMCQDataset.build_prompt``, which is where the words around question and options are from.
"""

import ast
import re
import string
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from vlmserve.datasets.conversation import Conversation, Message, Slot
from vlmserve.datasets.fields import Row, RowError, shorten
from vlmserve.datasets.media import MediaReader
from vlmserve.datasets.sample import Medium

# What is not longer names the row that has the image.
_LONGEST_INDEX = 64
# MMMU's places of images, counted from 1 (image_mcq.py ``split_MMMU``).
_PLACE = re.compile(r"<image (\d)>")


class VlmevalkitReader:
    """Reads the rows of one table, whose images may stand in earlier rows."""

    def __init__(self) -> None:
        self._images: dict[str, Any] = {}
        self._seen: set[str] = set()

    def read(self, row: Row, media: MediaReader) -> Conversation:
        """Read a row.

        Raises:
            RowError: The row is no sample.
        """
        self._refuse_repeated(row)
        images = self._read_images(row, media)
        videos = _read_videos(row, media)
        answer = row.get("answer")
        if answer is None or not str(answer).strip():
            raise RowError("answer: nothing is expected here")
        asked = tuple(_place(_prompt(row), images))
        placed = [part for part in asked if isinstance(part, Medium)]
        left = [image for image in images if not any(image is one for one in placed)]
        if placed and left:
            raise RowError(f"question: {len(images)} images, and places for {len(placed)} of them")
        front = (*videos, *([] if placed else images))
        return Conversation(
            messages=[
                Message("user", (*front, *asked)),
                Message("assistant", (str(answer),)),
            ]
        )

    def _refuse_repeated(self, row: Row) -> None:
        index = row.get("index")
        if _is_absent(index):
            return
        if str(index) in self._seen:
            raise RowError(f"index: {shorten(index)} is that of an earlier row")
        self._seen.add(str(index))

    def _read_images(self, row: Row, media: MediaReader) -> list[Medium]:
        value = row.get("image")
        if _is_absent(value):
            paths = _as_list(row.get("image_path"))
            return [
                media.read_one("image", path, f"image_path[{place}]")
                for place, path in enumerate(paths)
            ]
        if isinstance(value, str) and len(value) <= _LONGEST_INDEX:
            if value not in self._images:
                raise RowError(f"image: {shorten(value)} is the index of no row before this one")
            value = self._images[value]
        elif (index := row.get("index")) is not None:
            self._images[str(index)] = value
        return [
            media.read_one(
                "image", f"data:;base64,{one}" if isinstance(one, str) else one, f"image[{place}]"
            )
            for place, one in enumerate(_as_list(value))
        ]


def _read_videos(row: Row, media: MediaReader) -> list[Medium]:
    for key in ("video_path", "video"):
        value = row.get(key)
        if _is_absent(value):
            continue
        if isinstance(value, str) and not value.startswith("[") and not PurePath(value).suffix:
            # Its video benchmarks name files without their ending.
            value = f"{value}.mp4"
        frames = _as_list(value)
        return [media.read_video(frames if len(frames) > 1 else frames[0], key, None)]
    return []


def _prompt(row: Row) -> str:
    question = row.get("question")
    if not isinstance(question, str) or not question.strip():
        raise RowError(f"question: text is expected, not {shorten(question)}")
    options = [
        f"{letter}. {row[letter]}\n"
        for letter in string.ascii_uppercase
        if not _is_absent(row.get(letter))
    ]
    hint = row.get("hint")
    if not options and _is_absent(hint):
        return question
    lines = [] if _is_absent(hint) else [f"Hint: {hint}\n"]
    lines.append(f"Question: {question}\n")
    if options:
        # The space before the last line's end is theirs.
        lines += [
            "Options:\n",
            *options,
            "Please select the correct answer from the options above. \n",
        ]
    return "".join(lines)


def _place(text: str, images: list[Medium]) -> Iterator[str | Slot | Medium]:
    for place, piece in enumerate(_PLACE.split(text)):
        if place % 2 == 0:
            if piece:
                yield piece
            continue
        number = int(piece)
        if not 1 <= number <= len(images):
            raise RowError(f"question: <image {number}>, and {len(images)} images")
        yield images[number - 1]


def _as_list(value: Any) -> list[Any]:
    """One value or several, which a table writes as a Python list."""
    if _is_absent(value):
        return []
    if not isinstance(value, str):
        return list(value) if isinstance(value, list | tuple) else [value]
    if value.startswith("[") and value.endswith("]"):
        try:
            found = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return [value]
        return list(found) if isinstance(found, list) else [value]
    return [value]


def _is_absent(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())
