"""Reasoning told from the answer by vLLM's own parsers."""

from pathlib import Path
from typing import Any

import pytest

from tests.unit.toy_tokenizer import write_tokenizer
from vlmserve.chat import Completion, FinishReason, Usage
from vlmserve.engine.environment import prepare_vllm
from vlmserve.engine.reasoning import ReasoningReader
from vlmserve.errors import ConfigError

pytestmark = pytest.mark.engine


@pytest.fixture
def tokenizer(tmp_path: Path) -> Any:
    prepare_vllm({})
    from transformers import AutoTokenizer

    marks = ["<think>", "</think>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>"]
    return AutoTokenizer.from_pretrained(write_tokenizer(tmp_path, marks, eos="<|im_end|>"))


def read(
    tokenizer: Any,
    text: str,
    *,
    name: str = "qwen3",
    reason: FinishReason = "stop",
    **template: Any,
) -> tuple[str, str | None, str]:
    completion = Completion(
        text=text, finish_reason=reason, usage=Usage(prompt_tokens=1, completion_tokens=1)
    )
    ids = tokenizer.encode(text, add_special_tokens=False)
    found = ReasoningReader(name, tokenizer, template).read(completion, ids)
    return found.text, found.reasoning, found.finish_reason


@pytest.mark.parametrize("name", ["qwen3", "deepseek_r1"])
def test_reasoning_is_kept_and_no_part_of_the_answer(tokenizer: Any, name: str) -> None:
    text, reasoning, reason = read(tokenizer, "<think>It is red.</think>red", name=name)

    assert (text, reasoning, reason) == ("red", "It is red.", "stop")


@pytest.mark.parametrize("name", ["qwen3", "deepseek_r1"])
@pytest.mark.parametrize("reason", ["stop", "length"])
def test_a_trace_that_is_never_closed_counts_as_cut(
    tokenizer: Any, name: str, reason: FinishReason
) -> None:
    found = read(tokenizer, "<think>It is red, or is it", name=name, reason=reason)

    assert found == ("", "It is red, or is it", "length")


@pytest.mark.parametrize("name", ["qwen3", "deepseek_r1"])
def test_an_answer_of_no_words_after_a_closed_trace_is_no_cut(tokenizer: Any, name: str) -> None:
    assert read(tokenizer, "<think>Hm.</think>", name=name) == ("", "Hm.", "stop")


def test_where_the_template_turns_thinking_off_all_is_answer(tokenizer: Any) -> None:
    assert read(tokenizer, "red", enable_thinking=False) == ("red", None, "stop")


def test_marks_of_the_reasoning_stay_in_the_text_that_is_read(tokenizer: Any) -> None:
    assert not ReasoningReader("qwen3", tokenizer, None).skip_special_tokens


def test_a_format_that_vllm_does_not_know_is_said(tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match="reasoning_parser: nosuch"):
        ReasoningReader("nosuch", tokenizer, None)


def test_a_tokenizer_without_the_marks_is_said(tmp_path: Path) -> None:
    prepare_vllm({})
    from transformers import AutoTokenizer

    plain = AutoTokenizer.from_pretrained(write_tokenizer(tmp_path, ["<eos>"], eos="<eos>"))
    with pytest.raises(ConfigError, match=r"reasoning_parser: deepseek_r1: .*tokenizer"):
        ReasoningReader("deepseek_r1", plain, None)
