"""Turns of a data set's conversation as turns that can be sent, media in their places."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from vlmserve.config.asking import SamplingConfig
from vlmserve.datasets.sample import MediaKind
from vlmserve.datasets.sample import Medium as DataMedium
from vlmserve.datasets.sample import Sample as DataSample
from vlmserve.datasets.sample import Turn as DataTurn
from vlmserve.errors import MediaError
from vlmserve.evals.media_library import MediaLibrary
from vlmserve.evals.samples import Turn


@dataclass(frozen=True, slots=True)
class Asking:
    """How the user's own data and requests are asked."""

    sampling: SamplingConfig
    """The suite's settings; they win over a request's own."""

    media: MediaLibrary
    """Finds media."""

    limit: int | None = None
    """Take only this many samples of each task, the first ones."""


def turns_to_ask(turns: Iterable[DataTurn], library: MediaLibrary) -> list[Turn]:
    """Make what is sent.

    Raises:
        MediaError: A turn cannot be sent, or a medium cannot be had.
    """
    return [_turn(turn, library) for turn in turns]


def check_places(sample: DataSample) -> None:
    """Every placeholder has its medium, and every medium stands in a turn.

    Raises:
        MediaError: It is not so.
    """
    listed: Counter[MediaKind] = Counter(medium.kind for medium in sample.media)
    placed: Counter[MediaKind] = Counter(
        part.kind for turn in sample.turns for part in turn.parts if isinstance(part, DataMedium)
    )
    for kind in ("image", "video"):
        if (announced := sample.n_placeholders[kind]) > listed[kind]:
            raise MediaError(f"{announced} placeholders <{kind}>, and {listed[kind]} {kind}s")
        if placed[kind] != listed[kind]:
            raise MediaError(f"{listed[kind]} {kind}s, and places for {placed[kind]} of them")


def _turn(turn: DataTurn, library: MediaLibrary) -> Turn:
    if turn.role == "tool":
        raise MediaError("a tool's turn cannot be sent: requests hold system, user and assistant")
    return Turn(
        role=turn.role,
        parts=tuple(part if isinstance(part, str) else library.medium(part) for part in turn.parts),
    )
