"""The chance that a checkpoint passes a task of the gate, summed exactly over what may be seen.

A sample is answered right by the base alone (regressed), by the candidate alone (improved), or
alike by both. Over ``n`` independent samples the two counts are trinomial, and the gate passes if
the lower end of its interval at these counts is above ``-margin``. No normal approximation stands
in between: with few samples and rare discordance the score interval is much wider than Wald's, and
the approximation promises far too much.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import stats

LowerBound = Callable[[int, int, int], float]
"""Given regressed, improved and all pairs, the lower end of the interval of the difference. It must
not rise with a regressed pair more, nor fall with an improved pair more."""


class PassRule:
    """The gate's rule for one task: the lower end of the interval is above ``-margin``.

    Args:
        lower_bound: The gate's own interval.
        margin: The acceptable loss of accuracy, between 0 and 1.
    """

    def __init__(self, lower_bound: LowerBound, margin: float) -> None:
        self.margin = margin
        self._lower_bound = lower_bound
        self._fewest: dict[int, np.ndarray[Any, Any]] = {}

    def pass_probability(self, discordance: float, loss: float, samples: int) -> float:
        """Return the chance that a checkpoint passes the task.

        Args:
            discordance: Share of samples that exactly one of the two answers right, 0 to 1.
            loss: The share that regresses less the share that improves, 0 to ``discordance``.
            samples: How many are asked, at least 1.

        Raises:
            ValueError: The loss is not between 0 and the discordance.
        """
        if not 0 <= loss <= discordance <= 1:
            raise ValueError(f"a loss of {loss} does not fit a discordance of {discordance}")
        regress, improve = (discordance + loss) / 2, (discordance - loss) / 2
        # Given how many regressed, the improved are binomial among the others.
        among_others = min(1.0, improve / (1 - regress)) if regress < 1 else 0.0
        fewest = self._fewest_improved(samples)
        regressed = np.arange(len(fewest))
        enough = stats.binom.sf(fewest - 1, samples - regressed, among_others)
        return float((stats.binom.pmf(regressed, samples, regress) * enough).sum())

    def _fewest_improved(self, n: int) -> "np.ndarray[Any, Any]":
        """Return, for 0, 1, 2, ... regressed pairs, how many must have improved to pass.

        Shape ``(m,)``: with ``m`` or more regressed pairs, no number is enough.
        """
        if n not in self._fewest:
            fewest = []
            improved = 0
            for regressed in range(n + 1):
                # One more regressed pair never needs fewer improved ones.
                while (
                    regressed + improved <= n
                    and self._lower_bound(regressed, improved, n) <= -self.margin
                ):
                    improved += 1
                if regressed + improved > n:
                    break
                fewest.append(improved)
            self._fewest[n] = np.array(fewest, dtype=int)
        return self._fewest[n]
