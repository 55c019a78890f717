"""How many samples a margin takes, before anything is asked.

The formula is ``statistics.detectable_difference``'s for two models that are equally good and whose
0/1 scores differ on a known share of the samples, the discordance.
"""

import math

from scipy import stats

_POWER = 0.8

DISCORDANCES = (0.05, 0.1, 0.2)
"""Shares of samples on which two checkpoints differ, from near twins to distant relatives."""


def detectable_at(
    n_samples: int, discordance: float, *, alpha: float, design_effect: float = 1.0
) -> float:
    """Give the smallest margin that a checkpoint which is no worse keeps four times out of five.

    Args:
        n_samples: Pairs of answers.
        discordance: Share of them whose scores differ, 0 to 1.
        alpha: One minus the confidence of the interval.
        design_effect: By how much clusters widen the variance, at least 1.

    Returns:
        A difference of means of 0/1 scores; also the smallest drop that is seen as often.
    """
    variance = (n_samples * discordance + 1.0) / (n_samples + 2)
    return _quantiles(alpha) * math.sqrt(variance / (n_samples + 1) * design_effect)


def samples_needed(
    margin: float, discordance: float, *, alpha: float, design_effect: float = 1.0
) -> int:
    """Give the smallest number of samples whose ``detectable_at`` is within a margin.

    Example:
        >>> samples_needed(0.03, 0.1, alpha=0.05)
        880
    """
    # (n + 1)(n + 2) = b (n d + 1) is n^2 + (3 - b d) n + 2 - b = 0.
    b = _quantiles(alpha) ** 2 * design_effect / margin**2
    half = (3.0 - b * discordance) / 2
    return max(2, math.ceil(-half + math.sqrt(max(0.0, half**2 - 2.0 + b)) - 1e-9))


def _quantiles(alpha: float) -> float:
    return float(stats.norm.isf(alpha / 2) + stats.norm.isf(1 - _POWER))
