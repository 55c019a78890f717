"""The flip gallery's data: a card for each sample that flipped or failed, and its media once."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from markupsafe import Markup

from vlmserve.evals.report.eval_report import EvalReport
from vlmserve.evals.report.task_report import AnswerReport, FailureReport, FlipReport, MediumReport
from vlmserve.evals.report.thumbnails import Preview, Thumbnail, create_preview
from vlmserve.evals.report.visible_text import visible

if TYPE_CHECKING:
    from vlmserve.evals.medium import Medium

MAX_CARDS = 20_000
"""Samples in one file."""

MAX_MEDIA_BYTES = 40 * 2**20
"""Of thumbnails in one file, as they stand in it: those of some 5,000 photographs."""

MAX_CARDS_CHARACTERS = 20_000_000
"""Of all samples' texts in one file."""

MAX_TEXT = 4000
"""Characters shown of a question, a target or an answer."""

_ID_SHOWN = 12

Kind = Literal["worse", "failed", "better"]


@dataclass(frozen=True, slots=True)
class Gallery:
    """What the page's script shows."""

    cards: list[dict[str, Any]]
    """JSON values: worse samples first, then failures, then better ones."""

    media: list[dict[str, Any]]
    """What is known of each medium; cards name them by their place in it."""

    thumbnails: list[Thumbnail]
    """Media name them by their place in it."""

    notices: list[str] = field(default_factory=list)
    """What is not in the file, in words."""

    def data(self) -> Markup:
        """Cards and media as JSON that may stand in a ``script`` element."""
        return embed_json({"cards": self.cards, "media": self.media})


def embed_json(value: Any) -> Markup:
    """Write JSON in which neither ``</script>`` nor ``<!--`` can stand."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    # Every character that HTML could read is gone.
    return Markup(text)  # noqa: S704


def create_gallery(
    report: EvalReport,
    media: "Mapping[str, Medium] | None",
    *,
    max_media_bytes: int = MAX_MEDIA_BYTES,
    max_cards: int = MAX_CARDS,
    max_characters: int = MAX_CARDS_CHARACTERS,
) -> Gallery:
    """Collect the samples that flipped or failed, with thumbnails as long as there is room.

    Room is given in turns between the tasks, so that a file too small for all samples or for all
    media has the first ones of each task. Media are read one at a time.

    Args:
        report: What was found.
        media: By digest, where files and bytes of media are; ``None`` where they are not at hand.
        max_media_bytes: Room for thumbnails.
        max_cards: Room for samples.
        max_characters: Room for their texts.
    """
    found = list(_find_cards(report))
    found.sort(key=lambda card: ("worse", "failed", "better").index(card.kind))
    shown = _select(found, max_cards, max_characters)
    album = _Album(media, max_media_bytes)
    for card in _in_turns(shown):
        album.add(card.media)
    gallery = Gallery(
        cards=[_card(card, album) for card in shown],
        media=[_medium(preview, report) for preview, report in album.previews],
        thumbnails=[each for preview, _ in album.previews for each in preview.thumbnails],
    )
    place = 0
    for entry, (preview, _) in zip(gallery.media, album.previews, strict=True):
        entry["first"] = place
        place += len(preview.thumbnails)
    gallery.notices.extend(_notices(found, shown, album, max_media_bytes))
    return gallery


@dataclass(frozen=True, slots=True)
class _Found:
    task: int
    kind: Kind
    sample: FlipReport | FailureReport

    @property
    def media(self) -> tuple[MediumReport, ...]:
        return self.sample.media

    @property
    def n_characters(self) -> int:
        """Length of the texts, as far as they are shown."""
        sample = self.sample
        texts = [sample.question, sample.target]
        if isinstance(sample, FailureReport):
            texts.append(sample.message)
        else:
            texts += [sample.baseline.answer, sample.candidate.answer]
        return sum(min(len(text), MAX_TEXT) for text in texts)


class _Album:
    """Previews of media, each made once, until there is no room left."""

    def __init__(self, media: "Mapping[str, Medium] | None", max_bytes: int) -> None:
        self._media = media
        self._room = max_bytes
        self._places: dict[str, int] = {}
        self.previews: list[tuple[Preview, MediumReport]] = []
        self.is_full = False

    @property
    def is_at_hand(self) -> bool:
        """Whether there was anything to make thumbnails of."""
        return self._media is not None

    def add(self, media: Sequence[MediumReport]) -> None:
        """Take a sample's media."""
        for medium in media:
            if medium.sha256 not in self._places:
                self._places[medium.sha256] = len(self.previews)
                self.previews.append((self._preview(medium), medium))

    def places(self, media: Sequence[MediumReport]) -> list[int]:
        """Where a sample's media are in ``previews``."""
        return [self._places[medium.sha256] for medium in media]

    def is_shown(self, media: Sequence[MediumReport]) -> bool:
        """Whether there are thumbnails of all of a sample's media."""
        return all(self.previews[place][0].thumbnails for place in self.places(media))

    def _preview(self, medium: MediumReport) -> Preview:
        if self._media is None:
            return Preview((), "", "not at hand: written from a kept report")
        if medium.sha256 not in self._media:
            return Preview((), "", "not at hand: the suite's data no longer has it")
        if self.is_full:
            return Preview((), "", "left out: this file's room for images is used up")
        preview = create_preview(self._media[medium.sha256])
        if preview.n_bytes > self._room:
            # From here on none is made: the first samples are shown, and not the smallest.
            self.is_full = True
            return Preview((), preview.size, "left out: this file's room for images is used up")
        self._room -= preview.n_bytes
        return preview


def _find_cards(report: EvalReport) -> Iterator[_Found]:
    for index, task in enumerate(report.tasks):
        yield from (_Found(index, "worse", flip) for flip in task.flips.regressed)
        yield from (_Found(index, "failed", failure) for failure in task.failures)
        yield from (_Found(index, "better", flip) for flip in task.flips.improved)


def _in_turns(cards: Iterable[_Found]) -> Iterator[_Found]:
    """Take the first of every task and kind, then the second of each, and so on."""
    seen: dict[tuple[int, Kind], int] = {}
    turns = []
    for card in cards:
        turn = seen[card.task, card.kind] = seen.get((card.task, card.kind), -1) + 1
        turns.append((turn, card))
    yield from (card for _, card in sorted(turns, key=lambda each: each[0]))


def _select(found: Sequence[_Found], max_cards: int, max_characters: int) -> list[_Found]:
    """Take samples in turns while there is room; they stay in their order."""
    taken: set[int] = set()
    for card in _in_turns(found):
        max_characters -= card.n_characters
        if len(taken) == max_cards or max_characters < 0:
            break
        taken.add(id(card))
    return [card for card in found if id(card) in taken]


def _card(found: _Found, album: _Album) -> dict[str, Any]:
    sample = found.sample
    card = {
        "task": found.task,
        "kind": found.kind,
        "id": sample.sample_id[:_ID_SHOWN],
        "question": _shown(sample.question),
        "target": _shown(sample.target),
        "media": album.places(sample.media),
    }
    if isinstance(sample, FailureReport):
        error = _shown(f"{sample.error_type}: {sample.message}")
        return {**card, "side": sample.side, "error": error}
    return {**card, "baseline": _answer(sample.baseline), "candidate": _answer(sample.candidate)}


def _answer(answer: AnswerReport) -> list[str]:
    score = f"{answer.score:.4g}"
    # Of the target, so that it is seen which way an answer was leaning.
    nll = "" if answer.nll is None else f", NLL of the target {answer.nll:.3g}"
    return [_shown(answer.answer), f"{score}{nll}"]


def _shown(text: str) -> str:
    if len(text) <= MAX_TEXT:
        return visible(text)
    left_out = len(text) - MAX_TEXT
    return f"{visible(text[:MAX_TEXT])} […{left_out} more characters are in the JSON report]"


def _medium(preview: Preview, medium: MediumReport) -> dict[str, Any]:
    return {
        "kind": medium.content_type.partition("/")[0],
        "type": visible(medium.content_type),
        "size": preview.size,
        "missing": visible(preview.missing),
        "thumbnails": [[t.width_px, t.height_px, t.label] for t in preview.thumbnails],
    }


def _notices(
    found: Sequence[_Found], shown: Sequence[_Found], album: _Album, max_bytes: int
) -> Iterator[str]:
    if len(shown) < len(found):
        yield (
            f"{len(shown):,} of {len(found):,} samples are in this file, the first of each task; "
            "all are in the JSON report."
        )
    with_media = [card for card in shown if card.media]
    if not with_media:
        return
    if not album.is_at_hand:
        yield (
            "Images and videos are not in this file: it was written from a kept report, without "
            "the suite's data."
        )
        return
    n_shown = sum(album.is_shown(card.media) for card in with_media)
    if album.is_full:
        yield (
            f"Images of {n_shown:,} of {len(with_media):,} samples are in this file, the first of "
            f"each task: its room for them is {max_bytes / 2**20:,.3g} MiB."
        )
    elif n_shown < len(with_media):
        yield (
            f"{len(with_media) - n_shown:,} of {len(with_media):,} samples have images or videos "
            "that cannot be shown; their cards say why."
        )
