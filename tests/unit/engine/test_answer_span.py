"""Finding an answer among a conversation's tokens."""

import math
from pathlib import Path

import pytest

from tests.unit.toy_tokenizer import write_tokenizer
from vlmserve.engine.answer_span import AnswerSpan, find_answer, finite_logprobs
from vlmserve.engine.token_texts import token_texts
from vlmserve.errors import RequestError

PROMPT = [7, 8, 9]


def find(pieces: list[str], target: str = "red car") -> AnswerSpan:
    return find_answer(PROMPT, [*PROMPT, *range(20, 20 + len(pieces))], pieces, target)


@pytest.mark.parametrize(
    ("pieces", "n_scored", "has_end"),
    [
        (["red", " car", "<|im_end|>", "\n"], 3, True),
        # SentencePiece spells each word without the space before it.
        (["red", "car", "</s>"], 3, True),
        (["red", " car", "<end_of_turn>", "\n"], 3, True),
        (["red", " car", "[UNUSED_TOKEN_145]", "\n"], 3, True),
        # Phi-3 writes a second end, which the model is never asked for.
        (["red", " car", "<|end|>", "\n", "<|endoftext|>"], 3, True),
        # White space before the end token has to be generated as well.
        (["red", " car", " ", "</s>"], 4, True),
        ([" red", " car"], 2, False),
        (["red", " car", "\n"], 2, False),
    ],
)
def test_the_answer_and_the_token_that_ends_it(
    pieces: list[str], n_scored: int, has_end: bool
) -> None:
    assert find(pieces) == AnswerSpan(start=3, end=3 + n_scored, has_end=has_end)


@pytest.mark.parametrize(
    ("pieces", "reason"),
    [
        # Qwen3 writes an empty reasoning before an answer that has none.
        (["<think>", "\n\n", "</think>", "red", " car", "<|im_end|>"], "changes the answer"),
        (["red", "<|im_end|>"], "changes the answer"),
        (["Red", " car", "<|im_end|>"], "changes the answer"),
        (["red", " car", ".", "<|im_end|>"], r"adds '\.'"),
        ([], "changes the answer"),
    ],
)
def test_another_text_than_the_answer_is_refused(pieces: list[str], reason: str) -> None:
    with pytest.raises(RequestError, match=reason):
        find(pieces)


def test_another_prompt_is_refused() -> None:
    with pytest.raises(RequestError, match="otherwise than without it"):
        find_answer(PROMPT, [7, 8, 1, 20], ["red"], "red")


def test_an_empty_answer_is_refused() -> None:
    with pytest.raises(RequestError, match="empty"):
        find(["</s>"], target=" ")


def test_no_log_probability_is_no_number() -> None:
    assert finite_logprobs([-1.5, 1e-9]) == (-1.5, 0.0)
    for broken in (None, math.nan, -math.inf, -9999.0):
        with pytest.raises(RequestError, match="log-probability"):
            finite_logprobs([-1.0, broken])


def test_characters_of_several_tokens_are_spelled_once(tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    write_tokenizer(tmp_path, ["<|im_end|>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    text = "blå 中<|im_end|>"
    ids = tokenizer(text)["input_ids"]

    texts = token_texts(tokenizer, ids)

    assert len(texts) == len(ids)
    assert "" in texts
    assert "".join(texts) == text
    assert texts[-1] == "<|im_end|>"
