"""What is known of one sample after one run: an answer and its score, or why there is none."""

from typing import Annotated, Literal

from pydantic import Field

from vlmserve.chat import Completion, Value

SideName = Literal["baseline", "candidate", "repeat", "anchor"]
"""The two that are compared, what came before and what is judged; the baseline once more; and a
fixed point that the candidate is held against as well."""

AskedName = SideName | Literal["judge"]
"""Whoever is sent requests: a side, or the judge of their answers."""


class Scored(Value):
    """The model answered and the metric judged the answer."""

    status: Literal["scored"] = "scored"

    answer: str
    """What the task's filter made of the completion."""

    score: float
    """The metric's value for this sample, finite, in the metric's own units."""


class Failed(Value):
    """No judgement: the engine or the metric failed. Never counted as a wrong answer."""

    status: Literal["failed"] = "failed"

    error_type: str
    """Name of the error's class, such as ``ContextLengthError``."""

    message: str


Outcome = Annotated[Scored | Failed, Field(discriminator="status")]
"""What became of one sample."""


class TargetNll(Value):
    """How unlikely a model finds the expected answer (teacher-forced negative log-likelihood)."""

    status: Literal["measured"] = "measured"

    nats: float
    """Over all tokens of the target and the token that ends it."""

    n_tokens: int
    n_bytes: int
    """Of the target, in UTF-8."""

    @property
    def per_token(self) -> float:
        """Nats a token."""
        return self.nats / self.n_tokens


NllOutcome = Annotated[TargetNll | Failed, Field(discriminator="status")]
"""What became of the expected answer's likelihood."""


class SampleRecord(Value):
    """One sample of one run."""

    sample_id: str
    completion: Completion | None
    """What the model answered; ``None`` where the engine failed."""

    outcome: Outcome
