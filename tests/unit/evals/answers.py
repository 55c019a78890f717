"""Completions as tests need them."""

from collections.abc import Mapping
from typing import Any

from vlmserve.chat import Completion, Usage


def said(texts: Mapping[str, str], **changes: Any) -> dict[str, Completion]:
    """Completions of these texts, by sample id."""
    usage = Usage(prompt_tokens=3, completion_tokens=1)
    common = {"finish_reason": "stop", "usage": usage, **changes}
    return {sample_id: Completion(text=text, **common) for sample_id, text in texts.items()}
