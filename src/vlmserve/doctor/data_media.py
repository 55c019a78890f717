"""Are the data set's rows samples, its media there and whole, and does each have its place?"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from vlmserve.datasets.images import ImageUse, identify, read_dataset_headers
from vlmserve.datasets.sample import Dataset, MediaKind, Medium, Sample
from vlmserve.doctor.check import Check
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import Evidence, Finding, Outcome, Unknown
from vlmserve.errors import MediaError
from vlmserve.media.videos import is_video_reader_installed, read_video_header

_ID = "data.media"
_MOST_SHOWN = 5
_KINDS: tuple[MediaKind, ...] = ("image", "video")

_SKIPPED = (
    "Training stopped there, or went on without these samples: ms-swift deletes rows that it "
    "cannot read and draws others, LLaMA-Factory skips conversations that are out of order."
)
_SOURCES = (
    "ms-swift 4 dataset/preprocessor/core.py batched_preprocess, LLaMA-Factory 0.9.5 "
    "data/converter.py and data/mm_plugin.py, LLaVA llava/train/train.py LazySupervisedDataset"
)


def check_media(exam: Examination) -> Iterator[Outcome]:
    """``data.media``: every row is a sample, and every medium is there, whole and in its place."""
    if exam.fast:
        return
    for dataset in (exam.data, exam.heldout):
        if dataset is not None:
            yield from _check(dataset, exam)


def _check(dataset: Dataset, exam: Examination) -> Iterator[Outcome]:
    yield from _bad_rows(dataset)
    yield from _misplaced(dataset)
    uses = read_dataset_headers(
        dataset, lambda done, total: exam.progress("data.media: image headers", done, total)
    )
    faults = [
        (use.sample, use.medium, use.header) for use in uses if isinstance(use.header, MediaError)
    ]
    videos = [
        (sample, medium)
        for sample in dataset.samples
        for medium in sample.media
        if medium.kind == "video" and medium.source is not None
    ]
    faults += _absent_videos(videos)
    n_files = len({identify(use.medium) for use in uses}) + len(videos)
    yield from _unreadable(dataset, faults, n_files)
    yield from _truncated(dataset, uses)
    yield from _broken_videos(dataset, videos, exam)
    yield from _remote(dataset)


def _bad_rows(dataset: Dataset) -> Iterator[Finding]:
    bad = dataset.bad
    if bad:
        yield Finding(
            id=_ID,
            title=f"{_share(len(bad), len(dataset.rows))} rows are no samples",
            evidence=[
                Evidence(file=str(row.file), key=f"row {row.row}", value=row.reason)
                for row in bad[:_MOST_SHOWN]
            ],
            consequence=_SKIPPED,
            remedy="correct these rows or take them out, and train on what is meant to be learned",
            source=_SOURCES,
        )


def _misplaced(dataset: Dataset) -> Iterator[Finding]:
    for kind in _KINDS:
        more, fewer = [], []
        for sample in dataset.samples:
            n_media = sum(medium.kind == kind for medium in sample.media)
            if sample.n_placeholders[kind] > n_media:
                more.append(sample)
            elif sample.n_placeholders[kind] < n_media:
                fewer.append(sample)
        total = sum(1 for _ in dataset.samples)
        if more:
            yield Finding(
                id=_ID,
                title=f"{_share(len(more), total)} samples have more placeholders than {kind}s",
                evidence=[_count_evidence(sample, kind) for sample in more[:_MOST_SHOWN]],
                consequence=_PLACEHOLDERS_LEFT[dataset.format],
                remedy=f"give these samples their {kind}s, or take the placeholders out",
                source=_SOURCES,
            )
        # ms-swift and TRL put a placeholder in front for each medium that has none.
        if fewer and dataset.format in _MEDIA_LEFT:
            yield Finding(
                id=_ID,
                title=f"{_share(len(fewer), total)} samples have more {kind}s than placeholders",
                evidence=[_count_evidence(sample, kind) for sample in fewer[:_MOST_SHOWN]],
                consequence=_MEDIA_LEFT[dataset.format],
                remedy=f"write <{kind}> into the question, once for each {kind}",
                source=_SOURCES,
            )


_STAYS_TEXT = (
    "The placeholders that are left stay in the text as characters: the question speaks of images "
    "that the model does not see, and answers to them were learned blindly."
)
_STOPS = (
    "LLaMA-Factory raises a ValueError at such a sample (_validate_messages), so that it stopped "
    "there, or what it trained on is not this data."
)
_PLACEHOLDERS_LEFT = {
    "openai": _STAYS_TEXT,
    "ms-swift": _STAYS_TEXT,
    "sharegpt": _STOPS,
    "alpaca": _STOPS,
    "llava": "LLaVA takes the features of the next sample's image for a placeholder without one, "
    "or stops: answers were learned from the wrong images.",
}
_MEDIA_LEFT = {
    "sharegpt": _STOPS,
    "alpaca": _STOPS,
    "llava": "LLaVA puts an image only where a placeholder stands: these questions were learned "
    "without their images.",
}


def _count_evidence(sample: Sample, kind: MediaKind) -> Evidence:
    n_media = sum(medium.kind == kind for medium in sample.media)
    return Evidence(
        file=str(sample.file),
        key=f"row {sample.row}",
        value=f"{_count(sample.n_placeholders[kind], 'placeholder')}, {_count(n_media, kind)}",
    )


def _absent_videos(
    videos: Iterable[tuple[Sample, Medium]],
) -> list[tuple[Sample, Medium, MediaError]]:
    return [
        (sample, medium, MediaError(f"{medium.path}: no such file"))
        for sample, medium in videos
        if medium.path is not None and not medium.path.is_file()
    ]


def _unreadable(
    dataset: Dataset, faults: Sequence[tuple[Sample, Medium, MediaError]], n_files: int
) -> Iterator[Outcome]:
    if not faults:
        return
    files = {identify(medium): medium for _, medium, _ in faults}
    n_samples = len({(sample.file, sample.row) for sample, _, _ in faults})
    absent = [medium for medium in files.values() if _is_absent(medium)]
    if len(absent) == n_files > 1:
        yield Unknown(
            id=_ID,
            reason=f"{dataset.path}: none of its {n_files} images and videos is there, the first "
            f"at {absent[0].path}; give the directory that paths count from with --media-root",
        )
        return
    yield Finding(
        id=_ID,
        title=f"{_share(len(files), n_files)} images and videos of {n_samples} samples cannot be "
        f"read{_absence(len(absent), len(files))}",
        evidence=[
            Evidence(file=str(sample.file), key=f"row {sample.row}", value=error.message)
            for sample, _, error in faults[:_MOST_SHOWN]
        ],
        consequence=_SKIPPED,
        remedy="put the files in place and train again, or take their samples out; where they lie "
        "elsewhere, give --media-root",
        source=_SOURCES,
    )


def _is_absent(medium: Medium) -> bool:
    return medium.path is not None and not medium.path.exists()


def _truncated(dataset: Dataset, uses: Sequence[ImageUse]) -> Iterator[Finding]:
    cut = [
        use for use in uses if not isinstance(use.header, MediaError) and use.header.is_truncated
    ]
    files = {identify(use.medium) for use in cut}
    if files:
        yield Finding(
            id=_ID,
            title=f"{_count(len(files), 'image file')} cut short",
            evidence=[
                Evidence(file=str(use.sample.file), key=f"row {use.sample.row}", value=_name(use))
                for use in cut[:_MOST_SHOWN]
            ],
            consequence="Pillow raises at such a file, which stops training or loses the sample; "
            "with LOAD_TRUNCATED_IMAGES, as some training code sets it, the missing part is grey.",
            remedy="download or copy these files again",
            source="Pillow ImageFile.py load; " + _SOURCES,
        )


def _name(use: ImageUse) -> str:
    return f"{use.medium.path or use.medium.shown} ends before its image does"


def _broken_videos(
    dataset: Dataset, videos: Sequence[tuple[Sample, Medium]], exam: Examination
) -> Iterator[Outcome]:
    there = {
        identify(medium): (sample, medium) for sample, medium in videos if not _is_absent(medium)
    }
    if not there:
        return
    if not is_video_reader_installed():
        yield Unknown(
            id=_ID,
            reason=f"{dataset.path}: {len(there)} videos were not opened, for OpenCV is not "
            "installed; pip install opencv-python-headless",
        )
        return
    faults = []
    for number, (sample, medium) in enumerate(there.values(), start=1):
        source = medium.source
        if source is None:
            continue
        try:
            read_video_header(source)
        except MediaError as error:
            faults.append(
                Evidence(file=str(sample.file), key=f"row {sample.row}", value=error.message)
            )
        exam.progress("data.media: videos", number, len(there))
    if faults:
        yield Finding(
            id=_ID,
            title=f"{_share(len(faults), len(there))} videos cannot be read",
            evidence=faults[:_MOST_SHOWN],
            consequence=_SKIPPED,
            remedy="download or copy these files again, or take their samples out",
            source=_SOURCES,
        )


def _remote(dataset: Dataset) -> Iterator[Unknown]:
    counts = Counter(
        medium.kind for sample in dataset.samples for medium in sample.media if medium.is_url
    )
    if counts:
        said = " and ".join(_count(count, kind) for kind, count in counts.items())
        yield Unknown(
            id=_ID,
            reason=f"{dataset.path}: {said} on other machines, not fetched; download them and let "
            "the rows name the files",
        )


def _share(n_found: int, n_all: int) -> str:
    return f"{n_found:,} of {n_all:,}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _absence(n_absent: int, n_faulty: int) -> str:
    if n_absent == n_faulty:
        return ": no such file"
    return f", {n_absent:,} of them because there is no such file" if n_absent else ""


CHECKS = (
    Check(
        id=_ID,
        run=check_media,
        cause="Images that were moved, renamed or never downloaded; downloads that broke off; "
        "pages saved in place of images; questions whose `<image>` was lost in a conversion, or "
        "that have more of them than images.",
        evidence="`--data` and `--heldout`: each row against its format, each image's header and "
        "the end of its file, each video's container, and placeholders against media, sample by "
        "sample. Nothing is fetched. Where media have no placeholder it is a finding for "
        "LLaMA-Factory's and LLaVA's formats only: ms-swift and TRL put one in front.",
        example="3 of 2,000 images and videos of 3 samples cannot be read, 2 of them because "
        "there is no such file",
        remedy="Put the files in place, correct the rows, and train again; or give `--media-root` "
        "where paths count from elsewhere.",
    ),
)
"""The checks of this theme, in the order in which they run."""
