"""The demo's held-out sets: one Parquet file a task, written by the seeded generator.

Columns: ``id`` (string), ``question`` (string, one ``<image>`` or ``<video>`` for each medium in
reading order), ``target`` (string), ``media`` (list of structs of ``bytes`` and ``path``: the
original files, PNG or MP4). ``digests.json`` beside them lists every file's rows and SHA-256.
"""

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from vlmserve.demo.drawing import Pixels
from vlmserve.demo.pilot import GATED_TASKS
from vlmserve.demo.recipe import sha256_of
from vlmserve.demo.samples import TASKS, Medium, Sample, SampleGenerator, Task
from vlmserve.demo.splits import DATA_VERSION
from vlmserve.demo.video import decode_mp4
from vlmserve.errors import ConfigError

DIGESTS_FILE = "digests.json"
SEED = "heldout"

VIDEO_TOLERANCE = 4.0
"""Mean difference of pixels, of 255, that another build of the video codec may make."""

_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("question", pa.string()),
        ("target", pa.string()),
        ("media", pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))),
    ]
)


def draw_heldout(task: Task, number: int) -> Iterator[Sample]:
    """Draw the held-out samples of a task, all different, the same every time."""
    generator = SampleGenerator(f"{SEED}/{task}", "heldout")
    seen: set[bytes] = set()
    while len(seen) < number:
        sample = generator.sample(task)
        digest = hashlib.blake2b(sample.turns[0].question.encode())
        for medium in sample.media:
            digest.update(medium.pixels.tobytes())
        if digest.digest() not in seen:
            seen.add(digest.digest())
            yield sample


def write_heldout(out: Path, sizes: Mapping[Task, int]) -> None:
    """Write the Parquet files and their digests.

    Args:
        out: A folder, made if need be; files of the same names are replaced.
        sizes: How many samples each task has.

    Raises:
        ConfigError: The folder cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        entries = {}
        for task in TASKS:
            path = out / f"{task}.parquet"
            rows = [
                _row(task, index, sample)
                for index, sample in enumerate(draw_heldout(task, sizes[task]))
            ]
            pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), path, compression="zstd")
            entries[task] = {
                "file": path.name,
                "samples": sizes[task],
                "sha256": sha256_of(path),
                "gated": task in GATED_TASKS,
            }
        manifest = {"data_version": DATA_VERSION, "split": "heldout", "tasks": entries}
        (out / DIGESTS_FILE).write_text(f"{json.dumps(manifest, indent=2)}\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{error.filename or out}: {error.strerror or error}") from error


def check_heldout(folder: Path, sizes: Mapping[Task, int]) -> list[str]:
    """Compare the files with their digests, and their content with what the generator draws.

    Pixels of images must be equal. Frames may differ by ``VIDEO_TOLERANCE``, and the bytes of
    files are not compared: compressors change from version to version.

    Returns:
        What differs, one line each; empty if nothing does.

    Raises:
        ConfigError: ``digests.json`` is missing or malformed.
    """
    path = folder / DIGESTS_FILE
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version, entries = manifest["data_version"], manifest["tasks"]
        digests = {task: (entries[task]["file"], entries[task]["sha256"]) for task in TASKS}
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror or error}", hint="write it with: vlmserve demo data"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not a list of digests: {error!r}") from error
    if version != DATA_VERSION:
        return [f"{path}: data_version: is {version}, but the generator's is {DATA_VERSION}"]
    faults = []
    for task, (name, sha256) in digests.items():
        file = folder / name
        if not file.is_file():
            faults.append(f"{file}: is missing")
        elif sha256_of(file) != sha256:
            faults.append(f"{file}: its sha256 is not the one in {DIGESTS_FILE}")
        else:
            faults += _check_rows(file, task, sizes[task])
    return faults


def _check_rows(file: Path, task: Task, size: int) -> list[str]:
    rows = pq.read_table(file, schema=_SCHEMA).to_pylist()
    if len(rows) != size:
        return [f"{file}: holds {len(rows)} samples, but {size} are planned"]
    faults = []
    for index, sample in enumerate(draw_heldout(task, size)):
        row = rows[index]
        texts = ("id", "question", "target")
        drawn = _texts(task, index, sample)
        if any(row[column] != drawn[column] for column in texts) or not _same_media(
            row["media"], sample.media
        ):
            faults.append(f"{file}: row {index} is not what the generator draws")
    return faults


def _row(task: Task, index: int, sample: Sample) -> dict[str, Any]:
    media = [
        {"bytes": medium.file(), "path": f"{place}.{'mp4' if medium.is_video else 'png'}"}
        for place, medium in enumerate(sample.media)
    ]
    return {**_texts(task, index, sample), "media": media}


def _texts(task: Task, index: int, sample: Sample) -> dict[str, str]:
    turn = sample.turns[0]
    marks = "".join("<video>" if medium.is_video else "<image>" for medium in sample.media)
    return {
        "id": f"{task}-{index:04d}",
        "question": f"{marks}{turn.question}",
        "target": turn.target,
    }


def _same_media(stored: list[dict[str, Any]], drawn: tuple[Medium, ...]) -> bool:
    if len(stored) != len(drawn):
        return False
    for file, medium in zip(stored, drawn, strict=True):
        pixels = _decode(file["bytes"], is_video=medium.is_video)
        if pixels.shape != medium.pixels.shape:
            return False
        difference = np.abs(pixels.astype(np.int16) - medium.pixels).mean()
        if difference > (VIDEO_TOLERANCE if medium.is_video else 0):
            return False
    return True


def _decode(data: bytes, *, is_video: bool) -> Pixels:
    return decode_mp4(data) if is_video else np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
