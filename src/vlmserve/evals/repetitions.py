"""A side that is asked every sample several times: its repetitions, averaged sample by sample."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlmserve.evals.likelihood import TargetScores
from vlmserve.evals.records import Failed, SampleRecord, Scored
from vlmserve.evals.samples import Sample

if TYPE_CHECKING:
    from vlmserve.evals.eval_task import EvalTask
    from vlmserve.evals.runner import SideRun


@dataclass(frozen=True, slots=True)
class SideAnswers:
    """All that a side has answered.

    The mean of a sample's scores is one graded score: repetitions are not independent samples, and
    nothing counts them as such.
    """

    repetitions: "tuple[SideRun, ...]"
    """At least one."""

    targets: TargetScores | None = None
    """How likely it finds the expected answers; ``None`` where that is not asked."""

    @property
    def n_requests_sent(self) -> int:
        """Of all repetitions."""
        return sum(run.n_requests_sent for run in self.repetitions)

    @property
    def n_reused(self) -> int:
        """Answers of all repetitions that the store already had."""
        return sum(run.n_reused for run in self.repetitions)

    def records(
        self, task: "EvalTask", samples: Sequence[Sample] | None = None
    ) -> list[SampleRecord]:
        """Score a task's answers; see ``SideRun.records``.

        Of several repetitions the first one's completion is kept.
        """
        first = self.repetitions[0]
        if len(self.repetitions) == 1:
            return first.records(task, samples)
        asked = task.samples if samples is None else samples
        outcomes = self.outcomes(task, asked)
        return [
            SampleRecord(
                sample_id=sample.sample_id,
                completion=first.answers.get(sample.request_digest),
                outcome=outcomes[sample.sample_id],
            )
            for sample in asked
        ]

    def outcomes(self, task: "EvalTask", samples: Sequence[Sample]) -> dict[str, Scored | Failed]:
        """Score the answers to some of a task's samples, by sample id."""
        each = [run.outcomes(task, samples) for run in self.repetitions]
        if len(each) == 1:
            return each[0]
        return {
            sample.sample_id: _mean([outcomes[sample.sample_id] for outcomes in each])
            for sample in samples
        }


def _mean(outcomes: Sequence[Scored | Failed]) -> Scored | Failed:
    """One outcome for several; a repetition without a score leaves the sample without one."""
    scored: list[Scored] = []
    for number, outcome in enumerate(outcomes, start=1):
        if isinstance(outcome, Failed):
            message = f"repetition {number} of {len(outcomes)}: {outcome.message}"
            return Failed(error_type=outcome.error_type, message=message)
        scored.append(outcome)
    counts = Counter(outcome.answer for outcome in scored).most_common()
    # All of them, the most frequent first: what flipped is told apart by them.
    answer = " | ".join(f"{text} ({count}x)" if count > 1 else text for text, count in counts)
    return Scored(answer=answer, score=sum(outcome.score for outcome in scored) / len(scored))
