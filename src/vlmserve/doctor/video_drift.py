"""One video's ways into a model: as in training, and as it is served."""

from dataclasses import dataclass

from typing_extensions import override

from vlmserve.checkpoint.families.qwen2_vl import QwenVL
from vlmserve.checkpoint.processor_settings import ProcessorSettings, load_processor_settings
from vlmserve.checkpoint.provenance import VisionLimits
from vlmserve.checkpoint.serving_limits import training_media_settings, with_processor_kwargs
from vlmserve.checkpoint.visual_tokens.base import VisualTokens
from vlmserve.doctor.examination import Examination
from vlmserve.errors import MediaError
from vlmserve.frameworks.frame_sampling import (
    LLAMA_FACTORY_RULE,
    QWEN3_RULE,
    QWEN_RULE,
    UNIFORM_RULE,
    FrameRule,
    UniformRule,
)
from vlmserve.frameworks.media_limits import TrainingLimits, find_training_limits

# What rounding to whole patches and steps in time makes of most videos.
_ROUNDING = 0.1

# Families whose frames are limited one by one, here as in the training frameworks.
_FRAME_FAMILIES = ("qwen2_vl", "qwen2_5_vl")


@dataclass(frozen=True, slots=True)
class Clip:
    """A video by its sizes."""

    width_px: int
    height_px: int
    duration_s: float
    fps: float = 30.0

    @property
    def n_frames(self) -> int:
        """Its frames in all."""
        return int(self.duration_s * self.fps)

    @override
    def __str__(self) -> str:
        return f"{self.duration_s:g} s of {self.width_px}x{self.height_px}"


CLIPS = (Clip(640, 360, 10), Clip(1280, 720, 60), Clip(1920, 1080, 300))
"""A phone's message, a clip, a recording."""


@dataclass(frozen=True)
class VideoWay:
    """What turns a video into frames, and frames into tokens."""

    rule: FrameRule | UniformRule
    formula: VisualTokens | None
    """``None`` where sizes of frames cannot be compared."""

    limits: TrainingLimits | None = None

    def frames(self, clip: Clip) -> int:
        """Frames that the model sees."""
        return self.rule.frames(clip.duration_s, clip.n_frames)

    def frame_tokens(self, clip: Clip) -> float | None:
        """Tokens of one frame; ``None`` where they are not known or the video is refused."""
        if self.formula is None:
            return None
        size = clip.width_px, clip.height_px
        if self.limits is not None:
            size = self.limits.shrink_frame(*size)
        try:
            video = self.formula.video(*size, self.frames(clip))
        except MediaError:
            return None
        return None if video is None else video.tokens / video.n_frames

    def shown(self, clip: Clip) -> str:
        """What becomes of a video, in words."""
        tokens = self.frame_tokens(clip)
        words = f"{self.frames(clip)} frames"
        return words if tokens is None else f"{words} of {tokens:g} tokens"


@dataclass(frozen=True)
class VideoDrift:
    """How videos came into the model in training, and how they do now."""

    limits: TrainingLimits
    trained: VideoWay
    nominal: VideoWay
    """The training's limits as the processor's own: the same but for rounding."""

    served: VideoWay

    def drifted(self) -> list[Clip]:
        """The usual clips that the model sees otherwise than in training."""
        return [clip for clip in CLIPS if self._differs(clip)]

    def _differs(self, clip: Clip) -> bool:
        found, expected = self.served.frames(clip), self.trained.frames(clip)
        if abs(found - expected) > max(2, _ROUNDING * expected):
            return True
        tokens = self.served.frame_tokens(clip)
        usual = [way.frame_tokens(clip) for way in (self.trained, self.nominal)]
        if tokens is None or None in usual:
            return False
        return all(abs(tokens - each) > _ROUNDING * each for each in usual if each is not None)


def find_video_drift(exam: Examination) -> VideoDrift | None:
    """Compare videos in training and in serving.

    Returns:
        The comparison, or ``None`` where nothing tells how the training took videos.

    Raises:
        CheckpointError: A processor file is broken.
    """
    checkpoint = exam.checkpoint
    limits = find_training_limits(checkpoint.training, exam.train_env)
    rule = None if limits is None else _training_rule(exam, limits)
    family = checkpoint.family
    if limits is None or rule is None or family is None:
        return None
    chosen = exam.serve.engine.mm_processor_kwargs
    carried = training_media_settings(checkpoint, exam.train_env, chosen=chosen)
    io = {
        **carried.media_io_kwargs.get("video", {}),
        **exam.serve.engine.media_io_kwargs.get("video", {}),
    }
    served_rule = _serving_rule(exam, io)
    if family.name not in _FRAME_FAMILIES:
        way = VideoWay(rule, None)
        return VideoDrift(limits, way, way, VideoWay(served_rule, None))
    own = load_processor_settings(checkpoint)
    inner = own if limits.framework == "llama-factory" else _with_frames(own, limits.probable)
    nominal = _with_frames(inner, _narrowed(inner, limits.probable))
    served = with_processor_kwargs(own, {**carried.mm_processor_kwargs, **chosen})
    config = checkpoint.config
    return VideoDrift(
        limits,
        VideoWay(rule, family.visual_tokens(config, inner), limits),
        VideoWay(rule, family.visual_tokens(config, nominal)),
        VideoWay(served_rule, family.visual_tokens(config, served)),
    )


def _training_rule(exam: Examination, limits: TrainingLimits) -> FrameRule | None:
    if limits.framework == "llama-factory":
        return LLAMA_FACTORY_RULE.limited(limits.probable)
    family = exam.checkpoint.family
    if not isinstance(family, QwenVL):
        return None
    told = limits.told
    if limits.framework == "ms-swift" or told.fps or told.fps_max_frames or told.fps_min_frames:
        return QWEN_RULE.limited(limits.probable)
    return None


def _serving_rule(exam: Examination, io: dict[str, object]) -> FrameRule | UniformRule:
    def number(key: str) -> float | None:
        value = io.get(key)
        return value if isinstance(value, int | float) else None

    fps, most, fewest = number("fps"), number("max_frames"), number("min_frames")
    family = exam.checkpoint.family
    if isinstance(family, QwenVL):
        rule = QWEN_RULE if family.name in _FRAME_FAMILIES else QWEN3_RULE
        return FrameRule(
            min(fps or rule.fps, 30.0),
            int(fewest or rule.min_frames),
            min(int(most or rule.max_frames), rule.max_frames),
            rule.step,
        )
    return UniformRule(int(number("num_frames") or UNIFORM_RULE.n_frames), fps)


def _with_frames(settings: ProcessorSettings, limits: VisionLimits) -> ProcessorSettings:
    """The processor with a run's limits of a frame in the place of its own.

    The share of a whole video's budget that qwen-vl-utils gives each frame is left out: it binds
    from 300 frames on, and vLLM has no setting for it.
    """
    wanted = {
        "shortest_edge": limits.video_min_pixels,
        "longest_edge": limits.video_max_pixels,
    }
    edges = {edge: value for edge, value in wanted.items() if value is not None}
    if not edges:
        return settings
    own = settings.video.get("size") or {}
    size = {**own, **edges}
    size["longest_edge"] = max(size.get("longest_edge", 0), size.get("shortest_edge", 0))
    return with_processor_kwargs(settings, {"videos_kwargs": {"size": size}})


def _narrowed(settings: ProcessorSettings, limits: VisionLimits) -> VisionLimits:
    """A framework's limits where the processor's own go on to hold after them."""
    size = settings.video.get("size") or {}
    smallest = filter(None, (limits.video_min_pixels, size.get("shortest_edge")))
    largest = filter(None, (limits.video_max_pixels, size.get("longest_edge")))
    return VisionLimits(
        video_min_pixels=max(smallest, default=None), video_max_pixels=min(largest, default=None)
    )
