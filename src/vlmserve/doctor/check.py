"""What a check is: an id, a function, and what its page says."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import SEVERITIES, Outcome


@dataclass(frozen=True, slots=True)
class Check:
    """One check, with the entry that ``docs/checks.md`` is generated from."""

    id: str
    """A key of ``SEVERITIES``."""

    run: Callable[[Examination], Iterator[Outcome]]
    """Yields what is wrong, and what could not be checked. May raise ``CheckpointError`` for a file
    that it needs and that is broken; that counts as unknown."""

    cause: str
    """How people come by it, in a few sentences."""

    evidence: str
    """What is looked at, and from where on it is a finding."""

    example: str
    """One finding's title and evidence, as it is printed."""

    remedy: str
    """What to do about it."""

    leftovers: bool = False
    """Whether it makes sense of a directory that no model can be loaded from."""

    def __post_init__(self) -> None:
        if self.id not in SEVERITIES:
            raise ValueError(f"{self.id} has no severity in SEVERITIES")
