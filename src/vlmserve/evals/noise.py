"""How much answers change by themselves: the same side asked twice."""

from collections.abc import Sequence
from dataclasses import dataclass

from vlmserve.evals.records import SampleRecord, Scored


@dataclass(frozen=True, slots=True)
class Noise:
    """What differs between two runs of one side over the same samples."""

    n_pairs: int
    """Samples that both runs were judged on."""

    n_changed: int
    """Those whose filtered answers differ."""

    n_worse: int
    """Those that the second run scored lower."""

    n_better: int
    """Those that the second run scored higher."""


def measure_noise(
    first: Sequence[SampleRecord], again: Sequence[SampleRecord], *, higher_is_better: bool
) -> Noise:
    """Compare two runs of one side.

    Args:
        first: One record a sample, shape ``(n,)``.
        again: The same samples in the same order.
        higher_is_better: Which way scores get worse.
    """
    pairs = [
        (old.outcome, new.outcome)
        for old, new in zip(first, again, strict=True)
        if isinstance(old.outcome, Scored) and isinstance(new.outcome, Scored)
    ]
    sign = 1 if higher_is_better else -1
    changes = [sign * (new.score - old.score) for old, new in pairs]
    return Noise(
        n_pairs=len(pairs),
        n_changed=sum(old.answer != new.answer for old, new in pairs),
        n_worse=sum(change < 0 for change in changes),
        n_better=sum(change > 0 for change in changes),
    )
