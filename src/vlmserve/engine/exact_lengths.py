"""Lets vLLM 0.32 count over-long prompts to their end.

Its tokenizer stops one token behind the limit, so that the error can only say "at least"
(``TokenizeParams.get_encode_kwargs`` in ``vllm/renderers/params.py``). How far a prompt is over is
what its sender needs. The work stays bounded: a prompt with more characters than the limit could
ever hold is refused before it is tokenized.
"""

import functools
from typing import Any


def install() -> None:
    """Replace the tokenizer's limit by none where nothing is to be truncated."""
    from vllm.renderers.params import TokenizeParams

    original = TokenizeParams.get_encode_kwargs
    if getattr(original, "_vlmserve_cured", False):
        return

    @functools.wraps(original)
    def cured(self: Any, *args: Any, **kw: Any) -> dict[str, Any]:
        settings: dict[str, Any] = original(self, *args, **kw)
        if self.truncate_prompt_tokens is None and settings.get("truncation"):
            settings["truncation"] = False
            settings.pop("max_length", None)
        return settings

    cured._vlmserve_cured = True  # type: ignore[attr-defined]
    TokenizeParams.get_encode_kwargs = cured
