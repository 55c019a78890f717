"""Is the base the model that the fine-tune was made from?"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from vlmserve.checkpoint.adapter import CONFIG_NAME, AdapterInfo, AdapterMatch, match_adapter
from vlmserve.checkpoint.families import FAMILIES, find_family
from vlmserve.checkpoint.families.qwen2_vl import QwenVL
from vlmserve.checkpoint.files import read_json_if_present
from vlmserve.checkpoint.lora import adapted_tensors
from vlmserve.checkpoint.source import Checkpoint
from vlmserve.checkpoint.tensors import TensorInfo
from vlmserve.checkpoint.text_config import find_text_section
from vlmserve.doctor.adapters import shape_evidence
from vlmserve.doctor.check import Check
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import Evidence, Finding, Outcome, shown_path
from vlmserve.doctor.merge import MergedFrom, find_merged_adapter

if TYPE_CHECKING:
    from vlmserve.checkpoint.scan import ScannedTensor

_FEATURES = "vllm 0.32 lora/peft_helper.py _validate_features"
# Values that are compared of an adapter's copy of an embedding.
_COPY_VALUES = 1 << 20


def check_identity(exam: Examination) -> Iterator[Outcome]:
    """``base.identity``: the base is not the model that the fine-tune was made from."""
    checkpoint = exam.checkpoint
    if checkpoint.adapter is not None:
        yield from _adapter_outcomes(exam, checkpoint.adapter)
    elif not exam.fast:
        found = find_merged_adapter(checkpoint)
        if found is not None and checkpoint.base is not None and exam.scan.problem is None:
            yield from _merged_outcomes(exam, found)


def _adapter_outcomes(exam: Examination, adapter: AdapterInfo) -> Iterator[Outcome]:
    checkpoint = exam.checkpoint
    match = match_adapter(adapter, checkpoint.model)
    if match is None:
        return  # lora.match says that it is not checkable
    evidence = [
        *_recorded_evidence(checkpoint, adapter),
        *_family_evidence(checkpoint),
        *_size_evidence(match),
        *_vocabulary_evidence(checkpoint),
    ]
    if not exam.fast:
        evidence += _copy_evidence(exam, adapter)
    if evidence:
        yield Finding(
            id="base.identity",
            title="the adapter was trained on another base model than the one it is laid on",
            evidence=[
                *evidence,
                Evidence(
                    file=CONFIG_NAME,
                    key="base_model_name_or_path",
                    value=f"{adapter.base_ref}; laid on {checkpoint.model.path}",
                ),
            ],
            consequence="vLLM fails to load the adapter, or adapts another model's weights.",
            remedy="give the base it was trained on with --base-model DIR",
            source=_FEATURES,
        )


def _recorded_evidence(checkpoint: Checkpoint, adapter: AdapterInfo) -> list[Evidence]:
    """The base that the adapter names is at hand, and of another family than the one it is given.

    Qwen2-VL and Qwen2.5-VL of 7B have language models of the same names and sizes.
    """
    family = checkpoint.model.family
    recorded = Path(adapter.base_ref or "")
    if family is None or adapter.base_ref is None or not recorded.is_dir():
        return []
    told = find_family(read_json_if_present(recorded / "config.json"))
    if told is None or told.title == family.title or not (told.served and family.served):
        return []
    value = f"{recorded} is a {told.title}, but the base is a {family.title}"
    return [Evidence(file=CONFIG_NAME, key="base_model_name_or_path", value=value)]


def _family_evidence(checkpoint: Checkpoint) -> list[Evidence]:
    """ms-swift names another generation of Qwen-VL than the base's.

    Of other families it has names of its own (swift/model/constant.py ``MLLMModelType``).
    """
    family, training = checkpoint.family, checkpoint.training
    names = {known.name for known in FAMILIES if isinstance(known, QwenVL)}
    if training is None or family is None or family.name not in names:
        return []
    for file in training.files:
        if not file.endswith("args.json"):
            continue
        told = str(read_json_if_present(checkpoint.path / file).get("model_type"))
        if told in names and told != family.name:
            value = f"{told}, but the base is a {family.name}"
            return [Evidence(file=file, key="model_type", value=value)]
    return []


def _merged_outcomes(exam: Examination, found: MergedFrom) -> Iterator[Outcome]:
    """Tensors that the adapter leaves alone, and that are not the base's."""
    checkpoint = exam.checkpoint
    family = checkpoint.family
    if family is None or _moves_more_than_pairs(found.adapter):
        return
    # Convolutions, too, which have no product of two matrices.
    adapted = {f"{family.canonical_module(pair.module)}.weight" for pair in found.adapter.pairs}
    foreign = [
        entry
        for entry in exam.scan.tensors
        if entry.changed and entry.name not in adapted and not is_conversion(entry)
    ]
    if not foreign or not adapted_tensors(found.adapter, found.base):
        return
    worst = max(foreign, key=lambda entry: entry.squared_change)
    size = math.sqrt(worst.squared_change / worst.squared_norm) if worst.squared_norm else math.inf
    yield Finding(
        id="base.identity",
        title=f"{len(foreign)} tensors that the adapter leaves alone are not the base's",
        evidence=[
            Evidence(
                file=shown_path(worst.tensor.path, checkpoint),
                key=worst.tensor.name,
                value=f"{100 * size:.2g} % from the base's; not among the modules of "
                f"{found.adapter.path}",
            ),
            Evidence(
                file=str(found.adapter.path / CONFIG_NAME),
                key="base_model_name_or_path",
                value=f"{found.adapter.base_ref}; compared with {found.base.path}",
            ),
        ],
        consequence="The adapter was trained on or merged into another model than the base that "
        "is given, so that comparisons with it say nothing.",
        remedy="give the base it was trained on with --base-model DIR, or merge again into it",
        source="LoRA changes the modules it adapts and no others (peft 0.21 merge_and_unload)",
        severity="warn",
    )


def _moves_more_than_pairs(adapter: AdapterInfo) -> bool:
    """Whether a merge changes other tensors than those that a pair of matrices is laid on."""
    settings = ("modules_to_save", "trainable_token_indices")
    return adapter.bias != "none" or any(map(adapter.config.get, settings))


def is_conversion(entry: "ScannedTensor") -> bool:
    """Whether a change is no more than the rounding of a conversion to another type."""
    from vlmserve.checkpoint.tensor_values import FORMATS

    if entry.base is None or entry.tensor.dtype == entry.base.dtype:
        return False
    # Half a step is the most that rounding moves a value by.
    half_step = max(FORMATS[tensor.dtype].step for tensor in (entry.tensor, entry.base)) / 2
    return entry.squared_change <= half_step**2 * entry.squared_norm


def _copy_evidence(exam: Examination, adapter: AdapterInfo) -> list[Evidence]:
    """PEFT's copy of an embedding under its adaptation, which is not the base's embedding."""
    base, family = exam.checkpoint.model, exam.checkpoint.family
    if family is None:
        return []
    weights = {family.canonical(name): tensor for name, tensor in base.tensors.items()}
    evidence = []
    for name, copy in adapter.embedding_copies.items():
        weight = weights.get(family.canonical(f"{name}.weight"))
        if weight is None or len(copy.shape) != len(weight.shape):
            continue
        difference = _copy_difference(copy, weight)
        if difference:
            value = f"{difference}, {shown_path(weight.path, exam.checkpoint)}"
            evidence.append(Evidence(file=copy.path.name, key=copy.name, value=value))
    return evidence


def _copy_difference(copy: TensorInfo, weight: TensorInfo) -> str | None:
    import numpy as np

    from vlmserve.checkpoint.tensor_values import FORMATS, read_rows

    if copy.dtype not in FORMATS or weight.dtype not in FORMATS:
        return None
    if copy.shape[1:] != weight.shape[1:]:
        return f"rows of {copy.shape[1:]}, not {weight.shape[1:]} as in the base"
    # Rows beyond the base's are tokens that were added.
    ours, theirs = (read_rows(tensor, limit=_COPY_VALUES) for tensor in (copy, weight))
    rows = min(len(ours), len(theirs))
    norm = float(np.linalg.norm(theirs[:rows]))
    change = float(np.linalg.norm(ours[:rows] - theirs[:rows]))
    half_step = max(FORMATS[tensor.dtype].step for tensor in (copy, weight)) / 2
    if change <= half_step * norm:
        return None
    return f"the frozen original differs by {100 * change / (norm or 1.0):.2g} % from the base's"


def _size_evidence(match: AdapterMatch) -> list[Evidence]:
    """Sizes that differ in most modules: another model, not a broken tensor."""
    modules = {mismatch.module for mismatch in match.shape_mismatches if mismatch.found is not None}
    if 2 * len(modules) <= len(match.matched):
        return []
    return [shape_evidence(match.shape_mismatches[0])]


def _vocabulary_evidence(checkpoint: Checkpoint) -> list[Evidence]:
    """A token in the adapter's tokenizer that neither base nor adapter has an embedding for."""
    decoder = read_json_if_present(checkpoint.path / "tokenizer_config.json").get(
        "added_tokens_decoder"
    )
    section = find_text_section(checkpoint.config).values
    rows = checkpoint.config.get("vocab_size") or section.get("vocab_size")
    if not isinstance(decoder, dict) or not isinstance(rows, int) or _brings_embedding(checkpoint):
        return []
    last = max((int(key) for key in decoder if str(key).isdecimal()), default=-1)
    if last < rows:
        return []
    config = shown_path(checkpoint.model.path / "config.json", checkpoint)
    return [
        Evidence(
            file="tokenizer_config.json",
            key=f"added_tokens_decoder.{last}",
            value=f"token id {last}, but {config} has vocab_size {rows}",
        )
    ]


def _brings_embedding(checkpoint: Checkpoint) -> bool:
    """Whether the adapter was trained with tokens of its own: lora.coverage's."""
    adapter = checkpoint.adapter
    names = () if adapter is None else (*adapter.other_tensors, *adapter.embedding_copies)
    return any("embed_tokens" in name for name in names)


CHECKS = (
    Check(
        id="base.identity",
        run=check_identity,
        cause="The recorded path of the base is stale, or another size or version of the model "
        "stands there now.",
        evidence="The family of the base that the adapter names, where that is at hand; the "
        "generation of Qwen-VL that ms-swift's `args.json` names, sizes of most "
        "adapted modules, and token ids beyond the base's embedding; with both models at hand, "
        "whether what was not trained is the base's: the adapter's copies of embeddings, or all "
        "that a merged adapter leaves alone.",
        example="the adapter was trained on another base model than the one it is laid on",
        remedy="Give the base it was trained on with `--base-model DIR`.",
    ),
)
"""The checks of this theme, in the order in which they run."""
