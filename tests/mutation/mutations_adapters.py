"""Adapters that vLLM would not apply, or not on what they were trained on; parts left out."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.mutation.mutation import (
    ADAPTER_WEIGHTS,
    Mutation,
    Tensors,
    drop_files,
    drop_key,
    drop_tensors,
    edit_json,
    edit_tensors,
    rename_tensors,
    set_key,
)
from tests.mutation.subject import Case

_CONFIG = "adapter_config.json"
_LAST_LAYER = r"\.layers\.1\."


def _renamed(pattern: str, replacement: str) -> Callable[[Case], None]:
    return lambda case: rename_tensors(case.checkpoint / ADAPTER_WEIGHTS, pattern, replacement)


def _configured(key: str, value: object) -> Callable[[Case], None]:
    return lambda case: set_key(case.checkpoint / _CONFIG, key, value)


def _without(*names: str, base: bool = False) -> Callable[[Case], None]:
    """Leave files out of the checkpoint; with ``base``, out of the model that it is laid on."""

    def apply(case: Case) -> None:
        directory = case.base if base else case.checkpoint
        assert directory is not None
        drop_files(directory, *names)

    return apply


def _edit_adapter(case: Case, edit: Callable[[Tensors], object]) -> None:
    edit_tensors(case.checkpoint / ADAPTER_WEIGHTS, edit)


def _second_factors_gone(case: Case) -> None:
    drop_tensors(case.checkpoint / ADAPTER_WEIGHTS, _LAST_LAYER + r".*lora_B")


def _one_shape(case: Case) -> None:
    """One module has the sizes of another."""

    def edit(tensors: Tensors) -> None:
        name = next(name for name in tensors if re.search(r"0\.mlp\.down_proj\.lora_A", name))
        tensors[name] = np.ascontiguousarray(tensors[name][:, ::2])

    _edit_adapter(case, edit)


def _empty(case: Case) -> None:
    _edit_adapter(case, Tensors.clear)


def _rank_above_largest(case: Case) -> None:
    """A rank that PEFT trains and vLLM does not allocate for."""

    def edit(tensors: Tensors) -> None:
        for name, tensor in tensors.items():
            repeats = (64, 1) if "lora_A" in name else (1, 64)
            tensors[name] = np.tile(tensor, repeats)

    _edit_adapter(case, edit)
    set_key(case.checkpoint / _CONFIG, "r", 1024)


def _wider(case: Case) -> None:
    """The adapter of a model that is twice as wide."""

    def edit(tensors: Tensors) -> None:
        for name, tensor in tensors.items():
            repeats = (1, 2) if "lora_A" in name else (2, 1)
            tensors[name] = np.tile(tensor, repeats)

    _edit_adapter(case, edit)


def _more_tokens(case: Case) -> None:
    """A tokenizer with a token that the base has no row for."""
    token = {"content": "<new>", "special": True}
    (case.checkpoint / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    set_key(case.checkpoint / "tokenizer_config.json", "added_tokens_decoder", {"600": token})


def _older_generation(case: Case) -> None:
    """Laid on a Qwen2-VL, whose language model has the same names and sizes."""
    from tests.mutation import tiny_models

    case.base = case.root / "Qwen2-VL"
    tiny_models.save("qwen2_vl", tiny_models.create_model("qwen2_vl"), case.base)


def _whole_modules(case: Case) -> None:
    """``modules_to_save``: the embedding was trained whole."""
    set_key(case.checkpoint / _CONFIG, "modules_to_save", ["embed_tokens"])
    name = "base_model.model.model.language_model.embed_tokens.weight"
    _edit_adapter(case, lambda tensors: tensors.update({name: np.ones((481, 128), np.float32)}))


def _trained_biases(case: Case) -> None:
    set_key(case.checkpoint / _CONFIG, "bias", "lora_only")
    name = "base_model.model.model.language_model.layers.0.self_attn.q_proj.bias"
    _edit_adapter(case, lambda tensors: tensors.update({name: np.ones(128, np.float32)}))


def _dora(case: Case) -> None:
    set_key(case.checkpoint / _CONFIG, "use_dora", True)

    def edit(tensors: Tensors) -> None:
        for name in [name for name in tensors if "lora_B" in name]:
            magnitude = name.replace("lora_B.weight", "lora_magnitude_vector")
            tensors[magnitude] = np.ones(tensors[name].shape[0], np.float32)

    _edit_adapter(case, edit)


def _beside_the_adapter(case: Case) -> None:
    """The projector, as LLaVA's own trainer keeps it."""
    import torch

    tensors = {"base_model.model.model.mm_projector.0.bias": torch.ones(64)}
    torch.save(tensors, case.checkpoint / "non_lora_trainables.bin")


def _no_template(path: Path) -> None:
    """Take the template out of every file of a 4.x layout."""
    drop_files(path, "chat_template.json")
    drop_key(path / "tokenizer_config.json", "chat_template")


def _no_template_anywhere(case: Case) -> None:
    for path in (case.checkpoint, case.base):
        assert path is not None
        _no_template(path)


def _wrapper_alone(case: Case) -> None:
    """Of a 5.x processor only what transformers before 5 wrote into this file."""
    edit_json(case.checkpoint / "processor_config.json", lambda c: c.pop("image_processor"))


MUTATIONS = (
    # Names and sizes of the modules.
    Mutation(
        "prefix of a text-only training",
        "lora.match",
        "llava-lora",
        _renamed(r"^base_model\.model\.model\.language_model\.", "base_model.model.model."),
        fast=True,
    ),
    Mutation(
        "prefix of a distributed trainer",
        "lora.match",
        "demo-lora",
        _renamed(r"^base_model\.model\.", "base_model.model.module."),
        fast=True,
    ),
    Mutation(
        "modules of the original Qwen",
        "lora.match",
        "swift-lora",
        _renamed(r"\.layers\.(\d)\.self_attn\.q_proj\.", r".layers.\1.attn.c_attn."),
        fast=True,
    ),
    Mutation(
        "lora_B of one layer lost", "lora.match", "demo-lora", _second_factors_gone, fast=True
    ),
    Mutation("one module of another size", "lora.match", "demo-lora", _one_shape, fast=True),
    Mutation("no tensors at all", "ckpt.files", "demo-lora", _empty, fast=True),
    Mutation("rank 1024", "lora.match", "demo-lora", _rank_above_largest, fast=True),
    # What vLLM refuses or leaves out.
    Mutation(
        "the adapter's name left in the keys",
        "lora.coverage",
        "swift-lora",
        _renamed(r"\.lora_([AB])\.weight$", r".lora_\1.default.weight"),
        fast=True,
    ),
    Mutation("DoRA", "lora.coverage", "demo-lora", _dora, fast=True),
    Mutation("modules_to_save", "lora.coverage", "demo-lora", _whole_modules, fast=True),
    Mutation("trained biases", "lora.coverage", "demo-lora", _trained_biases, fast=True),
    Mutation(
        "PiSSA", "lora.coverage", "swift-lora", _configured("init_lora_weights", "pissa"), fast=True
    ),
    Mutation(
        "non_lora_trainables.bin", "lora.coverage", "llava-lora", _beside_the_adapter, fast=True
    ),
    # Another base, as the configuration tells.
    Mutation("adapter of a wider model", "base.identity", "demo-lora", _wider, fast=True),
    Mutation(
        "adapter of Qwen2.5-VL laid on Qwen2-VL",
        "base.identity",
        "swift-lora",
        _older_generation,
        fast=True,
    ),
    Mutation(
        "tokens beyond the base's rows", "base.identity", "swift-lora", _more_tokens, fast=True
    ),
    # Parts left out.
    Mutation(
        "processor left out",
        "proc.present",
        "qwen2-vl",
        _without("processor_config.json"),
        fast=True,
    ),
    Mutation("image processor left out", "proc.present", "qwen3-vl", _wrapper_alone, fast=True),
    Mutation(
        "image processor left out",
        "proc.present",
        "llava-1.5-4x",
        _without("preprocessor_config.json"),
        fast=True,
    ),
    Mutation(
        "tokenizer left out",
        "proc.present",
        "qwen2.5-vl",
        _without("tokenizer.json", "tokenizer_config.json"),
        fast=True,
    ),
    Mutation(
        "template left out",
        "proc.present",
        "llava-next",
        _without("chat_template.jinja"),
        fast=True,
    ),
    Mutation(
        "template left out of the base, too",
        "proc.present",
        "qwen2-vl-4x",
        _no_template_anywhere,
        fast=True,
    ),
    Mutation(
        "processor left out of an adapter's base",
        "proc.present",
        "llava-lora",
        _without("processor_config.json", base=True),
        fast=True,
    ),
)
