"""Checkpoints of real size for benchmarks: sparse ones, and ones with values of some gigabytes."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from vlmserve.checkpoint.families import find_family

DEMO = Path(__file__).resolve().parent.parent / "src" / "vlmserve" / "demo" / "weights" / "base"

QWEN2_VL_7B: dict[str, Any] = {
    "architectures": ["Qwen2VLForConditionalGeneration"],
    "model_type": "qwen2_vl",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.49.0",
    "rope_theta": 1000000.0,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "image_token_id": 151655,
    "video_token_id": 151656,
    "eos_token_id": 151645,
    "vision_config": {
        "depth": 32, "embed_dim": 1280, "hidden_size": 3584, "mlp_ratio": 4, "num_heads": 16,
        "in_chans": 3, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2,
    },
}  # fmt: skip
SPECIAL_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
    "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>",
    "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
VOCABULARY = 151643
_BLOCK_VALUES = 1 << 24


def write_sparse(directory: Path, config: dict[str, Any], *, shards: int) -> int:
    """A model of real size in sparse files, with processor and tokenizer; returns its bytes."""
    directory.mkdir()
    expected = expected_tensors(config)
    names = list(expected)
    weight_map: dict[str, str] = {}
    total = 0
    for index in range(shards):
        part = {name: expected[name] for name in names[index::shards]}
        file = f"model-{index + 1:05}-of-{shards:05}.safetensors"
        head, size = header(part)
        with (directory / file).open("wb") as stream:
            stream.write(head)
            stream.truncate(len(head) + size)
        weight_map.update(dict.fromkeys(part, file))
        total += size
    write_json(directory / "model.safetensors.index.json", {"weight_map": weight_map})
    write_side_files(directory, config)
    return total


def write_side_files(directory: Path, config: dict[str, Any]) -> None:
    """Configuration, processor, chat template and a tokenizer as large as Qwen's."""
    write_json(directory / "config.json", config)
    decoder = {
        str(VOCABULARY + index): {"content": token, "special": True, "lstrip": False,
                                  "rstrip": False, "normalized": False, "single_word": False}
        for index, token in enumerate(SPECIAL_TOKENS)
    }  # fmt: skip
    write_json(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "Qwen2Tokenizer",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "added_tokens_decoder": decoder,
            "chat_template": (DEMO / "chat_template.jinja").read_text(encoding="utf-8"),
        },
    )
    content = json.loads((DEMO / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary, merges = byte_pairs()
    content["model"] = {**content["model"], "type": "BPE", "vocab": vocabulary, "merges": merges}
    content["added_tokens"] = [{"id": int(key), **entry} for key, entry in decoder.items()]
    write_json(directory / "tokenizer.json", content)
    write_json(
        directory / "preprocessor_config.json",
        {
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": "Qwen2VLProcessor",
            "min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "merge_size": 2,
            "temporal_patch_size": 2,
        },
    )  # fmt: skip
    write_json(directory / "generation_config.json", {"eos_token_id": [151645, 151643]})


def byte_pairs() -> tuple[dict[str, int], list[str]]:
    """A byte-level vocabulary of the usual size, each entry merged from two before it."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [256 + index for index in range(256 - len(printable))]
    vocabulary = {chr(code): index for index, code in enumerate(sorted([*printable, *others]))}
    words = list(vocabulary)
    merges: list[str] = []
    # Each word is lengthened by each character in turn, so that the loop ends at once.
    for left in words:
        for right in words[:256]:
            if len(vocabulary) == VOCABULARY:
                return vocabulary, merges
            merged = left + right
            if merged not in vocabulary:
                vocabulary[merged] = len(vocabulary)
                words.append(merged)
                merges.append(f"{left} {right}")
    return vocabulary, merges


def sized_config(gigabytes: float) -> dict[str, Any]:
    """Layers of the 7B model's shape, as many as make so many gigabytes."""
    per_layer = 2 * sum(
        int(np.prod(shape))
        for name, shape in expected_tensors(QWEN2_VL_7B).items()
        if ".layers.0." in name
    )
    vision = {**QWEN2_VL_7B["vision_config"], "depth": 4}
    layers = max(1, round(gigabytes * 1e9 / per_layer))
    return {**QWEN2_VL_7B, "num_hidden_layers": layers, "vocab_size": 8192, "vision_config": vision}


def write_model(directory: Path, config: dict[str, Any], share: float) -> None:
    """Weights in bfloat16, each moved by a share of its size; values repeat from block to block."""
    rng = np.random.default_rng(0)
    block = 0.02 * rng.standard_normal(_BLOCK_VALUES, np.float32)
    block *= 1 + share * np.random.default_rng(1).standard_normal(_BLOCK_VALUES, np.float32)
    raw = (block.view(np.uint32) >> np.uint32(16)).astype("<u2").tobytes()
    head, size = header(expected_tensors(config))
    write_json(directory / "config.json", config)
    with (directory / "model.safetensors").open("wb") as stream:
        stream.write(head)
        for start in range(0, size, len(raw)):
            stream.write(raw[: size - start])
        os.fsync(stream.fileno())


def expected_tensors(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes by the names that transformers 4.49 saves."""
    family = find_family(config)
    expected = None if family is None else family.expected_tensors(config)
    if expected is None:
        raise ValueError(f"vlmserve knows no tensors of {config['architectures']}")
    return {name.replace("language_model.", "", 1): spec.shape for name, spec in expected.items()}


def header(shapes: dict[str, tuple[int, ...]]) -> tuple[bytes, int]:
    """A safetensors header of bfloat16 tensors, and the size of their data."""
    entries, offset = {}, 0
    for name, shape in shapes.items():
        end = offset + 2 * int(np.prod(shape))
        entries[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, offset


def write_json(path: Path, value: object) -> None:
    """Write JSON in one line."""
    path.write_text(json.dumps(value), encoding="utf-8")
