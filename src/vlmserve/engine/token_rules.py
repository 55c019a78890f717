"""What the prompts of one server are held to: the context, the operator's limit, the formula."""

import logging
from dataclasses import dataclass
from typing import Literal

from vlmserve.checkpoint.visual_tokens.base import VisualSize, VisualTokens
from vlmserve.media.measured import Measured
from vlmserve.metrics import PLACEHOLDER_MISMATCHES

_LOG = logging.getLogger(__name__)

Kind = Literal["image", "video"]
KINDS: tuple[Kind, ...] = ("image", "video")


@dataclass(frozen=True, slots=True)
class PromptLimits:
    """What is known of a server's prompts before its engine is loaded."""

    formula: VisualTokens | None = None
    """The family's token formula with the processor settings that are served."""

    max_visual_tokens: int | None = None
    """What the images and videos of one request may take, if that is limited."""

    ignored_options: frozenset[str] = frozenset()
    """Options of the family's video loader that do nothing."""


class TokenRules:
    """What prompts of one server are held to.

    Args:
        limit: ``max_model_len``.
        limits: What else.
    """

    def __init__(self, limit: int, limits: PromptLimits) -> None:
        self.limit = limit
        self.formula = limits.formula
        self.max_visual_tokens = limits.max_visual_tokens
        self.ignored_options = limits.ignored_options
        self._believed = set(KINDS)

    def size(self, measured: Measured) -> VisualSize | None:
        """What the formula makes of a medium; ``None`` where there is none that can be believed.

        Raises:
            MediaError: The processor is going to refuse it.
        """
        return self.size_by_formula(measured) if measured.kind in self._believed else None

    def size_by_formula(self, measured: Measured) -> VisualSize | None:
        """What the formula makes of a medium, believed or not; ``None`` where there is none.

        Raises:
            MediaError: By the formula, the processor refuses it.
        """
        if self.formula is None:
            return None
        width, height = measured.width_px, measured.height_px
        if measured.kind == "image":
            return self.formula.image(width, height)
        n_frames = len(measured.frame_indices)
        return self.formula.video(width, height, n_frames, frame_times_s=measured.frame_times_s)

    def report_mismatch(self, measured: Measured, expected: int, made: int) -> None:
        """Count that the processor made another number of tokens, and believe it from now on."""
        PLACEHOLDER_MISMATCHES.labels(measured.kind).inc()
        if measured.kind in self._believed:
            self._believed.discard(measured.kind)
            _LOG.warning(
                "the model's processor makes %d tokens of %s of %d x %d pixels, and its family's "
                "formula gives %d: the processor is believed, and requests with too many tokens "
                "are refused only after it has run",
                made,
                "an image" if measured.kind == "image" else "a video",
                measured.width_px,
                measured.height_px,
                expected,
            )

    def is_over(self, visual_tokens: int, text_tokens: int = 0) -> bool:
        """Whether a prompt of at least so many tokens is refused."""
        over_visual = self.max_visual_tokens is not None and visual_tokens > self.max_visual_tokens
        return over_visual or visual_tokens + text_tokens >= self.limit
