"""Edits that do no harm to weights, files, configurations and logs; no check may object."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.mutation.mutation import (
    WEIGHTS,
    Harmless,
    drop_files,
    drop_key,
    edit_json,
    edit_rows,
    edit_tensors,
    read_json,
    rename_tensors,
    set_key,
    write_json,
)
from tests.mutation.subject import Case
from vlmserve.demo.samples import SampleGenerator


def _each(case: Case, edit: Callable[[Path], object]) -> None:
    """Edit the checkpoint and its base alike."""
    assert case.base is not None
    for directory in (case.base, case.checkpoint):
        edit(directory)


def _no_base(case: Case) -> None:
    """Nothing names the base, and the user does not either."""
    case.base = None


def _with_files(directory: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (directory / name).write_text(text, encoding="utf-8")


def _shard(case: Case) -> None:
    """Spread the weights over two files with an index."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(case.checkpoint / WEIGHTS)
    drop_files(case.checkpoint, WEIGHTS)
    weight_map = {}
    for index in range(2):
        name = f"model-{index + 1:05}-of-00002.safetensors"
        part = {key: tensors[key] for key in sorted(tensors)[index::2]}
        save_file(part, case.checkpoint / name, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(part, name))
    total = sum(tensor.nbytes for tensor in tensors.values())
    index_value = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_json(case.checkpoint / "model.safetensors.index.json", index_value)


def _half_precision(case: Case) -> None:
    """Trained in float32, saved in float16."""

    def edit(tensors: dict[str, Any]) -> None:
        for name in tensors:
            tensors[name] = tensors[name].astype(np.float16)

    edit_tensors(case.checkpoint / WEIGHTS, edit)
    set_key(case.checkpoint / "config.json", "dtype", "float16")


def _tied_head_written_out(case: Case) -> None:
    """Some savers write the shared embedding twice."""

    def edit(tensors: dict[str, Any]) -> None:
        name = next(name for name in tensors if name.endswith("embed_tokens.weight"))
        tensors["lm_head.weight"] = tensors[name].copy()

    edit_tensors(case.checkpoint / WEIGHTS, edit)


def _computed_buffers(case: Case) -> None:
    """Buffers that old trainers left in the weights."""

    def edit(tensors: dict[str, Any]) -> None:
        tensors["vision_tower.vision_model.embeddings.position_ids"] = np.arange(17)[None]

    edit_tensors(case.checkpoint / WEIGHTS, edit)


def _names_of_4_52(directory: Path) -> None:
    """The names that transformers has in memory from 4.52 on, as some savers keep them."""
    rename_tensors(directory / WEIGHTS, r"^model\.", "model.language_model.")
    rename_tensors(directory / WEIGHTS, r"^visual\.", "model.visual.")


def _flat_tower(case: Case) -> None:
    """The tower's names without the level that transformers 5 has dropped."""
    rename_tensors(case.checkpoint / WEIGHTS, r"^vision_tower\.vision_model\.", "vision_tower.")


def _template_twice(case: Case) -> None:
    """The template stands in the tokenizer's configuration as well."""
    text = (case.checkpoint / "chat_template.jinja").read_text(encoding="utf-8")
    set_key(case.checkpoint / "tokenizer_config.json", "chat_template", text)


def _reformatted(case: Case) -> None:
    """Every JSON file written by another writer: other order, no line breaks, escapes."""
    for path in case.checkpoint.glob("*.json"):
        text = json.dumps(read_json(path), sort_keys=True, separators=(",", ":"))
        path.write_text(text, encoding="utf-8")


def _resumed(case: Case) -> None:
    """Optimizer, scheduler and random states of a Trainer beside the weights."""
    _with_files(
        case.checkpoint,
        {"optimizer.pt": "PK", "scheduler.pt": "PK", "rng_state.pth": "PK", "README.md": "# run"},
    )


def _older_preprocessor(case: Case) -> None:
    """The video processor has a file of its own, as of transformers 4.52."""
    _each(case, _split_video_processor)


def _split_video_processor(directory: Path) -> None:
    whole = read_json(directory / "processor_config.json")
    kind = {"processor_class": whole["processor_class"]}
    write_json(directory / "preprocessor_config.json", {**whole["image_processor"], **kind})
    write_json(directory / "video_preprocessor_config.json", {**whole["video_processor"], **kind})
    drop_files(directory, "processor_config.json")


def _text_only(case: Case) -> None:
    """The part of the training set that has no images."""
    assert case.data is not None

    def edit(rows: list[Any]) -> None:
        rows[:] = [row for row in rows if not row.get("images")]

    edit_rows(Path(case.data), edit)


def _more_training(case: Case) -> None:
    """A loss that was learned down to nothing still has gradients."""

    def edit(state: Any) -> None:
        for entry in state["log_history"][-3:]:
            entry["loss"] = 0.0

    edit_json(case.checkpoint / "trainer_state.json", edit)


def _warm_up(case: Case) -> None:
    """One batch of many without labels, and an evaluation."""

    def edit(state: Any) -> None:
        state["log_history"][4].update(loss=0.0, grad_norm=0.0)
        state["log_history"].append({"eval_loss": 0.3, "epoch": 1.0, "step": 10})

    edit_json(case.checkpoint / "trainer_state.json", edit)


def _frozen_tower(case: Case) -> None:
    """The tower is the base's, as most people train."""
    from safetensors.numpy import load_file

    assert case.base is not None
    base = load_file(case.base / WEIGHTS)

    def edit(tensors: dict[str, Any]) -> None:
        tensors.update({name: base[name] for name in tensors if "visual." in name})

    edit_tensors(case.checkpoint / WEIGHTS, edit)


def _photographs(case: Case) -> None:
    """JPEGs of camera shape, one in grey, whatever their names say."""
    from PIL import Image

    for index, path in enumerate(sorted(case.root.glob("data/images/*.png"))):
        image = Image.linear_gradient("L").resize((640, 480) if index % 2 else (480, 640))
        if index:
            image = Image.merge("RGB", [image, image.transpose(Image.Transpose.ROTATE_180), image])
        image.save(path, "JPEG")


def _with_video(case: Case) -> None:
    """One sample of the training set is a video."""
    sample = SampleGenerator("harmless", "train").sample("video")
    assert case.data is not None
    data = Path(case.data)
    (data.parent / "dot.mp4").write_bytes(sample.media[0].file())
    turns = ("user", f"<video>{sample.turns[0].question}"), ("assistant", sample.turns[0].target)
    messages = [{"role": role, "content": content} for role, content in turns]
    edit_rows(data, lambda rows: rows.append({"messages": messages, "videos": ["dot.mp4"]}))


def _both_levels(directory: Path) -> None:
    """Sections repeat what stands above them, as transformers 4.52 to 4.57 write."""

    def edit(config: Any) -> None:
        text = {key: value for key, value in config.items() if not isinstance(value, list | dict)}
        for key in [key for key in text if key.startswith(("image_", "video_", "vision_"))]:
            del text[key]
        text |= {
            "architectures": config["architectures"],
            "layer_types": ["full_attention"] * config["num_hidden_layers"],
            "model_type": f"{config['model_type']}_text",
            "rope_scaling": config["rope_scaling"],
            "sliding_window": None,
            "vocab_size": config["vocab_size"],
        }
        config["text_config"] = text

    edit_json(directory / "config.json", edit)


def _sizes_above(case: Case) -> None:
    """What public checkpoints of LLaVA-1.5 repeat above their sections."""
    above = {"ignore_index": -100, "pad_token_id": 440, "vocab_size": 512}
    edit_json(case.checkpoint / "config.json", lambda config: config.update(above))


def _moved(case: Case) -> None:
    """The merge was taken elsewhere, and the adapter is gone."""
    moved = case.root / "models" / "final"
    moved.parent.mkdir()
    case.checkpoint.rename(moved)
    shutil.rmtree(case.root / "run")
    case.checkpoint = moved


def _linked(case: Case) -> None:
    """The directory is a link, and so are its files, as in the cache of the hub."""
    blobs = case.root / "blobs"
    case.checkpoint.rename(blobs)
    snapshot = case.root / "snapshot"
    snapshot.mkdir()
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(path)
    case.checkpoint.symlink_to(snapshot)


def _no_tokenizer_extras(case: Case) -> None:
    drop_files(
        case.checkpoint, "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt"
    )


def _rank_stabilised(case: Case) -> None:
    set_key(case.checkpoint / "adapter_config.json", "use_rslora", value=True)


def _initialised_otherwise(case: Case) -> None:
    set_key(case.checkpoint / "adapter_config.json", "init_lora_weights", "gaussian")


HARMLESS = (
    Harmless("photographs", "qwen2.5-vl", _photographs),
    Harmless("photographs", "llava-next", _photographs),
    Harmless("photographs", "llama-factory", _photographs),
    Harmless("photographs", "swift-lora", _photographs),
    Harmless("a video in the data", "qwen2.5-vl-4x", _with_video),
    Harmless("a video in the data", "llava-onevision", _with_video),
    Harmless("a video in the data", "qwen3-vl", _with_video),
    Harmless("both levels, as 4.52 writes", "qwen2.5-vl-4x", lambda c: _each(c, _both_levels)),
    Harmless("both levels, as 4.52 writes", "qwen2-vl-4x", lambda c: _both_levels(c.checkpoint)),
    Harmless("sizes repeated above", "llava-1.5-4x", _sizes_above),
    Harmless("merge without its adapter", "swift-merged", _moved),
    Harmless("links as in the hub's cache", "qwen3-vl", _linked),
    Harmless("tokenizer.json alone", "qwen2-vl-4x", _no_tokenizer_extras),
    Harmless("rank-stabilised LoRA", "demo-lora", _rank_stabilised),
    Harmless("Gaussian initialisation", "llava-lora", _initialised_otherwise),
    Harmless("no base", "qwen2-vl", _no_base),
    Harmless("no base", "qwen3-vl", _no_base),
    Harmless("no base", "llava-1.5-4x", _no_base),
    Harmless("weights in two files", "llava-next", _shard),
    Harmless("saved in float16", "qwen2-vl", _half_precision),
    Harmless("tied head written out", "qwen2-vl", _tied_head_written_out),
    Harmless("buffers in the weights", "llava-1.5", _computed_buffers),
    Harmless("names of 4.52", "qwen2-vl-4x", lambda case: _each(case, _names_of_4_52)),
    Harmless(
        "names of 4.52 on a base of 4.49", "qwen2-vl-4x", lambda c: _names_of_4_52(c.checkpoint)
    ),
    Harmless("tower's names of 5 on a base of 4.49", "llava-1.5-4x", _flat_tower),
    Harmless("template twice", "qwen3-vl", _template_twice),
    Harmless("JSON of another writer", "llava-1.5-4x", _reformatted),
    Harmless("JSON of another writer", "demo-full", _reformatted),
    Harmless("what a resumed run needs", "llama-factory", _resumed),
    Harmless("processor files of 4.52", "qwen2.5-vl", _older_preprocessor),
    Harmless("processor files of 4.52", "qwen3-vl", _older_preprocessor),
    Harmless("data without images", "qwen2.5-vl", _text_only),
    Harmless("loss learned down to 0", "qwen2-vl", _more_training),
    Harmless("one batch without labels", "llava-next", _warm_up),
    Harmless("frozen tower", "qwen2-vl", _frozen_tower),
    Harmless(
        "no generation_config.json",
        "qwen2-vl-4x",
        lambda case: _each(case, lambda path: drop_files(path, "generation_config.json")),
    ),
    Harmless(
        "no transformers_version",
        "llava-1.5-4x",
        lambda case: drop_key(case.checkpoint / "config.json", "transformers_version"),
    ),
    Harmless(
        "model_max_length of another kind",
        "llava-1.5",
        lambda case: set_key(case.checkpoint / "tokenizer_config.json", "model_max_length", 10**30),
    ),
    Harmless(
        "stale path of the base",
        "swift-lora",
        lambda case: set_key(
            case.checkpoint / "adapter_config.json", "base_model_name_or_path", "/mnt/gone/base"
        ),
    ),
    Harmless(
        "use_cache off",
        "qwen2.5-vl-4x",
        lambda case: set_key(case.checkpoint / "config.json", "use_cache", value=False),
    ),
)
