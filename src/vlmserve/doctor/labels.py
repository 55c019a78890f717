"""What a fine-tune learned from each sample of its training data: the tokens that carry a label."""

from collections.abc import Callable, Iterator

from vlmserve.checkpoint.tokenizer import Tokenizer, load_tokenizer
from vlmserve.datasets.sample import Dataset, Sample
from vlmserve.doctor.check import Check
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import Evidence, Finding, Outcome, Severity, Unknown
from vlmserve.doctor.served_template import find_served_tokenizer
from vlmserve.doctor.supervision import Tally, tally_answers, tally_labels
from vlmserve.frameworks.recipe import NoRecipe, TemplateRecipe, find_recipe

_PLAIN_TEXT = "What is shown here?"
# Fewer than this share of the samples is a blemish of the data, not a fault of the training.
_FEW = 0.01
_SHOWN = 3


def check_labels(exam: Examination) -> Iterator[Outcome]:
    """``data.labels-text``: the samples under the mask of the framework that trained on them."""
    if exam.data is None or exam.fast:
        return
    checkpoint = exam.checkpoint
    recipe = find_recipe(checkpoint)
    if isinstance(recipe, NoRecipe):
        tally = tally_answers(exam.data)
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
    tally = tally_labels(exam, exam.data, recipe, tokenizer)
    yield from _empty_finding(tally, exam.data, recipe, tokenizer)
    yield from _cut_finding(tally, exam.data, recipe)
    yield from _strayed_finding(tally, exam.data, recipe)
    yield from _mild_findings(tally, exam.data, recipe)


def _severity(count: int, total: int) -> Severity:
    return "warn" if count >= max(total * _FEW, 1) else "info"


def _empty_finding(
    tally: Tally, data: Dataset, recipe: TemplateRecipe | None, tokenizer: Tokenizer | None
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


def _cut_finding(tally: Tally, data: Dataset, recipe: TemplateRecipe) -> Iterator[Finding]:
    if not tally.cut:
        return
    yield Finding(
        id="data.labels-text",
        title=f"the cut takes every label of {len(tally.cut)} of {tally.samples} samples",
        evidence=tuple(
            Evidence(file=str(data.path), key=f"row {sample.row}", value=text)
            for sample, text in tally.cut[:_SHOWN]
        ),
        consequence="Nothing is learned from them; a batch of such samples has loss NaN, which "
        "trainers print as 0.",
        remedy="raise the longest length, or make the images smaller",
        source=f"InternLM-XComposer#227; {recipe.template.source}",
        severity="info",
        caused_by="data.budget",
    )


def _mask_evidence(
    tally: Tally, recipe: TemplateRecipe, tokenizer: Tokenizer
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


def _strayed_finding(tally: Tally, data: Dataset, recipe: TemplateRecipe) -> Iterator[Finding]:
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


def _mild_findings(tally: Tally, data: Dataset, recipe: TemplateRecipe) -> Iterator[Finding]:
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
