"""Keeps a caller's ``uuid`` from naming media in vLLM 0.32's caches.

vLLM takes the ``uuid`` that a request gives to an image or a video as its whole cache key
(``vllm/renderers/base.py``): the same uuid with another image is answered from the first image,
and ``{"image_url": null, "uuid": "..."}`` reads an image that another caller sent. Media are known
here by their own bytes alone, so uuids are dropped, and a part without media is refused.

The same seam turns what a model's processor throws at unusual media into the caller's error.
"""

import functools
import logging
from collections.abc import Iterable, Mapping
from typing import Any

_LOG = logging.getLogger(__name__)

_MAX_REASON_CHARS = 200


def install() -> None:
    """Wrap the one method through which every endpoint's media pass; safe to call again."""
    from vllm.renderers.base import BaseRenderer

    original = BaseRenderer._process_multimodal
    if getattr(original, "_vlmserve_cured", False):
        return

    @functools.wraps(original)
    def cured(
        self: Any, prompt: Any, mm_data: Mapping[str, Any], mm_uuids: object, *args: Any, **kw: Any
    ) -> Any:
        from vllm.exceptions import VLLMError, VLLMValidationError

        _refuse_missing_media(mm_data)
        try:
            return original(self, prompt, mm_data, None, *args, **kw)
        except VLLMError:
            raise
        except Exception as error:
            # Processors are third-party code run on the caller's pixels; whatever they raise,
            # this request cannot be answered and the next one can.
            _LOG.warning("the model's processor refused a request's media", exc_info=True)
            reason = _root_cause(error)
            raise VLLMValidationError(
                f"the model's processor cannot take this image or video: {reason}",
                parameter="messages",
            ) from error

    cured._vlmserve_cured = True  # type: ignore[attr-defined]
    BaseRenderer._process_multimodal = cured


def _refuse_missing_media(mm_data: Mapping[str, Any]) -> None:
    from vllm.exceptions import VLLMValidationError

    for modality, items in mm_data.items():
        listed = items if isinstance(items, list) else [items]
        if _any_missing(listed):
            raise VLLMValidationError(
                f"a part of type {modality} holds no {modality}: media must be sent with the "
                "request; a uuid in their place is not accepted",
                parameter="messages",
            )


def _root_cause(error: BaseException) -> str:
    # vLLM wraps what the processor said in a list of its internals.
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).partition("\n")[0][:_MAX_REASON_CHARS] or type(error).__name__


def _any_missing(items: Iterable[Any]) -> bool:
    return any(item is None for item in items)
