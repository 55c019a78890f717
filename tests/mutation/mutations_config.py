"""Configurations, tokenizers and code that no longer say what the weights were trained with."""

import shutil
from typing import Any

from tests.mutation.mutation import (
    WEIGHTS,
    Mutation,
    Tensors,
    drop_files,
    drop_key,
    edit_json,
    edit_rows,
    edit_tensors,
    edit_vocabulary,
    set_key,
)
from tests.mutation.subject import Case

_CONFIG = "config.json"
_GENERATION = "generation_config.json"
_TOKENIZER = "tokenizer.json"


def _shuffle_vocabulary(case: Case) -> None:
    def edit(vocabulary: dict[str, int]) -> None:
        # The first are single bytes, without which nothing can be written.
        tokens = [token for token, number in vocabulary.items() if number >= 300]
        numbers = [vocabulary[token] for token in tokens]
        vocabulary.update(zip(tokens, reversed(numbers), strict=True))

    edit_vocabulary(case.checkpoint, edit)


def _swap_media_ids(case: Case) -> None:
    path = case.checkpoint / _CONFIG
    set_key(path, "image_token_id", 413)
    set_key(path, "video_token_id", 412)


def _move_image_token(case: Case) -> None:
    set_key(case.checkpoint / _CONFIG, "image_token_index", 440)


def _reorder_added_tokens(case: Case) -> None:
    """As a tokenizer that was rebuilt from a list of special tokens; config.json follows it."""

    def edit(content: Any) -> None:
        ids = {"<|box_start|>": 406, "<|box_end|>": 405}
        for token in content["added_tokens"]:
            token["id"] = ids.get(token["content"], token["id"])
        content["added_tokens"].sort(key=lambda token: token["id"])

    edit_json(case.checkpoint / _TOKENIZER, edit)


def _cut_rows(case: Case) -> None:
    """A vocabulary that was cut to the ordinary tokens, in weights and configuration alike."""

    def edit(tensors: Tensors) -> None:
        for name, values in tensors.items():
            if name.endswith(("embed_tokens.weight", "lm_head.weight")):
                tensors[name] = values[:440].copy()

    for directory in (case.checkpoint, case.base):
        assert directory is not None
        edit_tensors(directory / WEIGHTS, edit)
        set_key(directory / _CONFIG, "text_config.vocab_size", 440)


def _add_tokens(case: Case) -> None:
    """New tokens without resize_token_embeddings."""
    _append_token(case, 512)


def _add_tokens_to_adapter(case: Case) -> None:
    """New tokens in the training's tokenizer, whose rows were not saved with the adapter."""
    assert case.base is not None
    for path in case.base.glob("*token*"):
        shutil.copyfile(path, case.checkpoint / path.name)
    _append_token(case, 512)


def _append_token(case: Case, number: int) -> None:
    def edit(content: Any) -> None:
        last = content["added_tokens"][-1]
        content["added_tokens"].append({**last, "id": number, "content": "<|grounding|>"})

    edit_json(case.checkpoint / _TOKENIZER, edit)


def _untie_at_the_top(case: Case) -> None:
    path = case.checkpoint / _CONFIG
    set_key(path, "tie_word_embeddings", False)
    set_key(path, "text_config.tie_word_embeddings", True)


def _tie_in_the_section_alone(case: Case) -> None:
    path = case.checkpoint / _CONFIG
    drop_key(path, "tie_word_embeddings")
    set_key(path, "text_config.tie_word_embeddings", True)


def _two_vocabulary_sizes(case: Case) -> None:
    path = case.checkpoint / _CONFIG
    set_key(path, "vocab_size", 512)
    set_key(path, "text_config.vocab_size", 600)


def _two_types(case: Case) -> None:
    path = case.checkpoint / _CONFIG
    set_key(path, "dtype", "float16")
    set_key(path, "text_config.dtype", "bfloat16")


def _drop_section(case: Case) -> None:
    drop_key(case.checkpoint / _CONFIG, "text_config.rope_parameters.mrope_section")


def _drop_scaling(case: Case) -> None:
    drop_key(case.checkpoint / _CONFIG, "rope_scaling")


def _linear_rope(case: Case) -> None:
    path = case.checkpoint / _CONFIG
    for key in ("type", "rope_type"):
        set_key(path, f"rope_scaling.{key}", "linear")
    set_key(path, "rope_scaling.factor", 2.0)


def _plain_order(case: Case) -> None:
    drop_key(case.checkpoint / _CONFIG, "text_config.rope_parameters.mrope_interleaved")


def _other_theta(case: Case) -> None:
    set_key(case.checkpoint / _CONFIG, "text_config.rope_parameters.rope_theta", 500000.0)


def _lost_theta(case: Case) -> None:
    drop_key(case.checkpoint / _CONFIG, "text_config.rope_parameters.rope_theta")


def _penalty(case: Case) -> None:
    set_key(case.checkpoint / _GENERATION, "repetition_penalty", 1.2)


def _lose_generation(case: Case) -> None:
    drop_files(case.checkpoint, _GENERATION)


def _stop_elsewhere(case: Case) -> None:
    for directory in (case.checkpoint, case.base):
        assert directory is not None
        set_key(directory / _GENERATION, "eos_token_id", 401)
        set_key(directory / "tokenizer_config.json", "eos_token", "<|endoftext|>")


def _saved_by_4_46(case: Case) -> None:
    set_key(case.checkpoint / _CONFIG, "transformers_version", "4.46.3")


def _train_on_long_videos(case: Case) -> None:
    """One sample with a video of many small frames, as a list of images."""

    def edit(rows: list[Any]) -> None:
        frame = next(row["images"][0] for row in rows if row.get("images"))
        messages = [
            {"role": "user", "content": "<video>What is shown?"},
            {"role": "assistant", "content": "a digit"},
        ]
        rows.append({"messages": messages, "videos": [[frame] * 64]})

    assert case.data is not None
    edit_rows(case.root / "data" / "train.jsonl", edit)


def _patch_tiling(case: Case) -> None:
    text = (
        "def forward(self, images):\n"
        "    for img in images:\n"
        "        cnt, C, H, W = img.shape\n"
        "        tiles = img.reshape(cnt,3,H//560,560,W//560,560).permute(0,2,4,1,3,5)\n"
        "    return tiles\n"
    )
    (case.checkpoint / "build_mlp.py").write_text(text, encoding="utf-8")


def _patch_media_offset(case: Case) -> None:
    text = (
        "def select_query(media_offset, num_queries=None):\n"
        "    query_indices = media_offset[:, :, 1] >= 0\n"
        "    # assert query_indices.sum().item() % num_queries == 0\n"
        "    return query_indices.nonzero()\n"
    )
    (case.checkpoint / "modeling_hyper_qwen2.py").write_text(text, encoding="utf-8")


MUTATIONS = (
    Mutation(
        "shuffle the vocabulary", "tok.id-stability", "qwen2-vl", _shuffle_vocabulary, fast=True
    ),
    Mutation(
        "swap image_token_id and video_token_id",
        "tok.id-stability",
        "qwen2.5-vl",
        _swap_media_ids,
        fast=True,
    ),
    Mutation(
        "image_token_index of another token",
        "tok.id-stability",
        "llava-1.5",
        _move_image_token,
        fast=True,
    ),
    Mutation(
        "reorder added tokens", "tok.id-stability", "qwen3-vl", _reorder_added_tokens, fast=True
    ),
    Mutation("cut the embedding's rows", "tok.rows", "llava-1.5", _cut_rows, fast=True),
    Mutation("add a token without a row", "tok.rows", "qwen2-vl", _add_tokens, fast=True),
    Mutation(
        "add a token and save the adapter alone",
        "tok.rows",
        "swift-lora",
        _add_tokens_to_adapter,
        fast=True,
    ),
    Mutation(
        "untie at the top level alone", "cfg.two-truths", "qwen3-vl", _untie_at_the_top, fast=True
    ),
    Mutation(
        "tie in text_config alone",
        "cfg.two-truths",
        "qwen3-vl",
        _tie_in_the_section_alone,
        fast=True,
    ),
    Mutation(
        "another vocab_size in text_config",
        "cfg.two-truths",
        "qwen2-vl",
        _two_vocabulary_sizes,
        fast=True,
    ),
    Mutation(
        "float16 at the top level, bfloat16 below",
        "cfg.two-truths",
        "qwen2.5-vl",
        _two_types,
        fast=True,
    ),
    Mutation("drop mrope_section", "cfg.rope", "qwen2-vl", _drop_section, fast=True),
    Mutation("drop rope_scaling", "cfg.rope", "qwen2.5-vl-4x", _drop_scaling, fast=True),
    Mutation("rope type linear", "cfg.rope", "qwen2-vl-4x", _linear_rope, fast=True),
    Mutation("drop mrope_interleaved", "cfg.rope", "qwen3-vl", _plain_order, fast=True),
    Mutation("another rope_theta", "cfg.rope", "llava-1.5", _other_theta, fast=True),
    Mutation("drop rope_theta", "cfg.rope", "demo-full", _lost_theta, fast=True),
    Mutation("raise repetition_penalty", "gen.config-diff", "qwen3-vl", _penalty, fast=True),
    Mutation("add repetition_penalty", "gen.config-diff", "llava-1.5", _penalty, fast=True),
    Mutation(
        "lose generation_config.json", "gen.config-diff", "qwen2-vl", _lose_generation, fast=True
    ),
    Mutation("stop at another token", "gen.config-diff", "qwen2-vl", _stop_elsewhere, fast=True),
    Mutation(
        "saved by transformers 4.46 under its Trainer",
        "pos.mrope",
        "qwen2-vl-4x",
        _saved_by_4_46,
        fast=True,
    ),
    Mutation("train on long videos", "pos.mrope", "qwen2-vl", _train_on_long_videos),
    Mutation("patch reshape(cnt,", "code.hash", "xcomposer2.5", _patch_tiling, fast=True),
    Mutation("take assertions out", "code.hash", "mplug-owl3", _patch_media_offset, fast=True),
)
