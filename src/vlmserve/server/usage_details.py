"""Says in vLLM 0.32's ``usage`` how many tokens of the prompt are text, images and videos.

vLLM counts media by modality (``multimodal_tokens``) and leaves the text out. The two functions
that do so (``entrypoints/openai/chat_completion/serving.py``) serve whole answers and the last
chunk of streams alike.
"""

import functools
from typing import Any

_ALWAYS_SHOWN = ("text", "image", "video")


def install() -> None:
    """Add ``text_tokens``, ``image_tokens`` and ``video_tokens``; safe to call again."""
    from vllm.entrypoints.openai.chat_completion import serving as module

    serving: Any = module
    if hasattr(serving._get_mm_token_counts, "__wrapped__"):
        return
    counts_of, details_of = serving._get_mm_token_counts, serving._make_prompt_tokens_details

    @functools.wraps(counts_of)
    def with_text(engine_input: Any) -> dict[str, int]:
        counts: dict[str, int] = counts_of(engine_input)
        ids = engine_input.get("prompt_token_ids")
        return counts if ids is None else {**counts, "text": len(ids) - sum(counts.values())}

    @functools.wraps(details_of)
    def by_modality(
        enabled: bool,  # noqa: FBT001 - vLLM's signature
        cached: int | None,
        created: int | None,
        counts: dict[str, int] | None,
    ) -> Any:
        counts = counts or {}
        media = {modality: n for modality, n in counts.items() if modality != "text"}
        details = details_of(enabled, cached, created, media)
        if enabled and details is None:
            details = serving.PromptTokenUsageInfo()
        if details is not None:
            for modality in dict.fromkeys((*_ALWAYS_SHOWN, *counts)):
                setattr(details, f"{modality}_tokens", counts.get(modality, 0))
        return details

    serving._get_mm_token_counts = with_text
    serving._make_prompt_tokens_details = by_modality
