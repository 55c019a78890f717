"""What mutations are applied to: sound checkpoints, written once and copied for each of them.

A subject's ``build`` fills an empty directory, the *case*::

    base/                    the model it was trained from (optional)
    checkpoint/              what is checked
    data/train.jsonl, ...    what it was trained on (optional)
    heldout/...              what it is judged on (optional)

Whatever a file in it records of paths may be absolute: when a case is copied, its JSON, JSONL and
YAML files are rewritten to name the copy.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlmserve.checkpoint.provenance import VisionLimits
from vlmserve.checkpoint.source import load_checkpoint
from vlmserve.config.serve import ServeConfig
from vlmserve.datasets.read import load_dataset
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.report import DoctorReport
from vlmserve.doctor.run import run_checks

_TEXT_SUFFIXES = (".json", ".jsonl", ".yaml")


@dataclass
class Case:
    """One checkpoint with all that it is held against; a mutation may change any of it."""

    root: Path
    checkpoint: Path
    base: Path | None = None
    data: str | None = None
    """As ``--data`` takes it: a file, a directory, or ``DIR:NAME``."""

    heldout: str | None = None
    """As ``--heldout`` takes it."""

    media_root: Path | None = None
    max_length: int | None = None
    train_env: VisionLimits | None = None
    serve_settings: dict[str, Any] = field(default_factory=dict)
    """A serve configuration, as its YAML file would be parsed."""

    def examine(self, *, fast: bool = False) -> DoctorReport:
        """Run the checks as ``vlmserve check`` does, all of them unless ``fast``."""
        data, heldout = (
            None if path is None or fast else load_dataset(path, media_root=self.media_root)
            for path in (self.data, self.heldout)
        )
        return run_checks(
            Examination(
                load_checkpoint(self.checkpoint, base_model=self.base, leftovers=True),
                fast=fast,
                data=data,
                heldout=heldout,
                max_length=self.max_length,
                train_env=self.train_env,
                serve=ServeConfig.model_validate(self.serve_settings),
            )
        )


@dataclass(frozen=True)
class Subject:
    """A sound case by name. Paths are relative to its directory; absent ones are left out."""

    name: str
    what: str
    """What it is, in a few words, for the table in ``docs/checks.md``."""

    build: Callable[[Path], None]
    """Fills an empty directory. Runs once a session, so it may take a second, and not many."""

    checkpoint: str = "checkpoint"
    base: str = "base"
    data: str = "data/train.jsonl"
    heldout: str = "heldout/heldout.jsonl"
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Other fields of ``Case``."""

    header_only: bool = False
    """Whether its values are all zero: then only the fast pass is made."""

    expected: frozenset[str] = frozenset()
    """Ids above ``info`` that the untouched subject has: families that vLLM lacks."""

    def case(self, root: Path) -> Case:
        """The case in a directory that ``build`` filled, or in a copy of one."""

        def present(name: str) -> Path | None:
            # An entry of a dataset_info.json is named behind a colon.
            return root / name if (root / name.partition(":")[0]).exists() else None

        data, heldout = present(self.data), present(self.heldout)
        return Case(
            root,
            root / self.checkpoint,
            base=present(self.base),
            data=None if data is None else str(data),
            heldout=None if heldout is None else str(heldout),
            **self.settings,
        )


class Stock:
    """Builds subjects when they are first asked for, and hands out copies of them."""

    def __init__(self, directory: Path, subjects: Mapping[str, Subject]) -> None:
        self._directory = directory
        self._subjects = subjects

    def pristine(self, name: str) -> Case:
        """The subject itself, not to be changed."""
        subject = self._subjects[name]
        root = self._directory / "pristine" / name
        if not root.exists():
            root.mkdir(parents=True)
            subject.build(root)
        return subject.case(root)

    @contextmanager
    def copy(self, name: str) -> Iterator[Case]:
        """A copy that may be damaged; gone afterwards."""
        source = self.pristine(name).root
        with tempfile.TemporaryDirectory(dir=self._directory) as scratch:
            target = Path(scratch) / name
            copy_case(source, target)
            yield self._subjects[name].case(target)


def copy_case(source: Path, target: Path) -> None:
    """Copy a case: holes stay holes, and paths in its files name the copy."""
    shutil.copytree(source, target, symlinks=True, copy_function=_copy_sparse)
    for path in target.rglob("*"):
        if path.suffix in _TEXT_SUFFIXES and path.is_file() and not path.is_symlink():
            text = path.read_text(encoding="utf-8")
            if str(source) in text:
                path.write_text(text.replace(str(source), str(target)), encoding="utf-8")


def _copy_sparse(source: str, target: str) -> None:
    """Copy what is data; fakes of large models are mostly holes."""
    with Path(source).open("rb") as old, Path(target).open("wb") as new:
        size = os.fstat(old.fileno()).st_size
        position = 0
        while position < size:
            try:
                start = os.lseek(old.fileno(), position, os.SEEK_DATA)
            except OSError:  # nothing but a hole is left
                break
            position = os.lseek(old.fileno(), start, os.SEEK_HOLE)
            offset = start
            while offset < position:
                offset += os.sendfile(new.fileno(), old.fileno(), offset, position - offset)
        new.truncate(size)
