"""Arguments that several verbs share, and what they make of them."""

import argparse
import importlib.util
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmserve.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from vlmserve.checkpoint.provenance import VisionLimits
    from vlmserve.checkpoint.source import Checkpoint
    from vlmserve.config.serve import ServeConfig
    from vlmserve.doctor.report import DoctorReport

_LOG = logging.getLogger(__name__)

_MAX_EVIDENCE = 4
_EVAL_MODULES = (
    "aiohttp",
    "jsonschema",
    "lm_eval",
    "openai",
    "PIL",
    "py3langid",
    "rapidfuzz",
    "scipy",
)


def add_checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--ckpt`` and what it takes to find an adapter's base."""
    group = parser.add_argument_group("checkpoint")
    group.add_argument(
        "--ckpt",
        required=True,
        metavar="DIR",
        help="a full fine-tune, a merged one or a PEFT adapter; a hub id if it is in the cache",
    )
    group.add_argument(
        "--base-model",
        metavar="DIR",
        help="what an adapter was trained on (default: what its own files name)",
    )
    group.add_argument(
        "--path-map",
        action="append",
        default=[],
        metavar="OLD=NEW",
        help="where a path in the checkpoint's files begins with OLD, read NEW; repeatable",
    )


def add_train_env_argument(parser: "argparse._ActionsContainer") -> None:
    """Add ``--train-env``."""
    parser.add_argument(
        "--train-env",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="what the training took from its environment, such as MAX_PIXELS=1003520; repeatable",
    )


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--config`` and ``--set``."""
    group = parser.add_argument_group("settings (defaults < file < --set < flags)")
    group.add_argument("--config", type=Path, metavar="FILE", help="a file such as configs/*.yaml")
    add_setting_argument(group)


def add_setting_argument(parser: "argparse._ActionsContainer") -> None:
    """Add ``--set``."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="settings",
        metavar="KEY=VALUE",
        help="one setting of the file, such as engine.dtype=float32; repeatable",
    )


def load_serve_config(
    args: argparse.Namespace, overrides: dict[str, Any] | None = None
) -> "ServeConfig":
    """Read the settings that ``add_config_arguments`` offers."""
    from vlmserve.config.base import load_config
    from vlmserve.config.serve import ServeConfig

    return load_config(args.config, ServeConfig, settings=args.settings, overrides=overrides)


def parse_path_maps(rules: Sequence[str]) -> dict[str, str]:
    """Read ``OLD=NEW`` rules.

    Raises:
        ConfigError: A rule has no ``=`` or an empty side.
    """
    maps: dict[str, str] = {}
    for rule in rules:
        old, equals, new = rule.partition("=")
        if not (old and equals and new):
            raise ConfigError(f"--path-map {rule}: expected OLD=NEW")
        maps[old] = new
    return maps


def open_checkpoint(args: argparse.Namespace, *, leftovers: bool = False) -> "Checkpoint":
    """Read the checkpoint that ``add_checkpoint_arguments`` names.

    Args:
        args: The parsed arguments.
        leftovers: As ``load_checkpoint`` takes it.
    """
    from vlmserve.checkpoint.source import load_checkpoint

    return load_checkpoint(
        args.ckpt,
        base_model=args.base_model,
        path_map=parse_path_maps(args.path_map),
        leftovers=leftovers,
    )


def add_allow_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--allow``."""
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="ID",
        help="go on in spite of this blocking finding of `vlmserve check`; repeatable",
    )


def require_sound(
    checkpoint: "Checkpoint",
    allowed: Sequence[str],
    *,
    serve: "ServeConfig",
    train_env: "VisionLimits | None" = None,
) -> "DoctorReport":
    """Run the fast checks, log warnings, and refuse to go on at a blocking finding.

    Args:
        checkpoint: The checkpoint to be served.
        allowed: Ids of findings that the user accepts.
        serve: How it will be served.
        train_env: What the training framework took from its environment.

    Returns:
        What they said.

    Raises:
        ConfigError: An allowed id is not one of a finding.
        CheckpointError: A blocking finding is not allowed; the message holds all of them.
    """
    from vlmserve.doctor.examination import Examination
    from vlmserve.doctor.finding import SEVERITIES
    from vlmserve.doctor.run import run_checks

    if unknown := set(allowed) - set(SEVERITIES):
        raise ConfigError(
            f"--allow {min(unknown)}: no such finding", hint=f"known are {', '.join(SEVERITIES)}"
        )
    report = run_checks(Examination(checkpoint, serve=serve, train_env=train_env))
    for finding in report.warnings:
        _LOG.warning("warning [%s] %s: %s", finding.id, finding.title, finding.consequence)
    blocking = [finding for finding in report.blocking if finding.id not in allowed]
    if not blocking:
        return report
    lines = [f"{checkpoint.path} cannot be served"]
    for finding in blocking:
        lines.append(f"[{finding.id}] {finding.title}: {finding.consequence}")
        shown = finding.evidence[:_MAX_EVIDENCE]
        lines += [f"    {seen.file}: {seen.key}: {seen.value}" for seen in shown]
    remedies = dict.fromkeys(finding.remedy for finding in blocking)
    raise CheckpointError(
        "\n".join(lines),
        hint=f"{'; '.join(remedies)}; `vlmserve check --ckpt {checkpoint.path}` says more",
    )


def require_eval_extra() -> None:
    """Make sure that what judging takes is installed.

    Raises:
        ConfigError: A package of the extra ``eval`` is missing.
    """
    require_packages(*_EVAL_MODULES)


def require_packages(*modules: str) -> None:
    """Make sure that some packages of the extra ``eval`` are installed.

    Args:
        modules: Their names of import.

    Raises:
        ConfigError: One is missing.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise ConfigError(f"{module} is not installed", hint="pip install 'vlmserve[eval]'")
