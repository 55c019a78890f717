"""What every check of an answer without a target is: options, a range, a source, and a number."""

from abc import ABC, abstractmethod
from typing import ClassVar

from vlmserve.chat import Completion
from vlmserve.config.base import StrictModel
from vlmserve.evals.samples import Sample


class AnswerCheck(StrictModel, ABC):
    """Measures answers by themselves; its fields are its options. Lower is always better."""

    name: ClassVar[str]
    """As suites call it."""

    about: ClassVar[str]
    """What it measures, in a line."""

    source: ClassVar[str]
    """Where the rule comes from."""

    is_fraction: ClassVar[bool] = True
    """Whether it is 0 or 1, so that its mean is a share of answers; else it is an amount."""

    @abstractmethod
    def measure(self, completion: Completion, sample: Sample) -> float:
        """Measure an answer.

        Args:
            completion: The answer.
            sample: What was asked.

        Returns:
            1 where the answer has the fault and 0 where it has not; or an amount, at least 0.

        Raises:
            ValueError: It cannot be measured; the message says why.
        """
