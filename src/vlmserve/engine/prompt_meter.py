"""Counts the tokens of each part while vLLM 0.32 renders a chat, and refuses what does not fit.

vLLM decodes and processes all media of a request before it looks at the length of the prompt, and
its refusal names one number. Here the family's formula says from the headers what each image and
video takes: those that lie behind the limit are not decoded, and a prompt that cannot fit is
refused before the processor runs. What the processor makes is compared with the formula; where the
two differ once, the processor alone is believed from then on.
"""

import functools
import threading
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, NoReturn

from vlmserve.checkpoint.visual_tokens.base import VisualSize
from vlmserve.engine.media_connector import Fields, watched_media
from vlmserve.engine.media_options import find_ignored_option
from vlmserve.engine.part_keys import find_foreign_medium
from vlmserve.engine.prompt_budget import MediaPart, PromptBudget
from vlmserve.engine.token_rules import KINDS, Kind, TokenRules
from vlmserve.errors import MediaError
from vlmserve.media.measured import Measured, NotDecodedError, Undecoded
from vlmserve.metrics import BUDGET_REFUSALS

_PLACEHOLDER_TOKENS = 16
"""More than the text that any family has in the place of an image before it is processed."""


class PromptMeter:
    """The parts of one prompt while it is rendered; its watch is called from several threads.

    Args:
        rules: What it is held to.
    """

    def __init__(self, rules: TokenRules) -> None:
        self._rules = rules
        self._lock = threading.Lock()
        self._seen_tokens = 0
        self.fields: Fields | None = None
        """Names the places of media in the request."""

        self.budget: PromptBudget | None = None
        """What was found, once the prompt is rendered or refused. Fields are left out where it
        fits, because looking for them costs a pass over the request's body; see ``lay_out``."""

        self.video_frames: list[Any] = []
        """The decoded frames of each video, ``(n_frames, height, width, 3)``."""

    def watch(self, measured: Measured) -> None:
        """Count a medium by its header.

        Raises:
            NotDecodedError: With it the prompt cannot fit.
            MediaError: The processor is going to refuse it.
        """
        size = self._rules.size(measured)
        if size is None:
            return
        with self._lock:
            self._seen_tokens += size.tokens
            is_over = self._rules.is_over(self._seen_tokens)
        if is_over:
            raise NotDecodedError(measured)

    def check_before(self, renderer: Any, n_tokens: int, media: "Media") -> None:
        """Refuse a prompt that cannot fit before its media are processed.

        Args:
            renderer: vLLM's, for its tokenizer.
            n_tokens: Tokens of the prompt with a placeholder for each medium.
            media: The media.

        Raises:
            VLLMValidationError: It does not fit.
        """
        # What was spared was spared by the formula, which may have been found wrong since.
        size_of = self._rules.size_by_formula if media.is_spared else self._rules.size
        parts = [
            self._by_formula(renderer, seen, size_of(seen))
            for kind in KINDS
            for seen in media.measured[kind]
        ]
        n_visual = sum(part.tokens or 0 for part in parts)
        n_text = n_tokens - len(parts)
        n_sure = max(n_tokens - _PLACEHOLDER_TOKENS * len(parts), 0)
        if media.is_spared or (parts and self._rules.is_over(n_visual, n_sure)):
            self._refuse(self._budget(n_text, parts))

    def check_after(self, renderer: Any, engine_input: Mapping[str, Any], media: "Media") -> None:
        """Count what the processor made, and hold it against the formula and the limits.

        Args:
            renderer: vLLM's, for its tokenizer.
            engine_input: What vLLM is going to compute.
            media: The media.

        Raises:
            VLLMValidationError: It does not fit.
        """
        ids = engine_input.get("prompt_token_ids")
        if ids is None:
            return
        counts = {
            kind: [span.length for span in spans]
            for kind, spans in (engine_input.get("mm_placeholders") or {}).items()
        }
        parts = [
            self._made(renderer, seen, count)
            for kind in KINDS
            for seen, count in zip(media.measured[kind], counts.get(kind, ()), strict=False)
        ]
        n_media = sum(sum(each) for each in counts.values())
        n_other = n_media - sum(part.tokens or 0 for part in parts)
        budget = self._budget(len(ids) - n_media, parts, n_other)
        if not budget.fits:
            _forget(renderer, engine_input)
            self._refuse(budget)
        self.budget = budget
        self.video_frames = media.video_frames

    def lay_out(self) -> PromptBudget | None:
        """What was found, with the place of each part in the request."""
        budget = self.budget
        return None if budget is None else replace(budget, media=self._placed(budget.media))

    def _by_formula(self, renderer: Any, seen: Measured, size: VisualSize | None) -> MediaPart:
        tokens = None
        if size is not None:
            tokens = size.tokens + _count_texts(renderer, size.inserted_texts)
        return MediaPart(seen, tokens, size)

    def _made(self, renderer: Any, seen: Measured, count: int) -> MediaPart:
        try:
            size = self._rules.size_by_formula(seen)
        except MediaError:
            # The processor took what the formula takes for refused.
            size = VisualSize(0, seen.width_px, seen.height_px)
        expected = self._by_formula(renderer, seen, size).tokens
        if expected is not None and expected != count:
            self._rules.report_mismatch(seen, expected, count)
            size = None
        return MediaPart(seen, count, size)

    def _budget(
        self, text_tokens: int, parts: Sequence[MediaPart], other_tokens: int = 0
    ) -> PromptBudget:
        rules = self._rules
        return PromptBudget(
            text_tokens, tuple(parts), rules.limit, rules.max_visual_tokens, other_tokens
        )

    def _placed(self, parts: Sequence[MediaPart]) -> tuple[MediaPart, ...]:
        """Give each part its field, where the request names as many as there are parts."""
        placed: list[MediaPart] = []
        for kind in KINDS:
            own = [part for part in parts if part.measured.kind == kind]
            fields = [] if self.fields is None else self.fields(kind)
            if len(fields) == len(own):
                own = [replace(part, field=field) for part, field in zip(own, fields, strict=True)]
            placed += own
        return tuple(placed)

    def _refuse(self, budget: PromptBudget) -> NoReturn:
        from vllm.exceptions import VLLMValidationError

        self.budget = replace(budget, media=self._placed(budget.media))
        refusal = self.budget.refusal(self._rules.formula)
        raise VLLMValidationError(refusal, parameter="messages")


class Media:
    """The images and videos of a prompt, in vLLM's order.

    Args:
        mm_data: vLLM's items by modality.
    """

    def __init__(self, mm_data: Mapping[str, Any]) -> None:
        self.is_spared = False
        """Whether one of them was not decoded, so that the prompt must be refused."""

        self.video_frames: list[Any] = []
        """``(n_frames, height, width, 3)`` each."""

        self.measured: dict[Kind, list[Measured]] = {}
        for kind in KINDS:
            items = mm_data.get(kind)
            listed = items if isinstance(items, list) else [] if items is None else [items]
            self.measured[kind] = [seen for item in listed if (seen := self._measure(kind, item))]

    def _measure(self, kind: Kind, item: Any) -> Measured | None:
        if isinstance(item, Undecoded):
            self.is_spared = True
            return item.measured
        content = getattr(item, "media", item)
        if kind == "image":
            size = getattr(content, "size", None)
            return Measured("image", *size) if isinstance(size, tuple) else None
        if not isinstance(content, tuple):
            return None
        frames, about = content
        self.video_frames.append(frames)
        n_frames, height, width = (int(side) for side in frames.shape[:3])
        indices = about.get("frames_indices")
        return Measured(
            "video",
            width,
            height,
            tuple(range(n_frames) if indices is None else (int(index) for index in indices)),
            about.get("fps"),
            about.get("total_num_frames"),
        )


current_meter: ContextVar[PromptMeter | None] = ContextVar("prompt_meter", default=None)
"""Of the prompt that this task renders."""


def install(rules: TokenRules) -> None:
    """Have every chat that this process renders metered; a second call changes the rules.

    Args:
        rules: What prompts are held to.
    """
    from vllm.renderers.base import BaseRenderer
    from vllm.renderers.online_renderer import OnlineRenderer
    from vllm.renderers.params import TokenizeParams

    _meter_chats(OnlineRenderer, rules)
    _check_prompts(BaseRenderer)
    _leave_length_to_the_meter(TokenizeParams)


def _meter_chats(renderer_class: Any, rules: TokenRules) -> None:
    original = _unwrapped(renderer_class.preprocess_chat)

    @functools.wraps(original)
    async def metered(self: Any, request: Any, messages: list[Any], *args: Any, **kw: Any) -> Any:
        _refuse_unread(request, messages, rules)
        if not hasattr(request, "to_sampling_params"):
            # Nothing is going to be generated: /tokenize counts what is too long as well.
            return await original(self, request, messages, *args, **kw)
        # Whoever only wants to know the parts has set a meter of their own.
        own = current_meter.get()
        meter = own or PromptMeter(rules)
        token = current_meter.set(meter)
        try:
            with watched_media(meter.watch) as media_request:
                meter.fields = media_request.fields
                return await original(self, request, messages, *args, **kw)
        finally:
            current_meter.reset(token)
            if own is None and meter.budget is not None and not meter.budget.fits:
                BUDGET_REFUSALS.inc()

    renderer_class.preprocess_chat = metered


def _refuse_unread(request: Any, messages: list[Any], rules: TokenRules) -> None:
    from vllm.exceptions import VLLMValidationError

    foreign = find_foreign_medium(messages)
    if foreign is not None:
        field, wrong = foreign
        raise VLLMValidationError(f"{field}: {wrong}", parameter=field)
    found = find_ignored_option(request, messages, rules.ignored_options)
    if found is not None:
        field, instead = found
        raise VLLMValidationError(f"{field} would change nothing: {instead}", parameter=field)


def _check_prompts(renderer_class: Any) -> None:
    original = _unwrapped(renderer_class._process_singleton_async)

    @functools.wraps(original)
    async def checked(self: Any, prompt: Any, **kw: Any) -> Any:
        meter = current_meter.get()
        if meter is None or "prompt_token_ids" not in prompt:
            return await original(self, prompt, **kw)
        media = Media(prompt.get("multi_modal_data") or {})
        meter.check_before(self, len(prompt["prompt_token_ids"]), media)
        engine_input = await original(self, prompt, **kw)
        meter.check_after(self, engine_input, media)
        return engine_input

    renderer_class._process_singleton_async = checked


def _leave_length_to_the_meter(params_class: Any) -> None:
    original = _unwrapped(params_class._token_len_check)

    @functools.wraps(original)
    def unless_metered(self: Any, tokenizer: Any, tokens: Any) -> Any:
        # Here the media are placeholders, so that the parts could not be named.
        return tokens if current_meter.get() is not None else original(self, tokenizer, tokens)

    params_class._token_len_check = unless_metered


def _unwrapped(function: Any) -> Any:
    return getattr(function, "__wrapped__", function)


def _count_texts(renderer: Any, texts: Sequence[str]) -> int:
    """Tokens of the texts that a processor writes between those of a medium, each by itself."""
    if not texts:
        return 0
    tokenizer = renderer.get_tokenizer()
    return sum(len(tokenizer.encode(text, add_special_tokens=False)) for text in texts)


def _forget(renderer: Any, engine_input: Mapping[str, Any]) -> None:
    """Take media that were processed and are not sent out of the record of what was sent."""
    cache = renderer.mm_processor_cache
    if cache is None:
        return
    for hashes in (engine_input.get("mm_hashes") or {}).values():
        for each in hashes:
            cache.invalidate(each)
