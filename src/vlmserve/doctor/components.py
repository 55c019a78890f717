"""Which parts of the model were trained, and which moved that should not have?"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlmserve.checkpoint.adapter import CONFIG_NAME, WEIGHTS_NAME
from vlmserve.checkpoint.families import Family
from vlmserve.checkpoint.files import read_json_if_present, read_yaml
from vlmserve.checkpoint.lora import adapted_tensors
from vlmserve.doctor.check import Check
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import Evidence, Finding, Outcome, Unknown, enumerate_names
from vlmserve.doctor.identity import is_conversion

if TYPE_CHECKING:
    from vlmserve.checkpoint.scan import ScannedTensor

_VISION, _PROJECTOR, _LANGUAGE = "vision tower", "projector", "language model"
_EMBEDDING, _HEAD = "embeddings", "lm_head"

# What freezes which part: ms-swift's args.json (swift/arguments/tuner_args.py) and LLaMA-Factory's
# YAML (src/llamafactory/hparams/finetuning_args.py).
_FREEZES = {
    _VISION: ("freeze_vit", "freeze_vision_tower"),
    _PROJECTOR: ("freeze_aligner", "freeze_multi_modal_projector"),
    _LANGUAGE: ("freeze_llm", "freeze_language_model"),
}
# Settings that train single tensors of a frozen part, or start from other weights than the base's.
_EXCEPTIONS = (
    "trainable_parameters",
    "trainable_parameters_regex",
    "resume_from_checkpoint",
    "additional_target",
    "modules_to_save",
)
# Norm of the change over norm of the base's weights. Fine-tuning ends far below 1.
_REPLACED = 1.0
_FEW_VALUES = 256


@dataclass(frozen=True, slots=True)
class ComponentChange:
    """How far one part of the model is from the base's."""

    component: str
    tensors: int
    changed: int
    """Tensors that differ by more than conversion to another type explains."""

    relative: float
    """Norm of the change over the norm of the base's weights, over the tensors that changed; 0
    where none did."""

    example: str
    """The file's name of a tensor that changed the most; empty where none did."""

    replaced: tuple[str, ...]
    """Names of matrices that changed by more than their own size."""

    file: str

    @property
    def described(self) -> str:
        """One line of the table."""
        if not self.changed:
            return f"unchanged ({self.tensors} tensors)"
        return f"{100 * self.relative:.2g} % ({self.changed} of {self.tensors} tensors changed)"


def check_components(exam: Examination) -> Iterator[Outcome]:
    """``diff.components``: how far each part moved, and whether one did that was frozen.

    Reads every weight; not in the fast pass.
    """
    checkpoint, family = exam.checkpoint, exam.checkpoint.family
    if exam.fast:
        yield Unknown(
            id="diff.components",
            reason="the weights are not read in the fast pass; run vlmserve check",
        )
    elif checkpoint.adapter is not None:
        yield from _adapter_outcomes(exam, family)
    elif checkpoint.base is None:
        yield Unknown(id="diff.components", reason="no base model to compare with: --base-model")
    elif family is None:
        reason = f"the parts of {checkpoint.architecture} are not known to vlmserve"
        yield Unknown(id="diff.components", reason=reason)
    elif not (checkpoint.weights.files and checkpoint.base.weights.files):
        reason = "there are no weight files on one side"
        yield Unknown(id="diff.components", reason=reason)
    elif exam.scan.problem is not None:
        yield Unknown(id="diff.components", reason=exam.scan.problem)
    else:
        changes = measure_components(exam.scan.tensors, family)
        if any(change.changed for change in changes):
            yield _full_finding(exam, changes)


def component_of(name: str, family: Family) -> str:
    """The part that a tensor belongs to, embeddings and head apart from the language model."""
    module = name.removesuffix(".weight").rpartition(".")[2]
    if module == "embed_tokens":
        return _EMBEDDING
    return _HEAD if module == "lm_head" else family.component(name)


def measure_components(
    tensors: "tuple[ScannedTensor, ...]", family: Family
) -> list[ComponentChange]:
    """Sum up the change of each part, in the order from pixels to words."""
    groups: dict[str, list[ScannedTensor]] = {
        name: [] for name in (_VISION, _PROJECTOR, _LANGUAGE, _EMBEDDING, _HEAD)
    }
    for entry in tensors:
        if entry.base is not None:
            groups[component_of(entry.name, family)].append(entry)
    return [_sum_up(name, group) for name, group in groups.items() if group]


def _sum_up(component: str, group: "list[ScannedTensor]") -> ComponentChange:
    changed = [entry for entry in group if entry.changed and not is_conversion(entry)]
    squared = math.fsum(entry.squared_change for entry in changed)
    norm = math.fsum(entry.squared_norm for entry in changed)
    largest = max(changed, key=_relative, default=None)
    return ComponentChange(
        component,
        tensors=len(group),
        changed=len(changed),
        relative=_root_ratio(squared, norm),
        example="" if largest is None else largest.tensor.name,
        replaced=tuple(entry.tensor.name for entry in changed if _is_replaced(entry)),
        file=group[0].tensor.path.name,
    )


def _is_replaced(entry: "ScannedTensor") -> bool:
    """Whether a matrix is no nearer to the base's than to nothing.

    Two matrices that have nothing to do with each other are further apart than either is large.
    """
    is_matrix = len(entry.tensor.shape) > 1 and math.prod(entry.tensor.shape) >= _FEW_VALUES
    return is_matrix and entry.squared_norm > 0 and _REPLACED < _relative(entry) < math.inf


def _relative(entry: "ScannedTensor") -> float:
    return _root_ratio(entry.squared_change, entry.squared_norm)


def _root_ratio(squared: float, norm: float) -> float:
    if not squared:
        return 0.0
    return math.sqrt(squared / norm) if norm else math.inf


def _full_finding(exam: Examination, changes: list[ComponentChange]) -> Finding:
    """The table, as worth knowing, or as a warning where something is not as it should be."""
    by_name = {change.component: change for change in changes}
    table = [
        Evidence(file=change.file, key=change.component, value=change.described)
        for change in changes
    ]
    odd = [
        *_moved_although_frozen(exam, by_name),
        *_replaced(changes),
    ]
    if not odd:
        trained = [change.component for change in changes if change.changed]
        return Finding(
            id="diff.components",
            title=f"trained: {', '.join(trained)}",
            evidence=table,
            consequence="Nothing is wrong: this is how far the training moved each part.",
            remedy="nothing to do; compare it with what you meant to train",
            source="norm of the difference over norm of the base's weights",
            severity="info",
        )
    return Finding(
        id="diff.components",
        title="; ".join(title for title, _ in odd),
        evidence=[*(evidence for _, items in odd for evidence in items), *table],
        consequence="It serves weights that the training as recorded cannot have made: another "
        "base, another run, or a part that was lost and filled in.",
        remedy="compare with the base that the training really started from (--base-model), and "
        "see which run wrote these files",
        source="norm of the difference over norm of the base's weights; ms-swift "
        "swift/arguments/tuner_args.py freeze_vit",
    )


def _moved_although_frozen(
    exam: Examination, changes: Mapping[str, ComponentChange]
) -> Iterator[tuple[str, list[Evidence]]]:
    settings, file = _training_settings(exam)
    if any(settings.get(key) for key in _EXCEPTIONS):
        return
    for component, keys in _FREEZES.items():
        change = changes.get(component)
        key = next((key for key in keys if settings.get(key) is True), None)
        if key is None or change is None or not change.changed:
            continue
        value = f"true, but {change.example} and {change.changed - 1} more tensors moved"
        if change.changed == 1:
            value = f"true, but {change.example} moved"
        yield (
            f"the {component} moved by {100 * change.relative:.2g} % although it was frozen",
            [Evidence(file=file, key=key, value=value)],
        )


def _replaced(changes: list[ComponentChange]) -> Iterator[tuple[str, list[Evidence]]]:
    for change in changes:
        if change.replaced:
            names = enumerate_names(change.replaced, 2)
            value = f"changed by more than its own size: {names}"
            yield (
                f"{len(change.replaced)} matrices of the {change.component} have nothing in "
                "common with the base's",
                [Evidence(file=change.file, key=change.component, value=value)],
            )


def _training_settings(exam: Examination) -> tuple[Mapping[str, Any], str]:
    """The framework's own settings, where the checkpoint has them, and in which file."""
    training = exam.checkpoint.training
    for name in () if training is None else training.files:
        path = exam.checkpoint.path / name
        if path.name == "args.json":
            return read_json_if_present(path), name
        if path.name == "training_args.yaml":
            settings = read_yaml(path)
            # The vision tower's settings decide about Qwen3-VL's inner mergers there.
            if not settings.get("freeze_vision_tower"):
                settings.pop("freeze_multi_modal_projector", None)
            return settings, name
    return {}, ""


def _adapter_outcomes(exam: Examination, family: Family | None) -> Iterator[Outcome]:
    """How large the adapter's products are beside the weights that they are added to."""
    adapter = exam.checkpoint.adapter
    if adapter is None or family is None:
        return  # lora.match says that the modules are not known
    squares: dict[str, list[tuple[float, float]]] = {}
    for adapted in adapted_tensors(adapter, exam.checkpoint.model):
        entry = adapted.squared_norms()
        squares.setdefault(component_of(f"{adapted.name}.weight", family), []).append(entry)
    if not squares:
        return
    table = []
    for component, entries in squares.items():
        change, norm = (math.fsum(column) for column in zip(*entries, strict=True))
        value = f"{100 * _root_ratio(change, norm):.2g} % ({len(entries)} modules adapted)"
        table.append(Evidence(file=WEIGHTS_NAME, key=component, value=value))
    yield Finding(
        id="diff.components",
        title=f"adapted: {', '.join(squares)}",
        evidence=table,
        consequence="Nothing is wrong: this is how much the adapter adds, relative to the weights "
        "that it is added to.",
        remedy="nothing to do; compare it with what you meant to train",
        source=f"norm of the scaled product over norm of the base's weights; {CONFIG_NAME}",
        severity="info",
    )


CHECKS = (
    Check(
        id="diff.components",
        run=check_components,
        cause="A freeze flag that did not do what it says, a part of another run copied in, a part "
        "that was missing when the model was loaded for training and so initialised anew.",
        evidence="Norm of the change over norm of the base's weights, by vision tower, projector, "
        "language model, embeddings and head. A part that moved although the settings of ms-swift "
        "or LLaMA-Factory freeze it, "
        "or a matrix that moved by more than its own size, is a warning; the table by itself is "
        "worth knowing.",
        example="the vision tower moved by 1.3 % although it was frozen",
        remedy="Compare with the base that training really started from, and see which run wrote "
        "the files.",
    ),
)
"""The checks of this theme, in the order in which they run."""
