"""Whether an adapter may be loaded: where it lies, what the checks say, whether it fits."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmserve.checkpoint.source import Checkpoint, load_checkpoint
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import SEVERITIES
from vlmserve.doctor.run import run_checks
from vlmserve.errors import CheckpointError, RequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vlmserve.config.serve import ServeConfig
    from vlmserve.doctor.report import DoctorReport


def refused(message: str) -> RequestError:
    """The error of an adapter that is not taken."""
    return RequestError(message, param="path", code="adapter_refused")


def find_directory(root: Path, path: str) -> Path:
    """Find an adapter's directory.

    Args:
        root: The operator's directory of adapters, resolved.
        path: Relative to it.

    Raises:
        RequestError: It leads elsewhere, by symbolic links included, or to no directory.
    """
    try:
        directory = (root / path).resolve()
        is_directory = directory.is_dir()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RequestError(f"the path cannot be used: {reason}", param="path") from error
    if directory == root or not directory.is_relative_to(root):
        raise RequestError("the path leads out of server.adapter_root", param="path")
    if not is_directory:
        raise RequestError(f"there is no directory {path!r} in server.adapter_root", param="path")
    return directory


def inspect_adapter(
    directory: Path, base: Checkpoint, config: "ServeConfig", allow: "Sequence[str]"
) -> tuple[Checkpoint, "DoctorReport"]:
    """Read an adapter and run the fast checks on it.

    Args:
        directory: The adapter's.
        base: The model that is served, on which it would be laid.
        config: How that is served.
        allow: Ids of blocking findings that are accepted.

    Raises:
        RequestError: It cannot be read, is no adapter, or a blocking finding is not accepted.
    """
    if unknown := set(allow) - set(SEVERITIES):
        raise RequestError(f"{min(unknown)!r} is no finding's id", param="allow")
    try:
        checkpoint = load_checkpoint(directory, base_model=base.path)
    except CheckpointError as error:
        raise refused(_relative(error.message, directory)) from error
    if checkpoint.adapter is None:
        raise refused(f"{directory.name} is no adapter")
    report = run_checks(Examination(checkpoint, serve=config))
    blocking = [finding for finding in report.blocking if finding.id not in allow]
    if blocking:
        told = [f"[{found.id}] {found.title}: {found.consequence}" for found in blocking]
        raise refused(_relative("; ".join(told), directory))
    return checkpoint, report


def require_fit(checkpoint: Checkpoint, lora_config: Any) -> None:
    """Make sure that the engine has room for an adapter and would use all of it.

    Args:
        checkpoint: The adapter.
        lora_config: vLLM's.

    Raises:
        RequestError: Its rank is too high, or it has weights where the engine does not look.
    """
    adapter = checkpoint.adapter
    if adapter is None:
        return
    if adapter.rank > lora_config.max_lora_rank:
        raise refused(
            f"its rank {adapter.rank} is above {lora_config.max_lora_rank}, for which the engine "
            "has room; the operator can raise server.max_adapter_rank"
        )
    in_vision = adapter.touches_vision_tower or adapter.touches_projector
    if in_vision and not lora_config.enable_tower_connector_lora:
        raise refused(
            "it has weights in the vision tower or the projector, which the engine would skip; "
            "the operator can set server.adapters_in_vision"
        )


def _relative(message: str, directory: Path) -> str:
    """Keep this host's directories out of what is answered."""
    return message.replace(f"{directory.parent}{os.sep}", "")
