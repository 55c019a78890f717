"""The table of a prompt's parts and the smallest change that would fit, without an engine."""

import re

import pytest
from prometheus_client import REGISTRY

from vlmserve.checkpoint.visual_tokens.base import VisualTokens
from vlmserve.checkpoint.visual_tokens.llava import LlavaTokens
from vlmserve.checkpoint.visual_tokens.qwen import Patches, Qwen2VLTokens
from vlmserve.checkpoint.visual_tokens.tower import VisionTower
from vlmserve.engine.prompt_budget import MediaPart, PromptBudget, smallest_changes
from vlmserve.engine.prompt_meter import PromptMeter
from vlmserve.engine.token_rules import PromptLimits, TokenRules
from vlmserve.media.measured import Measured, NotDecodedError

PATCHES = Patches(patch_px=14, merge=2, min_pixels=56 * 56, max_pixels=1280 * 28 * 28)
QWEN = Qwen2VLTokens(image_patches=PATCHES, video_patches=PATCHES)
LLAVA = LlavaTokens(VisionTower(336, 14, has_class_token=True))


def picture(width: int, height: int, formula: VisualTokens = QWEN) -> MediaPart:
    size = formula.image(width, height)
    return MediaPart(Measured("image", width, height), size.tokens, size)


def clip(width: int, height: int, n_frames: int) -> MediaPart:
    size = QWEN.video(width, height, n_frames)
    seen = Measured("video", width, height, tuple(range(n_frames)), 2.0, n_frames)
    return MediaPart(seen, size.tokens, size)


def budget(*media: MediaPart, text: int = 100, limit: int = 2048, **more: int) -> PromptBudget:
    return PromptBudget(text, media, limit, **more)


def test_one_token_is_kept_for_the_answer() -> None:
    assert budget(text=2047).fits
    assert not budget(text=2048).fits


@pytest.mark.parametrize("sizes", [[(1000, 800)] * 3, [(300, 2000), (900, 900), (28, 28)]])
def test_max_pixels_of_the_advice_fit_and_hardly_more_would(sizes: list[tuple[int, int]]) -> None:
    parts = [picture(*size) for size in sizes]
    total = sum(part.tokens or 0 for part in parts)
    for excess in (50, 400, 1000):
        changes = smallest_changes(parts, excess, QWEN)
        found = re.search(r"lower max_pixels to (\d+)", " ".join(changes))
        assert found is not None

        def tokens(max_pixels: float) -> tuple[int, int]:
            """By the processor's setting, and by scaling beforehand."""
            limited = QWEN.with_max_pixels(int(max_pixels))
            assert limited is not None
            ratios = [min(1.0, (max_pixels / (w * h)) ** 0.5) for w, h in sizes]
            scaled = [
                (int(w * ratio), int(h * ratio))
                for (w, h), ratio in zip(sizes, ratios, strict=True)
            ]
            return (
                sum(limited.image(*size).tokens for size in sizes),
                sum(QWEN.image(*size).tokens for size in scaled),
            )

        assert max(tokens(int(found[1]))) <= total - excess
        assert max(tokens(int(found[1]) * 1.1)) > total - excess


def test_the_largest_images_are_dropped_first() -> None:
    parts = [picture(280, 280), picture(560, 560), picture(280, 280)]

    assert "drop 1 of 3 images" in smallest_changes(parts, 400, None)
    assert "drop 2 of 3 images" in smallest_changes(parts, 401, None)
    assert smallest_changes(parts, 601, None) == []


def test_frames_of_a_video() -> None:
    part = clip(280, 280, 20)  # 100 tokens for two frames

    assert "send 14 of the video's 20 sampled frames" in smallest_changes([part], 300, QWEN)
    assert "drop 1 of 1 video" in smallest_changes([part], 1000, QWEN)


def test_images_cannot_shrink_where_the_processor_has_no_limit() -> None:
    parts = [picture(500, 500, LLAVA)] * 4

    assert smallest_changes(parts, 100, LLAVA) == ["drop 1 of 4 images"]


def test_the_refusal_lists_every_part() -> None:
    message = budget(picture(1000, 800), clip(280, 280, 20), text=200).refusal(QWEN)

    assert message.splitlines() == [
        "the prompt has 2244 tokens, and this model's context holds 2048 tokens with at least one "
        "for the answer; nothing was cut. Its parts:",
        "- text: 200 tokens",
        "- image 1 (1000 x 800, resized to 1008 x 812): 1044 tokens",
        "- video 1 (20 frames of 280 x 280): 1000 tokens",
        "To fit: lower max_pixels to 663936 (scale larger images down to so many pixels), or "
        "send 16 of the video's 20 sampled frames, or drop 1 of 1 image, or drop 1 of 1 video, or "
        "shorten the text by 197 tokens.",
    ]


def test_the_operators_limit_is_of_images_and_videos_alone() -> None:
    found = budget(picture(560, 560), picture(560, 560), max_visual_tokens=500)

    assert not found.fits
    assert "take 800 tokens, and 500 are allowed" in found.refusal(QWEN)
    assert "media.max_request_visual_tokens" in found.refusal(QWEN)
    assert "drop 1 of 2 images" in found.refusal(QWEN)
    assert budget(picture(560, 560), max_visual_tokens=500).fits


def test_media_behind_the_limit_are_not_decoded() -> None:
    meter = PromptMeter(TokenRules(1000, PromptLimits(QWEN)))

    meter.watch(Measured("image", 560, 560))
    meter.watch(Measured("image", 560, 560))
    with pytest.raises(NotDecodedError):
        meter.watch(Measured("image", 560, 560))


def mismatches() -> float:
    value = REGISTRY.get_sample_value("vlmserve_placeholder_mismatches_total", {"kind": "image"})
    assert value is not None
    return value


def test_a_formula_that_was_wrong_once_refuses_nothing(caplog: pytest.LogCaptureFixture) -> None:
    rules = TokenRules(1000, PromptLimits(QWEN))
    large, other = Measured("image", 560, 560), Measured("video", 560, 560, (0, 1), 2.0, 2)

    before = mismatches()
    for _ in range(2):
        rules.report_mismatch(large, 400, 77)

    assert mismatches() == before + 2
    (record,) = caplog.records
    assert "makes 77 tokens of an image of 560 x 560" in record.message
    assert "formula gives 400" in record.message
    assert rules.size(large) is None
    assert rules.size(other) is not None
