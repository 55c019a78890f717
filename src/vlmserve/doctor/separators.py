"""Are the marks that a conversation is made of whole tokens?"""

import re
from collections.abc import Iterator
from pathlib import Path

from vlmserve.checkpoint.source import Checkpoint
from vlmserve.checkpoint.token_table import SpecialRole, TokenTable, read_special_tokens
from vlmserve.checkpoint.tokenizer import Tokenizer, load_tokenizer
from vlmserve.doctor.check import Check
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import Evidence, Finding, Outcome, Unknown, shown_path
from vlmserve.doctor.probes import (
    ANSWERED,
    PROBES,
    render_probe,
    render_trained,
)
from vlmserve.doctor.served_template import Side, find_served
from vlmserve.frameworks.recipe import TemplateRecipe, find_recipe

# What the templates of vision-language models mark turns and media with. [INST] and USER: are
# plain text in the tokenizers that they were made for.
_MARKS = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|</?s>|<(?:image|video|img|/img|IMG_CONTEXT|ImageHere|im_start|im_end)>"
    r"|<(?:start|end)_of_turn>|<\N{FULLWIDTH VERTICAL LINE}[^<>\s]{1,40}>|\[UNUSED_TOKEN_\d+\]"
)
# XComposer's code cuts these out of the text before the tokenizer sees them.
_CUT_OUT = {"xcomposer": {"<ImageHere>"}, "llava": {"<image>"}}
_PLAIN_TEXT = "What is shown here?"


def check_atomic(exam: Examination) -> Iterator[Outcome]:
    """``template.sep-atomic``: separators, ends and placeholders are single tokens."""
    if exam.fast:
        return  # the tokenizer is loaded for it, which takes too long before a start
    checkpoint = exam.checkpoint
    served = find_served(exam)
    recipe = find_recipe(checkpoint)
    directory = served.directory if isinstance(served, Side) else checkpoint.model.path
    texts = _texts(served if isinstance(served, Side) else None, recipe, directory)
    marks = {mark: file for text, file in texts for mark in _MARKS.findall(text)}
    if isinstance(recipe, TemplateRecipe):
        for cut_out in _CUT_OUT.get(recipe.template.framework, ()):
            marks.pop(cut_out, None)
    if not marks:
        return
    if not _has_tokenizer(directory):
        return  # proc.present says so
    tokenizer = load_tokenizer(directory)
    if tokenizer.decode(tokenizer.encode(_PLAIN_TEXT)).strip() != _PLAIN_TEXT:
        yield Unknown(
            id="template.sep-atomic",
            reason=f"the tokenizer of {directory} does not spell plain text",
        )
        return
    yield from _split_marks(checkpoint, marks, tokenizer)
    if isinstance(recipe, TemplateRecipe):
        yield from _missing_bos(checkpoint, recipe, tokenizer.table)


def _has_tokenizer(directory: Path) -> bool:
    return any((directory / name).is_file() for name in ("tokenizer.json", "tokenizer.model"))


def _texts(served: Side | None, recipe: object, directory: Path) -> list[tuple[str, Path | str]]:
    """What the served template and the training framework write, and where that is said."""
    tokens = read_special_tokens(directory)
    texts: list[tuple[str, Path | str]] = []
    if served is not None:
        renderings = [render_probe(served.template, p, tokens) for p in (*PROBES, ANSWERED)]
        texts += [(r.text, served.file) for r in renderings if r.text]
    if isinstance(recipe, TemplateRecipe):
        roles: dict[SpecialRole, str] = {
            "bos": tokens.get("bos_token", ""),
            "eos": tokens.get("eos_token", ""),
        }
        trained = [
            render_trained(recipe.template, probe, roles, adds_bos=False)
            for probe in (*PROBES, ANSWERED)
            # Frameworks have a word for videos even where the model takes none.
            if probe.name != "a video"
        ]
        texts += [(r.text, recipe.file) for r in trained if r.text]
    return texts


def _split_marks(
    checkpoint: Checkpoint, marks: dict[str, Path | str], tokenizer: Tokenizer
) -> Iterator[Finding]:
    pieces = {mark: tokenizer.encode(mark) for mark in marks}
    split = {mark: ids for mark, ids in pieces.items() if len(ids) != 1}
    if not split:
        return
    mark, ids = next(iter(split.items()))
    more = f", and {len(split) - 1} more" if len(split) > 1 else ""
    table = tokenizer.table
    evidence = [
        Evidence(
            file=shown_path(table.directory / table.file, checkpoint),
            key=text,
            value=f"{len(cut)} tokens: {' '.join(tokenizer.piece(number) for number in cut[:12])}",
        )
        for text, cut in split.items()
    ]
    places = {_shown(place, checkpoint) for text, place in marks.items() if text in split}
    evidence += [
        Evidence(file=place, key="", value="writes them between turns") for place in sorted(places)
    ]
    yield Finding(
        id="template.sep-atomic",
        title=f"{mark} is {len(ids)} tokens in this tokenizer{more}",
        evidence=tuple(evidence),
        consequence="Turns and media are marked by text that the model knows as letters; ends are "
        "not found, and a mask that counts tokens loses its place and ignores all labels.",
        remedy=f"copy tokenizer.json and tokenizer_config.json from the base model into "
        f"{table.directory}, or train with a template whose marks this tokenizer has",
        source="LLaVA#1166, #1706: with k tokens for </s> the count is off by k*R-1 after R rounds",
    )


def _missing_bos(
    checkpoint: Checkpoint, recipe: TemplateRecipe, table: TokenTable
) -> Iterator[Finding]:
    if recipe.template.labelling != "llava-rounds" or table.adds_bos is not False:
        return
    yield Finding(
        id="template.sep-atomic",
        title=f"LLaVA's {recipe.template.name} counts on a BOS that this tokenizer does not add",
        evidence=(
            Evidence(
                file=shown_path(table.directory / table.file, checkpoint),
                key="post_processor",
                value="adds no token in front",
            ),
        ),
        consequence="Each round is counted with a BOS; without one the counts differ "
        '("tokenization mismatch"), every label is ignored, and nothing is learned.',
        remedy="train with a tokenizer that adds BOS, or with a conversation version of its own",
        source="haotian-liu/LLaVA llava/train/train.py preprocess_v1",
    )


def _shown(place: Path | str, checkpoint: Checkpoint) -> str:
    return shown_path(place, checkpoint) if isinstance(place, Path) else place


CHECKS = (
    Check(
        id="template.sep-atomic",
        run=check_atomic,
        cause="A template of another family, or a tokenizer saved without its added tokens.",
        evidence="Every `<|...|>`, `</s>`, `<image>` and the like that the served template and the "
        "training framework write is one token; LLaVA's own templates have the BOS that they count "
        "on. Whether the model stops at the last of them is `gen.config-diff`'s.",
        example="</s> is 3 tokens in this tokenizer",
        remedy="Take tokenizer and template from the same model.",
    ),
)
"""The checks of this theme, in the order in which they run."""
