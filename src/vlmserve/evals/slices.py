"""Finds kinds of samples that got worse: by media, size, length, script, and fields of the data.

What is found by looking at many slices is expected to hold some that look worse by chance alone, so
the p-values are adjusted to keep the share of false finds among them below a level (Y. Benjamini,
Y. Hochberg 1995, Controlling the false discovery rate, Journal of the Royal Statistical Society B
57, 289-300).
"""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from vlmserve.errors import MediaError
from vlmserve.evals.clusters import cluster_samples
from vlmserve.evals.statistics import PairedResult, compare_pairs

if TYPE_CHECKING:
    from vlmserve.evals.eval_task import AskedTask
    from vlmserve.evals.samples import Sample

# Fewer pairs tell nothing of a kind of samples.
_MIN_PAIRS = 10
_MIN_CLUSTERS = 2
# A number with more values than this is cut into ranges with as many samples each.
_MAX_VALUES = 6
_N_RANGES = 4


@dataclass(frozen=True, slots=True)
class Slice:
    """The samples of a task that have something in common."""

    task: str
    name: str
    """What they have in common, such as ``images = 2`` or ``target length 12 to 40``."""

    pairs: PairedResult
    adjusted_p: float
    """The p-value of no difference, adjusted for all slices of the run."""


def find_slices(
    task: "AskedTask", samples: Sequence["Sample"], scores: Mapping[str, tuple[float, float]]
) -> list[tuple[str, PairedResult]]:
    """Compare every slice of a task that has enough pairs.

    Args:
        task: The task.
        samples: Its samples that were asked, shape ``(n,)``.
        scores: Oriented scores (lower is worse) of baseline and candidate by sample id; samples
            that failed are not in it.

    Returns:
        Names of slices with their comparison. A feature by which the samples do not differ makes
        none.
    """
    labels = cluster_samples(samples)
    found = []
    for name, members in _slices(task, samples):
        kept = [index for index in members if samples[index].sample_id in scores]
        pairs = [scores[samples[index].sample_id] for index in kept]
        clusters = [labels[index] for index in kept]
        if len(pairs) < _MIN_PAIRS or len(set(clusters)) < _MIN_CLUSTERS:
            continue
        before, after = zip(*pairs, strict=True)
        found.append((name, compare_pairs(before, after, clusters=clusters)))
    return found


def adjust_slices(found: Mapping[str, Sequence[tuple[str, PairedResult]]]) -> list[Slice]:
    """Adjust the slices of all tasks together, and put the worst first.

    Args:
        found: What ``find_slices`` gave, by the task's name.
    """
    flat = [(task, name, pairs) for task, each in found.items() for name, pairs in each]
    if not flat:
        return []
    adjusted = stats.false_discovery_control([pairs.p_value for _, _, pairs in flat])
    slices = [
        Slice(task=task, name=name, pairs=pairs, adjusted_p=float(p))
        for (task, name, pairs), p in zip(flat, adjusted, strict=True)
    ]
    return sorted(slices, key=lambda s: (s.pairs.difference >= 0, s.adjusted_p, s.pairs.difference))


def _slices(task: "AskedTask", samples: Sequence["Sample"]) -> Iterator[tuple[str, list[int]]]:
    kinds = [Counter(medium.kind for medium in sample.media) for sample in samples]
    yield from _by_value("images", [count["image"] for count in kinds])
    yield from _by_value("videos", [count["video"] for count in kinds])
    yield from _by_number("longest side in pixels", [_longest_side(sample) for sample in samples])
    yield from _by_number("question length", [len(sample.question_text) for sample in samples])
    yield from _by_number("target length", [len(sample.target) for sample in samples])
    yield from _by_value("script", [_script(sample.question_text) for sample in samples])
    for field, values in task.fields().items():
        by_id = dict(zip((each.sample_id for each in task.samples), values, strict=True))
        yield from _by_value(field, [by_id[sample.sample_id] for sample in samples])


def _by_value(feature: str, values: Sequence[Hashable]) -> Iterator[tuple[str, list[int]]]:
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for index, value in enumerate(values):
        groups[value].append(index)
    if len(groups) > 1:
        for value in sorted(groups, key=str):
            yield f"{feature} = {value}", groups[value]


def _by_number(feature: str, values: Sequence[int | None]) -> Iterator[tuple[str, list[int]]]:
    known = [value for value in values if value is not None]
    if len(set(known)) <= _MAX_VALUES:
        yield from _by_value(feature, ["none" if value is None else value for value in values])
        return
    edges = sorted({int(edge) for edge in np.quantile(known, np.linspace(0, 1, _N_RANGES + 1))})
    for low, high in pairwise(edges):
        # The last range holds its own end.
        last = high == edges[-1]
        members = [
            index
            for index, value in enumerate(values)
            if value is not None and low <= value and (value < high or (last and value == high))
        ]
        yield f"{feature} {low} to {high if last else high - 1}", members


def _longest_side(sample: "Sample") -> int | None:
    sides: list[int] = []
    for medium in sample.media:
        if medium.kind == "image":
            try:
                size_px = medium.upright_size_px()
            except MediaError:
                return None  # the sample fails for itself
            if size_px is None:
                return None
            sides += size_px
    return max(sides, default=None)


def _script(text: str) -> str:
    """The writing system of most letters, by Unicode's names: LATIN, CJK, CYRILLIC, ..."""
    names: Counter[str] = Counter()
    for letter, count in Counter(filter(str.isalpha, text)).items():
        names[unicodedata.name(letter, "").partition(" ")[0]] += count
    return next((name for name, _ in names.most_common(1)), "none")
