"""Checkpoints of families that vLLM lacks, at their real sizes: headers, and data that is all hole.

Sizes are those of the public checkpoints' ``config.json``; the names of the tensors those that the
models' own code gives them. What a fake costs on disk is its headers; each is some 15 GB long, so
whoever reads every value asks for fewer layers.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.mutation.subject import Subject
from vlmserve.checkpoint.families import find_family
from vlmserve.checkpoint.tensors import Shape

_ITEM_BYTES = 2  # bfloat16
_SHARD_BYTES = 5 << 30
# Left free behind each header, so that a mutation may make it longer.
_ROOM = b" " * 8192

_XCOMPOSER2D5: dict[str, Any] = {
    "architectures": ["InternLMXComposer2ForCausalLM"],
    "auto_map": {
        "AutoConfig": "configuration_internlm_xcomposer2.InternLMXcomposer2Config",
        "AutoModel": "modeling_internlm_xcomposer2.InternLMXComposer2ForCausalLM",
        "AutoModelForCausalLM": "modeling_internlm_xcomposer2.InternLMXComposer2ForCausalLM",
    },
    "model_type": "internlmxcomposer2",
    "bias": False,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_length": 16384,
    "max_position_embeddings": 24576,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rope_theta": 1000000,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.33.1",
    "vocab_size": 92544,
}
_OWL2: dict[str, Any] = {
    "architectures": ["MPLUGOwl2LlamaForCausalLM"],
    "model_type": "mplug_owl2",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.31.0",
    "vocab_size": 32000,
    "visual_config": {
        "visual_model": {"hidden_size": 1024, "image_size": 448, "num_hidden_layers": 24},
        "visual_abstractor": {"hidden_size": 1024, "num_hidden_layers": 6, "grid_size": 32},
    },
}
_OWL3: dict[str, Any] = {
    "architectures": ["mPLUGOwl3Model"],
    "auto_map": {
        "AutoConfig": "configuration_mplugowl3.mPLUGOwl3Config",
        "AutoModel": "modeling_mplugowl3.mPLUGOwl3Model",
    },
    "model_type": "mplugowl3",
    "hidden_size": 3584,
    "hyper_layers": [1, 9, 17, 25],
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.44.0",
    "vocab_size": 151851,
    "vision_config": {
        "hidden_size": 1152,
        "image_size": 378,
        "intermediate_size": 4304,
        "model_type": "siglip_vision_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 27,
        "patch_size": 14,
    },
}
_LLAVA: dict[str, Any] = {
    "architectures": ["LlavaLlamaForCausalLM"],
    "model_type": "llava_llama",
    "hidden_size": 4096,
    "image_aspect_ratio": "pad",
    "intermediate_size": 11008,
    "mm_hidden_size": 1024,
    "mm_patch_merge_type": "flat",
    "mm_projector_type": "mlp2x_gelu",
    "mm_use_im_patch_token": False,
    "mm_use_im_start_end": False,
    "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2,
    "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "tie_word_embeddings": False,
    "tokenizer_model_max_length": 2048,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.37.2",
    "unfreeze_mm_vision_tower": True,
    "vocab_size": 32000,
}
# A word-level tokenizer stands for SentencePiece models, which cannot be made up.
_TOKENIZER = {"version": "1.0", "model": {"type": "WordLevel", "vocab": {"<unk>": 0}}}


def write_xcomposer2d5(directory: Path, *, layers: int = 32) -> None:
    """A full fine-tune of InternLM-XComposer2.5-7B with its extra pairs for writing.

    Nothing is wrong with it but that vLLM lacks it (``ckpt.architecture``).
    """
    config = {**_XCOMPOSER2D5, "num_hidden_layers": layers}
    extra = {}
    for role, rank in (("sft", 256), ("dpo", 256), ("web", 512)):
        name = f"model.layers.0.attention.wo.lora_{role}"
        extra[f"{name}_A.weight"], extra[f"{name}_B.weight"] = (rank, 4096), (4096, rank)
    write_fake(directory, config, extra=extra)
    (directory / "ixc_utils.py").write_text(
        "def Image_transform(img, hd_num=25):\n    return img\n", encoding="utf-8"
    )


def write_mplug_owl2(directory: Path, *, layers: int = 32) -> None:
    """A full fine-tune of mPLUG-Owl2-7B; nothing is wrong with it but that vLLM lacks it."""
    write_fake(directory, {**_OWL2, "num_hidden_layers": layers})


def write_mplug_owl3(directory: Path, *, layers: int = 28) -> None:
    """A full fine-tune of mPLUG-Owl3-7B-241101; nothing is wrong with it but that vLLM lacks it.

    With fewer ``layers``, the layers that attend to images are those of the first ones.
    """
    hyper = [layer for layer in _OWL3["hyper_layers"] if layer <= layers]
    config = {**_OWL3, "num_hidden_layers": layers, "hyper_layers": hyper}
    write_fake(directory, config)
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    (directory / "chat_template.jinja").write_text(template, encoding="utf-8")


def write_llava_original(directory: Path, *, layers: int = 32) -> None:
    """A full fine-tune of LLaVA-1.5-7B by its own code; its one finding is that vLLM lacks it."""
    config = {**_LLAVA, "num_hidden_layers": layers}
    names = {
        "language_model.model.": "model.",
        "language_model.lm_head.": "lm_head.",
        "vision_tower.": "model.vision_tower.vision_tower.",
        "mm_projector.": "model.mm_projector.",
    }
    write_fake(directory, config, names=names)


def write_fake(
    directory: Path,
    config: Mapping[str, Any],
    *,
    names: Mapping[str, str] | None = None,
    extra: Mapping[str, Shape] | None = None,
    edit: Mapping[str, Shape | None] | None = None,
) -> None:
    """Write a sharded checkpoint of any known family, with a tokenizer and a processor.

    Args:
        directory: An empty directory, or one to be made.
        config: Its ``config.json``.
        names: Prefixes of canonical names and what stands for them in the files.
        extra: Further tensors, by their names in the files.
        edit: Shapes to give to tensors instead of their own; ``None`` leaves one out.
    """
    directory.mkdir(parents=True, exist_ok=True)
    family = find_family(config)
    assert family is not None
    expected = family.expected_tensors(config)
    assert expected is not None
    shapes: dict[str, Shape | None] = {
        _renamed(name, names or {}): spec.shape for name, spec in expected.items()
    }
    shapes |= {**(extra or {}), **(edit or {})}
    tensors = {name: shape for name, shape in shapes.items() if shape is not None}
    _write_shards(directory, tensors)
    files = {
        "config.json": config,
        "tokenizer.json": _TOKENIZER,
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast"},
        "preprocessor_config.json": {"image_processor_type": "CLIPImageProcessor"},
    }
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_header(path: Path, tensors: Mapping[str, Shape]) -> None:
    """Write a safetensors file of bfloat16 tensors whose data is one hole."""
    header, offset = {}, 0
    for name, shape in tensors.items():
        end = offset + _bytes(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode() + _ROOM
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + offset)


def _write_shards(directory: Path, tensors: Mapping[str, Shape]) -> None:
    shards: list[dict[str, Shape]] = [{}]
    size = 0
    for name, shape in tensors.items():
        if size + _bytes(shape) > _SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = shape
        size += _bytes(shape)
    weight_map = {}
    for index, shard in enumerate(shards, start=1):
        file = f"model-{index:05}-of-{len(shards):05}.safetensors"
        write_header(directory / file, shard)
        weight_map.update(dict.fromkeys(shard, file))
    total = sum(_bytes(shape) for shape in tensors.values())
    index_text = json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map})
    (directory / "model.safetensors.index.json").write_text(index_text, encoding="utf-8")


def _bytes(shape: Shape) -> int:
    size = _ITEM_BYTES
    for length in shape:
        size *= length
    return size


def _renamed(name: str, prefixes: Mapping[str, str]) -> str:
    for old, new in prefixes.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


_LACKING = frozenset({"ckpt.architecture"})


def _fake(name: str, what: str, write: Callable[[Path], None]) -> Subject:
    return Subject(
        name,
        f"{what}, header only",
        lambda root: write(root / "checkpoint"),
        header_only=True,
        expected=_LACKING,
    )


SUBJECTS = (
    _fake("xcomposer2.5", "XComposer2.5", write_xcomposer2d5),
    _fake("mplug-owl2", "mPLUG-Owl2", write_mplug_owl2),
    _fake("mplug-owl3", "mPLUG-Owl3", write_mplug_owl3),
    _fake("llava-original", "original LLaVA-1.5", write_llava_original),
)
