"""Are samples of the held-out set in the training set?"""

import hashlib
import unicodedata
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from vlmserve.datasets.images import identify
from vlmserve.datasets.sample import Dataset, Medium, Sample
from vlmserve.doctor.check import Check
from vlmserve.doctor.examination import Examination, Progress, no_progress
from vlmserve.doctor.finding import Evidence, Finding, Outcome, Unknown
from vlmserve.errors import MediaError
from vlmserve.media.likeness import Fingerprint, LikenessIndex, take_fingerprints

if TYPE_CHECKING:
    from vlmserve.media.headers import ImageSource

_ID = "data.overlap"
_MOST_SHOWN = 5
# Shorter questions without an image ("hello") recur by themselves.
_LEAST_TEXT_CHARS = 20
_MOST_TWINS = 8
_TAKE_OUT = "take these rows out of the held-out set or of the training set"
_SOURCE = (
    "comparison of the two files: SHA-256 of media, thumbnails of 16 x 16 pixels, NFKC-normalised "
    "text"
)


@dataclass(frozen=True, slots=True)
class _Pair:
    """A sample of each side."""

    heldout: Sample
    train: Sample
    how: str


class _Round(NamedTuple):
    """A question and its answer, as digests of their normalised text."""

    question: bytes
    answer: bytes
    is_long: bool


@dataclass(slots=True)
class _Overlap:
    """What was found, one pair a held-out sample."""

    same_sample: list[_Pair] = field(default_factory=list)
    same_text: list[_Pair] = field(default_factory=list)
    same_image: list[_Pair] = field(default_factory=list)


def check_overlap(exam: Examination) -> Iterator[Outcome]:
    """``data.overlap``: the training set holds no sample of the held-out set."""
    if exam.heldout is None or exam.fast:
        return
    if exam.data is None:
        yield Unknown(
            id=_ID, reason="no training set to compare the held-out set with; give --data"
        )
        return
    yield from find_overlap(exam.data, exam.heldout, exam.progress)


def find_overlap(
    train: Dataset, heldout: Dataset, progress: Progress = no_progress
) -> Iterator[Outcome]:
    """Find the samples of a held-out set that are in a training set.

    Args:
        train: What a model was trained on.
        heldout: What it is judged on.
        progress: Told how many media have been read.
    """
    media = _Media((train, heldout), progress)
    overlap = _compare(train, heldout, media)
    yield from _findings(overlap, heldout)
    if media.n_unknown:
        yield Unknown(
            id=_ID,
            reason=f"{media.n_unknown} images and videos could not be read and were compared by "
            "their names alone",
        )


class _Media:
    """Tells which media of the two sets are the same."""

    def __init__(self, datasets: Sequence[Dataset], progress: Progress) -> None:
        sources: dict[Hashable, ImageSource] = {}
        for dataset in datasets:
            for sample in dataset.samples:
                for medium in sample.media:
                    for part in medium.frames or (medium,):
                        if (source := part.source) is not None:
                            sources.setdefault(identify(part), source)
        taken = take_fingerprints(
            list(sources.values()), lambda done, total: progress(f"{_ID}: media", done, total)
        )
        self._known = {
            key: fingerprint
            for key, fingerprint in zip(sources, taken, strict=True)
            if isinstance(fingerprint, Fingerprint)
        }
        self.n_unknown = sum(isinstance(fingerprint, MediaError) for fingerprint in taken)

    def key(self, medium: Medium) -> Hashable:
        """The same for media with the same bytes."""
        if medium.frames:
            return tuple(self.key(frame) for frame in medium.frames)
        fingerprint = self._known.get(identify(medium))
        return medium.reference if fingerprint is None else fingerprint.digest

    def fingerprint(self, medium: Medium) -> Fingerprint | None:
        """What an image is known by; ``None`` for videos and what could not be read."""
        return self._known.get(identify(medium)) if medium.kind == "image" else None


class _TrainIndex:
    """The training set, to be found by media and by text."""

    def __init__(self, samples: Iterable[Sample], media: _Media) -> None:
        self.by_content: dict[Hashable, Sample] = {}
        self.by_text: dict[_Round, Sample] = {}
        self.by_medium: dict[Hashable, Sample] = {}
        self.by_medium_and_round: dict[Hashable, list[Sample]] = defaultdict(list)
        pictures: dict[Hashable, Fingerprint] = {}
        for sample in samples:
            keys = tuple(media.key(medium) for medium in sample.media)
            for said in _rounds(sample):
                if not keys:
                    self.by_text.setdefault(said, sample)
                    continue
                self.by_content.setdefault((keys, said.question), sample)
                for key in keys:
                    users = self.by_medium_and_round[key, said]
                    if len(users) < _MOST_TWINS:
                        users.append(sample)
            for medium, key in zip(sample.media, keys, strict=True):
                self.by_medium.setdefault(key, sample)
                fingerprint = media.fingerprint(medium)
                if fingerprint is not None:
                    pictures.setdefault(key, fingerprint)
        self._keys = list(pictures)
        self._likeness = LikenessIndex(list(pictures.values()))

    def alike(self, fingerprint: Fingerprint) -> list[Hashable]:
        """Keys of the pictures that are like one, or the same."""
        return [self._keys[number] for number in self._likeness.find(fingerprint)]


def _compare(train: Dataset, heldout: Dataset, media: _Media) -> _Overlap:
    index = _TrainIndex(train.samples, media)
    # Many held-out samples may use one image.
    found: dict[Hashable, list[Hashable]] = {}

    def alike(medium: Medium) -> list[Hashable]:
        key = media.key(medium)
        if key not in found:
            fingerprint = media.fingerprint(medium)
            others = [] if fingerprint is None else index.alike(fingerprint)
            found[key] = [
                other for other in dict.fromkeys([key, *others]) if other in index.by_medium
            ]
        return found[key]

    overlap = _Overlap()
    for sample in heldout.samples:
        rounds = _rounds(sample)
        keys = tuple(media.key(medium) for medium in sample.media)
        if not keys:
            twin = next(
                (index.by_text[said] for said in rounds if said in index.by_text and said.is_long),
                None,
            )
            if twin is not None:
                overlap.same_text.append(_Pair(sample, twin, "same question and answer"))
            continue
        contents = [(keys, said.question) for said in rounds]
        twin = next((index.by_content[one] for one in contents if one in index.by_content), None)
        if twin is not None:
            overlap.same_sample.append(_Pair(sample, twin, "same files, same question"))
            continue
        alikes = [alike(medium) for medium in sample.media]
        twin = _find_twin(rounds, alikes, index, media)
        if twin is not None:
            how = "same picture, question and answer"
            overlap.same_sample.append(_Pair(sample, twin, how))
        elif any(alikes):
            (other, *_) = (key for one in alikes for key in one)
            how = "same picture, other question"
            overlap.same_image.append(_Pair(sample, index.by_medium[other], how))
    return overlap


def _find_twin(
    rounds: Sequence[_Round],
    alikes: Sequence[Sequence[Hashable]],
    index: _TrainIndex,
    media: _Media,
) -> Sample | None:
    """A training sample with the same question and answer, and pictures that are alike.

    The answer counts, other than for the very same files: two drawings may differ by less than
    their thumbnails show.
    """
    for said in rounds:
        for key in alikes[0]:
            for user in index.by_medium_and_round.get((key, said), ()):
                theirs = [media.key(medium) for medium in user.media]
                if len(theirs) == len(alikes) and all(
                    one in others for one, others in zip(theirs, alikes, strict=True)
                ):
                    return user
    return None


def _rounds(sample: Sample) -> list[_Round]:
    rounds: list[_Round] = []
    asked = ""
    for turn in sample.turns:
        if turn.role == "assistant":
            rounds.append(_round(asked, turn.text))
            asked = ""
        elif turn.role != "system":
            asked += turn.text
    return [*rounds, _round(asked, "")] if asked else rounds


def _round(question: str, answer: str) -> _Round:
    text = _normalise(question)
    is_long = len(text) >= _LEAST_TEXT_CHARS
    return _Round(_digest(text), _digest(_normalise(answer)), is_long)


def _normalise(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _digest(text: str) -> bytes:
    # A million conversations are held as 32 bytes a round, not as their text.
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _findings(overlap: _Overlap, heldout: Dataset) -> Iterator[Finding]:
    total = sum(1 for _ in heldout.samples)
    if overlap.same_sample:
        yield Finding(
            id=_ID,
            title=f"{len(overlap.same_sample):,} of {total:,} held-out samples were trained on: "
            "same images or videos, same question",
            evidence=_evidence(overlap.same_sample),
            consequence="The score on the held-out set counts what was memorised, and a fine-tune "
            "looks better than it is.",
            remedy=_TAKE_OUT,
            source=_SOURCE,
        )
    if overlap.same_text:
        yield Finding(
            id=_ID,
            title=f"{len(overlap.same_text):,} of {total:,} held-out samples without an image were "
            "trained on: same question and answer",
            evidence=_evidence(overlap.same_text),
            consequence="The score on the held-out set counts what was memorised.",
            remedy=_TAKE_OUT,
            source=_SOURCE,
        )
    if overlap.same_image:
        yield Finding(
            id=_ID,
            severity="info",
            title=f"{len(overlap.same_image):,} of {total:,} held-out samples ask something else "
            "about a picture of the training set",
            evidence=_evidence(overlap.same_image),
            consequence="Such samples tell less of new pictures than the others do.",
            remedy="split by picture, not by question, where new pictures are what matters",
            source=_SOURCE,
        )


def _evidence(pairs: Sequence[_Pair]) -> list[Evidence]:
    return [
        Evidence(
            file=str(pair.heldout.file),
            key=f"row {pair.heldout.row}",
            value=f"{pair.how} as {pair.train.where}",
        )
        for pair in pairs[:_MOST_SHOWN]
    ]


CHECKS = (
    Check(
        id=_ID,
        run=check_overlap,
        cause="A random split by question of a set with several questions an image; a benchmark "
        "whose images are in a public training set; the same file under two names.",
        evidence="`--data` against `--heldout`. A sample is the same with the same media files "
        "(SHA-256) and question, or with the same pictures (thumbnails of 16 x 16 pixels, so that "
        "other encodings and sizes are found and crops are not), question and answer; text is "
        "compared by NFKC, whitespace and case. Without an image, question and answer must be the "
        "same and the question at least 20 characters long. A picture of the training set with "
        "another question is `info`. Every image is decoded once.",
        example="17 of 500 held-out samples were trained on: same images or videos, same question",
        remedy="Take these rows out of one of the two sets, and judge again.",
    ),
)
"""The checks of this theme, in the order in which they run."""
