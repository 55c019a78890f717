"""What a fine-tune learned from each sample of its training data: the tokens that carry a label."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from vlmserve.checkpoint.tokenizer import Tokenizer, load_tokenizer
from vlmserve.datasets.sample import Dataset, Sample
from vlmserve.doctor.check import Check
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import Evidence, Finding, Outcome, Severity, Unknown
from vlmserve.doctor.served_template import find_served_tokenizer
from vlmserve.frameworks.labels import Labelled, encode_whole, label_sample
from vlmserve.frameworks.recipe import NoRecipe, TemplateRecipe, find_recipe
from vlmserve.frameworks.template import RenderError

_PLAIN_TEXT = "What is shown here?"
_LIMIT = 512
# Fewer than this share of the samples is a blemish of the data, not a fault of the training.
_FEW = 0.01
_SHOWN = 3


@dataclass
class _Tally:
    """What was seen in the samples."""

    samples: int = 0
    empty: list[tuple[Sample, str]] = field(default_factory=list)
    """Samples of which nothing is learned, and why."""

    strayed: list[tuple[Sample, str, str]] = field(default_factory=list)
    """Samples of which something else is learned: the text that is, and the answers."""

    refused: list[tuple[Sample, str]] = field(default_factory=list)
    """Samples that the framework drops or stops at, and why."""

    apart: list[tuple[Sample, str]] = field(default_factory=list)
    """Samples cut otherwise as a whole than turn by turn, and the first pieces that differ."""

    supervised: list[int] = field(default_factory=list)
    """Tokens that are learned, by sample."""


def check_labels(exam: Examination) -> Iterator[Outcome]:
    """``data.labels-text``: the samples under the mask of the framework that trained on them."""
    if exam.data is None or exam.fast:
        return
    checkpoint = exam.checkpoint
    recipe = find_recipe(checkpoint)
    if isinstance(recipe, NoRecipe):
        tally = _tally_answers(exam.data)
        yield from _empty_finding(tally, exam.data, None, None)
        yield Unknown(
            id="data.labels-text", reason=f"what was learned of the answers: {recipe.reason}"
        )
        return
    if recipe.learns_all:
        yield Unknown(
            id="data.labels-text",
            reason=f"{recipe.file}: the training learned from questions as well",
        )
        return
    if recipe.template.labelling == "not known":
        yield Unknown(
            id="data.labels-text", reason=f"the mask of {recipe.template.name} is not known here"
        )
        return
    tokenizer = load_tokenizer(find_served_tokenizer(exam))
    if tokenizer.decode(tokenizer.encode(_PLAIN_TEXT)).strip() != _PLAIN_TEXT:
        yield Unknown(id="data.labels-text", reason="the tokenizer does not spell plain text")
        return
    tally = _tally(exam, exam.data, recipe, tokenizer)
    yield from _empty_finding(tally, exam.data, recipe, tokenizer)
    yield from _strayed_finding(tally, exam.data, recipe)
    yield from _mild_findings(tally, exam.data, recipe)


def _pick(data: Dataset) -> list[Sample]:
    """All samples, or some spread evenly over a large set."""
    samples = list(data.samples)
    step = max(-(-len(samples) // _LIMIT), 1)
    return samples[::step]


def _tally_answers(data: Dataset) -> _Tally:
    """What can be said without a framework: whether there is anything to learn."""
    tally = _Tally()
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


def _tally(
    exam: Examination, data: Dataset, recipe: TemplateRecipe, tokenizer: Tokenizer
) -> _Tally:
    tally = _Tally()
    samples = _pick(data)
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
        n_supervised = len(labelled.supervised)
        tally.supervised.append(n_supervised)
        answers = _answers(sample, recipe)
        if n_supervised == 0 or not any(answer.strip() for answer in answers):
            tally.empty.append((sample, _why_empty(sample, labelled, recipe)))
            continue
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


def _severity(count: int, total: int) -> Severity:
    return "warn" if count >= max(total * _FEW, 1) else "info"


def _empty_finding(
    tally: _Tally, data: Dataset, recipe: TemplateRecipe | None, tokenizer: Tokenizer | None
) -> Iterator[Finding]:
    count = len(tally.empty)
    if not count:
        return
    evidence = [
        Evidence(file=str(data.path), key=f"row {sample.row}", value=f"0 learned tokens: {why}")
        for sample, why in tally.empty[:_SHOWN]
    ]
    if recipe is not None and tokenizer is not None:
        evidence += _mask_evidence(tally, recipe, tokenizer)
    yield Finding(
        id="data.labels-text",
        title=f"nothing is learned from {count} of {tally.samples} samples: {tally.empty[0][1]}",
        evidence=tuple(evidence),
        consequence="They cost time and teach nothing. Where all labels of a batch are ignored the "
        "loss is NaN, which trainers print as 0.",
        remedy="give these samples answers that are learned from, or leave them out; with a "
        "mismatch, take the tokenizer and the conversation version of one model",
        source="LLaVA#1166, #1706; InternLM-XComposer#227" + _source(recipe),
        severity=_severity(count, tally.samples),
    )


def _mask_evidence(
    tally: _Tally, recipe: TemplateRecipe, tokenizer: Tokenizer
) -> Iterator[Evidence]:
    """The pieces around the place where LLaVA's count goes wrong."""
    template = recipe.template
    if not any("mismatch" in why for _, why in tally.empty) or not template.suffix:
        return
    table = tokenizer.table
    ids = tokenizer.encode(template.suffix)
    pieces = " ".join(tokenizer.piece(number) for number in ids)
    yield Evidence(
        file=table.file,
        key=template.suffix,
        value=f"{len(ids)} tokens ({pieces}), and BOS is {'' if table.adds_bos else 'not '}added",
    )


def _strayed_finding(tally: _Tally, data: Dataset, recipe: TemplateRecipe) -> Iterator[Finding]:
    count = len(tally.strayed)
    if not count:
        return
    yield Finding(
        id="data.labels-text",
        title=f"in {count} of {tally.samples} samples something else than the answers is learned",
        evidence=tuple(
            Evidence(
                file=str(data.path),
                key=f"row {sample.row}",
                value=f"learned: {learned[:80]!r}; answers: {wanted[:80]!r}",
            )
            for sample, learned, wanted in tally.strayed[:_SHOWN]
        ),
        consequence="The model learns to write questions or parts of the form, not its answers.",
        remedy="take system turns and end tokens out of the samples, or train with a framework "
        "that masks by turns",
        source=recipe.template.source,
        severity=_severity(count, tally.samples),
    )


def _mild_findings(tally: _Tally, data: Dataset, recipe: TemplateRecipe) -> Iterator[Finding]:
    name = f"{recipe.template.framework} {recipe.template.name}"
    kinds: list[tuple[list[tuple[Sample, str]], str, str, str, Callable[[int], Severity]]] = [
        (
            tally.refused,
            "does not take",
            "These samples are dropped, or stop the training.",
            "make user and assistant take turns, and leave out what the template has no room for",
            lambda count: _severity(count, tally.samples),
        ),
        (
            tally.apart,
            "cuts into other tokens, turn by turn, than a server does at once,",
            "History in a chat looks a little different from what was trained.",
            "nothing, unless chats of several rounds matter; then train with a template whose "
            "turns are marked by special tokens",
            lambda _: "info",
        ),
    ]
    for rows, what, consequence, remedy, severity in kinds:
        if rows:
            yield Finding(
                id="data.labels-text",
                title=f"{name} {what} {len(rows)} of {tally.samples} samples",
                evidence=tuple(
                    Evidence(file=str(data.path), key=f"row {sample.row}", value=text)
                    for sample, text in rows[:_SHOWN]
                ),
                consequence=consequence,
                remedy=remedy,
                source=recipe.template.source,
                severity=severity(len(rows)),
            )


def _source(recipe: TemplateRecipe | None) -> str:
    return "" if recipe is None else f"; {recipe.template.source}"


CHECKS = (
    Check(
        id="data.labels-text",
        run=check_labels,
        cause="Masks that count tokens or separators lose their place: a tokenizer that cuts "
        "`</s>` into pieces or adds no BOS (LLaVA), a system turn or an end token in an answer "
        "(InternLM-XComposer); loss flags that turn every answer off; empty answers.",
        evidence="Up to 512 samples of `--data`, written, cut and masked as the framework does: "
        "how many tokens carry a label (0 is a finding), whether their text is the answers, "
        "whether the whole conversation is cut as its turns were, and samples that the framework "
        "does not take. Less than one sample in a hundred is only worth knowing.",
        example="nothing is learned from 40 of 40 samples: tokenization mismatch: 102 vs. 104 "
        "tokens, so LLaVA ignores all of them",
        remedy="Use the tokenizer and the template of one model; give every sample an answer that "
        "is learned from.",
    ),
)
"""The checks of this theme, in the order in which they run."""
