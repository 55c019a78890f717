"""Columns of a data set that hold media: they stay the files that they are."""

import dataclasses
from collections.abc import Iterable
from typing import Any


def keep_files(dataset: Any, names: Iterable[str] | None = None) -> Any:
    """Have a ``datasets.Dataset`` give the files of its media instead of decoding them.

    Args:
        dataset: What to read from.
        names: Columns; names that are no column are passed over. All of them by default.
    """
    for name in dataset.features if names is None else names:
        if name in dataset.features:
            kept = undecoded(dataset.features[name])
            if kept != dataset.features[name]:
                dataset = dataset.cast_column(name, kept)
    return dataset


def undecoded(feature: Any) -> Any:
    """The same feature, with decoding of media turned off in all that it holds."""
    if isinstance(feature, dict):
        return {name: undecoded(below) for name, below in feature.items()}
    if hasattr(feature, "feature"):
        return dataclasses.replace(feature, feature=undecoded(feature.feature))
    if hasattr(feature, "decode"):
        return dataclasses.replace(feature, decode=False)
    return feature
