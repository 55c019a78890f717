"""What a report says of the judges of a run."""

from collections.abc import Iterator, Sequence

from vlmserve.evals.judging.judged_task import JudgedTask, PairwiseTask
from vlmserve.evals.report.eval_report import JudgeReport


def describe_judges(tasks: Sequence[object]) -> tuple[JudgeReport, ...]:
    """Say of each judged task who judged it, and what that cost."""
    return tuple(_describe(task) for task in tasks if isinstance(task, JudgedTask))


def judge_notes(reports: Sequence[JudgeReport]) -> Iterator[str]:
    """Say the same in words."""
    for report in reports:
        text = f"{report.task}: {report.model} gave {report.n_questions} opinions"
        if report.n_pairs is not None:
            text += (
                f" on {report.n_pairs} pairs of answers; {report.n_split} pairs were decided "
                f"otherwise in the other order and {report.n_equal} were equal, which are ties"
            )
        if report.n_failed:
            text += f"; {report.n_failed} opinions could not be had"
        text += f"; {report.prompt_tokens + report.completion_tokens:,} tokens"
        if report.cost is not None:
            text += f", {report.cost:.4g} {report.currency}"
            if report.n_reused:
                text += f" ({report.cost_of_run:.4g} of it in this run)"
        yield text


def _describe(task: JudgedTask) -> JudgeReport:
    config, usage = task.judge.config, task.judge.usage
    paired = task if isinstance(task, PairwiseTask) else None
    return JudgeReport(
        task=task.name,
        scorer=task.metric,
        model=config.model,
        url=config.url,
        prompt_digest=task.prompt_digest,
        n_questions=usage.n_questions,
        n_requests_sent=usage.n_requests_sent,
        n_reused=usage.n_reused,
        n_failed=usage.n_failed,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cost=config.cost(usage.prompt_tokens, usage.completion_tokens),
        cost_of_run=config.cost(usage.paid_prompt_tokens, usage.paid_completion_tokens),
        currency=config.currency,
        n_pairs=None if paired is None else paired.n_pairs,
        n_equal=None if paired is None else paired.n_equal,
        n_split=None if paired is None else paired.n_split,
    )
