"""What ``vlmserve suite lint`` says of a suite, as JSON values."""

from collections.abc import Mapping
from typing import Literal

from vlmserve.chat import Value

Level = Literal["error", "warning", "note"]


def counted(number: int, what: str) -> str:
    """Say how many there are: ``1 sample``, ``1,970 samples``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


class Remark(Value):
    """One thing to know of a task, or of the suite."""

    level: Level
    """``error``: it cannot be asked or judged; ``warning``: it says less than it seems to."""

    task: str | None
    text: str


class Spread(Value):
    """A distribution, by four of its values."""

    smallest: float
    median: float
    percentile_95: float
    largest: float


class Power(Value):
    """What a task's samples can decide, if so many answers differ in their score."""

    discordance: float
    """Share of samples on which the scores of the two sides differ, 0 to 1."""

    detectable: float
    """Smallest drop that is seen, and smallest margin that an equal checkpoint keeps, four times
    out of five; samples are taken for independent."""

    detectable_clustered: float
    """The same if samples of one image, video or text rise and fall together entirely."""

    n_needed: int
    """Independent samples at which the task's margin is kept as often."""


class TaskLint(Value):
    """One task of a suite."""

    name: str
    metric: str
    n_samples: int
    n_duplicates: int
    """Samples of the same media, prompt and target as an earlier one."""

    n_clusters: int
    """Groups of samples that ask about the same image, video or text."""

    media: Mapping[str, int]
    """How often each kind of file is used, by MIME type."""

    media_per_sample: Spread
    longest_side_px: Spread | None
    """Of images; ``None`` without any."""

    question_chars: Spread
    """Of the last turn of the user, media not counted: what slices call its length."""

    target_chars: Spread
    prompt_tokens: Spread | None = None
    """As a checkpoint is served, media included; ``None`` where none was given, or nothing could be
    counted."""

    n_uncounted: int = 0
    """Prompts of a given checkpoint whose tokens cannot be told."""

    fields: Mapping[str, Mapping[str, int]]
    """Columns that make slices: how often each value occurs."""

    margin: float | None
    """``None`` where the task is only reported, or must improve."""

    improve: bool = False
    """Whether the candidate must be better here."""

    power: tuple[Power, ...]
    """For scores of 0 and 1; for others between them it is on the safe side. Empty for amounts,
    such as tokens, whose spread nobody knows before."""


class LintReport(Value):
    """A suite, looked over."""

    suite: str
    tasks: tuple[TaskLint, ...]
    """Those that could be loaded."""

    remarks: tuple[Remark, ...]

    def count(self, level: Level) -> int:
        """How many remarks are of a level."""
        return sum(remark.level == level for remark in self.remarks)
