"""Was everything saved that was trained?"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vlmserve.checkpoint.adapter import CONFIG_NAME, WEIGHTS_NAME, AdapterInfo
from vlmserve.checkpoint.families import is_llava_original
from vlmserve.checkpoint.families.xcomposer2 import XComposer2
from vlmserve.checkpoint.files import read_json_if_present
from vlmserve.checkpoint.source import Checkpoint
from vlmserve.checkpoint.weights import NON_LORA_NAME
from vlmserve.doctor.check import Check
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import Evidence, Finding, Outcome, enumerate_names

_PEFT = "PEFT utils/save_and_load.py get_peft_model_state_dict"
_LLAVA = "haotian-liu/LLaVA llava/train/train.py, llava_trainer.py; LLaVA#1245, LLaVA#1566"
_SWIFT = "ms-swift swift/model/model_meta.py, swift/pipelines/train/tuner.py"

# Settings with which an adapter covers its target modules in part, on purpose.
_PARTIAL = ("exclude_modules", "layers_to_transform", "layers_pattern", "target_parameters")

# Vectors of XComposer whose names contain PEFT's "lora_", so that it leaves them trainable, and not
# the adapter's name, so that it does not save them.
_SEPARATORS = ("plora_glb_GN", "plora_sub_GN")


def check_lost(exam: Examination) -> Iterator[Outcome]:
    """``ckpt.lost-tensors``: weights that were trained and are in none of the files."""
    checkpoint = exam.checkpoint
    adapter = checkpoint.adapter
    if adapter is None:
        return
    if not adapter.pairs and not adapter.other_tensors:
        return  # an adapter with nothing in it is lora.match's
    yield from _lost_modules(checkpoint, adapter)
    yield from _lost_wholes(checkpoint, adapter)
    yield from _lost_extras(adapter)
    yield from _lost_projector(checkpoint, adapter)
    yield from _lost_separators(checkpoint, adapter)
    yield from _lost_tower(checkpoint, adapter)


def _lost_modules(checkpoint: Checkpoint, adapter: AdapterInfo) -> Iterator[Finding]:
    """Modules that the settings name and the base has, without a tensor in the file."""
    family = checkpoint.family
    targets = adapter.target_modules
    if family is None or isinstance(targets, str) or any(map(adapter.config.get, _PARTIAL)):
        return
    modules = family.linear_modules(checkpoint.config) or {}
    adapted = {family.canonical_module(pair.module) for pair in adapter.pairs}
    if not adapted & set(modules):
        return  # names that fit nothing: lora.match says so
    lost = []
    for target in targets:
        parts: dict[str, list[str]] = defaultdict(list)
        for module in modules:
            if module == target or module.endswith(f".{target}"):
                parts[family.component(f"{module}.")].append(module)
        found = {part for part, names in parts.items() if adapted & set(names)}
        # Some trainers hand PEFT one part of the model alone: then the others have none at all.
        expected = found or set(parts)
        lost += [name for part in parts if part in expected for name in parts[part]]
    lost = [name for name in lost if name not in adapted]
    if lost:
        yield _finding(
            f"{len(lost)} modules were adapted in training and are not in the file: "
            f"{enumerate_names(lost, 2)}",
            [
                Evidence(file=CONFIG_NAME, key="target_modules", value=", ".join(targets)),
                Evidence(
                    file=WEIGHTS_NAME,
                    key=enumerate_names(lost, 2),
                    value=f"absent; {len(adapter.pairs)} modules are there",
                ),
            ],
            remedy="save the adapter again from the run (save_pretrained), or take an earlier "
            "checkpoint that is whole",
            source=_PEFT,
        )


def _lost_wholes(checkpoint: Checkpoint, adapter: AdapterInfo) -> Iterator[Finding]:
    """``modules_to_save`` without whole weights."""
    family = checkpoint.family
    expected = None if family is None else family.expected_tensors(checkpoint.config)
    if expected is None:
        return
    lost = [
        name
        for name in adapter.modules_to_save
        # A tied lm_head is the embedding again, and saved with that.
        if any(spec.required and _is_part(name, tensor) for tensor, spec in expected.items())
        and not any(_is_part(name, tensor) for tensor in adapter.other_tensors)
    ]
    if lost:
        yield _finding(
            f"{enumerate_names(lost)} trained as a whole, and not in the file",
            [
                Evidence(file=CONFIG_NAME, key="modules_to_save", value=", ".join(lost)),
                Evidence(file=WEIGHTS_NAME, key=lost[0], value="no whole weights"),
            ],
            remedy="save the adapter again from the run: under DeepSpeed ZeRO-3 with "
            "stage3_gather_16bit_weights_on_model_save",
            source=_PEFT,
        )


def _lost_extras(adapter: AdapterInfo) -> Iterator[Finding]:
    """DoRA without magnitudes, and trained token rows without rows."""
    settings = {"use_dora": "lora_magnitude_vector", "trainable_token_indices": "trainable_tokens"}
    for key, word in settings.items():
        if adapter.config.get(key) and not any(word in name for name in adapter.tensors):
            yield _finding(
                f"{key} is set, and the file has no {word}",
                [
                    Evidence(file=CONFIG_NAME, key=key, value=str(adapter.config[key])),
                    Evidence(file=WEIGHTS_NAME, key=word, value="absent"),
                ],
                remedy="save the adapter again from the run with PEFT's save_pretrained",
                source=_PEFT,
            )


def _lost_projector(checkpoint: Checkpoint, adapter: AdapterInfo) -> Iterator[Finding]:
    """LLaVA's LoRA trains the projector, and only the end of a run saves it."""
    place = _llava_config(checkpoint)
    if place is None:
        return
    file, config = place
    directory = checkpoint.path
    if config.get("freeze_mm_mlp_adapter") or (directory / NON_LORA_NAME).is_file():
        return
    if any("mm_projector" in name for name in adapter.tensors):
        return
    evidence = [
        Evidence(file=file, key="mm_projector_type", value=str(config.get("mm_projector_type"))),
        Evidence(file=NON_LORA_NAME, key="", value="absent, and no mm_projector in the adapter"),
    ]
    shards = sorted(path.name for path in directory.glob("global_step*") if path.is_dir())
    evidence += [
        Evidence(file=name, key="", value="DeepSpeed's shards, which have it") for name in shards
    ]
    if (directory.parent / NON_LORA_NAME).is_file():
        remedy = f"use the run's final directory, {directory.parent}, which has it"
    elif shards:
        remedy = (
            f"gather it from the shards: python {directory / 'zero_to_fp32.py'} is DeepSpeed's "
            "script for that (python -m deepspeed.utils.zero_to_fp32 does the same), and keep the "
            "mm_projector tensors"
        )
    else:
        remedy = "run the training to its end: only then it saves the projector"
    yield _finding(
        "the projector was trained, and is not beside the adapter",
        evidence,
        remedy=remedy,
        source=_LLAVA,
    )


def _llava_config(checkpoint: Checkpoint) -> tuple[str, Mapping[str, Any]] | None:
    """The configuration that says that this is an original LLaVA, with its file."""
    for path in (checkpoint.path / "config.json", checkpoint.path.parent / "config.json"):
        if path.is_file():
            config = read_json_if_present(path)
            if _has_projector(config):
                name = path.name if path.parent == checkpoint.path else f"../{path.name}"
                return name, config
    base = checkpoint.config
    return ("the base's config.json", base) if _has_projector(base) else None


def _has_projector(config: Mapping[str, Any]) -> bool:
    return is_llava_original(config) and bool(config.get("mm_projector_type"))


def _lost_separators(checkpoint: Checkpoint, adapter: AdapterInfo) -> Iterator[Finding]:
    """XComposer's separators between tiles, which PEFT trains and does not save."""
    if not isinstance(checkpoint.family, XComposer2):
        return
    lost = [
        name
        for name in _SEPARATORS
        if name in checkpoint.tensors and not any(name in found for found in adapter.tensors)
    ]
    if lost:
        yield _finding(
            f"{enumerate_names(lost)} trained with the adapter, and not saved with it",
            [
                Evidence(file=WEIGHTS_NAME, key=name, value="absent; the base's value is used")
                for name in lost
            ],
            remedy="gather them from the optimizer's shards of the run (global_step*), or freeze "
            "them and train again: requires_grad_(False) on both after get_peft_model",
            source="PEFT tuners/lora/model.py _mark_only_adapters_as_trainable: names with lora_ "
            "stay trainable; " + _PEFT,
        )


def _lost_tower(checkpoint: Checkpoint, adapter: AdapterInfo) -> Iterator[Finding]:
    """Parts that ms-swift was told to train and that the adapter has nothing of."""
    training = checkpoint.training
    if training is None or training.framework != "ms-swift":
        return
    path = (checkpoint.path / training.files[-1]).resolve()
    args = read_json_if_present(path)
    whole = checkpoint.path / "vit.safetensors"
    if whole.is_file():
        yield _finding(
            "the trained vision tower lies in a file that no server loads",
            [Evidence(file=whole.name, key="", value="whole weights beside the adapter")],
            remedy="merge it with ms-swift, by the plugin that it was trained with",
            source="ms-swift#4482",
        )
        return
    if not _wants_all_linear(args):
        return
    parts = {
        "freeze_vit": ("vision tower", adapter.touches_vision_tower),
        "freeze_aligner": ("projector", adapter.touches_projector),
    }
    for key, (part, is_there) in parts.items():
        if args.get(key) is False and not is_there:
            yield _finding(
                f"the {part} was to be trained, and the adapter has nothing of it",
                [
                    Evidence(file=_shown(path, checkpoint.path), key=key, value="false"),
                    Evidence(file=WEIGHTS_NAME, key="", value=f"no module of the {part}"),
                ],
                remedy="look whether the file was filtered on the way (for vLLM, say) and take "
                "the one that ms-swift saved",
                source=_SWIFT,
            )


def _wants_all_linear(args: Mapping[str, Any]) -> bool:
    targets = args.get("target_modules")
    kind = args.get("tuner_type") or args.get("train_type")
    return kind == "lora" and not args.get("target_regex") and "all-linear" in (targets or ())


def _shown(path: Path, directory: Path) -> str:
    return path.name if path.parent == directory.resolve() else f"../{path.name}"


def _is_part(name: str, tensor: str) -> bool:
    """Whether a module's name is a whole part of a tensor's path."""
    return re.search(rf"(^|\.){re.escape(name)}(\.|$)", tensor) is not None


def _finding(title: str, evidence: list[Evidence], *, remedy: str, source: str) -> Finding:
    return Finding(
        id="ckpt.lost-tensors",
        title=title,
        evidence=evidence,
        consequence="The base's own weights are served in their place, which the rest was not "
        "trained with.",
        remedy=remedy,
        source=source,
    )


CHECKS = (
    Check(
        id="ckpt.lost-tensors",
        run=check_lost,
        cause="What is trained and what is saved are decided in different places: PEFT saves by "
        "names, LLaVA writes its projector only at a run's end, DeepSpeed has to gather first, and "
        "people filter adapters until a server takes them.",
        evidence="An adapter's tensors against what its settings say was trained: `target_modules` "
        "and `modules_to_save` that the base has, DoRA's magnitudes, trained token rows; the "
        "projector of an original LLaVA; XComposer's `plora_*_GN`; `freeze_vit` and "
        "`freeze_aligner` in ms-swift's `args.json`.",
        example="the projector was trained, and is not beside the adapter",
        remedy="Save the adapter again from the run, or gather the missing tensors from its "
        "DeepSpeed shards.",
    ),
)
"""The checks of this theme, in the order in which they run."""
