"""A report as JUnit XML: a task is a test case, so that any CI shows it.

Schema: https://github.com/testmoapp/junitxml. A regression is a failure, and so is a task that had
to improve and did not; an inconclusive task is an error (it could not be judged), and a task that
is not gated is skipped.
"""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator

from vlmserve.evals.report.amounts import (
    difference_in_words,
    nll_in_words,
    p_value_in_words,
    score_in_words,
)
from vlmserve.evals.report.eval_report import EvalReport
from vlmserve.evals.report.letting_through import is_let_through
from vlmserve.evals.report.task_report import TaskReport

# What XML 1.0 has no way to hold; models answer with anything.
_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


_FAILURES = ("regression", "not improved")


def render_junit(report: EvalReport, *, inconclusive_fails: bool = True) -> str:
    """Write a report as JUnit XML.

    Args:
        report: What was found.
        inconclusive_fails: Whether tasks that could not be decided are errors; skipped otherwise,
            unless too many of their requests failed.
    """
    verdicts = [task.verdict for task in report.tasks]
    n_errors = sum(
        _is_error(report, task, inconclusive_fails=inconclusive_fails) for task in report.tasks
    )
    seconds = (report.finished_at - report.started_at).total_seconds()
    suite = ET.Element(
        "testsuite",
        name=_clean(report.suite.name),
        tests=str(len(verdicts)),
        failures=str(sum(verdict in _FAILURES for verdict in verdicts)),
        errors=str(n_errors),
        skipped=str(verdicts.count("not gated") + verdicts.count("inconclusive") - n_errors),
        time=f"{seconds:.3f}",
        timestamp=report.started_at.isoformat(timespec="seconds"),
    )
    properties = ET.SubElement(suite, "properties")
    for name, value in (
        ("verdict", report.verdict),
        ("run_id", report.run_id),
        ("baseline", f"{report.baseline.name} {report.baseline.fingerprint}"),
        ("candidate", f"{report.candidate.name} {report.candidate.fingerprint}"),
        ("suite_digest", report.suite.digest),
    ):
        ET.SubElement(properties, "property", name=name, value=_clean(value))
    for task in report.tasks:
        _add_case(suite, report, task, inconclusive_fails=inconclusive_fails)
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _add_case(
    suite: ET.Element, report: EvalReport, task: TaskReport, *, inconclusive_fails: bool
) -> None:
    case = ET.SubElement(
        suite, "testcase", name=_clean(task.task), classname=_clean(report.suite.name)
    )
    if task.verdict in _FAILURES:
        ET.SubElement(
            case, "failure", message=_clean(task.reason), type=task.verdict
        ).text = _details(task)
    elif _is_error(report, task, inconclusive_fails=inconclusive_fails):
        ET.SubElement(
            case, "error", message=_clean(task.reason), type="inconclusive"
        ).text = _details(task)
    elif task.verdict not in ("pass", "improved"):
        ET.SubElement(case, "skipped", message=_clean(task.reason))
    ET.SubElement(case, "system-out").text = _details(task)


def _is_error(report: EvalReport, task: TaskReport, *, inconclusive_fails: bool) -> bool:
    return task.verdict == "inconclusive" and (
        inconclusive_fails or not is_let_through(report, task)
    )


def _details(task: TaskReport) -> str:
    lines = [
        f"{task.metric}: {score_in_words(task.baseline, task)} -> "
        f"{score_in_words(task.candidate, task)}, difference {difference_in_words(task)}, "
        f"p {p_value_in_words(task.p_value)}, {task.n_pairs} pairs, "
        f"{len(task.flips.regressed)} worse, {len(task.flips.improved)} better",
        *_nll_lines(task),
        *(
            f"worse: {flip.sample_id} {flip.question!r}: target {flip.target!r}, "
            f"{flip.baseline.answer!r} -> {flip.candidate.answer!r}"
            for flip in task.flips.regressed
        ),
        *(
            f"failed on the {failure.side}: {failure.sample_id} {failure.error_type}: "
            f"{failure.message}"
            for failure in task.failures
        ),
    ]
    return _clean("\n".join(lines))


def _nll_lines(task: TaskReport) -> Iterator[str]:
    if task.nll is not None:
        before, after, difference = nll_in_words(task.nll.per_token)
        yield (
            f"NLL: {before} -> {after}, difference {difference} nats a token, "
            f"{task.nll.n_pairs} pairs"
        )


def _clean(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
