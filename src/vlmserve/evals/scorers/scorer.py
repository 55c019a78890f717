"""What every scorer is: options, a range, a direction, a source, and a number for an answer."""

from abc import ABC, abstractmethod
from typing import ClassVar

from vlmserve.config.base import StrictModel


class Scorer(StrictModel, ABC):
    """Judges answers by their targets; its fields are its options."""

    name: ClassVar[str]
    """As suites call it."""

    about: ClassVar[str]
    """What it measures, in a line."""

    source: ClassVar[str]
    """Where the rule comes from."""

    higher_is_better: ClassVar[bool] = True
    is_fraction: ClassVar[bool] = True
    """Whether scores lie between 0 and 1; else they are at least 0, without an upper end."""

    @abstractmethod
    def score(self, answer: str, target: str) -> float:
        """Judge an answer.

        Args:
            answer: A model's whole text. One that cannot be read is wrong, never an error.
            target: As ``check_target`` takes it.

        Returns:
            A finite number in the scorer's range.
        """

    @property
    def answers_to_choose(self) -> tuple[str, ...]:
        """Answers of which the model takes the likeliest; empty where it answers in its words."""
        return ()

    @property
    def needs_image_size(self) -> bool:
        """Whether scores depend on the size of the sample's one image."""
        return False

    def score_image(self, answer: str, target: str, size_px: tuple[int, int]) -> float:
        """Judge an answer about an image of a size; only where ``needs_image_size``.

        Args:
            answer: As in ``score``.
            target: As in ``score``.
            size_px: Width and height of the original image.
        """
        del size_px
        return self.score(answer, target)

    def check_target(self, target: str) -> None:
        """Refuse a target that no answer could meet.

        Raises:
            ValueError: The target is not of the scorer's kind, or is not right by itself.
        """
        best = 1.0 if self.higher_is_better else 0.0
        if (score := self.score(target, target)) != best:
            raise ValueError(
                f"as an answer to itself it scores {score:g}, not {best:g}: {shorten(target)}"
            )


def shorten(text: str) -> str:
    """A text, short enough for a message."""
    return f"{text[:80]!r}..." if len(text) > 80 else repr(text)  # noqa: PLR2004 - a line's width
