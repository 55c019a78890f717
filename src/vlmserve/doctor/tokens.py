"""Do tokens still mean the rows of the embedding that they were trained with?"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from vlmserve.checkpoint.embedding import find_embedding, read_rows
from vlmserve.checkpoint.files import read_json_if_present
from vlmserve.checkpoint.placeholders import find_placeholders
from vlmserve.checkpoint.processor import find_processor
from vlmserve.checkpoint.source import Checkpoint
from vlmserve.checkpoint.tensors import TensorInfo
from vlmserve.checkpoint.text_config import find_text_section
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
    served = _first_table(_places(checkpoint))
    if served is not None:
        yield from _wrong_placeholders(checkpoint, served)
    if ours is None:
        return
    yield from _conflicts(checkpoint, ours)
    if base is None:
        reason = "no base model to compare the tokenizer with: --base-model"
        yield Unknown(id="tok.id-stability", reason=reason)
    elif not _same_files(checkpoint.path, base):
        theirs = load_token_table(base)
        if theirs is not None:
            yield from _moved(checkpoint, ours, theirs)


def check_rows(exam: Examination) -> Iterator[Outcome]:
    """``tok.rows``: tokens whose id lies behind the last row of the embedding.

    The full pass also looks at the rows of tokens that the base does not have.
    """
    checkpoint = exam.checkpoint
    if not checkpoint.weights.shards:
        return
    embedding = find_embedding(checkpoint.tensors.values())
    table = load_token_table(checkpoint.path) or _first_table(_places(checkpoint))
    if embedding is None or table is None:
        return
    rows = embedding.shape[0]
    yield from _too_few_rows(checkpoint, embedding)
    beyond = {number: text for number, text in table.by_id.items() if number >= rows}
    for placeholder in find_placeholders(checkpoint.config, table.directory):
        if placeholder.may_lie_behind:
            beyond.pop(placeholder.id, None)
    if beyond and not _brings_rows(checkpoint, rows):
        yield _beyond_finding(checkpoint, embedding, table, beyond)
    if not exam.fast and checkpoint.adapter is None and checkpoint.base is not None:
        yield from _untrained(checkpoint, checkpoint.base, embedding, table)


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


def _too_few_rows(checkpoint: Checkpoint, embedding: TensorInfo) -> Iterator[Outcome]:
    """For families whose tensors are not known; for the others ckpt.tensors compares shapes."""
    section = find_text_section(checkpoint.config)
    size = section.values.get("vocab_size")
    rows = embedding.shape[0]
    if checkpoint.family is not None or not isinstance(size, int) or rows >= size:
        return
    yield Finding(
        id="tok.rows",
        title=f"vocab_size is {size}, and the embedding has {rows} rows",
        evidence=[
            Evidence(
                file=shown_path(checkpoint.model.path / "config.json", checkpoint),
                key=f"{section.where}vocab_size",
                value=str(size),
            ),
            _rows_evidence(checkpoint, embedding),
        ],
        consequence="vLLM refuses to load the weights.",
        remedy=f"set {section.where}vocab_size to {rows} in config.json",
        source="vllm 0.32 model_executor/layers/vocab_parallel_embedding.py weight_loader",
    )


def _beyond_finding(
    checkpoint: Checkpoint, embedding: TensorInfo, table: TokenTable, beyond: Mapping[int, str]
) -> Finding:
    rows = embedding.shape[0]
    names = [repr(text) for _, text in sorted(beyond.items())]
    file = shown_path(table.directory / table.file, checkpoint)
    return Finding(
        id="tok.rows",
        title=f"{len(names)} tokens lie behind the {rows} rows of the embedding: "
        + enumerate_names(names),
        evidence=[
            _rows_evidence(checkpoint, embedding),
            *(
                Evidence(file=file, key=text, value=f"id {number}")
                for number, text in sorted(beyond.items())[:3]
            ),
        ],
        consequence="The embedding that was trained for these tokens is not in the files."
        if checkpoint.adapter is not None
        else "vLLM refuses or fails a prompt with such a token, which has no embedding.",
        remedy="train again with modules_to_save = embed_tokens and lm_head, and merge the result; "
        "or take the tokens out of the tokenizer"
        if checkpoint.adapter is not None
        else "take the tokenizer of the training run, or save the model after "
        "resize_token_embeddings(len(tokenizer))",
        source="vllm 0.32 v1/engine/input_processor.py; peft save_embedding_layers",
        severity="block" if _is_in_prompts(checkpoint, table, beyond) else "warn",
    )


def _is_in_prompts(checkpoint: Checkpoint, table: TokenTable, beyond: Mapping[int, str]) -> bool:
    """Whether ordinary prompts have one of the tokens; padding, above all, is in none."""
    media = {entry.id for entry in find_placeholders(checkpoint.config, table.directory)}
    starts = {table.roles.get("bos"), table.roles.get("eos")}
    template = find_processor(checkpoint.model.path).template or ""
    return any(
        number in media or text in starts or text in template for number, text in beyond.items()
    )


def _untrained(
    checkpoint: Checkpoint, base: Checkpoint, embedding: TensorInfo, table: TokenTable
) -> Iterator[Outcome]:
    """Rows of new tokens that are zero, or alike to the byte: nothing was learned for them."""
    if _same_files(checkpoint.path, base.path):
        return
    theirs = load_token_table(base.path)
    if theirs is None or not theirs.vocab:
        return
    new = sorted(
        token.id
        for token in table.added.values()
        if theirs.id_of(token.content) is None and token.id < embedding.shape[0]
    )
    groups: dict[bytes, list[int]] = defaultdict(list)
    for number, row in zip(new, read_rows(embedding, new), strict=True):
        groups[row].append(number)
    for row, numbers in groups.items():
        is_zero = not row.strip(b"\0")
        if not is_zero and len(numbers) < 2:  # noqa: PLR2004 - alone, it is like no other
            continue
        names = [repr(table.by_id[number]) for number in numbers]
        yield Finding(
            id="tok.rows",
            title=f"rows of {len(names)} added tokens are {'zero' if is_zero else 'identical'}: "
            + enumerate_names(names),
            evidence=[
                _rows_evidence(checkpoint, embedding),
                Evidence(
                    file=shown_path(table.directory / table.file, checkpoint),
                    key=enumerate_names(names),
                    value=f"ids {enumerate_names([str(number) for number in numbers])}",
                ),
            ],
            consequence="The model cannot tell these tokens apart. That is as it should be for "
            "padding alone.",
            remedy="if the training data has them, train with the embedding unfrozen",
            source="transformers 5.19 resize_token_embeddings",
            severity="info",
        )


def _brings_rows(checkpoint: Checkpoint, rows: int) -> bool:
    """Whether an adapter has an embedding of its own with more rows (see lora.coverage)."""
    if checkpoint.adapter is None:
        return False
    embedding = find_embedding(checkpoint.adapter.tensors.values())
    return embedding is not None and embedding.shape[0] > rows


def _rows_evidence(checkpoint: Checkpoint, embedding: TensorInfo) -> Evidence:
    file = shown_path(embedding.path, checkpoint)
    return Evidence(file=file, key=embedding.name, value=f"{embedding.shape[0]} rows")


def _places(checkpoint: Checkpoint) -> list[Path]:
    """Where the tokenizer that is served may lie, the first that has one."""
    base = [] if checkpoint.base is None else [checkpoint.base.path]
    return [checkpoint.model.path, checkpoint.path, *base]


def _first_table(places: Iterable[Path]) -> TokenTable | None:
    return next((table for table in map(load_token_table, places) if table is not None), None)


def _same_files(ours: Path, theirs: Path) -> bool:
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
    Check(
        id="tok.rows",
        run=check_rows,
        cause="Tokens were added without resizing the embedding, or an adapter was saved without "
        "the embedding that was trained with it.",
        evidence="The largest ids of the tokenizer against the rows of the embedding in the "
        "tensors' headers. More rows than tokens are normal: Qwen pads 151665 tokens to 151936 "
        "rows. An image token behind the last row is served by vLLM for LLaVA, and a token that "
        "the template does not write, such as one for padding, is a warning. The full pass also "
        "names new tokens whose rows are zero or identical.",
        example="3 tokens lie behind the 151936 rows of the embedding: '<box>', '</box>', '<ref>'",
        remedy="Save the model after `resize_token_embeddings`, or take the tokens out again.",
    ),
)
"""The checks of this theme, in the order in which they run."""
