"""Are the files there and whole, and is the model one that vLLM has?"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from vlmserve.checkpoint.adapter import CONFIG_NAME, WEIGHTS_NAME
from vlmserve.checkpoint.families import unsupported_reason
from vlmserve.checkpoint.files import read_json_if_present
from vlmserve.checkpoint.processor import PROCESSOR_FILES, TOKENIZER_FILES
from vlmserve.checkpoint.source import Checkpoint
from vlmserve.checkpoint.tensors import TensorInfo, read_header
from vlmserve.checkpoint.weights import INDEX_NAME, find_weights
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
_COPY_AGAIN = "copy or download the checkpoint again and compare file sizes with the source"
_LOADER = "vllm 0.32 model_executor/model_loader/default_loader.py track_weights_loading"


def check_architecture(exam: Examination) -> Iterator[Outcome]:
    """``ckpt.architecture``: the model class is one that vLLM is known to lack."""
    checkpoint = exam.checkpoint
    reason = unsupported_reason(checkpoint.architecture)
    if reason is not None:
        yield Finding(
            id="ckpt.architecture",
            title=f"vLLM 0.32 has no {checkpoint.architecture}",
            evidence=[
                Evidence(
                    file=shown_path(checkpoint.model.path / "config.json", checkpoint),
                    key="architectures",
                    value=checkpoint.architecture,
                )
            ],
            consequence="vLLM refuses to start.",
            remedy=reason,
            source="vllm 0.32 model_executor/models/registry.py",
        )


def check_files(exam: Examination) -> Iterator[Outcome]:
    """``ckpt.files``: weights, index and JSON files are present, whole and readable."""
    checkpoint = exam.checkpoint
    faults = [*_json_faults(checkpoint), *_weight_faults(checkpoint)]
    if checkpoint.adapter is not None:
        faults += _adapter_faults(checkpoint)
    if faults:
        yield _files_finding(checkpoint, faults)


def check_zero(exam: Examination) -> Iterator[Outcome]:
    """``ckpt.zero``: DeepSpeed ZeRO-3 shards that were never gathered into weights."""
    checkpoint = exam.checkpoint
    shards = _zero_shards(checkpoint)
    empty = _empty_tensors(checkpoint)
    has_weights = bool(checkpoint.weights.shards or checkpoint.weights.pickles)
    if checkpoint.adapter is not None:
        has_weights = (checkpoint.path / WEIGHTS_NAME).is_file()
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
        remedy=f"run: python -m deepspeed.utils.zero_to_fp32 {checkpoint.path} "
        f"{checkpoint.path}-full --safe_serialization; for later runs set "
        "stage3_gather_16bit_weights_on_model_save to true",
        source="deepspeed utils/zero_to_fp32.py; OpenRLHF#839",
    )


def _zero_shards(checkpoint: Checkpoint) -> list[Path]:
    return sorted(checkpoint.path.glob("global_step*/*_states.pt"))


def _empty_tensors(checkpoint: Checkpoint) -> list[tuple[Path, str]]:
    tensors: dict[str, TensorInfo] = {}
    # Files that cannot be read are ckpt.files' to report.
    with suppress(CheckpointError):
        tensors |= checkpoint.tensors
    if checkpoint.adapter is not None:
        with suppress(CheckpointError):
            tensors |= checkpoint.adapter.tensors
    return [(tensor.path, tensor.name) for tensor in tensors.values() if tensor.shape == (0,)]


def _json_faults(checkpoint: Checkpoint) -> list[Evidence]:
    """JSON files of the checkpoint and of what is loaded with it that do not parse."""
    faults: list[Evidence] = []
    directories = dict.fromkeys([checkpoint.path, checkpoint.model.path])
    for directory in directories:
        for path in (directory / name for name in _JSON_FILES):
            try:
                read_json_if_present(path)
            except CheckpointError as error:
                faults.append(_fault(path, checkpoint, error))
    return faults


def _weight_faults(checkpoint: Checkpoint) -> list[Evidence]:
    directory = checkpoint.model.path
    try:
        weights = find_weights(directory)
    except CheckpointError as error:
        return [_fault(directory / INDEX_NAME, checkpoint, error)]
    if not weights.shards and not weights.pickles:
        if _zero_shards(checkpoint):
            return []  # ckpt.zero says so
        return [
            Evidence(
                file=shown_path(directory / "model.safetensors", checkpoint),
                key="",
                value="no weights: neither *.safetensors nor *.bin",
            )
        ]
    faults = []
    for shard in weights.shards:
        wanted = {name for name, file in weights.weight_map.items() if file == shard.name}
        try:
            absent = sorted(wanted - read_header(shard).keys())
        except CheckpointError as error:
            faults.append(_fault(shard, checkpoint, error))
            continue
        if absent:
            faults.append(
                Evidence(
                    file=shown_path(shard, checkpoint),
                    key=enumerate_names(absent),
                    value=f"in {INDEX_NAME} but not in this file",
                )
            )
    return faults + [
        Evidence(file=shown_path(path, checkpoint), key="", value="the file is empty")
        for path in weights.pickles
        if path.stat().st_size == 0
    ]


def _adapter_faults(checkpoint: Checkpoint) -> list[Evidence]:
    adapter = checkpoint.adapter
    if adapter is None:
        return []
    if not (adapter.path / WEIGHTS_NAME).exists() and _zero_shards(checkpoint):
        return []  # ckpt.zero says so
    try:
        count = len(adapter.tensors)
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
        remedy=_COPY_AGAIN,
        source=_LOADER,
    )


CHECKS = (
    Check(
        id="ckpt.architecture",
        run=check_architecture,
        cause="The model's own code trained it, and vLLM has no implementation of that class.",
        evidence="`architectures` and `auto_map` of `config.json` against what vLLM 0.32 is known"
        " to lack.",
        example="vLLM 0.32 has no LlavaLlamaForCausalLM",
        remedy="Convert it to the transformers format where there is one; the finding says how.",
    ),
    Check(
        id="ckpt.files",
        run=check_files,
        cause="Copies and downloads that stopped half way, Git LFS pointers, shards that were "
        "never uploaded, JSON edited by hand.",
        evidence="Every JSON file parses; every file that the index names is there, holds the "
        "tensors that the index says, and is as long as its header says.",
        example="missing or broken: model-00002-of-00004.safetensors",
        remedy="Copy or download the checkpoint again and compare file sizes with the source.",
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
    ),
)
"""The checks of this theme, in the order in which they run."""
