"""Are the files there and whole?"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from vlmserve.checkpoint.adapter import CONFIG_NAME, WEIGHTS_NAME
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
# What ZeRO-3 partitions. Empty bytes and integers are states of other tools, such as _extra_state.
_PARAMETER_TYPES = ("F64", "F32", "F16", "BF16")
_COPY_AGAIN = "copy or download the checkpoint again and compare file sizes with the source"
_ZERO_SOURCE = "deepspeed utils/zero_to_fp32.py; OpenRLHF#839"
_LOADER = "vllm 0.32 model_executor/model_loader/default_loader.py track_weights_loading"


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
    elif misplaced := _misplaced(checkpoint):
        yield Finding(
            id="ckpt.files",
            title=f"{checkpoint.weights.index} is of another save than the files",
            evidence=misplaced,
            consequence="vLLM loads what the files hold, whatever the index says of their "
            "tensors. Files of two saves together are a model that nobody trained.",
            remedy=_COPY_AGAIN,
            source="vllm 0.32 model_executor/model_loader/weight_utils.py "
            "filter_duplicate_safetensors_files",
            severity="warn",
        )


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
    return [
        (tensor.path, tensor.name)
        for tensor in tensors
        if tensor.shape == (0,) and tensor.dtype in _PARAMETER_TYPES
    ]


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
                value="no weights: neither *.safetensors, *.bin nor *.pt",
            )
        ]
    faults = []
    for path, header in checkpoint.headers.items():
        if isinstance(header, OpaquePickleError):
            continue  # it may be sound
        if isinstance(header, CheckpointError):
            faults.append(_fault(path, checkpoint, header))
    return faults


def _misplaced(checkpoint: Checkpoint) -> list[Evidence]:
    """Tensors that are not in the file where the index has them."""
    weights = checkpoint.weights
    misplaced = []
    for path, header in checkpoint.headers.items():
        if isinstance(header, CheckpointError):
            continue
        wanted = {name for name, file in weights.weight_map.items() if file == path.name}
        absent = sorted(wanted - header.keys())
        if absent:
            misplaced.append(
                Evidence(
                    file=shown_path(path, checkpoint),
                    key=enumerate_names(absent),
                    value=f"in {weights.index} but not in this file",
                )
            )
    return misplaced


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
        consequence="vLLM does not start.",
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
        id="ckpt.files",
        run=check_files,
        cause="Copies and downloads that stopped half way, Git LFS pointers, shards that were "
        "never uploaded, JSON edited by hand. Or the directory is another one than was meant: a "
        "run's, with the checkpoints one level down, a projector's alone, an adapter's whose base "
        "is elsewhere.",
        evidence="Every JSON file parses; every file that the index names is there and as long as "
        "its header says. Files that do not hold the tensors that the index says are a warning.",
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
