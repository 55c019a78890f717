"""What each part of a prompt takes of a model's context, and the smallest change that fits."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from vlmserve.checkpoint.visual_tokens.base import VisualSize, VisualTokens
from vlmserve.errors import MediaError
from vlmserve.media.measured import Measured

_MIN_PIXELS_OF_ADVICE = 28 * 28


@dataclass(frozen=True, slots=True)
class MediaPart:
    """An image or a video of a prompt."""

    measured: Measured
    tokens: int | None
    """Tokens in the place of its placeholder; ``None`` where only the processor could tell."""

    resized: VisualSize | None = None
    """Its size on the way into the model, where the family's formula is known."""

    field: str | None = None
    """Its dotted place in the request."""

    def as_json(self) -> dict[str, Any]:
        """The part as ``/v1/chat/completions/budget`` shows it."""
        seen, resized = self.measured, self.resized
        body: dict[str, Any] = {
            "type": seen.kind,
            "field": self.field,
            "tokens": self.tokens,
            "width_px": seen.width_px,
            "height_px": seen.height_px,
            "resized_width_px": None if resized is None else resized.width_px,
            "resized_height_px": None if resized is None else resized.height_px,
        }
        if seen.kind == "video":
            times = seen.frame_times_s or (None,) * len(seen.frame_indices)
            body["n_frames"] = seen.n_frames
            body["frames_per_second"] = seen.frames_per_second
            body["sampled_frames"] = [
                {"index": index, "time_s": None if time is None else round(time, 3)}
                for index, time in zip(seen.frame_indices, times, strict=True)
            ]
        return body

    def describe(self, number: int) -> str:
        """The part in one line of a message."""
        seen, resized = self.measured, self.resized
        name = self.field or f"{seen.kind} {number}"
        frames = f"{len(seen.frame_indices)} frames of " if seen.kind == "video" else ""
        size = f"{frames}{seen.width_px} x {seen.height_px}"
        if resized is not None and (
            (resized.width_px, resized.height_px) != (seen.width_px, seen.height_px)
        ):
            size += f", resized to {resized.width_px} x {resized.height_px}"
        tokens = "unknown" if self.tokens is None else f"{self.tokens}"
        return f"{name} ({size}): {tokens} tokens"


@dataclass(frozen=True, slots=True)
class PromptBudget:
    """A prompt's tokens, part by part, against what the model's context holds."""

    text_tokens: int
    """All that is no image or video: text, the chat template's own tokens, tools."""

    media: tuple[MediaPart, ...]
    """In reading order of each kind."""

    limit: int
    """``max_model_len``: tokens of prompt and answer together."""

    max_visual_tokens: int | None = None
    """What the operator lets the images and videos of one request take."""

    other_tokens: int = 0
    """Of parts of further kinds, such as audio."""

    @property
    def visual_tokens(self) -> int:
        """Tokens of all images and videos, as far as they are known."""
        return sum(part.tokens or 0 for part in self.media)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the whole prompt."""
        return self.text_tokens + self.visual_tokens + self.other_tokens

    @property
    def is_within_context(self) -> bool:
        """Whether prompt and one token of the answer fit."""
        return self.prompt_tokens < self.limit

    @property
    def is_within_visual_limit(self) -> bool:
        """Whether the operator's limit for images and videos is kept."""
        return self.max_visual_tokens is None or self.visual_tokens <= self.max_visual_tokens

    @property
    def fits(self) -> bool:
        """Whether a request with this prompt is answered."""
        return self.is_within_context and self.is_within_visual_limit

    def parts_json(self) -> list[dict[str, Any]]:
        """Every part, the text first; their tokens add up to ``prompt_tokens``."""
        parts: list[dict[str, Any]] = [{"type": "text", "tokens": self.text_tokens}]
        parts += [part.as_json() for part in self.media]
        if self.other_tokens:
            parts.append({"type": "other", "tokens": self.other_tokens})
        return parts

    def refusal(self, formula: VisualTokens | None) -> str:
        """Say that the prompt does not fit, what takes how much, and what would fit.

        Args:
            formula: The family's, to compute what smaller media would take.
        """
        if not self.is_within_context:
            head = (
                f"the prompt has {self.prompt_tokens} tokens, and this model's context holds "
                f"{self.limit} tokens with at least one for the answer; nothing was cut"
            )
            excess = self.prompt_tokens + 1 - self.limit
        else:
            head = (
                f"the images and videos of this request take {self.visual_tokens} tokens, and "
                f"{self.max_visual_tokens} are allowed; the operator can raise "
                "media.max_request_visual_tokens"
            )
            excess = 0
        if self.max_visual_tokens is not None:
            excess = max(excess, self.visual_tokens - self.max_visual_tokens)
        lines = [f"- text: {self.text_tokens} tokens"]
        numbers: dict[str, int] = {}
        for part in self.media:
            kind = part.measured.kind
            numbers[kind] = numbers.get(kind, 0) + 1
            lines.append(f"- {part.describe(numbers[kind])}")
        if self.other_tokens:
            lines.append(f"- other: {self.other_tokens} tokens")
        advice = smallest_changes(self.media, excess, formula)
        if self.text_tokens > excess and not self.is_within_context:
            advice.append(f"shorten the text by {excess} tokens")
        change = f"To fit: {', or '.join(advice)}." if advice else "No single change makes it fit."
        return "\n".join([f"{head}. Its parts:", *lines, change])


def smallest_changes(
    media: Sequence[MediaPart], excess: int, formula: VisualTokens | None
) -> list[str]:
    """The smallest changes to images and videos that save enough tokens, each sufficient alone.

    Args:
        media: All images and videos of the prompt.
        excess: Tokens to be saved, at least 1.
        formula: The family's; without it media can only be dropped.
    """
    images = [part for part in media if part.measured.kind == "image"]
    videos = [part for part in media if part.measured.kind == "video"]
    found = (
        _fewer_pixels(images, excess, formula),
        _fewer_frames(videos, excess, formula),
        _fewer(images, excess),
        _fewer(videos, excess),
    )
    return [change for change in found if change is not None]


def _fewer(parts: Sequence[MediaPart], excess: int) -> str | None:
    """How many have to go, the largest first; what the template writes around them counts not."""
    saved = 0
    sizes = sorted((part.tokens or 0 for part in parts), reverse=True)
    for count, tokens in enumerate(sizes, 1):
        saved += tokens
        if saved >= excess:
            kind = parts[0].measured.kind
            return f"drop {count} of {len(parts)} {kind}{'s' if len(parts) > 1 else ''}"
    return None


def _fewer_pixels(
    images: Sequence[MediaPart], excess: int, formula: VisualTokens | None
) -> str | None:
    sizes = [part.measured for part in images]
    if formula is None or not sizes or any(part.tokens is None for part in images):
        return None
    allowed = sum(part.tokens or 0 for part in images) - excess
    most = max(size.width_px * size.height_px for size in sizes)

    def fits(max_pixels: int) -> bool:
        limited = formula.with_max_pixels(max_pixels) or formula
        try:
            # A processor with this limit rounds down, one that is given smaller images to nearest.
            return all(
                sum(rule.image(*scale(size, max_pixels)).tokens for size in sizes) <= allowed
                for rule, scale in ((limited, _unscaled), (formula, _scaled))
            )
        except MediaError:
            return False

    best = _largest(_MIN_PIXELS_OF_ADVICE, most, fits)
    if best is None:
        return None
    return f"lower max_pixels to {best} (scale larger images down to so many pixels)"


def _unscaled(size: Measured, _: int) -> tuple[int, int]:
    return size.width_px, size.height_px


def _scaled(size: Measured, max_pixels: int) -> tuple[int, int]:
    """An image scaled down by its sender, its shape kept."""
    ratio = min(1.0, math.sqrt(max_pixels / (size.width_px * size.height_px)))
    return max(1, int(size.width_px * ratio)), max(1, int(size.height_px * ratio))


def _fewer_frames(
    videos: Sequence[MediaPart], excess: int, formula: VisualTokens | None
) -> str | None:
    if formula is None or len(videos) != 1 or videos[0].tokens is None:
        return None
    seen, tokens = videos[0].measured, videos[0].tokens

    def fits(n_frames: int) -> bool:
        try:
            size = formula.video(seen.width_px, seen.height_px, n_frames)
        except MediaError:
            return False
        # Texts between the frames shrink with them and are left out, on the safe side.
        return size is not None and size.tokens <= tokens - excess

    n_frames = len(seen.frame_indices)
    best = _largest(2, n_frames - 1, fits)
    return None if best is None else f"send {best} of the video's {n_frames} sampled frames"


def _largest(low: int, high: int, is_good: Callable[[int], bool]) -> int | None:
    """The largest number from ``low`` to ``high`` that is good, where smaller ones are, too."""
    if low > high or not is_good(low):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if is_good(middle) else (low, middle - 1)
    return low
