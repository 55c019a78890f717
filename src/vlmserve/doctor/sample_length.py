"""How many tokens each sample of a data set takes in training, media included."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from vlmserve.checkpoint.families.llava_original import LlavaOriginal
from vlmserve.checkpoint.families.mplug_owl2 import MplugOwl2
from vlmserve.checkpoint.families.xcomposer2 import XComposer2
from vlmserve.checkpoint.placeholders import find_placeholders
from vlmserve.checkpoint.processor import find_processor
from vlmserve.checkpoint.source import Checkpoint
from vlmserve.checkpoint.token_table import read_special_tokens
from vlmserve.checkpoint.tokenizer import Tokenizer, load_tokenizer
from vlmserve.datasets.sample import Sample, Turn
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.media_length import (
    MediaCounter,
    Uncountable,
    find_serving_way,
    find_training_way,
)
from vlmserve.doctor.probes import Probe, render_probe
from vlmserve.doctor.served_template import Side, find_served
from vlmserve.frameworks.labels import MEDIUM_ID, encode_whole, label_sample
from vlmserve.frameworks.media_limits import TrainingLimits
from vlmserve.frameworks.recipe import TemplateRecipe, find_recipe
from vlmserve.frameworks.template import MEDIUM, RenderError, render

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
    writer = _find_writer(exam, tokenizer)
    way = find_training_way(exam, has_marks=writer.marks)
    counter = MediaCounter(exam, tokenizer, way)
    return _count(exam, writer, counter, is_late=_expands_late(exam.checkpoint))


def count_prompts(exam: Examination) -> SampleLengths | str:
    """Count the tokens of every conversation of ``exam.data`` as it is served, not trained.

    A conversation is counted up to where the answer begins; it ends with what is asked.

    Returns:
        The lengths, or why none can be counted.

    Raises:
        CheckpointError: A file of tokenizer or processor is broken.
    """
    if exam.data is None:
        return "no data set given"
    tokenizer = _find_tokenizer(exam.checkpoint)
    if isinstance(tokenizer, str):
        return tokenizer
    served = find_served(exam)
    if not isinstance(served, Side):
        return served or "the checkpoint has no chat template"
    writer = _Writer("the chat template", _chat_counter(exam, served, tokenizer))
    return _count(exam, writer, MediaCounter(exam, tokenizer, find_serving_way(exam)))


def _count(
    exam: Examination, writer: "_Writer", counter: MediaCounter, *, is_late: bool = False
) -> SampleLengths | str:
    assert exam.data is not None  # noqa: S101 - both callers have looked
    samples = list(exam.data.samples)
    counter.read_headers(exam.data)
    counted: list[SampleLength] = []
    uncounted: dict[str, list[str]] = {}
    for done, sample in enumerate(samples):
        if done % _STEP == 0:
            exam.progress("data.budget", done, len(samples))
        try:
            media = tuple(counter.tokens(sample))
            counted.append(SampleLength(sample, writer.count(sample), media, is_late))
        except (Uncountable, RenderError) as error:
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
