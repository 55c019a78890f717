"""How many frames of a video a training framework takes, and how many vLLM does."""

import math
from dataclasses import dataclass, replace

from vlmserve.checkpoint.provenance import VisionLimits

_QWEN_STEP = 2


@dataclass(frozen=True, slots=True)
class FrameRule:
    """Frames per second, and the fewest and the most of them."""

    fps: float
    min_frames: int
    max_frames: int
    step: int = 1
    """The number is a multiple of it."""

    def frames(self, duration_s: float, n_frames: int) -> int:
        """Frames taken of a video.

        Args:
            duration_s: Its length.
            n_frames: Its frames in all, at least ``step``.
        """
        most = min(self.max_frames, n_frames) // self.step * self.step
        wanted = min(max(duration_s * self.fps, self.min_frames), most)
        return max(self.step, math.floor(wanted / self.step) * self.step)

    def limited(self, limits: VisionLimits) -> "FrameRule":
        """The rule with what ``limits`` knows in its place."""
        return replace(
            self,
            fps=self.fps if limits.fps is None else limits.fps,
            min_frames=limits.fps_min_frames or self.min_frames,
            max_frames=limits.fps_max_frames or self.max_frames,
        )


QWEN_RULE = FrameRule(2.0, 4, 768, _QWEN_STEP)
"""qwen-vl-utils ``smart_nframes``, which ms-swift and the Qwen-VL scripts train with, and vllm 0.32
multimodal/video.py ``Qwen2VLVideoBackend``, which serves."""

QWEN3_RULE = FrameRule(2.0, 4, 768)
"""vllm 0.32 multimodal/video.py ``Qwen3VLVideoBackend``."""

LLAMA_FACTORY_RULE = FrameRule(2.0, 1, 128)
"""LLaMA-Factory 0.9.5 data/mm_plugin.py ``_get_video_sample_indices``."""


@dataclass(frozen=True, slots=True)
class UniformRule:
    """A number of frames however long the video is."""

    n_frames: int
    fps: float | None = None
    """The most frames per second."""

    def frames(self, duration_s: float, n_frames: int) -> int:
        """Frames taken of a video; see ``FrameRule.frames``."""
        wanted = n_frames if self.n_frames < 0 else min(self.n_frames, n_frames)
        if self.fps is not None and self.fps > 0:
            wanted = min(wanted, math.floor(duration_s * self.fps))
        return max(1, wanted)


UNIFORM_RULE = UniformRule(32)
"""vllm 0.32 multimodal/media/video.py and multimodal/video.py ``VideoBackend``: what serves every
family without a loader of its own."""
