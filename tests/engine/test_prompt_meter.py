"""What is done with a prompt whose media were processed, or spared, without a server."""

from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from prometheus_client import REGISTRY

from vlmserve.checkpoint.visual_tokens.qwen import Patches, Qwen2VLTokens
from vlmserve.engine.prompt_meter import Media, PromptMeter
from vlmserve.engine.token_rules import PromptLimits, TokenRules
from vlmserve.media.measured import Measured, Undecoded

PATCHES = Patches(patch_px=14, merge=2, min_pixels=56 * 56, max_pixels=1280 * 28 * 28)
QWEN = Qwen2VLTokens(image_patches=PATCHES, video_patches=PATCHES)


class Renderer:
    """What the meter asks of vLLM's renderer: the record of media that the engine has received."""

    def __init__(self) -> None:
        self.forgotten: list[str] = []
        self.mm_processor_cache = SimpleNamespace(invalidate=self.forgotten.append)


def processed(n_text: int, *n_image: int) -> dict[str, Any]:
    """A prompt as vLLM would compute it."""
    return {
        "prompt_token_ids": [0] * (n_text + sum(n_image)),
        "mm_placeholders": {"image": [SimpleNamespace(length=count) for count in n_image]},
        "mm_hashes": {"image": [f"hash {number}" for number in range(len(n_image))]},
    }


def pictures(*sizes: tuple[int, int]) -> Media:
    return Media({"image": [Image.new("RGB", size) for size in sizes]})


def refusal(meter: PromptMeter, renderer: Any, prompt: dict[str, Any], media: Media) -> str:
    from vllm.exceptions import VLLMValidationError

    with pytest.raises(VLLMValidationError) as caught:
        meter.check_after(renderer, prompt, media)
    return str(caught.value)


def test_a_family_without_a_formula_is_refused_by_what_its_processor_made() -> None:
    meter, renderer = PromptMeter(TokenRules(500, PromptLimits())), Renderer()
    media = pictures((300, 200), (100, 100))
    meter.check_before(renderer, 52, media)

    message = refusal(meter, renderer, processed(50, 400, 100), media)

    assert "the prompt has 550 tokens" in message
    assert "- image 1 (300 x 200): 400 tokens" in message
    assert "drop 1 of 2 images" in message
    # They were processed and never reach the engine.
    assert renderer.forgotten == ["hash 0", "hash 1"]


def test_a_mismatch_is_counted_each_time_and_the_processor_believed() -> None:
    rules, renderer = TokenRules(1000, PromptLimits(QWEN)), Renderer()
    labels = {"kind": "image"}
    before = REGISTRY.get_sample_value("vlmserve_placeholder_mismatches_total", labels)

    for _ in range(2):
        meter = PromptMeter(rules)
        meter.check_after(renderer, processed(10, 77), pictures((560, 560)))
        assert meter.budget is not None
        assert meter.budget.prompt_tokens == 87
        assert meter.budget.media[0].resized is None

    after = REGISTRY.get_sample_value("vlmserve_placeholder_mismatches_total", labels)
    assert before is not None
    assert after == before + 2
    # The formula says that three of them are too many, and is not asked any more.
    meter = PromptMeter(rules)
    for _ in range(3):
        meter.watch(Measured("image", 560, 560))
    meter.check_before(renderer, 13, pictures(*[(560, 560)] * 3))


def test_the_operators_limit_of_visual_tokens() -> None:
    rules = TokenRules(5000, PromptLimits(QWEN, max_visual_tokens=500))
    meter, renderer = PromptMeter(rules), Renderer()
    from vllm.exceptions import VLLMValidationError

    with pytest.raises(VLLMValidationError, match="800 tokens, and 500 are allowed") as caught:
        meter.check_before(renderer, 20, pictures((560, 560), (560, 560)))

    assert "drop 1 of 2 images" in str(caught.value)
    PromptMeter(rules).check_before(renderer, 20, pictures((560, 560)))


def test_what_was_not_decoded_never_reaches_the_processor() -> None:
    from vllm.exceptions import VLLMValidationError

    rules, renderer = TokenRules(500, PromptLimits(QWEN)), Renderer()
    seen = Measured("image", 700, 700)
    # Another request finds the formula wrong in the meantime; this one is refused all the same.
    rules.report_mismatch(seen, 625, 77)

    with pytest.raises(VLLMValidationError, match="the prompt has 627 tokens"):
        PromptMeter(rules).check_before(renderer, 3, Media({"image": [Undecoded(seen)]}))
