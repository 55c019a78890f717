"""Is a merged model its base plus its adapter?"""

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from vlmserve.checkpoint.adapter import CONFIG_NAME, AdapterInfo, load_adapter
from vlmserve.checkpoint.lora import BEYOND_PRODUCT, adapted_tensors
from vlmserve.checkpoint.source import Checkpoint, load_checkpoint
from vlmserve.doctor.check import Check
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import Evidence, Finding, Outcome, Unknown, enumerate_names

if TYPE_CHECKING:
    from vlmserve.checkpoint.merge import MergeSample

_SUFFIXES = ("-merged", "_merged")
_MAX_YAML_BYTES = 1 << 16
# What arithmetic in another precision leaves: bfloat16 products that round the other way differ by
# a tenth of the change at most, measured on merges by PEFT.
_RIGHT = 0.3
# A matrix that nothing was added to is the base's, bit for bit.
_UNTOUCHED = 0.02
_MULTIPLE_SLACK = 0.15

_SKIPPED = (
    "swift export --merge_lora skips a directory that exists, and so keeps an older merge: delete "
    "it and merge again"
)


@dataclass(frozen=True, slots=True)
class MergedFrom:
    """The adapter that a merged model was made of."""

    adapter: AdapterInfo
    base: Checkpoint
    named_by: str
    """What tells that they belong together."""


def find_merged_adapter(checkpoint: Checkpoint) -> MergedFrom | None:
    """Look for the adapter that a full model was merged from.

    ms-swift writes the merge of ``X`` to ``X-merged`` (swift/pipelines/export/merge_lora.py);
    LLaMA-Factory's export has a YAML file with ``export_dir`` and ``adapter_name_or_path``
    (src/llamafactory/train/tuner.py ``export_model``), looked for in the directory and beside it.

    Raises:
        CheckpointError: There is an adapter, but its files or its base are broken or not there.
    """
    if checkpoint.adapter is not None:
        return None
    place = next(_adapter_places(checkpoint.path), None)
    if place is None:
        return None
    path, named_by = place
    base = checkpoint.base
    if base is None:
        base = load_checkpoint(path).model
    return MergedFrom(load_adapter(path), base, named_by)


def check_merge(exam: Examination) -> Iterator[Outcome]:
    """``lora.merge-proof``: a merged model that is not its base plus its adapter.

    Reads a sample of the weights; not in the fast pass.
    """
    found = find_merged_adapter(exam.checkpoint)
    if found is None:
        return
    odd = [key for key in BEYOND_PRODUCT if found.adapter.config.get(key)]
    if exam.fast:
        reason = "the weights are not read in the fast pass; run vlmserve check"
    elif odd:
        reason = f"{odd[0]} adds more than a product of two matrices"
    elif exam.checkpoint.family is None:
        reason = f"the modules of {exam.checkpoint.architecture} are not known to vlmserve"
    else:
        yield from _judge(exam, found)
        return
    yield Unknown(id="lora.merge-proof", reason=reason)


def _judge(exam: Examination, found: MergedFrom) -> Iterator[Outcome]:
    from vlmserve.checkpoint.merge import sample_merge
    from vlmserve.doctor.model_scan import canonical_tensors

    adapted = adapted_tensors(found.adapter, found.base)
    samples = sample_merge(adapted, canonical_tensors(exam.checkpoint))
    if not samples:
        reason = (
            f"no matrix that {found.adapter.path} adapts is both here and in {found.base.path}"
            if not adapted
            else "what the adapter adds is lost in the rounding of the stored type"
        )
        yield Unknown(id="lora.merge-proof", reason=reason)
        return
    wrong = [sample for sample in samples if sample.to_right > _RIGHT]
    if wrong:
        title, remedy = _explain(samples, wrong)
        worst = max(wrong, key=lambda sample: sample.to_right)
        yield Finding(
            id="lora.merge-proof",
            title=title,
            evidence=[
                Evidence(file=str(found.adapter.path / CONFIG_NAME), key="", value=found.named_by),
                Evidence(
                    file=worst.file,
                    key=worst.name,
                    value=f"off by {worst.to_right:.2g} times what the adapter adds; "
                    f"{worst.multiple:.2g} times the product fits best, and leaves "
                    f"{100 * worst.noise:.2g} % of the weight",
                ),
                Evidence(
                    file=worst.file,
                    key="matrices",
                    value=f"{len(wrong)} of {len(samples)} compared are not base plus adapter",
                ),
            ],
            consequence="It answers unlike the model that was evaluated in training: base plus "
            "adapter.",
            remedy=remedy,
            source="peft 0.21 tuners/lora/layer.py get_delta_weight; ms-swift "
            "swift/pipelines/export/merge_lora.py; ms-swift#5430, #3756",
        )


def _explain(samples: "tuple[MergeSample, ...]", wrong: "list[MergeSample]") -> tuple[str, str]:
    """What went wrong, by the pattern, and what to do about it."""
    multiple = statistics.median(sample.multiple for sample in wrong)
    if all(sample.to_base <= _UNTOUCHED for sample in wrong):
        if len(wrong) < len(samples):
            names = enumerate_names((sample.name for sample in wrong), 2)
            return f"the adapter was merged in part: not into {names}", "merge it again"
        return "the adapter was never merged: these are the base's weights", _SKIPPED
    if all(sample.to_twice <= _RIGHT for sample in wrong):
        return (
            "the adapter was merged twice",
            "merge it once into the base it was trained on, not into a model that has it",
        )
    if abs(multiple - 1) <= _MULTIPLE_SLACK:
        return (
            "the adapter was merged into weights that are not the base's",
            "merge it into the unquantised base it was trained on: one that was loaded in 4 or "
            "8 bits carries its rounding into the result",
        )
    if all(sample.to_multiple <= _RIGHT for sample in wrong):
        return (
            f"the adapter was merged {multiple:.2g} times as strongly as its configuration says",
            "merge it again with the lora_alpha, r and use_rslora it was trained with",
        )
    return (
        "another adapter was merged than the one it is said to be: a stale merge",
        f"{_SKIPPED}; or give the base it was trained on with --base-model",
    )


def _adapter_places(path: Path) -> Iterator[tuple[Path, str]]:
    """Adapter directories that the merged directory may have been made of, likeliest first."""
    for suffix in _SUFFIXES:
        if path.name.endswith(suffix):
            place = path.with_name(path.name.removesuffix(suffix))
            if (place / CONFIG_NAME).is_file():
                yield place, f"its directory is beside {path.name}"
    if "merge" in path.name.lower() and (path.parent / CONFIG_NAME).is_file():
        yield path.parent, f"{path.name} is in its directory"
    for settings, file in _export_settings(path):
        reference = str(settings.get("adapter_name_or_path", "")).partition(",")[0].strip()
        for place in (Path(reference), *(parent / reference for parent in path.parents)):
            if reference and (place / CONFIG_NAME).is_file():
                yield place, f"adapter_name_or_path in {file}"
                break


def _export_settings(path: Path) -> Iterator[tuple[Mapping[str, Any], Path]]:
    """YAML files of LLaMA-Factory that say that they export to this directory."""
    for file in sorted([*path.glob("*.y*ml"), *path.parent.glob("*.y*ml")]):
        try:
            if file.stat().st_size > _MAX_YAML_BYTES:
                continue
            settings = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            continue  # somebody else's file: nothing that a checkpoint must have
        if not isinstance(settings, dict):
            continue
        target = Path(str(settings.get("export_dir", "")))
        if target.name == path.name and "adapter_name_or_path" in settings:
            yield settings, file


CHECKS = (
    Check(
        id="lora.merge-proof",
        run=check_merge,
        cause="A merge that was skipped because its directory existed, made with another "
        "adapter, into a quantised or another base, or a second time.",
        evidence="Up to 20 matrices against base plus scaled product, rounded to the type they "
        "are stored in. The adapter is looked for where frameworks leave it: `X` beside "
        "`X-merged`, the directory above, or the `adapter_name_or_path` of the YAML file that "
        "exported. One that is off by more than 0.3 of what the adapter adds is a finding.",
        example="another adapter was merged than the one it is said to be: a stale merge",
        remedy="Delete the merged directory and merge again, into the unquantised base.",
    ),
)
"""The checks of this theme, in the order in which they run."""
