"""What is learned of each sample of a data set, sorted by what is odd about it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from vlmserve.checkpoint.tokenizer import Tokenizer
from vlmserve.datasets.sample import Dataset, Sample
from vlmserve.doctor.budget import find_length_limit
from vlmserve.doctor.examination import Examination, no_progress
from vlmserve.doctor.sample_length import SampleLength, count_samples
from vlmserve.frameworks.labels import Labelled, encode_whole, label_sample
from vlmserve.frameworks.recipe import TemplateRecipe
from vlmserve.frameworks.template import RenderError
from vlmserve.frameworks.truncation import count_after_cut

_LIMIT = 512


@dataclass
class Tally:
    """What was seen in a data set."""

    samples: int = 0
    empty: list[tuple[Sample, str]] = field(default_factory=list)
    """Samples of which nothing is learned, and why."""

    strayed: list[tuple[Sample, str, str]] = field(default_factory=list)
    """Samples of which something else is learned: the text that is, and the answers."""

    refused: list[tuple[Sample, str]] = field(default_factory=list)
    """Samples that the framework drops or stops at, and why."""

    apart: list[tuple[Sample, str]] = field(default_factory=list)
    """Samples cut otherwise as a whole than turn by turn, and the first pieces that differ."""

    cut: list[tuple[Sample, str]] = field(default_factory=list)
    """Samples whose labels all lie behind the cut at the longest length."""


def _pick(data: Dataset) -> list[Sample]:
    """All samples, or some spread evenly over a large set."""
    samples = list(data.samples)
    step = max(-(-len(samples) // _LIMIT), 1)
    return samples[::step]


def tally_answers(data: Dataset) -> Tally:
    """What can be said without a framework: whether there is anything to learn."""
    tally = Tally()
    for sample in _pick(data):
        tally.samples += 1
        if not any(answer.strip() for answer in sample.answers):
            tally.empty.append((sample, _no_answer(sample)))
    return tally


def _no_answer(sample: Sample) -> str:
    answers = [turn for turn in sample.turns if turn.role == "assistant"]
    if not answers:
        return "it has no answer"
    if not any(turn.is_trained for turn in answers):
        return "every answer is marked as not to be learned"
    return "its answers are empty"


def tally_labels(
    exam: Examination, data: Dataset, recipe: TemplateRecipe, tokenizer: Tokenizer
) -> Tally:
    """Write, cut and mask the samples as the framework did.

    Raises:
        CheckpointError: A file that the length of samples depends on is broken.
    """
    tally = Tally()
    samples = _pick(data)
    cuts = _Cuts(exam, samples)
    for number, sample in enumerate(samples):
        exam.progress("labels", number, len(samples))
        tally.samples += 1
        try:
            labelled = label_sample(
                recipe.template, sample.turns, tokenizer, only_last=recipe.only_last
            )
        except RenderError as error:
            tally.refused.append((sample, str(error)))
            continue
        answers = _answers(sample, recipe)
        if not labelled.supervised or not any(answer.strip() for answer in answers):
            tally.empty.append((sample, _why_empty(sample, labelled, recipe)))
            continue
        total = cuts.find_total(sample, labelled, recipe)
        if total is not None:
            tally.cut.append((sample, f"{total} tokens, cut to {cuts.max_length}: no label left"))
        learned = _bare(tokenizer.decode(labelled.supervised), recipe, tokenizer)
        # Through the tokenizer and back, which may spell a text in another way.
        wanted = "".join(tokenizer.decode(tokenizer.encode(answer)) for answer in answers)
        wanted = _bare(wanted, recipe, tokenizer)
        if not _covers(learned, wanted, recipe):
            tally.strayed.append((sample, learned, wanted))
        difference = _first_difference(labelled, recipe, tokenizer)
        if difference is not None:
            tally.apart.append((sample, difference))
    return tally


class _Cuts:
    """Which samples lose every label where the training cuts them."""

    def __init__(self, exam: Examination, samples: Sequence[Sample]) -> None:
        limit = find_length_limit(exam)
        self.max_length = 0 if limit is None else limit.tokens
        training = exam.checkpoint.training
        self._strategy = None if training is None else training.truncation_strategy
        self._lengths: dict[str, SampleLength] = {}
        if limit is None or exam.data is None:
            return
        some = replace(exam, data=replace(exam.data, rows=tuple(samples)), progress=no_progress)
        lengths = count_samples(some)
        if not isinstance(lengths, str):
            self._lengths = {length.sample.where: length for length in lengths.counted}

    def find_total(self, sample: Sample, labelled: Labelled, recipe: TemplateRecipe) -> int | None:
        """Length in tokens of a sample that loses every label, or ``None``."""
        length = self._lengths.get(sample.where)
        if length is None or length.total <= self.max_length:
            return None
        left = count_after_cut(
            recipe.template, labelled, length.media, self.max_length, self._strategy
        )
        return length.total if left == 0 else None


def _why_empty(sample: Sample, labelled: Labelled, recipe: TemplateRecipe) -> str:
    if labelled.mismatch is not None:
        count, total = labelled.mismatch
        return f"tokenization mismatch: {count} vs. {total} tokens, so LLaVA ignores all of them"
    if not any(answer.strip() for answer in sample.answers):
        return _no_answer(sample)
    return f"the mask of {recipe.template.framework} {recipe.template.name} leaves nothing"


def _answers(sample: Sample, recipe: TemplateRecipe) -> list[str]:
    """The texts that the run is to learn; LLaVA and XComposer know no loss flags."""
    knows_flags = recipe.template.framework in ("ms-swift", "llama-factory")
    turns = [turn for turn in sample.turns if turn.role == "assistant"]
    if recipe.only_last:
        turns = turns[-1:]
    return [turn.text for turn in turns if turn.is_trained or not knows_flags]


def _bare(text: str, recipe: TemplateRecipe, tokenizer: Tokenizer) -> str:
    """A text without blanks and without what the template ends answers with."""
    template = recipe.template
    ends = [template.suffix, template.separator, template.answer.partition("{answer}")[2]]
    ends += [*template.stop, template.empty_thought, tokenizer.table.roles.get("eos", ""), "</s>"]
    text = "".join(text.split())
    for end in sorted({"".join(end.split()) for end in ends}, key=len):
        text = text.replace(end, "") if end else text
    return text


def _covers(learned: str, wanted: str, recipe: TemplateRecipe) -> bool:
    """Whether what is learned is the answers and nothing else."""
    # A mask that counts tokens may let a header's last pieces in; that is the framework's habit.
    slack = 12 if recipe.template.labelling != "segments" else 0
    return learned == wanted or (wanted in learned and len(learned) - len(wanted) <= slack)


def _first_difference(
    labelled: Labelled, recipe: TemplateRecipe, tokenizer: Tokenizer
) -> str | None:
    """Where the conversation is cut otherwise as a whole than in training."""
    if recipe.template.labelling != "segments":
        return None
    whole = encode_whole(recipe.template, labelled.segments, tokenizer)
    if tuple(whole) == labelled.ids:
        return None
    place = next(
        (n for n, (a, b) in enumerate(zip(whole, labelled.ids, strict=False)) if a != b),
        min(len(whole), len(labelled.ids)),
    )

    def pieces(ids: Sequence[int]) -> str:
        return " ".join(repr(tokenizer.piece(i)) for i in ids[max(place - 1, 0) : place + 3])

    return f"token {place}: {pieces(labelled.ids)} turn by turn, {pieces(whole)} as a whole"
