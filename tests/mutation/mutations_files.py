"""Files that are missing or broken, directories that are no checkpoint, tensors that do not fit."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tests.mutation.mutation import (
    ADAPTER_WEIGHTS,
    WEIGHTS,
    Mutation,
    drop_files,
    edit_header,
    edit_json,
    read_header,
    read_json,
    set_key,
    write_json,
)
from tests.mutation.subject import Case
from tests.mutation.subjects_fakes import write_header

_INDEX = "model.safetensors.index.json"
_STATES = "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"


def _cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 100)


def _shards(directory: Path) -> list[Path]:
    return sorted(directory.glob("model*.safetensors"))


def _edit_headers(directory: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change the headers of all weight files, and the index with them."""
    for path in _shards(directory):
        edit_header(path, edit)
    index = directory / _INDEX
    if index.is_file():
        names = {
            name: path.name
            for path in _shards(directory)
            for name in read_header(path)[0]
            if name != "__metadata__"
        }
        write_json(index, {**read_json(index), "weight_map": names})


def _rename(directory: Path, pattern: str, replacement: str) -> None:
    found = []

    def edit(header: dict[str, Any]) -> None:
        for name in [name for name in header if re.search(pattern, name)]:
            header[re.sub(pattern, replacement, name)] = header.pop(name)
            found.append(name)

    _edit_headers(directory, edit)
    assert found, f"no tensor is named like {pattern}"


def _drop(directory: Path, pattern: str) -> None:
    """Take tensors out of the headers; their bytes stay behind, which nobody minds."""
    found: list[str] = []

    def edit(header: dict[str, Any]) -> None:
        names = [name for name in header if re.search(pattern, name)]
        for name in names:
            del header[name]
        found.extend(names)

    _edit_headers(directory, edit)
    assert found, f"no tensor is named like {pattern}"


def _empty(directory: Path, pattern: str) -> None:
    """Give tensors the shape [0], as ZeRO-3 leaves them where nobody gathers."""

    def edit(header: dict[str, Any]) -> None:
        for name, entry in header.items():
            if name != "__metadata__" and re.search(pattern, name):
                start = entry["data_offsets"][0]
                entry |= {"shape": [0], "data_offsets": [start, start]}

    _edit_headers(directory, edit)


# Architectures.


def _original_llava(case: Case) -> None:
    set_key(case.checkpoint / "config.json", "architectures", ["LlavaLlamaForCausalLM"])


def _mistral_llava(case: Case) -> None:
    set_key(case.checkpoint / "config.json", "architectures", ["LlavaMistralForCausalLM"])


def _text_model(case: Case) -> None:
    """The class of the language model alone, as its own config.json names it."""
    set_key(case.checkpoint / "config.json", "architectures", ["Qwen2ForCausalLM"])


def _adapter(case: Case) -> None:
    """A sound adapter, on a family for which vLLM takes none."""
    shapes = {
        f"base_model.model.{name.removesuffix('.weight')}": entry["shape"]
        for path in _shards(case.checkpoint)
        for name, entry in read_header(path)[0].items()
        if name.endswith("q_proj.weight") and "language_model" in name
    }
    case.base = case.checkpoint
    case.checkpoint = case.root / "adapter"
    case.checkpoint.mkdir()
    settings = {
        "peft_type": "LORA",
        "base_model_name_or_path": str(case.base),
        "r": 2,
        "lora_alpha": 4,
        "target_modules": r".*language_model.*\.q_proj",
    }
    write_json(case.checkpoint / "adapter_config.json", settings)
    rng = np.random.default_rng(0)
    factors = {}
    for module, (rows, columns) in shapes.items():
        factors[f"{module}.lora_A.weight"] = rng.normal(size=(2, columns))
        factors[f"{module}.lora_B.weight"] = rng.normal(size=(rows, 2))
    save_file(
        {name: factor.astype(np.float32) for name, factor in factors.items()},
        case.checkpoint / ADAPTER_WEIGHTS,
    )


# Files.


def _cut_weights(case: Case) -> None:
    _cut(case.checkpoint / WEIGHTS)


def _cut_adapter(case: Case) -> None:
    _cut(case.checkpoint / ADAPTER_WEIGHTS)


def _drop_shard(case: Case) -> None:
    _shards(case.checkpoint)[1].unlink()


def _cut_last_shard(case: Case) -> None:
    _cut(_shards(case.checkpoint)[-1])


def _pointer(case: Case) -> None:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n"
    (case.checkpoint / WEIGHTS).write_text(text)


def _empty_file(case: Case) -> None:
    (case.checkpoint / WEIGHTS).write_bytes(b"")


def _wrong_index(case: Case) -> None:
    """An index from another save: it looks for a tensor in a file that has it not."""
    files = [path.name for path in _shards(case.checkpoint)]

    def edit(content: Any) -> None:
        name = next(name for name, file in content["weight_map"].items() if file == files[0])
        content["weight_map"][name] = files[-1]

    edit_json(case.checkpoint / _INDEX, edit)


def _half_json(case: Case) -> None:
    path = case.checkpoint / "generation_config.json"
    path.write_text('{"do_sample": true,', encoding="utf-8")


def _run_directory(case: Case) -> None:
    """The directory above the checkpoint that was meant."""
    run = case.root / "run"
    run.mkdir()
    case.checkpoint.rename(run / "checkpoint-10")
    case.checkpoint = run


def _no_config(case: Case) -> None:
    drop_files(case.checkpoint, "config.json")


def _lost_base(case: Case) -> None:
    """An adapter that was trained on another machine."""
    settings = case.checkpoint / "adapter_config.json"
    set_key(settings, "base_model_name_or_path", "/data/models/base")
    arguments = case.checkpoint / "args.json"
    if arguments.is_file():
        set_key(arguments, "model", "/data/models/base")
    case.base = None


def _projector_alone(case: Case) -> None:
    drop_files(case.checkpoint, *(path.name for path in _shards(case.checkpoint)), _INDEX)
    (case.checkpoint / "mm_projector.bin").write_bytes(b"x")


# ZeRO.


def _ungathered_tower(case: Case) -> None:
    _empty(case.checkpoint, r"visual\.blocks\..*weight")


def _ungathered_fake(case: Case) -> None:
    _empty(case.checkpoint, r"^language_model\.model\.layers\.")


def _only_shards(case: Case) -> None:
    drop_files(case.checkpoint, WEIGHTS)
    _add_states(case.checkpoint)


def _only_states(case: Case) -> None:
    shutil.rmtree(case.checkpoint)
    case.checkpoint.mkdir()
    _add_states(case.checkpoint)
    (case.checkpoint / "latest").write_text("global_step10")


def _add_states(directory: Path) -> None:
    (directory / "global_step10").mkdir()
    (directory / "global_step10" / _STATES).write_bytes(b"x")


# Tensors.


def _prefixed(case: Case) -> None:
    """The names of a model that PEFT wraps, saved without taking it out."""
    _rename(case.checkpoint, r"^(model\.)?visual\.", r"base_model.model.\g<0>")


def _unconverted_tower(case: Case) -> None:
    """The tower is named as in LLaVA's own format, the rest as in transformers'."""
    _rename(case.checkpoint, r"^vision_tower\.", "model.vision_tower.vision_tower.vision_model.")


def _no_tower(case: Case) -> None:
    _drop(case.checkpoint, r"(^|\.)vision_tower\.")


def _no_projector(case: Case) -> None:
    _drop(case.checkpoint, r"(^|\.)multi_modal_projector\.")


def _wider(case: Case) -> None:
    """A configuration of another size of the same model."""

    def edit(content: Any) -> None:
        section = content.get("text_config", content)
        section["intermediate_size"] *= 2

    edit_json(case.checkpoint / "config.json", edit)


def _wrapped(case: Case) -> None:
    """Saved with the adapter still wrapped around the weights."""
    _rename(case.checkpoint, r"(self_attn\.q_proj)\.weight$", r"\1.base_layer.weight")
    _rename(case.checkpoint, r"(self_attn\.q_proj)\.bias$", r"\1.base_layer.bias")


def _resized(case: Case) -> None:
    """Rows were added for new tokens and the configuration was not."""

    def edit(content: Any) -> None:
        content.get("text_config", content)["vocab_size"] -= 8

    edit_json(case.checkpoint / "config.json", edit)


def _no_plora(case: Case) -> None:
    _drop(case.checkpoint, r"\.Plora_[AB]\.")


def _mixed_releases(case: Case) -> None:
    """The projector of mPLUG-Owl3 240728 in a model of 241101."""
    _drop(case.checkpoint, r"^vision2text_model\.")
    path = case.checkpoint / "model-99999-of-99999.safetensors"
    write_header(path, {"vision2text_model.weight": (3584, 1152)})
    _edit_headers(case.checkpoint, lambda header: header)


def _lost_layer(case: Case) -> None:
    _drop(case.checkpoint, r"^model\.layers\.7\.")


MUTATIONS = (
    Mutation(
        "original LLaVA's class", "ckpt.architecture", "demo-full", _original_llava, fast=True
    ),
    Mutation(
        "original LLaVA's class", "ckpt.architecture", "llava-next", _mistral_llava, fast=True
    ),
    Mutation(
        "adapter of a family without", "ckpt.architecture", "llava-onevision", _adapter, fast=True
    ),
    Mutation("a text model's class", "ckpt.architecture", "qwen2.5-vl", _text_model, fast=True),
    Mutation("weights cut short", "ckpt.files", "demo-full", _cut_weights, fast=True),
    Mutation("adapter cut short", "ckpt.files", "demo-lora", _cut_adapter, fast=True),
    Mutation("a shard is missing", "ckpt.files", "qwen3-vl", _drop_shard, fast=True),
    Mutation("a shard is missing", "ckpt.files", "xcomposer2.5", _drop_shard, fast=True),
    Mutation("a shard cut short", "ckpt.files", "mplug-owl2", _cut_last_shard, fast=True),
    Mutation("index of another save", "ckpt.files", "qwen3-vl", _wrong_index, fast=True),
    Mutation("Git LFS pointer", "ckpt.files", "qwen2-vl-4x", _pointer, fast=True),
    Mutation("empty file", "ckpt.files", "llava-next", _empty_file, fast=True),
    Mutation("half a JSON file", "ckpt.files", "qwen2.5-vl", _half_json, fast=True),
    Mutation("the run's directory is given", "ckpt.files", "demo-full", _run_directory, fast=True),
    Mutation("no config.json", "ckpt.files", "internvl", _no_config, fast=True),
    Mutation("base on another machine", "ckpt.files", "swift-lora", _lost_base, fast=True),
    Mutation("projector alone", "ckpt.files", "llava-original", _projector_alone, fast=True),
    Mutation("tensors of shape [0]", "ckpt.zero", "qwen2.5-vl", _ungathered_tower, fast=True),
    Mutation("tensors of shape [0]", "ckpt.zero", "mplug-owl3", _ungathered_fake, fast=True),
    Mutation("shards in place of weights", "ckpt.zero", "demo-full", _only_shards, fast=True),
    Mutation("shards and nothing else", "ckpt.zero", "demo-full", _only_states, fast=True),
    Mutation("PEFT's prefix is left", "ckpt.tensors", "qwen2-vl-4x", _prefixed, fast=True),
    Mutation("tower not converted", "ckpt.tensors", "llava-1.5", _unconverted_tower, fast=True),
    Mutation("vision tower left out", "ckpt.tensors", "llava-1.5-4x", _no_tower, fast=True),
    Mutation("projector left out", "ckpt.tensors", "internvl", _no_projector, fast=True),
    Mutation("another size in config.json", "ckpt.tensors", "qwen3-vl", _wider, fast=True),
    Mutation("adapter not merged", "ckpt.tensors", "qwen2.5-vl-4x", _wrapped, fast=True),
    Mutation("resized vocabulary", "ckpt.tensors", "llava-next", _resized, fast=True),
    Mutation("PLoRA left out", "ckpt.tensors", "xcomposer2.5", _no_plora, fast=True),
    Mutation("a mix of two releases", "ckpt.tensors", "mplug-owl3", _mixed_releases, fast=True),
    Mutation("a layer left out", "ckpt.tensors", "llava-original", _lost_layer, fast=True),
)
