"""From how a checkpoint is named to the directory that is meant, and back to a name."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from vlmserve.errors import CheckpointError

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_STEP = re.compile(r"checkpoint-\d+(-merged)?")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_HUB_SNAPSHOT = re.compile(r"models--(?:.+?--)?(?P<name>.+)")


def resolve_base(ref: str, source: str, path: Path, path_map: Mapping[str, str]) -> Path:
    """The directory of a base model.

    Args:
        ref: How it is named.
        source: What names it, such as ``args.json: model``.
        path: The checkpoint's directory.
        path_map: Prefixes of recorded paths that have moved, old to new.

    Raises:
        CheckpointError: It is not on this machine.
    """
    moved = _apply_path_map(ref, path_map)
    try:
        return resolve(moved, f"{source}: {ref}")
    except CheckpointError as error:
        if source == "--base-model":
            raise
        shown = ref if moved == ref else f"{ref} (mapped to {moved})"
        if _HUB_ID.fullmatch(moved) is None:
            hint = (
                "give it with --base-model DIR, or say where it moved with --path-map "
                f"{Path(ref).parent}=NEW"
            )
        else:
            hint = f"download it with: hf download {moved}, or give it with --base-model DIR"
        raise CheckpointError(
            f"{path / source.partition(':')[0]}: base model {shown} is not on this machine",
            hint=hint,
        ) from error


def _apply_path_map(ref: str, path_map: Mapping[str, str]) -> str:
    for old in sorted(path_map, key=len, reverse=True):
        prefix = old.rstrip("/")
        if ref == prefix or ref.startswith(f"{prefix}/"):
            return path_map[old].rstrip("/") + ref.removeprefix(prefix)
    return ref


def resolve(ref: str, what: str) -> Path:
    """The directory that a reference means.

    Args:
        ref: A directory, or a hub id that lies in the local Hugging Face cache.
        what: How to call it in an error.

    Raises:
        CheckpointError: There is no such directory.
    """
    path = Path(ref).expanduser()
    try:
        is_directory, exists = path.is_dir(), path.exists()
    except OSError as error:
        raise CheckpointError(f"{what}: {error.strerror or error}") from error
    if is_directory:
        if not os.access(path, os.R_OK | os.X_OK):
            raise CheckpointError(f"{what}: permission denied")
        return path.absolute()
    if exists:
        raise CheckpointError(f"{what}: a file; a checkpoint is a directory")
    if _HUB_ID.fullmatch(ref) is None:
        raise CheckpointError(f"{what}: no such directory")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        raise CheckpointError(
            f"{what}: no such directory; looking it up as a hub id needs huggingface_hub",
            hint="install huggingface_hub, or give the directory",
        ) from error
    try:
        return Path(snapshot_download(ref, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError) as error:
        raise CheckpointError(
            f"{what}: neither a directory nor a hub id in the local Hugging Face cache",
            hint=f"download it with: hf download {ref}",
        ) from error


def served_name(path: Path) -> str:
    """The directory's name; a step's also says its run's, a hub snapshot's is the model's."""
    name = path.name
    snapshot = _HUB_SNAPSHOT.fullmatch(path.parent.parent.name)
    if path.parent.name == "snapshots" and snapshot is not None:
        name = snapshot["name"]
    elif _STEP.fullmatch(name):
        name = f"{path.parent.name}-{name}"
    return _UNSAFE.sub("-", name).strip("-.") or "model"
