"""Where a data set's files are: one file, a directory of shards, or LLaMA-Factory's entry."""

from dataclasses import dataclass
from pathlib import Path

from vlmserve.datasets.llama_factory import INFO_NAME, Columns, load_entry
from vlmserve.datasets.rows import SUFFIXES, read_object
from vlmserve.errors import ConfigError

# Beside a data set's rows in directories as the hub has them.
_NO_DATA = frozenset(
    (INFO_NAME, "dataset_infos.json", "dataset_dict.json", "state.json", "config.json")
)
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval"),
}


@dataclass(frozen=True, slots=True)
class Location:
    """The files of a data set."""

    path: Path
    """As it was asked for."""

    directory: Path
    files: tuple[Path, ...]
    """In the order in which they are read."""

    columns: Columns | None = None
    """How LLaMA-Factory's ``dataset_info.json`` says to read them."""


def find_data(path: Path | str) -> Location:
    """Find the files of a data set.

    Args:
        path: A file, a directory, or ``DIRECTORY:NAME`` with the name of an entry of
            ``dataset_info.json`` or of a split.

    Raises:
        ConfigError: There is no such file, entry or split, or nothing that can be read.
    """
    asked = Path(path)
    if asked.is_file():
        return Location(path=asked, directory=asked.parent, files=(asked,))
    if asked.is_dir():
        return _in_directory(asked, asked, None)
    directory, colon, name = str(path).rpartition(":")
    if colon and Path(directory).is_dir():
        return _in_directory(asked, Path(directory), name)
    raise ConfigError(f"{path}: no such file or directory")


def _in_directory(asked: Path, directory: Path, name: str | None) -> Location:
    if _is_llama_factory(directory):
        entry = load_entry(directory, name)
        files = _shards(entry.path) if entry.path.is_dir() else (entry.path,)
        return Location(path=asked, directory=directory, files=files, columns=entry.columns)
    files = _shards(directory)
    split = name or ("train" if any(_split(file, directory) for file in files) else None)
    if split is not None:
        chosen = tuple(file for file in files if _split(file, directory) == split)
        if not chosen:
            found = sorted({_split(file, directory) or "no split" for file in files})
            raise ConfigError(
                f"{directory}: no files of the split {split}", hint=f"there are {', '.join(found)}"
            )
        files = chosen
    return Location(path=asked, directory=directory, files=files)


def _is_llama_factory(directory: Path) -> bool:
    # The datasets library writes a file of the same name, with "features".
    path = directory / INFO_NAME
    return path.is_file() and "features" not in read_object(path)


def _shards(directory: Path) -> tuple[Path, ...]:
    found = sorted(
        file
        for file in directory.rglob("*")
        if file.suffix.lower() in SUFFIXES and file.name not in _NO_DATA and file.is_file()
    )
    # One kind only: the same rows may lie there as Parquet and as JSON.
    kinds = [
        suffix for suffix in (".parquet", *SUFFIXES) if any(_is(file, suffix) for file in found)
    ]
    if not kinds:
        is_arrow = any(directory.rglob("*.arrow"))
        hint = "write it with load_from_disk(...).to_parquet(...)" if is_arrow else None
        raise ConfigError(f"{directory}: no {', '.join(SUFFIXES)} file in it", hint=hint)
    if len(set(kinds)) > 1:
        raise ConfigError(
            f"{directory}: files of several kinds: {', '.join(dict.fromkeys(kinds))}",
            hint="give one of the files",
        )
    return tuple(found)


def _is(file: Path, suffix: str) -> bool:
    return file.suffix.lower() == suffix


def _split(file: Path, directory: Path) -> str | None:
    """The split that a file's name or directory tells, as the datasets library finds it."""
    for part in reversed(file.relative_to(directory).with_suffix("").parts):
        words = part.lower().replace("-", " ").replace("_", " ").replace(".", " ").split()
        for split, names in _SPLITS.items():
            if any(word in names for word in words):
                return split
    return None
