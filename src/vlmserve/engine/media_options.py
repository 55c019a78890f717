"""Refuses media options of a request that would not reach the model's processor in vLLM 0.32.

Its loaders for Qwen-VL sample by time and take no notice of ``num_frames``
(``multimodal/video.py``), and ``detail`` of an image is read and dropped. An option that changes
nothing answers another question than the caller's.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_SAMPLED_BY_TIME = frozenset({"num_frames", "max_duration"})
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
    for name in sorted(ignored & _keys(io, "video")):
        return f"media_io_kwargs.video.{name}", _INSTEAD
    processor = getattr(request, "mm_processor_kwargs", None)
    if ignored and "num_frames" in _keys(processor):
        return "mm_processor_kwargs.num_frames", f"{_INSTEAD} of media_io_kwargs.video"
    if ignored and "num_frames" in _keys(processor, "videos_kwargs"):
        return "mm_processor_kwargs.videos_kwargs.num_frames", f"{_INSTEAD} of media_io_kwargs"
    for field, detail in _details(messages):
        if detail == "low":
            return field, "images keep their size: scale it down before it is sent"
    return None


def _keys(options: Any, *path: str) -> set[str]:
    for name in path:
        options = options.get(name) if isinstance(options, Mapping) else None
    return set(options) if isinstance(options, Mapping) else set()


def _details(messages: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    for i, message in enumerate(messages):
        parts = message.get("content") if isinstance(message, Mapping) else None
        for j, part in enumerate(parts if isinstance(parts, list) else ()):
            image = part.get("image_url") if isinstance(part, Mapping) else None
            if isinstance(image, Mapping) and "detail" in image:
                yield f"messages[{i}].content[{j}].image_url.detail", image["detail"]
