"""Samples of a task as rows of a data set, which the checks of data sets can read; and spreads."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vlmserve.datasets.sample import Medium as DataMedium
from vlmserve.datasets.sample import Sample as DataSample
from vlmserve.datasets.sample import Turn as DataTurn
from vlmserve.evals.lint_report import Spread
from vlmserve.evals.medium import Medium
from vlmserve.evals.samples import Sample, Turn

_QUANTILES = (0.0, 0.5, 0.95, 1.0)


def as_row(sample: Sample, path: Path, row: int, *, is_answered: bool = True) -> DataSample:
    """A sample of a task as one of a data set.

    Args:
        sample: The sample.
        path: What stands for its file.
        row: Its place, counted from 1.
        is_answered: Whether the expected answer is its last turn.
    """
    media = {medium: _as_data_medium(medium) for medium in sample.media}

    def turn(one: Turn) -> DataTurn:
        parts = tuple(part if isinstance(part, str) else media[part] for part in one.parts)
        return DataTurn(one.role, parts)

    turns = tuple(map(turn, sample.turns))
    if is_answered:
        turns = (*turns, DataTurn("assistant", (sample.target,)))
    listed = tuple(media[medium] for medium in sample.media)
    counts = Counter(medium.kind for medium in listed)
    return DataSample(file=path, row=row, turns=turns, media=listed, n_placeholders=counts)


def _as_data_medium(medium: Medium) -> DataMedium:
    if medium.frames:
        frames = tuple(map(_as_data_medium, medium.frames))
        return DataMedium(
            medium.kind,
            frames[0].reference,
            frames=frames,
            frames_per_second=medium.frames_per_second,
        )
    source = medium.source
    if isinstance(source, bytes):
        return DataMedium(medium.kind, medium.sha256, embedded=lambda: source)
    return DataMedium(medium.kind, str(source), root=Path())


def spread(values: Sequence[float]) -> Spread:
    """Four values of a distribution."""
    smallest, median, percentile_95, largest = np.quantile(values, _QUANTILES).tolist()
    return Spread(smallest=smallest, median=median, percentile_95=percentile_95, largest=largest)
