"""How many tokens each sample of a data set takes in training, media included."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vlmserve.checkpoint.families.llava_original import LlavaOriginal
from vlmserve.checkpoint.families.mplug_owl2 import MplugOwl2
from vlmserve.checkpoint.families.qwen2_vl import QwenVL
from vlmserve.checkpoint.families.xcomposer2 import XComposer2
from vlmserve.checkpoint.placeholders import find_placeholders
from vlmserve.checkpoint.processor import find_processor
from vlmserve.checkpoint.source import Checkpoint
from vlmserve.checkpoint.token_table import read_special_tokens
from vlmserve.checkpoint.tokenizer import Tokenizer, load_tokenizer
from vlmserve.checkpoint.visual_tokens.base import VisualSize, VisualTokens
from vlmserve.checkpoint.visual_tokens.formula import load_visual_tokens
from vlmserve.checkpoint.visual_tokens.internvl import N_MARKS, InternVLTokens
from vlmserve.checkpoint.visual_tokens.llava_original import LlavaOriginalTokens
from vlmserve.datasets.images import identify, read_dataset_headers
from vlmserve.datasets.sample import Dataset, Medium, Sample, Turn
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.image_drift import find_image_drift
from vlmserve.doctor.probes import Probe, render_probe
from vlmserve.doctor.served_template import Side, find_served
from vlmserve.doctor.video_drift import find_video_drift
from vlmserve.errors import MediaError
from vlmserve.frameworks.labels import MEDIUM_ID, encode_whole, label_sample
from vlmserve.frameworks.media_limits import TrainingLimits, find_training_limits
from vlmserve.frameworks.recipe import TemplateRecipe, find_recipe
from vlmserve.frameworks.template import MEDIUM, RenderError, render
from vlmserve.media.videos import is_video_reader_installed, read_video_header

if TYPE_CHECKING:
    from vlmserve.media.headers import ImageHeader

_Size = tuple[int, int]
_MARKS = ("<img>", "<im_start>")
"""What a template writes around an image where some formulas count it already."""


@dataclass(frozen=True, slots=True)
class SampleLength:
    """The tokens of one sample."""

    sample: Sample
    text: int
    """Tokens of the text, with all that template and processor write around the media."""

    media: tuple[int, ...]
    """Tokens of each image and video, in the sample's order."""

    is_expanded_late: bool = False
    """Whether the framework puts the tokens of media in only after it has measured the sample."""

    @property
    def total(self) -> int:
        """All tokens."""
        return self.text + sum(self.media)

    @property
    def measured(self) -> int:
        """The tokens that the training's longest sample is held against."""
        return self.text + len(self.media) if self.is_expanded_late else self.total


@dataclass(frozen=True, slots=True)
class SampleLengths:
    """The tokens of a data set."""

    counted: tuple[SampleLength, ...]
    """In the data set's order, at least one."""

    uncounted: Mapping[str, Sequence[str]]
    """Where the other samples are, by why they cannot be counted."""

    template: str
    """By which template the text was written, in words."""

    limits: TrainingLimits | None


def count_samples(exam: Examination) -> SampleLengths | str:
    """Count the tokens of every sample of ``exam.data``.

    Only headers of images are read, each once.

    Returns:
        The lengths, or why none can be counted.

    Raises:
        CheckpointError: A file of tokenizer, processor or training is broken.
    """
    if exam.data is None:
        return "no data set given; give it with --data"
    tokenizer = _find_tokenizer(exam.checkpoint)
    if isinstance(tokenizer, str):
        return tokenizer
    samples = list(exam.data.samples)
    writer = _find_writer(exam, tokenizer)
    counter = _MediaCounter(exam, tokenizer, writer.marks)
    counter.read_headers(exam.data)
    is_late = _expands_late(exam.checkpoint)
    counted: list[SampleLength] = []
    uncounted: dict[str, list[str]] = {}
    for done, sample in enumerate(samples):
        if done % _STEP == 0:
            exam.progress("data.budget", done, len(samples))
        try:
            media = tuple(counter.tokens(sample))
            counted.append(SampleLength(sample, writer.count(sample), media, is_late))
        except (_Uncountable, RenderError) as error:
            uncounted.setdefault(str(error), []).append(sample.where)
    if not counted:
        reason = next(iter(uncounted), "the data set has no samples")
        return f"none of {len(samples)} samples can be counted: {reason}"
    return SampleLengths(tuple(counted), uncounted, writer.name, counter.limits)


_STEP = 256
_NAMED = ("ms-swift", "llama-factory")

# ms-swift's templates of these leave one placeholder an image to the model: _post_encode of
# swift/template/templates/internlm.py, LLavaTemplate of llava.py, mPlugOwl2Template of mplug.py.
_LATE_FAMILIES = (XComposer2, LlavaOriginal, MplugOwl2)


def _expands_late(checkpoint: Checkpoint) -> bool:
    training = checkpoint.training
    is_swift = training is not None and training.framework == "ms-swift"
    return is_swift and isinstance(checkpoint.family, _LATE_FAMILIES)


class _Uncountable(ValueError):  # noqa: N818 - it never leaves this module
    """Why a sample's tokens cannot be counted."""


def _find_tokenizer(checkpoint: Checkpoint) -> Tokenizer | str:
    base = [] if checkpoint.base is None else [checkpoint.base.path]
    places = list(dict.fromkeys([checkpoint.path, checkpoint.model.path, *base]))
    place = next((path for path in places if "tokenizer" not in find_processor(path).missing), None)
    if place is None:
        return f"{places[0]} has no tokenizer to count text with; give --base-model DIR"
    return load_tokenizer(place)


@dataclass(frozen=True, slots=True)
class _Writer:
    """Counts the text of a sample."""

    name: str
    count: Callable[[Sample], int]
    marks: bool = False
    """Whether the template writes the tokens before and behind each image itself."""


def _find_writer(exam: Examination, tokenizer: Tokenizer) -> _Writer:
    recipe = find_recipe(exam.checkpoint)
    if isinstance(recipe, TemplateRecipe):
        template = recipe.template

        def count(sample: Sample) -> int:
            try:
                only_last = recipe.only_last
                ids = label_sample(template, sample.turns, tokenizer, only_last=only_last).ids
            except RenderError:
                segments = render(template, sample.turns, tokenizer.table.roles)
                ids = tuple(encode_whole(template, segments, tokenizer))
            return sum(number != MEDIUM_ID for number in ids)

        marks = any(mark in template.image.partition(MEDIUM)[0] for mark in _MARKS)
        return _Writer(f"{template.framework}'s template {template.name}", count, marks)
    served = find_served(exam)
    if isinstance(served, Side):
        return _Writer("the chat template", _chat_counter(exam, served, tokenizer))
    return _Writer("no template: its own tokens are not counted", _bare_counter(tokenizer))


def _chat_counter(exam: Examination, served: Side, tokenizer: Tokenizer) -> Callable[[Sample], int]:
    model = exam.checkpoint.model
    special = read_special_tokens(served.directory)
    marks = {
        tokenizer.table.id_of(placeholder.token)
        for placeholder in find_placeholders(model.config, model.path)
        if placeholder.key.startswith(("image_token", "video_token"))
    }
    bare = _bare_counter(tokenizer)

    def count(sample: Sample) -> int:
        text = render_probe(served.template, Probe("", sample.turns), special).text
        if text is None:
            # Such as a template that takes no images; the text itself is most of it.
            return bare(sample)
        return sum(number not in marks for number in tokenizer.encode(text))

    return count


def _bare_counter(tokenizer: Tokenizer) -> Callable[[Sample], int]:
    def count(sample: Sample) -> int:
        return sum(len(tokenizer.encode(text)) for text in map(_text, sample.turns) if text)

    return count


def _text(turn: Turn) -> str:
    return turn.text


class _MediaCounter:
    """Counts the tokens of images and videos by their headers."""

    def __init__(self, exam: Examination, tokenizer: Tokenizer, marks: bool) -> None:  # noqa: FBT001
        checkpoint = exam.checkpoint
        self._exam = exam
        self._tokenizer = tokenizer
        self.limits = find_training_limits(checkpoint.training, exam.train_env)
        is_framework = checkpoint.training is not None and checkpoint.training.framework in _NAMED
        program: Literal["own training", "framework"] = (
            "framework" if is_framework else "own training"
        )
        formula = load_visual_tokens(checkpoint, program=program)
        images, videos = find_image_drift(exam), find_video_drift(exam)
        self._images = self._videos = formula
        # Only Qwen-VL's formula changes with the limits of a run.
        if images is not None and isinstance(checkpoint.family, QwenVL):
            self._images = images.trained.formula
        if videos is not None and videos.trained.formula is not None:
            self._videos = videos.trained.formula
        self._marks = _own_marks(formula) if marks else 0
        self._rule = None if videos is None else videos.trained.rule
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
            _Uncountable: The size of one of them is not known.
        """
        n_images = sum(medium.kind == "image" for medium in sample.media)
        for medium in sample.media:
            count = self._image if medium.kind == "image" else self._video
            try:
                size = count(medium, n_images)
            except MediaError as error:
                raise _Uncountable(f"an image that the processor refuses: {error}") from error
            yield size.tokens - self._marks + sum(map(self._count_text, size.inserted_texts))

    def _image(self, medium: Medium, n_images: int) -> VisualSize:
        if self._images is None:
            raise _Uncountable(
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
            raise _Uncountable(
                f"no formula for the video tokens of {self._exam.checkpoint.architecture} is known "
                "here"
            )
        return video

    def _sample(self, medium: Medium) -> tuple[_Size, int, float]:
        """Size, number and rate of the frames that the training takes of a video file."""
        source = medium.source
        if source is None:
            raise _Uncountable("a video that is not a local file")
        if not is_video_reader_installed():
            raise _Uncountable("a video: OpenCV, which tells its size, is not installed")
        try:
            header = read_video_header(source)
        except MediaError as error:
            raise _Uncountable("a video that cannot be read") from error
        if self._rule is not None:
            n_frames: int | None = self._rule.frames(header.duration_s, header.n_frames)
        elif self._videos is not None:
            fps = header.frames_per_second
            n_frames = self._videos.sample_frames(header.duration_s, fps, header.n_frames)
        else:
            n_frames = None
        if n_frames is None:
            raise _Uncountable(
                "a video: nothing tells how many frames the training took; give --train-env FPS=..."
            )
        rate = n_frames / header.duration_s
        return (header.width_px, header.height_px), n_frames, rate

    def _size(self, medium: Medium) -> _Size:
        header = self._headers.get(identify(medium))
        if header is None:
            raise _Uncountable("an image that is not a local file")
        if isinstance(header, MediaError):
            raise _Uncountable("an image that cannot be read")
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
