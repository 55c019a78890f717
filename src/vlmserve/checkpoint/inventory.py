"""Comparing the tensors in a model's files with those that its configuration asks for."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vlmserve.checkpoint.families import Component, Family
from vlmserve.checkpoint.quantisation import is_quantised
from vlmserve.checkpoint.source import Checkpoint
from vlmserve.checkpoint.tensors import Shape


@dataclass(frozen=True)
class Mismatch:
    """A tensor whose shape is not the one that the configuration asks for."""

    name: str
    """As it is in the file."""

    found: Shape
    expected: Shape


@dataclass(frozen=True)
class TensorInventory:
    """How a model's tensors differ from what vLLM will look for, by component."""

    missing: Mapping[Component, tuple[str, ...]]
    """Tensors that the output depends on and that no file has, by vLLM's names."""

    unexpected: Mapping[Component, tuple[str, ...]]
    """Tensors that the model has no place for, by their names in the file."""

    mismatched: Mapping[Component, tuple[Mismatch, ...]]
    explanation: str | None
    """The cause of missing and unexpected tensors, where it is a known one."""

    prefix: str | None = None
    """What stands before the names of the files, where that alone explains all the differences."""

    @property
    def is_clean(self) -> bool:
        """Whether there is nothing to report."""
        return not (self.missing or self.unexpected or self.mismatched)


def compare_tensors(checkpoint: Checkpoint) -> TensorInventory | None:
    """Compare the tensors of the model that is loaded (the base, for an adapter) with its family.

    Returns:
        The differences, or ``None`` where they cannot be told: the family is not known, or the
        weights are quantised, which changes names and shapes.

    Raises:
        CheckpointError: A weight file or the configuration is broken.
    """
    model = checkpoint.model
    family = model.family
    if family is None or is_quantised(model):
        return None
    shapes = {family.canonical(name): tensor.shape for name, tensor in model.tensors.items()}
    expected = family.expected_in(model.config, shapes)
    if expected is None:
        return None
    found: dict[str, str] = {}
    unexpected: list[str] = []
    mismatched: list[Mismatch] = []
    for name, tensor in model.tensors.items():
        canonical = family.canonical(name)
        if canonical in found or (canonical not in expected and not family.is_benign(canonical)):
            unexpected.append(name)
            continue
        found[canonical] = name
        if canonical in expected and tensor.shape != expected[canonical].shape:
            mismatched.append(Mismatch(name, tensor.shape, expected[canonical].shape))
    missing = [name for name, spec in expected.items() if spec.required and name not in found]
    return TensorInventory(
        missing=_by_component(family, missing),
        unexpected=_by_component(family, unexpected),
        mismatched=_mismatches_by_component(family, mismatched),
        explanation=family.explain(
            frozenset(missing), frozenset(family.canonical(name) for name in unexpected)
        ),
        prefix=None if mismatched else _common_prefix(family, missing, unexpected),
    )


def _common_prefix(family: Family, missing: list[str], unexpected: list[str]) -> str | None:
    """What has to go from every unexpected name for nothing to be missing."""
    wanted = set(missing)
    first = next(iter(unexpected), "")
    # The longest: model. may or may not be a part of the name itself.
    for dot in (place for place in reversed(range(len(first))) if first[place] == "."):
        prefix = first[: dot + 1]
        rest = {family.canonical(name.removeprefix(prefix)) for name in unexpected}
        if wanted and wanted <= rest and all(name.startswith(prefix) for name in unexpected):
            return prefix
    return None


def _by_component(family: Family, names: Iterable[str]) -> dict[Component, tuple[str, ...]]:
    groups: dict[Component, list[str]] = defaultdict(list)
    for name in names:
        groups[family.component(family.canonical(name))].append(name)
    return {component: tuple(group) for component, group in groups.items()}


def _mismatches_by_component(
    family: Family, mismatched: list[Mismatch]
) -> dict[Component, tuple[Mismatch, ...]]:
    by_name = {mismatch.name: mismatch for mismatch in mismatched}
    return {
        component: tuple(by_name[name] for name in names)
        for component, names in _by_component(family, by_name).items()
    }
