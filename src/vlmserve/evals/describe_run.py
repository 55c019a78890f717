"""What a report and the store say of a run: suite, sides, and how they were served and asked."""

import importlib.metadata
from typing import TYPE_CHECKING

from vlmserve.evals.archive import describe_task
from vlmserve.evals.digests import digest_suite
from vlmserve.evals.machine import describe_machine
from vlmserve.evals.report.eval_report import DifferenceReport, EvalReport, SideReport, SuiteReport
from vlmserve.evals.run_record import KeptSuite, SideRecord
from vlmserve.evals.samples import FEWSHOT_SEED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vlmserve.evals.answering import Side
    from vlmserve.evals.records import SideName
    from vlmserve.evals.repetitions import SideAnswers
    from vlmserve.evals.serving_differences import ServingDifference
    from vlmserve.evals.session import Session
    from vlmserve.evals.verdict import TaskRun

# What the scores rest on, beside vlmserve itself.
_SCORING_PACKAGES = ("vlmserve", "lm_eval", "datasets", "rapidfuzz", "scipy", "numpy")

# Media are sent as the files that they are; what vLLM makes of them is among a side's settings.
_MEDIA_POLICY = {"sent": "original bytes"}


def describe_side(
    session: "Session", side: "Side", report: EvalReport, measured: "Sequence[TaskRun]"
) -> SideRecord:
    """Say of a side as a whole what the store keeps, so that every number can be had again.

    Args:
        session: What was asked.
        side: Who was.
        report: What was found.
        measured: The tasks with the records of all sides.
    """
    suite = session.suite
    return SideRecord(
        name=side.name,
        fingerprint=side.fingerprint,
        settings=dict(side.settings),
        own_settings=tuple(sorted(side.own_settings)),
        suite=KeptSuite(
            name=suite.name,
            digest=report.suite.digest,
            limit=session.limit,
            config=suite.model_dump(mode="json", exclude_none=True),
        ),
        tasks=tuple(
            describe_task(task, is_sequential=run.asked is not None)
            for task, run in zip(session.tasks, measured, strict=True)
        ),
        media_policy=dict(_MEDIA_POLICY),
        versions=report.versions,
        seeds={
            "sequential_order": session.seed,
            "repetitions": session.n_repetitions,
            "fewshot": FEWSHOT_SEED,
            "replicate": side.replicate,
        },
        hardware=describe_machine(),
        started_at=report.started_at,
        finished_at=report.finished_at,
    )


def report_suite(session: "Session") -> SuiteReport:
    """Say in the report what was asked."""
    suite = session.suite
    return SuiteReport(
        name=suite.name,
        digest=digest_suite(session.tasks),
        sequential=session.sequential,
        limit=session.limit,
        gate=suite.gate.model_dump(mode="json"),
        sampling=suite.sampling.model_dump(mode="json", exclude_none=True),
        nll=None if suite.nll is None else suite.nll.model_dump(mode="json"),
    )


def report_side(side: "Side", run: "SideAnswers") -> SideReport:
    """Say in the report what answered, and how much of it was asked now."""
    return SideReport(
        name=side.name,
        fingerprint=side.fingerprint,
        settings=dict(side.settings),
        n_requests_sent=run.n_requests_sent,
        n_reused=run.n_reused,
        n_scored=0 if run.targets is None else run.targets.n_sent,
        n_likelihoods_reused=0 if run.targets is None else run.targets.n_reused,
    )


def report_differences(
    differences: "Mapping[SideName, Sequence[ServingDifference]]",
) -> tuple[DifferenceReport, ...]:
    """Say in the report in what the sides were served differently from the candidate."""
    return tuple(
        DifferenceReport(
            side=name,
            field=each.field,
            before=each.before,
            candidate=each.after,
            reason=each.reason,
        )
        for name, found in differences.items()
        for each in found
    )


def scoring_versions() -> dict[str, str]:
    """The versions of what the scores rest on."""
    return {name: importlib.metadata.version(name) for name in _SCORING_PACKAGES}
