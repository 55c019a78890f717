"""A report for a pull request: verdict first, a table, and the samples that got worse."""

from collections.abc import Iterator

from vlmserve.evals.report.amounts import (
    difference_in_words,
    nll_finding,
    nll_in_words,
    one_line,
    p_value_in_words,
    score_in_words,
)
from vlmserve.evals.report.eval_report import EvalReport
from vlmserve.evals.report.task_report import FlipReport, TaskReport

_MAX_FLIPS = 10
_MAX_FAILURES = 10
_MAX_SLICES = 10
_MAX_CELL = 80
_SPECIAL = "\\`*_<>[]|#~"
_MARKS = {
    "pass": "🟢",
    "improved": "🟢",
    "regression": "🔴",
    "not improved": "🔴",
    "inconclusive": "🟡",
    "not gated": "⚪",
}


def render_markdown(report: EvalReport) -> str:
    """Write a report as GitHub's Markdown; ends in a newline."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: EvalReport) -> Iterator[str]:
    suite, confidence = report.suite, f"{100 * (1 - report.suite.gate['alpha']):g} %"
    yield f"## {_MARKS[report.verdict]} {report.verdict}: {_text(suite.name)}"
    yield ""
    yield f"{_text(report.candidate.name)} against {_text(report.baseline.name)}"
    yield ""
    yield f"| task | n | baseline | candidate | difference [{confidence}] | p | -/+ | verdict |"
    yield "|---|---:|---:|---:|---:|---:|---:|---|"
    for task in report.tasks:
        yield _row(task)
    yield ""
    for task in report.tasks:
        if task.gated and task.verdict not in ("pass", "improved"):
            yield f"- **{_text(task.task)}**: {_text(task.reason)}"
    for each in [each for each in report.slices if each.is_worse][:_MAX_SLICES]:
        yield (
            f"- worse where {_text(each.task)}, {_text(each.name)}: "
            f"{_text(difference_in_words(each))} ({each.n_pairs} samples, adjusted p "
            f"{_text(p_value_in_words(each.adjusted_p))})"
        )
    for note in report.notes:
        yield f"- note: {_text(note)}"
    yield from _nlls(report)
    for task in report.tasks:
        yield from _samples(task)
    yield ""
    yield (
        f"<sub>run {_text(report.run_id)}, {report.n_requests_sent} requests sent, "
        f"{report.n_reused} answers reused; suite {report.suite.digest[:19]}; baseline "
        f"{_text(_short(report.baseline.fingerprint))}, candidate "
        f"{_text(_short(report.candidate.fingerprint))}</sub>"
    )


def _row(task: TaskReport) -> str:
    cells = (
        _text(task.task),
        str(task.n_pairs),
        score_in_words(task.baseline, task),
        score_in_words(task.candidate, task),
        _text(difference_in_words(task)),
        _text(p_value_in_words(task.p_value)),
        f"{len(task.flips.regressed)}/{len(task.flips.improved)}",
        f"{_MARKS[task.verdict]} {task.verdict}",
    )
    return f"| {' | '.join(cells)} |"


def _nlls(report: EvalReport) -> Iterator[str]:
    measured = [(task.task, task.nll) for task in report.tasks if task.nll is not None]
    if not measured:
        return
    yield ""
    yield "<details><summary>NLL of the expected answers (nats a token, lower is better)</summary>"
    yield ""
    yield "| task | n | baseline | candidate | difference | |"
    yield "|---|---:|---:|---:|---:|---|"
    for name, nll in measured:
        before, after, difference = nll_in_words(nll.per_token)
        yield (
            f"| {_text(name)} | {nll.n_pairs} | {before} | {after} | {_text(difference)} | "
            f"{nll_finding(nll)} |"
        )
    yield ""
    yield "</details>"


def _samples(task: TaskReport) -> Iterator[str]:
    flips, failures = task.flips.regressed, task.failures
    if not flips and not failures:
        return
    yield ""
    said = [f"{len(flips)} worse" if flips else "", f"{len(failures)} failed" if failures else ""]
    yield (
        f"<details><summary>{_html(task.task)}: {', '.join(word for word in said if word)}"
        "</summary>"
    )
    yield ""
    if flips:
        yield "| sample | question | target | baseline | candidate |"
        yield "|---|---|---|---|---|"
        for flip in flips[:_MAX_FLIPS]:
            yield _flip(flip)
        if len(flips) > _MAX_FLIPS:
            yield ""
            yield f"and {len(flips) - _MAX_FLIPS} more"
    for failure in failures[:_MAX_FAILURES]:
        yield (
            f"- {failure.sample_id[:8]} failed on the {failure.side}: "
            f"{_text(failure.error_type)}: {_text(failure.message)}"
        )
    if len(failures) > _MAX_FAILURES:
        yield f"- and {len(failures) - _MAX_FAILURES} more failures"
    yield ""
    yield "</details>"


def _flip(flip: FlipReport) -> str:
    texts = (flip.question, flip.target, flip.baseline.answer, flip.candidate.answer)
    return f"| {flip.sample_id[:8]} | {' | '.join(_text(_cut(text)) for text in texts)} |"


def _short(fingerprint: str) -> str:
    """Twelve digits tell digests apart; an endpoint's address says nothing when cut."""
    return fingerprint[:19] if fingerprint.startswith("sha256:") else fingerprint


def _cut(text: str) -> str:
    line = one_line(text)
    return line if len(line) <= _MAX_CELL else f"{line[: _MAX_CELL - 3]}..."


def _text(text: str) -> str:
    """A text as it is, on one line: neither Markdown nor HTML in it is read as such."""
    line = one_line(text)
    for character in _SPECIAL:
        line = line.replace(character, f"\\{character}")
    # GitHub links @names and notifies their owners.
    return line.replace("@", "@\u200b")


def _html(text: str) -> str:
    return one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
