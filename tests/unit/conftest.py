"""Tiny checkpoints on disk, whole or broken on purpose."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vlmserve.checkpoint.families import find_family

TINY_QWEN2_VL: dict[str, Any] = {
    "architectures": ["Qwen2VLForConditionalGeneration"],
    "model_type": "qwen2_vl",
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "tie_word_embeddings": True,
    "rope_theta": 1000000.0,
    "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
    "transformers_version": "4.49.0",
    "vision_config": {"depth": 2, "embed_dim": 16, "hidden_size": 16, "mlp_ratio": 2},
}
TINY_LLAVA: dict[str, Any] = {
    "architectures": ["LlavaForConditionalGeneration"],
    "model_type": "llava",
    "text_config": {
        "model_type": "llama",
        "vocab_size": 40,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    },
    "vision_config": {
        "model_type": "clip_vision_model",
        "hidden_size": 8,
        "intermediate_size": 12,
        "num_hidden_layers": 2,
        "image_size": 28,
        "patch_size": 14,
    },
}
PROCESSOR = {
    "preprocessor_config.json": '{"image_processor_type": "Qwen2VLImageProcessor"}',
    "tokenizer.json": '{"model": {}}',
    "tokenizer_config.json": '{"tokenizer_class": "Qwen2Tokenizer"}',
    "chat_template.json": '{"chat_template": "{{ messages }}"}',
}
Q_PROJ = "model.layers.0.self_attn.q_proj"

Tensors = dict[str, np.ndarray[Any, Any]]


class CheckpointWriter:
    """Writes tiny checkpoints under a directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def model(
        self,
        name: str = "model",
        config: Mapping[str, Any] = TINY_QWEN2_VL,
        *,
        prefixes: Mapping[str, str] | None = None,
        edit: Callable[[Tensors], object] | None = None,
    ) -> Path:
        """A full model with every tensor that its family expects, and a processor.

        ``prefixes`` renames canonical names (default: those of transformers before 4.52), ``edit``
        changes the tensors before they are written. Equal calls write equal weights.
        """
        directory = self.root / name
        directory.mkdir()
        (directory / "config.json").write_text(json.dumps(config))
        for file, text in PROCESSOR.items():
            (directory / file).write_text(text)
        family = find_family(config)
        assert family is not None
        expected = family.expected_tensors(config)
        assert expected is not None
        if prefixes is None and family.name.startswith("qwen"):
            prefixes = {"language_model.model.": "model.", "language_model.lm_head.": "lm_head."}
        rng = np.random.default_rng(0)
        tensors = {
            _renamed(key, prefixes or {}): rng.normal(size=spec.shape).astype(np.float32)
            for key, spec in expected.items()
            if spec.required or "lm_head" not in key
        }
        if edit is not None:
            edit(tensors)
        save_file(tensors, directory / "model.safetensors")
        return directory

    def shard(self, directory: Path, count: int) -> Path:
        """Spread a model's weights over files with an index."""
        whole = directory / "model.safetensors"
        tensors = load_file(whole)
        whole.unlink()
        weight_map = {}
        for index in range(count):
            name = f"model-{index + 1:05}-of-{count:05}.safetensors"
            part = dict(list(tensors.items())[index::count])
            save_file(part, directory / name)
            weight_map.update(dict.fromkeys(part, name))
        index_path = directory / "model.safetensors.index.json"
        index_path.write_text(json.dumps({"weight_map": weight_map}))
        return directory

    def adapter(
        self,
        base: str | Path | None,
        modules: Mapping[str, tuple[int, int]] | None = None,
        *,
        config: Mapping[str, Any] | None = None,
        edit: Callable[[Tensors], object] | None = None,
    ) -> Path:
        """A LoRA adapter; ``modules`` maps paths to ``(out_features, in_features)``."""
        directory = self.root / "adapter"
        while directory.exists():
            directory = directory.with_name(f"{directory.name}+")
        directory.mkdir()
        settings = {
            "peft_type": "LORA",
            "base_model_name_or_path": None if base is None else str(base),
            "r": 2,
            "lora_alpha": 4,
            # By their whole paths, so that no module counts as left out.
            "target_modules": sorted(modules or {Q_PROJ}),
            **(config or {}),
        }
        (directory / "adapter_config.json").write_text(json.dumps(settings))
        rng = np.random.default_rng(1)
        rank = settings["r"] or 2
        tensors: Tensors = {}
        for module, (rows, columns) in (modules or {Q_PROJ: (16, 16)}).items():
            key = f"base_model.model.{module}"
            tensors[f"{key}.lora_A.weight"] = rng.normal(size=(rank, columns)).astype(np.float32)
            tensors[f"{key}.lora_B.weight"] = rng.normal(size=(rows, rank)).astype(np.float32)
        if edit is not None:
            edit(tensors)
        save_file(tensors, directory / "adapter_model.safetensors")
        return directory


def _renamed(name: str, prefixes: Mapping[str, str]) -> str:
    for old, new in prefixes.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


@pytest.fixture
def write(tmp_path: Path) -> CheckpointWriter:
    return CheckpointWriter(tmp_path)


@pytest.fixture
def tiny_qwen2_vl() -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(TINY_QWEN2_VL))
    return copy


@pytest.fixture
def tiny_llava() -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(TINY_LLAVA))
    return copy
