"""Does the embedding have a row for every token, and was it trained?"""

from collections import defaultdict
from collections.abc import Iterator, Mapping

from vlmserve.checkpoint.embedding import find_embedding, read_rows
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
    enumerate_names,
    shown_path,
)
from vlmserve.doctor.tokens import find_served_table, has_same_tokenizer


def check_rows(exam: Examination) -> Iterator[Outcome]:
    """``tok.rows``: tokens whose id lies behind the last row of the embedding.

    The full pass also looks at the rows of tokens that the base does not have.
    """
    checkpoint = exam.checkpoint
    if not checkpoint.weights.shards:
        return
    embedding = find_embedding(checkpoint.tensors.values())
    table = load_token_table(checkpoint.path) or find_served_table(checkpoint)
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
        title=f"{'1 token lies' if len(names) == 1 else f'{len(names)} tokens lie'} behind the "
        f"{rows} rows of the embedding: {enumerate_names(names)}",
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
    if has_same_tokenizer(checkpoint.path, base.path):
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


CHECKS = (
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
