"""Matched proportions: right or wrong before, right or wrong after, the same sample.

Counts may be fractions: samples that hang together count for less than one each, see
``vlmserve.evals.statistics``.
"""

import math

from scipy import optimize, stats


def tango_interval(
    regressed: float, improved: float, n: float, *, alpha: float = 0.05, z: float | None = None
) -> tuple[float, float]:
    """Give Tango's score interval for a difference of matched proportions.

    It inverts the score test of ``H0: difference = d``, keeps inside ``[-1, 1]``, and has a width
    even when no pair differs.

    Args:
        regressed: Pairs that were right and are wrong; ``n_21`` in the paper.
        improved: Pairs that were wrong and are right; ``n_12``.
        n: All pairs.
        alpha: One minus the confidence.
        z: Half-width in standard errors; the normal quantile of ``alpha`` when ``None``.

    Returns:
        Lower and upper end of ``P(improved) - P(regressed)``.

    Raises:
        ValueError: The counts are negative or do not fit into ``n``.

    Source: T. Tango (1998), Equivalence test and confidence interval for the difference in
    proportions for the paired-sample design, Statistics in Medicine 17, 891-908.
    """
    # Fractions of counts do not add up to the last digit.
    if min(regressed, improved) < 0 or n <= 0 or regressed + improved > n * (1 + 1e-12):
        raise ValueError(f"{regressed} regressed and {improved} improved do not fit {n} pairs")
    width = float(stats.norm.isf(alpha / 2)) if z is None else z
    lower = _tango_lower(regressed, improved, n, width)
    return lower, -_tango_lower(improved, regressed, n, width)


def tango_statistic(regressed: float, improved: float) -> float:
    """Tango's statistic of "no difference", which is McNemar's; 0 where no pair differs.

    Returns:
        Standard errors; negative where more regressed than improved.
    """
    if regressed + improved == 0:
        return 0.0
    return (improved - regressed) / math.sqrt(regressed + improved)


def mcnemar_mid_p(regressed: int, improved: int) -> float:
    """Give McNemar's mid-p value: on each side, half the probability of what was seen is left out.

    Args:
        regressed: Pairs that were right and are wrong.
        improved: Pairs that were wrong and are right.

    Returns:
        The two-sided p-value; 1 where no pair differs.

    Source: M. W. Fagerland, S. Lydersen, P. Laake (2013), The McNemar test for binary matched-pairs
    data: mid-p and asymptotic are better than exact conditional, BMC Med. Res. Methodol. 13:91.
    """
    n_discordant = regressed + improved
    if n_discordant == 0:
        return 1.0
    fewer = min(regressed, improved)
    exact = 2 * float(stats.binom.cdf(fewer, n_discordant, 0.5))
    return min(1.0, exact - float(stats.binom.pmf(fewer, n_discordant, 0.5)))


def _tango_lower(regressed: float, improved: float, n: float, z: float) -> float:
    if regressed >= n:
        return -1.0

    def excess(d: float) -> float:
        """Be positive where d is rejected as too low, negative where it is not."""
        # Tango's equations 3.4 and 3.5: the maximum-likelihood P(regressed) under the hypothesis.
        a = 2 * n
        b = -improved - regressed + (2 * n - improved + regressed) * d
        c = -regressed * d * (1 - d)
        q = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
        variance = n * (2 * q + d * (1 - d))
        return (improved - regressed - n * d) - z * math.sqrt(max(variance, 0.0))

    # The estimate itself is also a root where its variance vanishes (no pair differs, or all
    # improve); the interval's end is the one below.
    return float(optimize.brentq(excess, -1.0, (improved - regressed) / n - 1e-12, xtol=1e-12))
