"""Are the files there and whole, and is the model one that vLLM has?"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from vlmserve.checkpoint.adapter import CONFIG_NAME, WEIGHTS_NAME
from vlmserve.checkpoint.families import unsupported_reason
from vlmserve.checkpoint.files import read_json_if_present
from vlmserve.checkpoint.leftovers import Leftover, convert_zero, find_zero_shards
from vlmserve.checkpoint.processor import PROCESSOR_FILES, TOKENIZER_FILES
from vlmserve.checkpoint.source import Checkpoint
from vlmserve.checkpoint.token_table import read_tokenizer_json
from vlmserve.checkpoint.torch_pickle import OpaquePickleError
from vlmserve.checkpoint.weights import INDEX_NAME
from vlmserve.doctor.check import Check
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import (
    Evidence,
    Finding,
    Outcome,
    enumerate_names,
    shown_path,
)
from vlmserve.errors import CheckpointError

if TYPE_CHECKING:
    from vlmserve.checkpoint.tensors import TensorInfo

_JSON_FILES = tuple(
    name
    for name in (
        "config.json",
        "generation_config.json",
        CONFIG_NAME,
        "chat_template.json",
        *PROCESSOR_FILES,
        *TOKENIZER_FILES,
    )
    if name.endswith(".json")
)
# What the language models inside vision-language ones declare on their own.
_TEXT_MODELS = frozenset(
    {
        "GemmaForCausalLM",
        "InternLM2ForCausalLM",
        "LlamaForCausalLM",
        "MistralForCausalLM",
        "Phi3ForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen3ForCausalLM",
    }
)
_COPY_AGAIN = "copy or download the checkpoint again and compare file sizes with the source"
_ZERO_SOURCE = "deepspeed utils/zero_to_fp32.py; OpenRLHF#839"
_LOADER = "vllm 0.32 model_executor/model_loader/default_loader.py track_weights_loading"


def check_architecture(exam: Examination) -> Iterator[Outcome]:
    """``ckpt.architecture``: vLLM is known to lack the model class, or adapters for it."""
    checkpoint = exam.checkpoint
    family, name = checkpoint.family, checkpoint.architecture
    reason = unsupported_reason(name)
    if reason is not None:
        traps = () if family is None else family.traps
        beware = f" Known of this family: {'; '.join(traps)}." if traps else ""
        yield Finding(
            id="ckpt.architecture",
            title=f"vLLM 0.32 has no {name}",
            evidence=[_architecture_evidence(checkpoint)],
            consequence=f"vLLM refuses to start.{beware}",
            remedy=reason,
            source="vllm 0.32 model_executor/models/registry.py",
        )
    elif name in _TEXT_MODELS:
        yield Finding(
            id="ckpt.architecture",
            title=f"{name} is a text model: it takes no images",
            evidence=[_architecture_evidence(checkpoint)],
            consequence="vLLM serves the text model alone. A step of an original LLaVA's LoRA run "
            "looks like this: its projector is in DeepSpeed's shards only, and what makes it a "
            "vision-language model in the run's last directory.",
            remedy="take the last directory of the run, which has config.json and "
            "non_lora_trainables.bin"
            if checkpoint.adapter is not None
            else "copy config.json from the vision-language model that it was trained from",
            source="vllm 0.32 model_executor/models/registry.py; LLaVA#1245, LLaVA#1566",
            severity="warn",
        )
    elif checkpoint.adapter is not None and family is not None and not family.supports_lora:
        yield Finding(
            id="ckpt.architecture",
            title=f"vLLM 0.32 takes no adapter for {name}",
            evidence=[
                Evidence(file=CONFIG_NAME, key="peft_type", value="LORA"),
                _architecture_evidence(checkpoint),
            ],
            consequence="vLLM refuses to start.",
            remedy="merge the adapter into its base with PEFT's merge_and_unload, and serve that",
            source="vllm 0.32 v1/worker/lora_model_runner_mixin.py load_lora_model",
        )


def _architecture_evidence(checkpoint: Checkpoint) -> Evidence:
    # Beside an adapter there may be a configuration of its own, which then wins.
    is_base = checkpoint.config is checkpoint.model.config
    path = (checkpoint.model.path if is_base else checkpoint.path) / "config.json"
    named = checkpoint.config.get("architectures")
    key = "architectures" if isinstance(named, list) and named else "model_type"
    # InternLM-XComposer 4KHD declares the text model's class and means another.
    is_told = key == "model_type" or checkpoint.architecture in (named or ())
    return Evidence(
        file=shown_path(path, checkpoint),
        key=key if is_told else "auto_map",
        value=checkpoint.architecture,
    )


def check_files(exam: Examination) -> Iterator[Outcome]:
    """``ckpt.files``: weights, index and JSON files are present, whole and readable."""
    checkpoint = exam.checkpoint
    leftover = checkpoint.leftover
    if leftover is not None:
        if leftover.kind != "zero shards":
            yield _leftover_finding("ckpt.files", leftover)
        return
    faults = [*_json_faults(checkpoint), *_weight_faults(checkpoint)]
    if checkpoint.adapter is not None:
        faults += _adapter_faults(checkpoint)
    if faults:
        yield _files_finding(checkpoint, faults)


def check_zero(exam: Examination) -> Iterator[Outcome]:
    """``ckpt.zero``: DeepSpeed ZeRO-3 shards that were never gathered into weights."""
    checkpoint = exam.checkpoint
    leftover = checkpoint.leftover
    if leftover is not None:
        if leftover.kind == "zero shards":
            yield _leftover_finding("ckpt.zero", leftover)
        return
    shards = find_zero_shards(checkpoint.path)
    empty = _empty_tensors(checkpoint)
    has_weights = bool(checkpoint.weights.files)
    if checkpoint.adapter is not None:
        has_weights = any(checkpoint.path.glob("adapter_model.*"))
    if not empty and (has_weights or not shards):
        return
    evidence = [
        Evidence(file=shown_path(path, checkpoint), key=name, value="shape [0]")
        for path, name in empty[:3]
    ]
    evidence += [
        Evidence(file=shown_path(path, checkpoint), key="", value="a shard of the trainer's state")
        for path in shards[:1]
    ]
    yield Finding(
        id="ckpt.zero",
        title=f"saved under ZeRO-3 without gathering: {len(empty)} empty tensors"
        if empty
        else "only DeepSpeed's own shards, no weights",
        evidence=evidence,
        consequence="The weights are not in the files that vLLM reads.",
        remedy=f"run: {convert_zero(checkpoint.path)}; for later runs set "
        "stage3_gather_16bit_weights_on_model_save to true"
        if shards
        else "DeepSpeed's shards (global_step*) are not here: go back to the run's own directory "
        f"and run there: {convert_zero(checkpoint.path)}; for later runs set "
        "stage3_gather_16bit_weights_on_model_save to true",
        source=_ZERO_SOURCE,
    )


def _leftover_finding(check_id: str, leftover: Leftover) -> Finding:
    return Finding(
        id=check_id,
        title=leftover.title,
        evidence=[Evidence(file=leftover.file, key="", value=leftover.value)],
        consequence="No model can be loaded from this directory; nothing else of it was checked.",
        remedy=leftover.remedy,
        source=_ZERO_SOURCE if check_id == "ckpt.zero" else _LOADER,
    )


def _empty_tensors(checkpoint: Checkpoint) -> list[tuple[Path, str]]:
    tensors: list[TensorInfo] = []
    # Files that cannot be read are ckpt.files' to report.
    with suppress(CheckpointError):
        tensors += checkpoint.tensors.values()
    if checkpoint.adapter is not None:
        with suppress(CheckpointError):
            tensors += checkpoint.adapter.tensors.values()
    return [(tensor.path, tensor.name) for tensor in tensors if tensor.shape == (0,)]


def _json_faults(checkpoint: Checkpoint) -> list[Evidence]:
    """JSON files of the checkpoint and of what is loaded with it that do not parse."""
    faults: list[Evidence] = []
    directories = dict.fromkeys([checkpoint.path, checkpoint.model.path])
    for directory in directories:
        for path in (directory / name for name in _JSON_FILES):
            try:
                if path.name == "tokenizer.json" and path.is_file():
                    read_tokenizer_json(path)
                else:
                    read_json_if_present(path)
            except CheckpointError as error:
                faults.append(_fault(path, checkpoint, error))
    return faults


def _weight_faults(checkpoint: Checkpoint) -> list[Evidence]:
    directory = checkpoint.model.path
    try:
        weights = checkpoint.weights
    except CheckpointError as error:
        return [_fault(directory / INDEX_NAME, checkpoint, error)]
    if not weights.files:
        if find_zero_shards(checkpoint.path):
            return []  # ckpt.zero says so
        return [
            Evidence(
                file=shown_path(directory / "model.safetensors", checkpoint),
                key="",
                value="no weights: neither *.safetensors nor *.bin",
            )
        ]
    faults = []
    for path, header in checkpoint.headers.items():
        if isinstance(header, OpaquePickleError):
            continue  # it may be sound
        if isinstance(header, CheckpointError):
            faults.append(_fault(path, checkpoint, header))
            continue
        wanted = {name for name, file in weights.weight_map.items() if file == path.name}
        absent = sorted(wanted - header.keys())
        if absent:
            faults.append(
                Evidence(
                    file=shown_path(path, checkpoint),
                    key=enumerate_names(absent),
                    value=f"in {weights.index} but not in this file",
                )
            )
    return faults


def _adapter_faults(checkpoint: Checkpoint) -> list[Evidence]:
    adapter = checkpoint.adapter
    if adapter is None:
        return []
    has_weights = any(adapter.path.glob("adapter_model.*"))
    if not has_weights and find_zero_shards(checkpoint.path):
        return []  # ckpt.zero says so
    try:
        count = len(adapter.tensors)
    except OpaquePickleError:
        return []  # it may be sound
    except CheckpointError as error:
        return [_fault(adapter.path / WEIGHTS_NAME, checkpoint, error)]
    if count:
        return []
    return [Evidence(file=WEIGHTS_NAME, key="", value="no tensors in the file")]


def _fault(path: Path, checkpoint: Checkpoint, error: CheckpointError) -> Evidence:
    message = error.message.removeprefix(str(path)).lstrip(": ")
    return Evidence(file=shown_path(path, checkpoint), key="", value=message)


def _files_finding(checkpoint: Checkpoint, faults: list[Evidence]) -> Finding:
    names = list(dict.fromkeys(fault.file for fault in faults))
    return Finding(
        id="ckpt.files",
        title=f"missing or broken: {enumerate_names(names)}",
        evidence=faults,
        consequence="vLLM does not start; or, where a shard of an index is missing, it starts and "
        "computes with uninitialised memory in place of the weights.",
        remedy=_hint(checkpoint) or _COPY_AGAIN,
        source=_LOADER,
    )


def _hint(checkpoint: Checkpoint) -> str | None:
    """What the first broken weight file needs, where that is known."""
    with suppress(CheckpointError):
        errors = [head for head in checkpoint.headers.values() if isinstance(head, CheckpointError)]
        return next((error.hint for error in errors if error.hint is not None), None)
    return None


CHECKS = (
    Check(
        id="ckpt.architecture",
        run=check_architecture,
        cause="The model's own code trained it, and vLLM has no implementation of that class; or "
        "it has one that takes no adapters.",
        evidence="`architectures` and `auto_map` of `config.json` against what vLLM 0.32 is known"
        " to lack.",
        example="vLLM 0.32 has no LlavaLlamaForCausalLM",
        remedy="Convert it to the transformers format where there is one; the finding says how.",
        leftovers=True,
    ),
    Check(
        id="ckpt.files",
        run=check_files,
        cause="Copies and downloads that stopped half way, Git LFS pointers, shards that were "
        "never uploaded, JSON edited by hand. Or the directory is another one than was meant: a "
        "run's, with the checkpoints one level down, a projector's alone, an adapter's whose base "
        "is elsewhere.",
        evidence="Every JSON file parses; every file that the index names is there, holds the "
        "tensors that the index says, and is as long as its header says.",
        example="missing or broken: model-00002-of-00004.safetensors",
        remedy="Copy or download the checkpoint again and compare file sizes with the source.",
        leftovers=True,
    ),
    Check(
        id="ckpt.zero",
        run=check_zero,
        cause="DeepSpeed ZeRO-3 spreads each tensor over the processes. Without "
        "`stage3_gather_16bit_weights_on_model_save` the trainer saves empty tensors, or "
        "its own shards alone.",
        evidence="Tensors of shape `[0]`, and `global_step*` directories without weights beside "
        "them.",
        example="saved under ZeRO-3 without gathering: 36 empty tensors",
        remedy="Gather them with `python -m deepspeed.utils.zero_to_fp32`; the finding has the "
        "whole command.",
        leftovers=True,
    ),
)
"""The checks of this theme, in the order in which they run."""
