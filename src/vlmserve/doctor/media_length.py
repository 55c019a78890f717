"""How many tokens images and videos take, in training and in serving."""

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vlmserve.checkpoint.families.qwen2_vl import QwenVL
from vlmserve.checkpoint.tokenizer import Tokenizer
from vlmserve.checkpoint.visual_tokens.base import VisualSize, VisualTokens
from vlmserve.checkpoint.visual_tokens.formula import load_visual_tokens
from vlmserve.checkpoint.visual_tokens.internvl import N_MARKS, InternVLTokens
from vlmserve.checkpoint.visual_tokens.llava_original import LlavaOriginalTokens
from vlmserve.datasets.images import identify, read_dataset_headers
from vlmserve.datasets.sample import Dataset, Medium, Sample
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.image_drift import find_image_drift
from vlmserve.doctor.video_drift import find_video_drift
from vlmserve.errors import MediaError
from vlmserve.frameworks.frame_sampling import FrameRule, UniformRule
from vlmserve.frameworks.media_limits import TrainingLimits, find_training_limits
from vlmserve.media.videos import is_video_reader_installed, read_video_header

if TYPE_CHECKING:
    from vlmserve.media.headers import ImageHeader

_Size = tuple[int, int]
_NAMED = ("ms-swift", "llama-factory")


class Uncountable(ValueError):  # noqa: N818 - what is not counted is no error
    """Why a sample's tokens cannot be counted."""


@dataclass(frozen=True, slots=True)
class MediaWay:
    """How images and videos become tokens."""

    images: VisualTokens | None
    videos: VisualTokens | None
    limits: TrainingLimits | None = None
    """What shrinks media before the formulas see them."""

    rule: FrameRule | UniformRule | None = None
    """How many frames are taken of a video's file; the formula's own idea when ``None``."""

    own_marks: int = 0
    """Tokens that a formula counts around an image and that the text has, too."""


def find_training_way(exam: Examination, *, has_marks: bool) -> MediaWay:
    """How media came into the model in training.

    Args:
        exam: The checkpoint.
        has_marks: Whether the template writes the tokens before and behind each image itself.

    Raises:
        CheckpointError: A file of processor or training is broken.
    """
    checkpoint = exam.checkpoint
    is_framework = checkpoint.training is not None and checkpoint.training.framework in _NAMED
    program: Literal["own training", "framework"] = "framework" if is_framework else "own training"
    formula = load_visual_tokens(checkpoint, program=program)
    images, videos = find_image_drift(exam), find_video_drift(exam)
    # Only Qwen-VL's formula changes with the limits of a run.
    is_limited = isinstance(checkpoint.family, QwenVL)
    return MediaWay(
        images=images.trained.formula if images is not None and is_limited else formula,
        videos=(None if videos is None else videos.trained.formula) or formula,
        limits=find_training_limits(checkpoint.training, exam.train_env),
        rule=None if videos is None else videos.trained.rule,
        own_marks=_own_marks(formula) if has_marks else 0,
    )


def find_serving_way(exam: Examination) -> MediaWay:
    """How media come into the model that is served.

    Raises:
        CheckpointError: A file of the processor is broken.
    """
    formula = load_visual_tokens(exam.checkpoint)
    images, videos = find_image_drift(exam), find_video_drift(exam)
    return MediaWay(
        images=formula if images is None else images.served.formula,
        videos=(None if videos is None else videos.served.formula) or formula,
        rule=None if videos is None else videos.served.rule,
    )


class MediaCounter:
    """Counts the tokens of images and videos by their headers.

    Args:
        exam: Whose media, and who hears of progress.
        tokenizer: For text that a processor puts between the tokens.
        way: How media come into the model.
    """

    def __init__(self, exam: Examination, tokenizer: Tokenizer, way: MediaWay) -> None:
        self._exam = exam
        self._tokenizer = tokenizer
        self.limits = way.limits
        self._images, self._videos = way.images, way.videos
        self._marks, self._rule = way.own_marks, way.rule
        self._headers: Mapping[Hashable, ImageHeader | MediaError] = {}
        self._text_tokens: dict[str, int] = {}

    def read_headers(self, data: Dataset) -> None:
        """Read the headers of all images, each file once."""

        def progress(done: int, total: int) -> None:
            self._exam.progress("data.budget: image headers", done, total)

        read_dataset_headers(data, progress)
        self._headers = data.headers

    def tokens(self, sample: Sample) -> Iterator[int]:
        """Tokens of each medium of a sample.

        Raises:
            Uncountable: The size of one of them is not known.
        """
        n_images = sum(medium.kind == "image" for medium in sample.media)
        for medium in sample.media:
            count = self._image if medium.kind == "image" else self._video
            try:
                size = count(medium, n_images)
            except MediaError as error:
                raise Uncountable(f"an image that the processor refuses: {error}") from error
            yield size.tokens - self._marks + sum(map(self._count_text, size.inserted_texts))

    def _image(self, medium: Medium, n_images: int) -> VisualSize:
        if self._images is None:
            raise Uncountable(
                "no formula for the image tokens of "
                f"{self._exam.checkpoint.architecture} is known here"
            )
        width_px, height_px = self._size(medium)
        if self.limits is not None:
            width_px, height_px = self.limits.shrink_image(width_px, height_px)
        return self._images.image(width_px, height_px, n_images=n_images)

    def _video(self, medium: Medium, n_images: int) -> VisualSize:
        del n_images
        if medium.frames:
            size, n_frames = self._size(medium.frames[0]), len(medium.frames)
            fps = medium.frames_per_second
        else:
            size, n_frames, fps = self._sample(medium)
        if self.limits is not None:
            size = self.limits.shrink_frame(*size)
        times = tuple(n / fps for n in range(n_frames)) if fps else None
        video = None
        if self._videos is not None:
            video = self._videos.video(*size, n_frames, frame_times_s=times)
        if video is None:
            raise Uncountable(
                f"no formula for the video tokens of {self._exam.checkpoint.architecture} is known "
                "here"
            )
        return video

    def _sample(self, medium: Medium) -> tuple[_Size, int, float]:
        """Size, number and rate of the frames that the training takes of a video file."""
        source = medium.source
        if source is None:
            raise Uncountable("a video that is not a local file")
        if not is_video_reader_installed():
            raise Uncountable("a video: OpenCV, which tells its size, is not installed")
        try:
            header = read_video_header(source)
        except MediaError as error:
            raise Uncountable("a video that cannot be read") from error
        if self._rule is not None:
            n_frames: int | None = self._rule.frames(header.duration_s, header.n_frames)
        elif self._videos is not None:
            fps = header.frames_per_second
            n_frames = self._videos.sample_frames(header.duration_s, fps, header.n_frames)
        else:
            n_frames = None
        if n_frames is None:
            raise Uncountable(
                "a video: nothing tells how many frames are taken; give --train-env FPS=..."
            )
        rate = n_frames / header.duration_s
        return (header.width_px, header.height_px), n_frames, rate

    def _size(self, medium: Medium) -> _Size:
        header = self._headers.get(identify(medium))
        if header is None:
            raise Uncountable("an image that is not a local file")
        if isinstance(header, MediaError):
            raise Uncountable("an image that cannot be read")
        # Training code does not turn images by their EXIF orientation.
        return header.width_px, header.height_px

    def _count_text(self, text: str) -> int:
        if text not in self._text_tokens:
            self._text_tokens[text] = len(self._tokenizer.encode(text))
        return self._text_tokens[text]


def _own_marks(formula: VisualTokens | None) -> int:
    """Tokens that a formula counts for what may also stand around an image in the text."""
    match formula:
        case LlavaOriginalTokens():
            return formula.marks
        case InternVLTokens():
            return N_MARKS
    return 0
