"""Refuses media options that would not reach the model's processor in vLLM 0.32.

They may stand in a request or in the operator's settings. Its loaders for Qwen-VL sample by time
and take no notice of ``num_frames`` (``multimodal/video.py``), and ``detail`` of an image is read
and dropped. An option that changes nothing answers another question than the caller's.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from vlmserve.errors import ConfigError

if TYPE_CHECKING:
    from vlmserve.config.engine import EngineConfig

_SAMPLED_BY_TIME = frozenset({"num_frames", "max_duration"})
# multimodal/media/video.py, VideoMediaIO: pictures that a list of frames may have by itself.
_LISTED_FRAMES = 32
# What qwen-vl-utils 0.0.14 reads of a part, and Qwen's own examples put there.
_QWEN_OPTIONS = (
    "min_pixels", "max_pixels", "total_pixels", "resized_width", "resized_height", "fps", "nframes",
    "min_frames", "max_frames", "video_start", "video_end",
)  # fmt: skip
_INSTEAD_OF_QWENS = {
    "image_url": "say it for the whole request, in mm_processor_kwargs, or scale the image before "
    "it is sent",
    "video_url": "say it for the whole request, in media_io_kwargs.video or mm_processor_kwargs",
}
_INSTEAD = "frames are sampled by time: use fps, min_frames and max_frames"


def ignored_video_options(*, samples_by_time: bool) -> frozenset[str]:
    """The options of video loaders that do nothing.

    Args:
        samples_by_time: Whether the family's loader does, as Qwen-VL's.
    """
    return _SAMPLED_BY_TIME if samples_by_time else frozenset()


def find_ignored_option(
    request: Any, messages: Iterable[Any], ignored: frozenset[str]
) -> tuple[str, str] | None:
    """Find an option that would change nothing.

    Args:
        request: vLLM's model of a chat.
        messages: Its messages.
        ignored: What ``ignored_video_options`` gave.

    Returns:
        The option's dotted field and what to do instead, or ``None``.
    """
    io = getattr(request, "media_io_kwargs", None)
    processor = getattr(request, "mm_processor_kwargs", None)
    found = _find_ignored_setting(io, processor, ignored)
    if found is not None:
        return found
    return next(_ignored_in_parts(messages), None)


def check_video_settings(engine: "EngineConfig", ignored: frozenset[str]) -> tuple[str, ...]:
    """Refuse an operator's settings that would change nothing.

    ``num_frames`` is also how many pictures a list of frames may have. Where it lifts vLLM's own
    limit of that, it is taken for what it does.

    Args:
        engine: The settings.
        ignored: What ``ignored_video_options`` gave.

    Returns:
        A sentence for the user on what is taken otherwise than it may be meant.

    Raises:
        ConfigError: A setting would change nothing; the message names it.
    """
    video = engine.media_io_kwargs.get("video", {})
    n_listed = video.get("num_frames")
    lifts = isinstance(n_listed, int) and (n_listed > _LISTED_FRAMES or n_listed == -1)
    left = {key: value for key, value in video.items() if not (lifts and key == "num_frames")}
    found = _find_ignored_setting({"video": left}, engine.mm_processor_kwargs, ignored)
    if found is not None:
        field, instead = found
        raise ConfigError(
            f"engine.{field}: would change nothing for this model: {instead}",
            hint=f"media_io_kwargs.video.num_frames above {_LISTED_FRAMES}, or -1, allows longer "
            "lists of frames"
            if field.endswith("num_frames")
            else None,
        )
    if not (lifts and "num_frames" in ignored):
        return ()
    return (
        f"engine.media_io_kwargs.video.num_frames={n_listed} limits lists of frames alone: of "
        f"videos, {_INSTEAD}",
    )


def _find_ignored_setting(
    io: Any, processor: Any, ignored: frozenset[str]
) -> tuple[str, str] | None:
    for name in sorted(ignored & _keys(io, "video")):
        return f"media_io_kwargs.video.{name}", _INSTEAD
    if ignored and "num_frames" in _keys(processor):
        return "mm_processor_kwargs.num_frames", f"{_INSTEAD} of media_io_kwargs.video"
    if ignored and "num_frames" in _keys(processor, "videos_kwargs"):
        return "mm_processor_kwargs.videos_kwargs.num_frames", f"{_INSTEAD} of media_io_kwargs"
    return None


def _keys(options: Any, *path: str) -> set[str]:
    for name in path:
        options = options.get(name) if isinstance(options, Mapping) else None
    return set(options) if isinstance(options, Mapping) else set()


def _ignored_in_parts(messages: Iterable[Any]) -> Iterator[tuple[str, str]]:
    for i, message in enumerate(messages):
        parts = message.get("content") if isinstance(message, Mapping) else None
        for j, part in enumerate(parts if isinstance(parts, list) else ()):
            for kind in ("image_url", "video_url"):
                if isinstance(part, Mapping) and kind in part:
                    yield from _ignored_in_part(f"messages[{i}].content[{j}]", part, kind)


def _ignored_in_part(field: str, part: Mapping[str, Any], kind: str) -> Iterator[tuple[str, str]]:
    medium = part[kind] if isinstance(part[kind], Mapping) else {}
    for place, options in ((field, part), (f"{field}.{kind}", medium)):
        for name in _QWEN_OPTIONS:
            if options.get(name) is not None:
                yield f"{place}.{name}", _INSTEAD_OF_QWENS[kind]
    if kind == "image_url" and medium.get("detail") == "low":
        yield (
            f"{field}.{kind}.detail",
            "images keep their size: scale it down before it is sent",
        )
