"""Video-MME: questions about videos of seconds to an hour (C. Fu et al. 2024, arXiv 2405.21075)."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from vlmserve.errors import ConfigError
from vlmserve.evals.benchmarks.letters import letter_by_form
from vlmserve.evals.benchmarks.published import load_published, require_local_copy
from vlmserve.media.videos import is_video_reader_installed, read_video_header

_FETCH = (
    "hf download lmms-lab/Video-MME --repo-type dataset --local-dir "
    "$VLMSERVE_BENCHMARKS/videomme, then unzip its archives in place"
)
_COLUMNS = ("videoID", "question", "options", "answer")
_SUFFIXES = (".mp4", ".MP4", ".mkv")

_ASK = (
    "Select the best answer to the following multiple-choice question based on the video and the "
    "subtitles. Respond with only the letter (A, B, C, or D) of the correct option."
)

SUBTITLE_FRAMES = 32
"""Frames, evenly spread, whose subtitles are quoted: lmms-eval's default."""

_TIMES = re.compile(r"(\d+):(\d+):(\d+),(\d+)\s+-->\s+(\d+):(\d+):(\d+),(\d+)")
_SPOKEN = re.compile(r'<font color="white" size=".72c">(.*?)</font>')


def load(**settings: Any) -> dict[str, Any]:
    """Load the questions, each with the path of its video.

    Raises:
        ConfigError: There is no local copy, or a video is missing.
    """
    folder = require_local_copy("videomme", _FETCH)
    return {
        split: rows.add_column("video", [str(_video(folder, name)) for name in rows["videoID"]])
        for split, rows in load_published("videomme", _COLUMNS, **settings).items()
    }


def load_with_subtitles(**settings: Any) -> dict[str, Any]:
    """Load the questions, each with its video and what is said in it.

    Raises:
        ConfigError: As ``load``; or OpenCV, which counts the frames, is not installed.
    """
    if not is_video_reader_installed():
        raise ConfigError("OpenCV is needed to place subtitles in a video: pip install opencv")
    folder = require_local_copy("videomme", _FETCH)
    # Three questions share a video.
    read = cache(_subtitles)
    return {
        split: rows.add_column(
            "subtitles", [read(folder, row["videoID"], Path(row["video"])) for row in rows]
        )
        for split, rows in load(**settings).items()
    }


def _video(folder: Path, name: str) -> Path:
    for suffix in _SUFFIXES:
        file = folder / "data" / f"{name}{suffix}"
        if file.is_file():
            return file
    raise ConfigError(f"no video {folder / 'data' / name}.mp4", hint=_FETCH)


def prompt(doc: Mapping[str, Any]) -> str:
    """Word the question: the video, what is asked for, the question and its choices."""
    return (
        f"<video>{_ASK}\n{_question(doc)}\n\n"
        "Answer with the option's letter from the given choices directly."
    )


def prompt_with_subtitles(doc: Mapping[str, Any]) -> str:
    """The same after what is said in the video, and with the ending that goes with it."""
    return (
        f"<video>This video's subtitles are listed below: \n{doc['subtitles']}\n{_ASK}\n"
        f"{_question(doc)}\nThe best answer is:"
    )


def _question(doc: Mapping[str, Any]) -> str:
    return "\n".join([doc["question"], *doc["options"]])


def score(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Judge an answer by the letter it picks."""
    return {"acc": float(letter_by_form(results[0], "ABCD").lower() == doc["answer"].lower())}


def _subtitles(folder: Path, name: str, video: Path) -> str:
    file = folder / "subtitle" / f"{name}.srt"
    if not file.is_file():
        return "No subtitles available"
    header = read_video_header(video)
    times = np.linspace(0, header.n_frames - 1, SUBTITLE_FRAMES, dtype=int)
    shown = []
    for start_s, end_s, text in _captions(file):
        first, last = (int(time * header.frames_per_second) for time in (start_s, end_s))
        if ((first <= times) & (times < last)).any():
            shown += _SPOKEN.findall(text)[:1]
    return "\n".join(shown)


def _captions(file: Path) -> Iterator[tuple[float, float, str]]:
    """Read an SRT file: start and end in seconds, and the text."""
    for block in file.read_text(encoding="utf-8").split("\n\n"):
        lines = block.strip("\n").split("\n")
        if len(lines) < 3 or not (times := _TIMES.match(lines[1])):  # noqa: PLR2004 - number, times, text
            continue
        numbers = [int(number) for number in times.groups()]
        yield _seconds(numbers[:4]), _seconds(numbers[4:]), " ".join(lines[2:])


def _seconds(parts: Sequence[int]) -> float:
    hours, minutes, seconds, milliseconds = parts
    return hours * 3600 + minutes * 60 + seconds + milliseconds / 1000
