"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: images and videos resized to whole merged patches.

Read from transformers 5.19, models/qwen2_vl/image_processing_qwen2_vl.py,
models/qwen2_vl/video_processing_qwen2_vl.py, models/qwen3_vl/video_processing_qwen3_vl.py and
models/qwen3_vl/processing_qwen3_vl.py. vllm 0.32 counts in the same way (models/qwen2_vl.py and
models/qwen3_vl.py ``_get_vision_info``), but without ``cap_pixels_per_frame``.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from typing_extensions import override

from vlmserve.checkpoint.processor_settings import PartSettings, ProcessorSettings
from vlmserve.checkpoint.visual_tokens.base import VisualSize, VisualTokens, require_size
from vlmserve.errors import CheckpointError, MediaError

_MAX_ASPECT_RATIO = 200
_SHARE_OF_VIDEO_BUDGET = 0.9
_SLACK_OVER_SMALLEST = 1.05
_UNKNOWN_VIDEO_FPS = 24
_FRAME_MARKS = 2  # <|vision_start|> and <|vision_end|> around every step of a Qwen3-VL video


def smart_resize(
    width_px: int, height_px: int, *, factor: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """Qwen2-VL's resizing: sides become multiples of ``factor``, the area stays within limits.

    Python's rounding of halves to even is part of the rule, and so is that an image whose rounded
    area is above the limit is shrunk from its own area, not from the rounded one.

    Returns:
        Width and height in pixels.

    Raises:
        MediaError: The longer side is more than 200 times the shorter.
    """
    require_size(width_px, height_px)
    _check_aspect_ratio(width_px, height_px)
    height = round(height_px / factor) * factor
    width = round(width_px / factor) * factor
    if height * width > max_pixels:
        beta = math.sqrt((height_px * width_px) / max_pixels)
        height = max(factor, math.floor(height_px / beta / factor) * factor)
        width = max(factor, math.floor(width_px / beta / factor) * factor)
    elif height * width < min_pixels:
        beta = math.sqrt(min_pixels / (height_px * width_px))
        height = math.ceil(height_px * beta / factor) * factor
        width = math.ceil(width_px * beta / factor) * factor
    return width, height


def _check_aspect_ratio(width_px: int, height_px: int) -> None:
    if max(height_px, width_px) / min(height_px, width_px) > _MAX_ASPECT_RATIO:
        raise MediaError(
            f"{width_px}x{height_px} pixels: Qwen-VL's processor refuses images whose longer side "
            f"is more than {_MAX_ASPECT_RATIO} times the shorter"
        )


@dataclass(frozen=True, slots=True)
class Patches:
    """How a Qwen-VL processor cuts up pictures."""

    patch_px: int
    merge: int
    """Patches of one token's side."""

    min_pixels: int
    max_pixels: int
    """Of an image or a frame; in Qwen3-VL's videos of all frames together."""

    temporal: int = 2
    """Frames that make one step in time."""

    do_resize: bool = True

    @property
    def factor(self) -> int:
        """Side of a token in pixels."""
        return self.patch_px * self.merge

    def tokens(self, width_px: int, height_px: int) -> int:
        """Tokens of a resized image, or of one step in time of a video."""
        return (height_px // self.factor) * (width_px // self.factor)

    def require_whole(self, width_px: int, height_px: int) -> tuple[int, int]:
        """The size as it is, where the processor was told not to resize.

        Raises:
            MediaError: The sides are not multiples of a token's.
        """
        require_size(width_px, height_px)
        if width_px % self.factor or height_px % self.factor:
            raise MediaError(
                f"{width_px}x{height_px} pixels: do_resize is false, so that sides must be "
                f"multiples of {self.factor}"
            )
        return width_px, height_px


@dataclass(frozen=True, slots=True)
class FrameSampling:
    """How many frames a video processor takes; it takes all unless ``do_sample``."""

    do_sample: bool = False
    fps: float | None = None
    n_frames: int | None = None
    min_frames: int = 4
    max_frames: int = 768


@dataclass(frozen=True, slots=True)
class QwenTokens(VisualTokens):
    """What the Qwen-VL families have in common: images."""

    image_patches: Patches
    video_patches: Patches
    cap_tokens: int | None = None
    """``max_video_tokens`` where ``cap_pixels_per_frame`` is on, which becomes the default in
    transformers 5.22: for Qwen2-VL of the whole video, for Qwen3-VL of a frame."""

    sampling: FrameSampling = FrameSampling()

    @override
    def image(self, width_px: int, height_px: int, *, n_images: int = 1) -> VisualSize:
        patches = self.image_patches
        if patches.do_resize:
            width, height = smart_resize(
                width_px,
                height_px,
                factor=patches.factor,
                min_pixels=patches.min_pixels,
                max_pixels=patches.max_pixels,
            )
        else:
            width, height = patches.require_whole(width_px, height_px)
        return VisualSize(patches.tokens(width, height), width, height)

    @override
    def with_max_pixels(self, max_pixels: int) -> "QwenTokens | None":
        patches = self.image_patches
        if not patches.do_resize:
            return None
        # The smallest size goes on to hold.
        lowered = max(min(max_pixels, patches.max_pixels), patches.min_pixels)
        return replace(self, image_patches=replace(patches, max_pixels=lowered))

    def _steps(self, n_frames: int) -> int:
        """Steps in time, the last frame repeated where they do not come out even."""
        return -(-n_frames // self.video_patches.temporal)


class Qwen2VLTokens(QwenTokens):
    """Qwen2-VL and Qwen2.5-VL. Every frame of a video is resized like an image of its own."""

    @override
    def video(
        self,
        width_px: int,
        height_px: int,
        n_frames: int,
        *,
        frame_times_s: tuple[float, ...] | None = None,
    ) -> VisualSize:
        patches = self.video_patches
        if patches.do_resize:
            width, height = smart_resize(
                width_px,
                height_px,
                factor=patches.factor,
                min_pixels=patches.min_pixels,
                max_pixels=self._max_frame_pixels(n_frames),
            )
        else:
            width, height = patches.require_whole(width_px, height_px)
        steps = self._steps(n_frames)
        tokens = steps * patches.tokens(width, height)
        return VisualSize(tokens, width, height, steps * patches.temporal)

    def _max_frame_pixels(self, n_frames: int) -> int:
        patches = self.video_patches
        if self.cap_tokens is None:
            return patches.max_pixels
        total = int(self.cap_tokens * patches.factor * patches.factor * _SHARE_OF_VIDEO_BUDGET)
        share = min(patches.max_pixels, total * patches.temporal // n_frames)
        return max(share, int(patches.min_pixels * _SLACK_OVER_SMALLEST))

    @override
    def sample_frames(self, duration_s: float, fps: float, n_frames: int) -> int | None:
        sampling, step = self.sampling, self.video_patches.temporal
        if not sampling.do_sample:
            return None
        if sampling.n_frames is not None:
            wanted = round(sampling.n_frames / step) * step
        elif sampling.fps is not None:
            most = math.floor(min(sampling.max_frames, n_frames) / step) * step
            rate = min(max(n_frames / fps * sampling.fps, sampling.min_frames), most, n_frames)
            wanted = math.floor(rate / step) * step
        else:
            return None
        if wanted > n_frames or wanted < 1:
            raise MediaError(f"a video of {n_frames} frames cannot be sampled to {wanted}")
        # torch.arange(0, n_frames, n_frames / wanted) may have one more than wanted.
        return math.ceil(n_frames / (n_frames / wanted))


class Qwen3VLTokens(QwenTokens):
    """Qwen3-VL. A video's limits are of all its frames together, and each step bears its time."""

    @override
    def video(
        self,
        width_px: int,
        height_px: int,
        n_frames: int,
        *,
        frame_times_s: tuple[float, ...] | None = None,
    ) -> VisualSize:
        patches = self.video_patches
        if patches.do_resize:
            width, height = self._resize(width_px, height_px, n_frames)
        else:
            width, height = patches.require_whole(width_px, height_px)
        steps = self._steps(n_frames)
        times = frame_times_s or tuple(index / _UNKNOWN_VIDEO_FPS for index in range(n_frames))
        return VisualSize(
            steps * (patches.tokens(width, height) + _FRAME_MARKS),
            width,
            height,
            steps * patches.temporal,
            self._time_texts(times, steps),
        )

    def _resize(self, width_px: int, height_px: int, n_frames: int) -> tuple[int, int]:
        patches = self.video_patches
        factor, max_pixels = patches.factor, self._max_video_pixels(n_frames)
        require_size(width_px, height_px)
        if n_frames < patches.temporal:
            raise MediaError(
                f"a video of {n_frames} frames: Qwen3-VL's processor wants {patches.temporal}"
            )
        if height_px < factor or width_px < factor:
            scale = max(factor / height_px, factor / width_px)
            height_px, width_px = int(height_px * scale), int(width_px * scale)
        _check_aspect_ratio(width_px, height_px)
        height = round(height_px / factor) * factor
        width = round(width_px / factor) * factor
        frames = round(n_frames / patches.temporal) * patches.temporal
        if frames * height * width > max_pixels:
            beta = math.sqrt((n_frames * height_px * width_px) / max_pixels)
            height = max(factor, math.floor(height_px / beta / factor) * factor)
            width = max(factor, math.floor(width_px / beta / factor) * factor)
        elif frames * height * width < patches.min_pixels:
            beta = math.sqrt(patches.min_pixels / (n_frames * height_px * width_px))
            height = math.ceil(height_px * beta / factor) * factor
            width = math.ceil(width_px * beta / factor) * factor
        return width, height

    def _max_video_pixels(self, n_frames: int) -> int:
        patches = self.video_patches
        if self.cap_tokens is None:
            return patches.max_pixels
        frame = self.cap_tokens * patches.factor * patches.factor
        share = min(frame, patches.max_pixels // n_frames)
        return max(share, int(patches.min_pixels * _SLACK_OVER_SMALLEST)) * n_frames

    def _time_texts(self, times: tuple[float, ...], steps: int) -> tuple[str, ...]:
        """One text a step, with the mean of its first and last frame's time."""
        length = self.video_patches.temporal
        padded = times + times[-1:] * (steps * length - len(times))
        starts = range(0, steps * length, length)
        return tuple(
            f"<{(padded[start] + padded[start + length - 1]) / 2:.1f} seconds>" for start in starts
        )

    @override
    def sample_frames(self, duration_s: float, fps: float, n_frames: int) -> int | None:
        sampling = self.sampling
        if not sampling.do_sample:
            return None
        if sampling.n_frames is not None:
            return sampling.n_frames
        wanted = n_frames if sampling.fps is None else int(n_frames / fps * sampling.fps)
        wanted = min(max(wanted, sampling.min_frames), sampling.max_frames)
        # Without a rate, a short video gives some frames twice.
        return wanted if sampling.fps is None else min(wanted, n_frames)


def create_qwen_tokens(
    formula: type[QwenTokens], vision: Mapping[str, Any], settings: ProcessorSettings
) -> QwenTokens:
    """Build a Qwen-VL family's formula.

    Args:
        formula: ``Qwen2VLTokens`` or ``Qwen3VLTokens``.
        vision: The model's ``vision_config`` over its defaults, for patch sizes where no processor
            file tells.
        settings: The processor's settings.

    Raises:
        CheckpointError: A setting is missing or malformed.
    """
    video = settings.video
    capped = bool(video.get("cap_pixels_per_frame"))
    fps = video.get("fps")
    n_frames = video.get("num_frames")
    return formula(
        image_patches=_patches(settings.image, vision),
        video_patches=_patches(video, vision),
        cap_tokens=video.integer("max_video_tokens") if capped else None,
        sampling=FrameSampling(
            do_sample=bool(video.get("do_sample_frames")),
            fps=float(fps) if isinstance(fps, int | float) else None,
            n_frames=n_frames if isinstance(n_frames, int) else None,
            min_frames=video.integer("min_frames"),
            max_frames=video.integer("max_frames"),
        ),
    )


def _patches(part: PartSettings, vision: Mapping[str, Any]) -> Patches:
    def count(key: str, vision_key: str) -> int:
        # The class's default is Qwen2-VL's, and the model's own size is the better guess.
        value = vision.get(vision_key)
        if part.source(key).path is None and isinstance(value, int):
            return value
        return part.integer(key)

    patches = Patches(
        patch_px=count("patch_size", "patch_size"),
        merge=count("merge_size", "spatial_merge_size"),
        min_pixels=part.integer("size.shortest_edge"),
        max_pixels=part.integer("size.longest_edge"),
        temporal=count("temporal_patch_size", "temporal_patch_size"),
        do_resize=bool(part.get("do_resize", True)),
    )
    if patches.min_pixels > patches.max_pixels:
        source = part.source("size")
        raise CheckpointError(
            f"{source.path or source.key}: {source.key}: the smallest image "
            f"({patches.min_pixels} pixels) is larger than the largest ({patches.max_pixels})"
        )
    return patches
