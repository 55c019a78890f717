"""Conversations to try templates with, and how they are compared."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vlmserve.checkpoint.chat_template import ChatTemplateError, render_chat
from vlmserve.checkpoint.token_table import SpecialRole
from vlmserve.checkpoint.tokenizer import Tokenizer
from vlmserve.datasets.sample import Medium, Turn
from vlmserve.frameworks.template import FrameworkTemplate, RenderError, render, text_of

IMAGE, VIDEO = "\N{LEFT CEILING}image\N{RIGHT CEILING}", "\N{LEFT CEILING}video\N{RIGHT CEILING}"
"""What stands for the many ways to write a placeholder; no tokenizer has them as tokens."""

_PICTURE, _FILM = Medium("image", "probe.png"), Medium("video", "probe.mp4")
_QUESTION, _ANSWER, _AGAIN = "What is shown here?", "A red square.", "And which colour has it?"
_SYSTEM = Turn("system", ("Answer in one word.",))
_TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Look a word up.",
        "parameters": {"type": "object", "properties": {"word": {"type": "string"}}},
    },
}

# Processors and servers write these out in full themselves, so they mean one thing. The wrapping
# tokens belong to them.
_IMAGES = re.compile(
    r"<\|vision_start\|><\|image_pad\|><\|vision_end\|>|<img>(?:<IMG_CONTEXT>|<image>)?</img>"
    r"|<\|image_pad\|>|<IMG_CONTEXT>|<image>|<ImageHere>|<\|image\|>|\[IMG\]"
)
_VIDEOS = re.compile(
    r"<\|vision_start\|><\|video_pad\|><\|vision_end\|>|<\|video_pad\|>|<video>"
    r"|Frame1: <img>(?:<IMG_CONTEXT>)?</img>"
)


# Whether a thought opens the answer or ends the prompt is a question of settings.
_THOUGHT = re.compile(r"<think>\s*(?:</think>\s*)?\Z")


@dataclass(frozen=True, slots=True)
class Probe:
    """One conversation, open for an answer unless it ends with one."""

    name: str
    turns: tuple[Turn, ...]
    tools: tuple[Mapping[str, Any], ...] = ()


def _user(*parts: str | Medium) -> Turn:
    return Turn("user", parts)


_ROUND = (_user(_QUESTION), Turn("assistant", (_ANSWER,)))

PROBES: tuple[Probe, ...] = (
    Probe("a question", (_user(_QUESTION),)),
    Probe("a system prompt", (_SYSTEM, _user(_QUESTION))),
    Probe("two rounds", (*_ROUND, _user(_AGAIN))),
    Probe("an image", (_user(_PICTURE, _QUESTION),)),
    Probe("two images", (_user(_PICTURE, _PICTURE, _QUESTION),)),
    Probe("an image in the second round", (*_ROUND, _user(_PICTURE, _AGAIN))),
    Probe("a system prompt and an image", (_SYSTEM, _user(_PICTURE, _QUESTION))),
    Probe("a video", (_user(_FILM, _QUESTION),)),
    Probe("a tool", (_user(_QUESTION),), tools=(_TOOL,)),
)
"""Each is rendered up to where the answer begins."""

ANSWERED = Probe("an answer", _ROUND)
"""A conversation that is over, to see how an answer ends."""


def with_system(probe: Probe, text: str) -> Probe:
    """A probe with a system prompt, where it has none of its own."""
    if probe.turns[0].role == "system":
        return probe
    return replace(probe, turns=(Turn("system", (text,)), *probe.turns))


@dataclass(frozen=True)
class Rendering:
    """One probe as one template writes it."""

    text: str | None
    """``None`` where the template refuses it."""

    reason: str = ""

    @property
    def plain(self) -> str | None:
        """The text with every medium written alike, and no thought begun."""
        if self.text is None:
            return None
        return _THOUGHT.sub("", _VIDEOS.sub(VIDEO, _IMAGES.sub(IMAGE, self.text)))


def render_probe(template: str, probe: Probe, special_tokens: Mapping[str, str]) -> Rendering:
    """Render a probe with a chat template, as vLLM would hand it over.

    Content is given as a list of parts; where a template writes such a list out as a list, as a
    text instead, and then without media: vLLM puts those in itself.
    """
    is_open = probe.turns[-1].role == "user"
    rendering = Rendering(None, "the template takes neither texts nor lists of parts")
    has_media = any(isinstance(part, Medium) for turn in probe.turns for part in turn.parts)
    for as_text in (False, True):
        if as_text and has_media:
            break
        messages = [_message(turn, as_text=as_text) for turn in probe.turns]
        try:
            text = render_chat(
                template,
                messages,
                special_tokens=special_tokens,
                add_generation_prompt=is_open,
                tools=probe.tools or None,
            )
        except ChatTemplateError as error:
            rendering = Rendering(None, error.message)
            continue
        if "'type': 'text'" not in text and '"type": "text"' not in text:
            return Rendering(text)
    return rendering


def render_trained(
    template: FrameworkTemplate, probe: Probe, roles: Mapping[SpecialRole, str], *, adds_bos: bool
) -> Rendering:
    """Render a probe as a framework did in training, with the BOS that its tokenizer adds."""
    if probe.tools:
        return Rendering(None, "tools are not rendered here")
    try:
        text = text_of(render(template, probe.turns, roles))
    except RenderError as error:
        return Rendering(None, str(error))
    bos = roles.get("bos", "") if adds_bos and template.adds_bos else ""
    token = template.image_token
    # XComposer's image_token is </s>, which means something else anywhere else.
    return Rendering(bos + (text if token != "</s>" else text.replace(token, IMAGE)))  # noqa: S105


def _message(turn: Turn, *, as_text: bool) -> dict[str, Any]:
    if as_text:
        return {"role": turn.role, "content": turn.text}
    parts = [
        {"type": part.kind} if isinstance(part, Medium) else {"type": "text", "text": part}
        for part in turn.parts
    ]
    return {"role": turn.role, "content": parts}


def is_same(first: Rendering, second: Rendering, tokenizer: Tokenizer | None) -> bool | None:
    """Whether two renderings are the same for the model.

    Args:
        first: One.
        second: The other.
        tokenizer: To compare ids; ``None`` compares texts.

    Returns:
        ``None`` where one of them is missing.
    """
    a, b = first.plain, second.plain
    if a is None or b is None:
        return None
    if a == b:
        return True
    if tokenizer is None:
        return False
    return _ids(a, tokenizer) == _ids(b, tokenizer)


def _ids(text: str, tokenizer: Tokenizer) -> Sequence[object]:
    ids: list[object] = []
    for piece in re.split(f"({re.escape(IMAGE)}|{re.escape(VIDEO)})", text):
        ids += [piece] if piece in (IMAGE, VIDEO) else tokenizer.encode(piece) if piece else []
    return ids
