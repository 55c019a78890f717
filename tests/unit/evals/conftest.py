"""Suites of real lm-eval tasks with small Parquet files, written by the tests."""

import io
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from vlmserve.platform import cure_torch_extensions

# datasets looks for torchcodec when it is first imported: after the cure, as in evals.tasks.
cure_torch_extensions()
# It reads this then, too, and would fill the user's cache otherwise.
_CACHE = tempfile.TemporaryDirectory(prefix="vlmserve-datasets-")
os.environ["HF_DATASETS_CACHE"] = _CACHE.name

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from PIL import Image  # noqa: E402

from vlmserve.config.suite import SuiteConfig, load_suite  # noqa: E402
from vlmserve.demo.video import encode_mp4  # noqa: E402
from vlmserve.evals.store import AnswerStore  # noqa: E402

_MEDIA = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))

Row = Mapping[str, Any]


def png(color: str, size: int = 8) -> bytes:
    """A PNG of one color; equal calls give equal bytes."""
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), color).save(buffer, "PNG")
    return buffer.getvalue()


class SuiteWriter:
    """Writes a suite with its tasks and their data under a directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "tasks"
        self.folder.mkdir()

    @staticmethod
    def png(color: str, size: int = 8) -> bytes:
        """A PNG of one color."""
        return png(color, size)

    @staticmethod
    def mp4() -> bytes:
        """A video of four grey frames."""
        frames = np.zeros((4, 32, 32, 3), np.uint8)
        frames += np.arange(0, 200, 50, dtype=np.uint8)[:, None, None, None]
        return encode_mp4(frames)

    @staticmethod
    def row(question: str, target: str, *media: bytes) -> dict[str, Any]:
        """One row of the demo's columns."""
        files = [{"bytes": data, "path": f"{place}.png"} for place, data in enumerate(media)]
        return {"question": question, "target": target, "media": files}

    def parquet(self, name: str, rows: Sequence[Row], schema: pa.Schema | None = None) -> Path:
        """A data file with the demo's columns, or any others."""
        if schema is None:
            schema = pa.schema(
                [("question", pa.string()), ("target", pa.string()), ("media", _MEDIA)]
            )
        path = self.folder / name
        pq.write_table(pa.Table.from_pylist(list(rows), schema), path)
        return path

    def task(self, name: str, rows: Sequence[Row] | None = None, **settings: Any) -> Path:
        """A task file beside its data; ``settings`` win, and ``None`` takes a key away."""
        if rows is not None:
            self.parquet(f"{name}.parquet", rows)
        keys: dict[str, Any] = {
            "task": name,
            "dataset_path": "parquet",
            "dataset_kwargs": {"data_files": f"{name}.parquet"},
            "test_split": "train",
            "output_type": "generate_until",
            "doc_to_text": "question",
            "doc_to_target": "target",
            "doc_to_image": "media",
            "generation_kwargs": {"until": [], "max_gen_toks": 8, "do_sample": False},
            "metric_list": [
                {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
            ],
            **settings,
        }
        path = self.folder / f"{name}.yaml"
        kept = {key: value for key, value in keys.items() if value is not None}
        # lm-eval's tag for a Python function has no spelling in plain YAML.
        text = yaml.safe_dump(kept).replace("'!function ", "!function '")
        path.write_text(text)
        return path

    def suite(self, *tasks: str | Mapping[str, Any], **settings: Any) -> Path:
        """A suite of these tasks."""
        entries = [
            {"task": task, "metric": "exact_match"} if isinstance(task, str) else dict(task)
            for task in tasks
        ]
        path = self.root / "suite.yaml"
        keys = {"name": "small", "include_path": "tasks", "tasks": entries, **settings}
        path.write_text(yaml.safe_dump(keys, sort_keys=False))
        return path

    def load(self, *tasks: str | Mapping[str, Any], **settings: Any) -> SuiteConfig:
        """The same, read back."""
        return load_suite(self.suite(*tasks, **settings))


@pytest.fixture
def suites(tmp_path: Path) -> SuiteWriter:
    return SuiteWriter(tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AnswerStore]:
    with AnswerStore(tmp_path / "answers.sqlite") as opened:
        yield opened


@pytest.fixture
def colors() -> Callable[[int], list[dict[str, Any]]]:
    """Rows that ask for the color of ``count`` different pictures; each target is ``red``."""

    def rows(count: int) -> list[dict[str, Any]]:
        return [
            SuiteWriter.row("<image>What color?", "red", png("red", size=8 + index))
            for index in range(count)
        ]

    return rows
