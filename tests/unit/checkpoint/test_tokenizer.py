"""Tokenizers and their tables are read as transformers reads them."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.toy_tokenizer import write_tokenizer
from vlmserve.checkpoint.token_table import load_token_table, read_special_tokens
from vlmserve.checkpoint.tokenizer import load_tokenizer, split_at
from vlmserve.demo.recipe import load_shipped
from vlmserve.errors import CheckpointError
from vlmserve.platform import cure_torch_extensions

TEXT = "<|im_start|>user\nWhat color is the red square? 12<|im_end|>\n"


def test_the_demo_tokenizer_like_transformers() -> None:
    cure_torch_extensions()
    from transformers import AutoTokenizer

    folder = load_shipped("base").folder
    theirs, ours = AutoTokenizer.from_pretrained(folder), load_tokenizer(folder)
    ids = ours.encode(TEXT)
    assert ids == theirs(TEXT, add_special_tokens=False)["input_ids"]
    assert ours.decode(ids) == TEXT
    assert {ours.table.by_id[number] for number in ids} == set(theirs.convert_ids_to_tokens(ids))
    assert ours.table.size == len(theirs)
    assert ours.table.roles == {"eos": "<|im_end|>", "pad": "<|endoftext|>"}
    assert ours.table.adds_bos is False
    assert read_special_tokens(folder) == {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}


def test_bos_by_the_post_processor(tmp_path: Path) -> None:
    plain = write_tokenizer(tmp_path / "plain", ["<s>"], bos="<s>")
    adding = write_tokenizer(tmp_path / "adding", ["<s>"], bos="<s>", adds_bos=True)
    for path, adds in ((plain, False), (adding, True)):
        tokenizer = load_tokenizer(path)
        assert tokenizer.table.adds_bos is adds
        assert tokenizer.encode("a") == tokenizer.encode("<s>a")[1:]


def test_llama_classes_say_themselves_whether_they_add_bos(tmp_path: Path) -> None:
    path = write_tokenizer(
        tmp_path,
        ["<s>"],
        bos="<s>",
        adds_bos=True,
        tokenizer_class="LlamaTokenizerFast",
        add_bos_token=False,
    )
    table = load_token_table(path)
    assert table is not None
    assert table.adds_bos is False


def test_tokens_that_only_the_older_files_name(tmp_path: Path) -> None:
    path = write_tokenizer(tmp_path, ["<a>"])
    size = load_tokenizer(path).table.size
    (path / "added_tokens.json").write_text(json.dumps({"<new>": size, "<a>": 7}))
    config = json.loads((path / "tokenizer_config.json").read_text())
    config["added_tokens_decoder"] = {str(size): {"content": "<new>", "special": True}}
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(path)
    assert tokenizer.encode("<new>a") == [size, *tokenizer.encode("a")]
    assert tokenizer.table.size == size + 1
    assert tokenizer.table.conflicts == (("<a>", 0, 7),)


def test_sentencepiece(tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("a red square and a blue circle\nwhat is shown here\n" * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(tmp_path / "tokenizer"),
        vocab_size=60,
        model_type="bpe",
        minloglevel=2,
    )
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<image>": 60}))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>"})
    )
    tokenizer = load_tokenizer(tmp_path)
    ids = tokenizer.encode("a red<image>square</s>")
    assert [tokenizer.piece(number) for number in ids][-1] == "</s>"
    assert 60 in ids
    # Each stretch starts with a blank of its own, as in the slow tokenizer's legacy mode.
    assert tokenizer.encode("square") == ids[ids.index(60) + 1 : -1]
    assert tokenizer.decode(ids).replace(" ", "") == "ared<image>square</s>"
    assert tokenizer.table.adds_bos is True


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "no tokenizer.json"),
        ({"tokenizer.json": {"model": {"vocab": 3}}}, "model.vocab"),
        ({"tokenizer.json": {"added_tokens": {}}}, "added_tokens: a list"),
        ({"tokenizer.json": {"added_tokens": [{"id": 1}]}}, "a token with id and content"),
        ({"tokenizer.json": {"model": {"vocab": {}}}}, "not a tokenizer"),
        ({"vocab.json": {"a": 0}}, "merges.txt"),
        ({"vocab.json": {"a": 0}, "added_tokens.json": {"b": "c"}}, "b: a whole number"),
        (
            {"vocab.json": {"a": 0}, "tokenizer_config.json": {"added_tokens_decoder": []}},
            "added_tokens_decoder",
        ),
    ],
)
def test_broken_files_are_named(files: dict[str, Any], said: str, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=said) as error:
        load_tokenizer(tmp_path)
    assert str(tmp_path) in error.value.message


def test_broken_sentencepiece_model(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"no model")
    with pytest.raises(CheckpointError, match="sentencepiece"):
        load_tokenizer(tmp_path)


def test_the_longest_token_is_cut_out() -> None:
    assert list(split_at("a<b>c<b>>", {"<b>": 1, "<b>>": 2})) == ["a", "<b>", "c", "<b>>"]


def test_a_table_is_read_again_only_when_a_file_changes(tmp_path: Path) -> None:
    path = write_tokenizer(tmp_path, ["<a>"])
    first = load_token_table(path)

    assert load_token_table(path) is first

    (path / "added_tokens.json").write_text('{"<new>": 900}', encoding="utf-8")
    second = load_token_table(path)

    assert second is not None
    assert second.id_of("<new>") == 900
