"""A training framework's own idea of a conversation, and what it makes of a sample.

Frameworks do not train with a checkpoint's chat template but with a table of their own. The tables
are in the modules beside this one; here is what they have in common.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from vlmserve.checkpoint.token_table import SpecialRole
from vlmserve.datasets.sample import Medium, Turn, TurnRole

Framework = Literal["ms-swift", "llama-factory", "llava", "xcomposer"]
"""Whose table it is; the first two as ``TrainingInfo.framework`` spells them."""

Labelling = Literal["segments", "llava-rounds", "llava-plain", "xcomposer-ids", "not known"]
"""How it is decided which tokens are learned from: each stretch of text on its own, or by counting
tokens or separators in the whole conversation."""

MEDIUM = "{medium}"
"""Where a form has the placeholder that stands for an image's or a video's tokens."""


_FIELD = re.compile(r"(?<!\{)\{(\w+)\}(?!\})")


class RenderError(ValueError):
    """The framework does not take this conversation; the message says why."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a rendered conversation."""

    text: str
    """The text; a medium's is its placeholder, once."""

    role: TurnRole | None
    """Whose turn it stands in; ``None`` for what opens the conversation without a system prompt."""

    is_supervised: bool
    """Whether the model learns to write it, where labels go by segments."""

    medium: Medium | None = None
    """The image or video whose tokens take the text's place."""

    is_joined: bool = False
    """Whether it is cut into tokens in one go with the segment before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameworkTemplate:
    """How a framework writes a conversation, as data.

    Forms hold ``{system}``, ``{query}``, ``{answer}``, and ``{bos}`` and ``{eos}`` for the
    tokenizer's own tokens, which are left out where it has none.
    """

    framework: Framework
    name: str
    """The framework's name of it, as it is written into ``args.json`` or a YAML file."""

    prefix: str = ""
    """Opens a conversation without a system prompt."""

    system: str | None = None
    """Opens one with a system prompt, in the prefix's place; ``None`` where there is no room for
    it."""

    default_system: str | None = None
    """System prompt of conversations that bring none."""

    user: str
    """A user's turn and all up to the answer."""

    answer: str = "{answer}"
    """An answer; what stands around it is learned with it."""

    separator: str = ""
    """Between an answer and the next turn. Its head that equals ``suffix`` is learned."""

    suffix: str = ""
    """After the last answer; learned."""

    image: str = MEDIUM
    """An image in a user's turn."""

    video: str | None = None
    """A video, or a single frame of it where the framework writes frame by frame; ``None`` where
    it takes none."""

    image_token: str = "<image>"  # noqa: S105
    """The placeholder that is repeated for an image."""

    video_token: str = "<video>"  # noqa: S105
    """The same for a video."""

    adds_bos: bool = False
    """Whether BOS goes in front where the tokenizer's own policy is to add one."""

    splits_slots: bool = False
    """Whether opening and turns are cut into tokens apart from each other (LLaMA-Factory), instead
    of in stretches of one label (ms-swift)."""

    system_in_query: bool = False
    """Whether the system prompt is put at the head of the first user's text."""

    media_first: bool = False
    """LLaVA: one image at most in a turn, moved to its head; the text is stripped."""

    strips: bool = False
    """XComposer: each text is stripped."""

    others_answer: bool = False
    """XComposer: every turn that is not a user's is written as an answer."""

    drops_question: bool = False
    """LLaVA's ``plain``: of the question nothing stays but the image."""

    empty_thought: str = ""
    """Put before answers without thoughts, and learned."""

    labelling: Labelling = "segments"
    stop: tuple[str, ...] = ()
    """Texts that end an answer besides ``suffix``."""

    source: str = ""
    """File and date of the code that the table was read from."""

    def with_system(self, system: str | None) -> "FrameworkTemplate":
        """The same with another default system prompt; ``None`` keeps it, ``""`` is none."""
        return self if system is None else replace(self, default_system=system or None)


def render(
    template: FrameworkTemplate,
    turns: Sequence[Turn],
    roles: Mapping[SpecialRole, str] | None = None,
    *,
    only_last: bool = False,
) -> tuple[Segment, ...]:
    """Write a conversation as the framework does in training.

    Args:
        template: How it writes.
        turns: The conversation. A last turn of the user is left open for an answer.
        roles: The tokenizer's special tokens (``TokenTable.roles``).
        only_last: Learn from the last answer alone.

    Returns:
        Segments in order. Their texts joined are the whole text, without a BOS that the tokenizer
        adds on its own (``adds_bos``).

    Raises:
        RenderError: The framework refuses or drops such a conversation.
    """
    special = {"bos": (roles or {}).get("bos", ""), "eos": (roles or {}).get("eos", "")}
    return tuple(_Writer(template, special, only_last=only_last).write(list(turns)))


def text_of(segments: Iterable[Segment]) -> str:
    """The whole text, each medium as one placeholder."""
    return "".join(segment.text for segment in segments)


def stretches(segments: Sequence[Segment]) -> Iterator[tuple[Segment, ...]]:
    """Segments grouped into what is cut into tokens in one go."""
    start = 0
    for index in range(1, len(segments) + 1):
        if index == len(segments) or not segments[index].is_joined:
            if index > start:
                yield tuple(segments[start:index])
            start = index


class _Writer:
    """Writes one conversation."""

    def __init__(
        self, template: FrameworkTemplate, special: Mapping[str, str], *, only_last: bool
    ) -> None:
        self._template = template
        self._special = special
        self._only_last = only_last
        self._out: list[Segment] = []

    def write(self, turns: list[Turn]) -> list[Segment]:
        template = self._template
        turns, system = self._open(turns)
        text = template.default_system if system is None else system
        head = ""
        if not text:
            self._add(self._form(template.prefix), None)
        elif template.system_in_query:
            self._add(self._form(template.prefix), None)
            head = self._form(template.system or "", system=text)
        elif template.system is None:
            raise RenderError(f"{template.framework} {template.name} takes no system prompt")
        else:
            self._add(self._form(template.system, system=text), "system")
        last = max((n for n, turn in enumerate(turns) if turn.role != "user"), default=-1)
        for number, turn in enumerate(turns):
            if turn.role == "user":
                self._query(turn, head)
                head = ""
            else:
                self._answer(turn, is_last=number == last, is_end=number == len(turns) - 1)
        return self._out

    def _open(self, turns: list[Turn]) -> tuple[list[Turn], str | None]:
        """Turns in the order that the template knows, and the system prompt they bring."""
        template = self._template
        if any(turn.role == "tool" for turn in turns):
            raise RenderError("turns of a tool are not rendered here")
        if template.others_answer:
            return turns, None
        system = None
        if turns and turns[0].role == "system":
            system, turns = turns[0].text, turns[1:]
            if template.framework == "llava":
                raise RenderError("LLaVA's training knows no role but human and gpt")
        if any(turn.role == "system" for turn in turns):
            raise RenderError("a system turn after the first turn")
        return self._alternate(turns), system

    def _alternate(self, turns: list[Turn]) -> list[Turn]:
        """Make user and assistant take turns, as the framework does or refuses to."""
        kind = self._template.framework
        if kind == "llava" and turns and turns[0].role == "assistant":
            turns = turns[1:]
        if kind == "ms-swift":
            merged: list[Turn] = []
            for turn in turns:
                if merged and merged[-1].role == turn.role:
                    parts = (*merged[-1].parts, *turn.parts)
                    merged[-1] = replace(merged[-1], parts=parts)
                else:
                    merged.append(turn)
            turns = merged
            if turns and turns[0].role == "assistant":
                turns = [Turn("user", ()), *turns]
        expected: tuple[TurnRole, TurnRole] = ("user", "assistant")
        if not turns or any(turn.role != expected[n % 2] for n, turn in enumerate(turns)):
            raise RenderError("user and assistant do not take turns, beginning with the user")
        return turns

    def _query(self, turn: Turn, head: str) -> None:
        before, _, after = self._template.user.partition("{query}")
        self._add(self._form(before) + head, "user")
        for part in self._parts(turn):
            if isinstance(part, Medium):
                self._medium(part)
            else:
                self._add(part, "user", joined=True)
        self._add(self._form(after), "user", joined=True)

    def _parts(self, turn: Turn) -> list[str | Medium]:
        template = self._template
        media = [part for part in turn.parts if isinstance(part, Medium)]
        if template.drops_question:
            return list(media[:1])
        if template.media_first and media:
            text = "".join(part for part in turn.parts if isinstance(part, str)).strip()
            return [media[0], f"\n{text}" if text else ""]
        if template.strips and turn.parts:
            parts = list(turn.parts)
            first, last = parts[0], parts[-1]
            if isinstance(first, str):
                parts[0] = first = first.lstrip()
            if isinstance(last, str):
                parts[-1] = (first if len(parts) == 1 and isinstance(first, str) else last).rstrip()
            return parts
        return list(turn.parts)

    def _medium(self, medium: Medium) -> None:
        template = self._template
        is_image = medium.kind == "image"
        form = template.image if is_image else template.video
        if form is None:
            raise RenderError(f"{template.framework} {template.name} takes no videos")
        before, _, after = form.partition(MEDIUM)
        self._add(before, "user", joined=True)
        token = template.image_token if is_image else template.video_token
        self._out.append(Segment(token, "user", is_supervised=False, medium=medium, is_joined=True))
        self._add(after, "user", joined=True)

    def _answer(self, turn: Turn, *, is_last: bool, is_end: bool) -> None:
        template = self._template
        is_trained = turn.is_trained and (is_last or not self._only_last)
        text = turn.text.strip() if template.strips else turn.text
        if "<think>" not in text:
            text = template.empty_thought + text
        self._add(self._form(template.answer, answer=text), turn.role, supervised=is_trained)
        suffix = self._form(template.suffix)
        if is_end:
            # ms-swift gives the suffix a label of its own, whatever the answer's is.
            alone = template.framework == "ms-swift"
            if alone and text.endswith((*template.stop, suffix.strip() or "\0")):
                return  # the answer brings its end along
            self._add(suffix, turn.role, supervised=is_trained or alone, joined=is_trained)
            return
        separator = self._form(template.separator)
        learned = suffix if is_trained and separator.startswith(suffix) else ""
        self._add(learned, turn.role, supervised=True)
        self._add(separator.removeprefix(learned), turn.role, joined=bool(learned))

    def _form(self, form: str, **texts: str) -> str:
        # Not str.format: the forms hold braces of their own, and so do people's texts.
        values = {**self._special, **texts}
        return _FIELD.sub(lambda field: values.get(field[1], field[0]), form)

    def _add(
        self, text: str, role: TurnRole | None, *, supervised: bool = False, joined: bool = False
    ) -> None:
        if not text:
            return
        if not joined and not self._template.splits_slots and self._out:
            # ms-swift cuts neighbours of one label together.
            joined = not supervised and not self._out[-1].is_supervised
        self._out.append(Segment(text, role, supervised, is_joined=joined and bool(self._out)))
