"""Putting a sample together: media take the places that its text keeps for them."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from vlmserve.datasets.sample import MediaKind, Medium, Sample, Turn, TurnRole

TAGS: Mapping[str, MediaKind] = {"<image>": "image", "<video>": "video"}
"""ms-swift's and LLaMA-Factory's placeholders."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A place that is kept for an image or a video."""

    kind: MediaKind
    tag: str
    """As it stands in the text; it stays there where no medium is left."""


@dataclass(frozen=True, slots=True)
class Message:
    """A turn whose media are not yet in place."""

    role: TurnRole
    parts: tuple[str | Slot | Medium, ...]
    is_trained: bool = True


@dataclass(slots=True)
class Conversation:
    """What a format's reader makes of a row."""

    messages: list[Message]
    images: list[Medium] = field(default_factory=list)
    videos: list[Medium] = field(default_factory=list)
    """Media that are listed beside the text; they take its slots in order."""

    put_rest_first: bool = False
    """Where slots are too few, add them in front of the first turn that is not the system's:
    ms-swift 4 template/base.py ``_add_default_tags``, TRL ``prepare_multimodal_messages``. Else the
    media that are left stand in no turn."""

    def create_sample(self, file: Path, row: int) -> Sample:
        """Put the media in place."""
        slots = {"image": 0, "video": 0}
        counts = {"image": 0, "video": 0}
        placed: list[Medium] = []
        for message in self.messages:
            for part in message.parts:
                if isinstance(part, str):
                    continue
                counts[part.kind] += 1
                if isinstance(part, Slot):
                    slots[part.kind] += 1
                else:
                    placed.append(part)
        messages = self._add_slots(slots) if self.put_rest_first else self.messages
        rest = {"image": iter(self.images), "video": iter(self.videos)}
        return Sample(
            file=file,
            row=row,
            turns=tuple(
                Turn(
                    message.role,
                    tuple(
                        next(rest[part.kind], part.tag) if isinstance(part, Slot) else part
                        for part in message.parts
                    ),
                    message.is_trained,
                )
                for message in messages
            ),
            media=(*self.images, *self.videos, *placed),
            n_placeholders=_shared_counter(counts["image"], counts["video"]),
        )

    def _add_slots(self, slots: Mapping[str, int]) -> list[Message]:
        front = (
            *[Slot("video", "<video>")] * (len(self.videos) - slots["video"]),
            *[Slot("image", "<image>")] * (len(self.images) - slots["image"]),
        )
        first = next((i for i, turn in enumerate(self.messages) if turn.role != "system"), None)
        if not front or first is None:
            return self.messages
        turn = self.messages[first]
        changed = Message(turn.role, (*front, *turn.parts), turn.is_trained)
        return [*self.messages[:first], changed, *self.messages[first + 1 :]]


def split_tags(text: str, tags: Mapping[str, MediaKind] = TAGS) -> tuple[str | Slot, ...]:
    """Split text at its placeholders; empty pieces are left out.

    Example:
        >>> split_tags("a<image>b")
        ('a', Slot(kind='image', tag='<image>'), 'b')
    """
    if "<" not in text:
        return (text,) if text else ()
    pieces = _pattern(tuple(tags)).split(text)
    return tuple(Slot(tags[piece], piece) if piece in tags else piece for piece in pieces if piece)


@cache
def _pattern(tags: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(f"({'|'.join(map(re.escape, tags))})")


@cache
def _shared_counter(n_images: int, n_videos: int) -> Counter[MediaKind]:
    # A million samples share a handful of counts.
    counts: Counter[MediaKind] = Counter()
    if n_images:
        counts["image"] = n_images
    if n_videos:
        counts["video"] = n_videos
    return counts
