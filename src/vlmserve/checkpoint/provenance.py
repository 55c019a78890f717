"""What the training framework left beside the weights: framework, limits and loss.

ms-swift writes ``args.json``, the transformers Trainer (and all that is built on it)
``trainer_state.json``, LLaMA-Factory ``trainer_log.jsonl`` and, from its web page,
``training_args.yaml``.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from vlmserve.checkpoint.files import read_json_if_present
from vlmserve.errors import CheckpointError, ConfigError


@dataclass(frozen=True, slots=True)
class VisionLimits:
    """How large images and how long videos were in training; ``None`` is not known.

    Field names are those of ms-swift's environment variables in lower case
    (swift/model/models/qwen.py ``patch_qwen_vl_utils``), which its ``args.json`` does not record.
    """

    min_pixels: int | None = None
    """Smallest image in pixels; smaller ones are enlarged."""

    max_pixels: int | None = None
    """Largest image in pixels; larger ones are shrunk."""

    video_min_pixels: int | None = None
    """Smallest frame in pixels."""

    video_max_pixels: int | None = None
    """Largest frame in pixels."""

    video_total_pixels: int | None = None
    """Largest sum over the frames of a video, in pixels."""

    fps: float | None = None
    """Frames taken of a second of video."""

    fps_min_frames: int | None = None
    """Fewest frames of a video."""

    fps_max_frames: int | None = None
    """Most frames of a video."""

    image_min_token_num: int | None = None
    """Smallest image in tokens (Qwen3-VL)."""

    image_max_token_num: int | None = None
    """Largest image in tokens (Qwen3-VL)."""

    video_min_token_num: int | None = None
    """Smallest frame in tokens (Qwen3-VL)."""

    video_max_token_num: int | None = None
    """Largest frame in tokens (Qwen3-VL)."""

    def in_pixels(self, pixels_per_token: int) -> "VisionLimits":
        """The same limits with those in tokens turned into pixels.

        Args:
            pixels_per_token: Area of a merged patch (``QwenVL.pixels_per_token``).

        Returns:
            Limits without token fields; a limit in tokens wins over one in pixels, as in ms-swift
            (``compat_qwen_vl_utils``).
        """

        def pixels(tokens: int | None, otherwise: int | None) -> int | None:
            return otherwise if tokens is None else tokens * pixels_per_token

        return replace(
            self,
            min_pixels=pixels(self.image_min_token_num, self.min_pixels),
            max_pixels=pixels(self.image_max_token_num, self.max_pixels),
            video_min_pixels=pixels(self.video_min_token_num, self.video_min_pixels),
            video_max_pixels=pixels(self.video_max_token_num, self.video_max_pixels),
            image_min_token_num=None,
            image_max_token_num=None,
            video_min_token_num=None,
            video_max_token_num=None,
        )

    def updated(self, other: "VisionLimits") -> "VisionLimits":
        """These limits with those that ``other`` knows put in their place."""
        known = {
            field.name: getattr(other, field.name)
            for field in fields(other)
            if getattr(other, field.name) is not None
        }
        return replace(self, **known)


@dataclass(frozen=True)
class TrainingInfo:
    """What is known of how a checkpoint was trained."""

    framework: str
    """``ms-swift``, ``llama-factory`` or ``transformers`` (the Trainer, by whoever used it)."""

    version: str | None
    model: str | None
    """What was trained, as the framework was told: a path, maybe stale, or a hub id."""

    template: str | None
    """The framework's name of the chat template."""

    system: str | None
    """The system prompt it was trained with."""

    max_length: int | None
    """Longest sample in tokens."""

    truncation_strategy: str | None
    """What became of longer samples: ms-swift's ``delete``, ``left`` or ``right``."""

    limits: VisionLimits
    """Only what is written down; ms-swift takes most limits from the environment."""

    log_history: tuple[Mapping[str, Any], ...]
    """Entries of ``trainer_state.json``, each with ``step`` and what was logged then."""

    files: tuple[str, ...]
    """The files that this was read from, relative to the checkpoint."""

    @property
    def max_pixels(self) -> int | None:
        """Largest image in pixels."""
        return self.limits.max_pixels

    @property
    def min_pixels(self) -> int | None:
        """Smallest image in pixels."""
        return self.limits.min_pixels


def load_training(directory: Path) -> TrainingInfo | None:
    """Read what a training framework left in a checkpoint directory.

    ``args.json`` and the LLaMA-Factory files are also looked for one level up when the directory
    is a ``checkpoint-N``.

    Returns:
        What was found, or ``None`` when there is nothing.

    Raises:
        CheckpointError: One of the files is broken; the message names it.
    """
    places = [directory]
    if directory.name.startswith("checkpoint-"):
        places.append(directory.parent)
    state_path = directory / "trainer_state.json"
    history = _log_history(state_path)
    files = [state_path] if state_path.is_file() else []

    swift_path = _first(places, "args.json")
    if swift_path is not None:
        args = read_json_if_present(swift_path)
        if "model" in args or "swift_version" in args:
            files.append(swift_path)
            return _swift(args, swift_path, history, _relative(files, directory))
    yaml_path = _first(places, "training_args.yaml")
    if yaml_path is not None or _first(places, "trainer_log.jsonl") is not None:
        files += [] if yaml_path is None else [yaml_path]
        settings = {} if yaml_path is None else _read_yaml(yaml_path)
        return _llama_factory(settings, yaml_path, history, _relative(files, directory))
    if not files and not (directory / "training_args.bin").is_file():
        return None
    return TrainingInfo(
        framework="transformers",
        version=None,
        model=None,
        template=None,
        system=None,
        max_length=None,
        truncation_strategy=None,
        limits=VisionLimits(),
        log_history=history,
        files=_relative(files, directory),
    )


def parse_train_env(settings: Iterable[str]) -> VisionLimits:
    """Parse ``NAME=value`` strings that tell the environment variables of a training run.

    Args:
        settings: Such as ``MAX_PIXELS=1003520`` or ``FPS=2.0``; a later one wins.

    Raises:
        ConfigError: A string is malformed, a name is not one of ``VisionLimits``, or a value is
            not a positive number.
    """
    known = {field.name.upper(): field.name for field in fields(VisionLimits)}
    values: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        where = f"--train-env {setting}"
        if not equals:
            raise ConfigError(f"{where}: expected NAME=value, such as MAX_PIXELS=1003520")
        if name not in known:
            raise ConfigError(
                f"{where}: unknown variable {name}", hint=f"known are {', '.join(known)}"
            )
        values[known[name]] = _number(text, where, whole=name != "FPS")
    return VisionLimits(**values)


def _number(text: str, where: str, *, whole: bool) -> float:
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        kind = "a positive whole number" if whole else "a positive number"
        raise ConfigError(f"{where}: {kind} is expected, not {text!r}")
    return value


def _log_history(path: Path) -> tuple[Mapping[str, Any], ...]:
    history = read_json_if_present(path).get("log_history", [])
    if not isinstance(history, list) or not all(isinstance(entry, dict) for entry in history):
        raise CheckpointError(f"{path}: log_history: a list of objects is expected")
    return tuple(history)


def _swift(
    args: Mapping[str, Any],
    path: Path,
    history: tuple[Mapping[str, Any], ...],
    files: tuple[str, ...],
) -> TrainingInfo:
    return TrainingInfo(
        framework="ms-swift",
        version=_text(args, "swift_version"),
        model=_text(args, "model"),
        template=_text(args, "template"),
        system=_text(args, "system"),
        max_length=_count(args, "max_length", path),
        truncation_strategy=_text(args, "truncation_strategy"),
        limits=VisionLimits(max_pixels=_count(args, "max_pixels", path)),
        log_history=history,
        files=files,
    )


def _llama_factory(
    args: Mapping[str, Any],
    path: Path | None,
    history: tuple[Mapping[str, Any], ...],
    files: tuple[str, ...],
) -> TrainingInfo:
    return TrainingInfo(
        framework="llama-factory",
        version=None,
        model=_text(args, "model_name_or_path"),
        template=_text(args, "template"),
        system=_text(args, "default_system"),
        max_length=_count(args, "cutoff_len", path),
        truncation_strategy=None,
        limits=VisionLimits(
            min_pixels=_count(args, "image_min_pixels", path),
            max_pixels=_count(args, "image_max_pixels", path),
            video_min_pixels=_count(args, "video_min_pixels", path),
            video_max_pixels=_count(args, "video_max_pixels", path),
            fps_max_frames=_count(args, "video_maxlen", path),
        ),
        log_history=history,
        files=files,
    )


def _text(args: Mapping[str, Any], key: str) -> str | None:
    value = args.get(key)
    return value if isinstance(value, str) and value else None


def _count(args: Mapping[str, Any], key: str, path: Path | None) -> int | None:
    value = args.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise CheckpointError(f"{path}: {key}: a positive whole number is expected, not {value!r}")
    return value


def _read_yaml(path: Path) -> Mapping[str, Any]:
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path}: not readable YAML: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: a mapping is expected")
    return value


def _first(places: list[Path], name: str) -> Path | None:
    return next((place / name for place in places if (place / name).is_file()), None)


def _relative(files: list[Path], directory: Path) -> tuple[str, ...]:
    return tuple(path.name if path.parent == directory else f"../{path.name}" for path in files)
