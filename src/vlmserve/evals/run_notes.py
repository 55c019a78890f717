"""What a report notes of a run beside its numbers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from vlmserve.evals.records import SideName

if TYPE_CHECKING:
    from vlmserve.evals.answering import Side
    from vlmserve.evals.eval_task import EvalTask
    from vlmserve.evals.likelihood import TargetChoice
    from vlmserve.evals.repetitions import SideAnswers
    from vlmserve.evals.serving_differences import ServingDifference
    from vlmserve.evals.session import Session

_MEANT = {
    "declared": "as declared",
    "checkpoint": "as the checkpoints bring it",
    "suite": "as the suite asks",
}


def refusal_notes(
    sides: "Mapping[SideName, Side]", runs: "Mapping[SideName, SideAnswers]"
) -> Iterator[str]:
    """Say which sides do not tell how likely answers are."""
    for name, side in sides.items():
        targets = runs[name].targets
        if targets is not None and targets.refusal is not None:
            yield (
                f"NLL was not measured: {side.name} does not tell how likely the expected answers "
                f"are ({targets.refusal})"
            )


def choice_notes(tasks: "Sequence[EvalTask]", choices: "Sequence[TargetChoice]") -> Iterator[str]:
    """Say how many expected answers have no likelihood that is measured, and why."""
    for task, choice in zip(tasks, choices, strict=True):
        if choice.n_too_long:
            yield (
                f"{task.name}: {choice.n_too_long} of {len(task.samples)} expected answers are "
                "longer than nll.max_target_bytes, and their NLL is not measured"
            )
        if choice.n_unspoken:
            yield (
                f"{task.name}: {choice.n_unspoken} of {len(task.samples)} expected answers are "
                "empty or no text, and their NLL is not measured"
            )


def run_notes(
    session: "Session", baseline: "Side", candidate: "Side", anchor: "Side | None"
) -> Iterator[str]:
    """Say what was asked otherwise than in full and as usual."""
    limit, n = session.limit, session.n_repetitions
    if baseline.answerer == candidate.answerer:
        yield "baseline and candidate are the same: the same answers were compared with themselves"
    if limit is not None:
        yield f"only the first {limit} samples of each task were asked (--limit)"
    if n > 1:
        yield f"every sample was asked {n} times, and its scores were averaged (--repeat)"
    for name, found in session.differences.items():
        yield from difference_notes(name, found)
    if anchor is not None:
        yield f"anchor: {anchor.name}; every gated task was held against it, too"


def difference_notes(name: SideName, found: "Sequence[ServingDifference]") -> Iterator[str]:
    """Say in what a side is served differently from the candidate, and who meant it."""
    for reason, words in _MEANT.items():
        texts = [each.text for each in found if each.reason == reason]
        if texts:
            yield f"served differently ({name} | candidate), {words}: {'; '.join(texts)}"
