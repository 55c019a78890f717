"""Do tokens still have the ids that they were trained with?"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from vlmserve.checkpoint.embedding import find_embedding
from vlmserve.checkpoint.files import read_json_if_present
from vlmserve.checkpoint.placeholders import find_placeholders
from vlmserve.checkpoint.source import Checkpoint
from vlmserve.checkpoint.token_table import TokenTable, load_token_table
from vlmserve.doctor.check import Check
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import (
    Evidence,
    Finding,
    Outcome,
    Unknown,
    enumerate_names,
    shown_path,
)
from vlmserve.errors import CheckpointError

_ID_FILES = ("tokenizer.json", "added_tokens.json", "vocab.json")


def check_id_stability(exam: Examination) -> Iterator[Outcome]:
    """``tok.id-stability``: tokens that have another id than in the base or the configuration."""
    checkpoint = exam.checkpoint
    ours = load_token_table(checkpoint.path)
    base = None if checkpoint.base is None else checkpoint.base.path
    served = find_served_table(checkpoint)
    if served is not None:
        yield from _wrong_placeholders(checkpoint, served)
    if ours is None:
        return
    yield from _conflicts(checkpoint, ours)
    if base is None:
        reason = "no base model to compare the tokenizer with: --base-model"
        yield Unknown(id="tok.id-stability", reason=reason)
    elif not has_same_tokenizer(checkpoint.path, base):
        theirs = load_token_table(base)
        if theirs is not None:
            yield from _moved(checkpoint, ours, theirs)


def _wrong_placeholders(checkpoint: Checkpoint, table: TokenTable) -> Iterator[Outcome]:
    wrong = [
        (placeholder, actual)
        for placeholder in find_placeholders(checkpoint.config, table.directory)
        for actual in [table.id_of(placeholder.token)]
        if actual is not None and actual != placeholder.id
    ]
    if not wrong:
        return
    config = shown_path(checkpoint.model.path / "config.json", checkpoint)
    file = shown_path(table.directory / table.file, checkpoint)
    evidence = []
    for placeholder, actual in wrong:
        meant = table.by_id.get(placeholder.id)
        what = f"{placeholder.id}, which is {'no token' if meant is None else repr(meant)}"
        evidence.append(Evidence(file=config, key=placeholder.key, value=what))
        evidence.append(Evidence(file=file, key=placeholder.token, value=f"id {actual}"))
    yield Finding(
        id="tok.id-stability",
        title="placeholder ids of config.json are not those of the tokenizer: "
        + enumerate_names([placeholder.token for placeholder, _ in wrong]),
        evidence=evidence,
        consequence="Images and videos are not put where the prompt has them: requests with media "
        "fail, or the features land on other tokens.",
        remedy="use the tokenizer that the model was trained with; if it is this one, set "
        + ", ".join(f'"{placeholder.key}": {actual}' for placeholder, actual in wrong)
        + " in config.json",
        source="transformers 5.19 models/*/processing_*.py; vllm 0.32 model_executor/models",
    )


def _conflicts(checkpoint: Checkpoint, table: TokenTable) -> Iterator[Outcome]:
    if not table.conflicts:
        return
    yield Finding(
        id="tok.id-stability",
        title=f"the tokenizer's files disagree on {len(table.conflicts)} added tokens",
        evidence=[
            Evidence(
                file=shown_path(table.directory / table.file, checkpoint),
                key=token,
                value=f"id {used}, and {other} in another file",
            )
            for token, used, other in table.conflicts[:3]
        ],
        consequence="Which id counts depends on the version of transformers, so training and "
        "serving may differ.",
        remedy="save the tokenizer again with the transformers of the training",
        source="transformers 5.19 tokenization_utils_tokenizers.py",
        severity="warn",
    )


def _moved(checkpoint: Checkpoint, ours: TokenTable, theirs: TokenTable) -> Iterator[Outcome]:
    moved, lost = [], []
    known = {token.content: token.id for token in theirs.added.values()}
    # A tokenizer.model is not opened, and a vocabulary that is the same needs no look.
    if ours.vocab and ours.vocab != theirs.vocab:
        known = {**theirs.vocab, **known}
    for token, number in known.items():
        now = ours.id_of(token)
        if now is None:
            lost.append((token, number))
        elif now != number:
            moved.append((token, number, now))
    media = {entry.token for entry in find_placeholders(checkpoint.config, theirs.directory)}
    lost_media = [(token, number) for token, number in lost if token in media]
    if not moved and not lost_media:
        return
    # What a reader looks for first.
    moved.sort(key=lambda entry: (entry[0] not in media, entry[0] not in theirs.added, entry[1]))
    file = shown_path(ours.directory / ours.file, checkpoint)
    evidence = [
        Evidence(file=file, key=token, value=f"id {now}; {number} in the base")
        for token, number, now in moved[:5]
    ]
    evidence += [
        Evidence(file=file, key=token, value=f"gone; id {number} in the base")
        for token, number in lost_media
    ]
    names = [repr(token) for token, *_ in (*moved, *lost_media)]
    yield Finding(
        id="tok.id-stability",
        title=f"{len(names)} tokens of the base have another id or are gone: "
        + enumerate_names(names),
        evidence=evidence,
        consequence="Unless the rows of the embedding were moved alike, these tokens are read as "
        "others: placeholders no longer find their images, text turns to noise.",
        remedy=f"copy the tokenizer's files from {theirs.directory}, and add new tokens behind the "
        "old ones",
        source="transformers 5.19 add_tokens appends; ids are rows of the embedding",
        severity="warn" if _was_cut(checkpoint) else "block",
    )


def _was_cut(checkpoint: Checkpoint) -> bool:
    """Whether the embedding has fewer rows than the base's: then ids may have moved with them."""
    base = checkpoint.base
    if base is None or checkpoint.adapter is not None:
        return False
    with suppress(CheckpointError):
        ours, theirs = (find_embedding(each.tensors.values()) for each in (checkpoint, base))
        return ours is not None and theirs is not None and ours.shape[0] < theirs.shape[0]
    return False


def find_served_table(checkpoint: Checkpoint) -> TokenTable | None:
    """The tokens that are served: the model's, or those that are borrowed."""
    base = [] if checkpoint.base is None else [checkpoint.base.path]
    places = (checkpoint.model.path, checkpoint.path, *base)
    return next((table for table in map(load_token_table, places) if table is not None), None)


def has_same_tokenizer(ours: Path, theirs: Path) -> bool:
    """Whether two directories have the same tokenizer to the byte, as untouched ones do."""

    def read(directory: Path) -> list[bytes | None]:
        paths = (directory / name for name in _ID_FILES)
        return [path.read_bytes() if path.is_file() else None for path in paths]

    def listed(directory: Path) -> Any:
        return read_json_if_present(directory / "tokenizer_config.json").get("added_tokens_decoder")

    return read(ours) == read(theirs) and listed(ours) == listed(theirs)


CHECKS = (
    Check(
        id="tok.id-stability",
        run=check_id_stability,
        cause="A tokenizer was rebuilt, converted or taken from another model, tokens were added "
        "in another order, or config.json was copied from another size of the model.",
        evidence="Every token of the base's tokenizer.json and added tokens must have the same id; "
        "`image_token_id`, `video_token_id`, `image_token_index` and their like must be the ids "
        "of the tokens that the processor puts in. New tokens behind the old ones are no finding.",
        example="placeholder ids of config.json are not those of the tokenizer: <|image_pad|>",
        remedy="Copy the tokenizer of the base or of the training run; the finding names both.",
    ),
)
"""The checks of this theme, in the order in which they run."""
