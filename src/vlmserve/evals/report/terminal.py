"""A report on the terminal: a table, the samples that flipped, and the verdict."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vlmserve.evals.report.amounts import (
    difference_in_words,
    nll_finding,
    nll_in_words,
    one_line,
    p_value_in_words,
    score_in_words,
)
from vlmserve.evals.report.eval_report import EvalReport
from vlmserve.evals.report.task_report import FlipReport, SliceReport, TaskReport

_MAX_FLIPS_SHOWN = 3
_MAX_FAILURES_SHOWN = 3
_MAX_SLICES_SHOWN = 5
_MAX_FAILURE_CELLS = 70
_MAX_FLIP_CELLS = 70
_ELLIPSIS = "..."

# From here on the table has room for headers of one word and for space between its columns.
_WIDE_COLUMNS = 110

_STYLES = {
    "pass": "green",
    "regression": "bold red",
    "improved": "green",
    "not improved": "bold red",
    "inconclusive": "yellow",
    "not gated": "dim",
}


# Where nothing is left to explain: what got better is not shown.
_FINE = ("pass", "improved", "not gated")
# In the order of the summary.
_COUNTED = ("regression", "not improved", "inconclusive", "improved", "pass")


def print_report(report: EvalReport, console: Console) -> None:
    """Show a report.

    Args:
        report: What was found.
        console: Where to show it; from 80 columns on no number is cut.
    """
    console.print(_table(report, wide=console.width >= _WIDE_COLUMNS))
    _print_reasons(report.tasks, console)
    _print_slices(report.slices, console)
    _print_nlls(report.tasks, console)
    for task in report.tasks:
        _print_samples(task, console)
    for note in report.notes:
        console.print(Text.assemble(("note: ", "bold"), note))
    console.print(
        f"{report.n_requests_sent} requests sent, {report.n_reused} answers reused", style="dim"
    )
    console.print(_verdict(report))


def _table(report: EvalReport, *, wide: bool) -> Table:
    confidence = f"{100 * (1 - report.suite.gate['alpha']):g} %"
    table = Table(
        title=Text(f"{report.suite.name}: {report.candidate.name} against {report.baseline.name}"),
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1) if wide else 0,
    )
    table.add_column("task", overflow="fold")
    for header in ("n", "baseline", "candidate") if wide else ("n", "base-\nline", "candi-\ndate"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column(f"difference\n[{confidence}]", justify="right", no_wrap=True)
    for header in ("p", "flips\n-/+"):
        table.add_column(header, justify="right", no_wrap=True)
    some_failed = any(task.n_failed_baseline or task.n_failed_candidate for task in report.tasks)
    if some_failed:
        table.add_column("failed", justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for task in report.tasks:
        failed = [f"{task.n_failed_baseline}/{task.n_failed_candidate}"] if some_failed else []
        verdict = Text(task.verdict, style=_STYLES[task.verdict])
        table.add_row(*_numbers(task), *failed, verdict)
    return table


def _print_reasons(tasks: Sequence[TaskReport], console: Console) -> None:
    """Say each verdict in words once, with the tasks that it holds for."""
    named: dict[tuple[str, str], list[str]] = {}
    for task in tasks:
        if task.gated:
            named.setdefault((task.reason, _STYLES[task.verdict]), []).append(task.task)
    for (reason, style), names in named.items():
        console.print(Text.assemble((reason, style), f": {', '.join(names)}"))


def _print_slices(slices: Sequence[SliceReport], console: Console) -> None:
    """Name the kinds of samples that got worse beyond what many looks explain."""
    worse = [each for each in slices if each.is_worse]
    for each in worse[:_MAX_SLICES_SHOWN]:
        console.print(
            Text.assemble(
                ("worse where ", "red"),
                f"{each.task}, {each.name}: {difference_in_words(each)} "
                f"({each.n_pairs} samples, adjusted p {p_value_in_words(each.adjusted_p)})",
            )
        )
    if len(worse) > _MAX_SLICES_SHOWN:
        console.print(f"and {len(worse) - _MAX_SLICES_SHOWN} more such slices", style="dim")


def _print_nlls(tasks: Sequence[TaskReport], console: Console) -> None:
    """Say how likely both sides find the expected answers."""
    measured = [(task.task, task.nll) for task in tasks if task.nll is not None]
    if not measured:
        return
    table = Table(
        title=Text("NLL of the expected answers, nats a token: lower is better"),
        title_justify="left",
        title_style="",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1),
    )
    table.add_column("task", overflow="fold")
    for header in ("n", "baseline", "candidate", "difference"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for name, nll in measured:
        finding = nll_finding(nll)
        style = "yellow" if nll.is_early_warning else _STYLES[nll.verdict]
        cells = (name, str(nll.n_pairs), *nll_in_words(nll.per_token))
        table.add_row(*(Text(cell) for cell in cells), Text(finding, style=style))
    console.print(table)


def _numbers(task: TaskReport) -> tuple[Text, ...]:
    cells = (
        task.task,
        str(task.n_pairs),
        score_in_words(task.baseline, task),
        score_in_words(task.candidate, task),
        difference_in_words(task),
        p_value_in_words(task.p_value),
        f"{len(task.flips.regressed)}/{len(task.flips.improved)}",
    )
    # Texts, so that square brackets are no markup.
    return tuple(Text(cell) for cell in cells)


def _print_samples(task: TaskReport, console: Console) -> None:
    for word, style, flips in (
        ("worse", "red", task.flips.regressed),
        ("better", "green", task.flips.improved),
    ):
        # What got better is of interest where the task is not simply fine.
        if not flips or (word == "better" and task.verdict in _FINE):
            continue
        shown = flips[:_MAX_FLIPS_SHOWN]
        console.print(Text(f"{task.task}: {len(flips)} {word}, {len(shown)} shown", style=style))
        for flip in shown:
            console.print(_flip(flip, console.width))
    for failure in task.failures[:_MAX_FAILURES_SHOWN]:
        console.print(
            Text.assemble(
                (f"{task.task}: failed on the {failure.side}: ", "yellow"),
                f"{failure.error_type}: {_cut(one_line(failure.message), _MAX_FAILURE_CELLS)}",
            )
        )


def _flip(flip: FlipReport, width: int) -> Text:
    """Give a flipped sample one line; the longest of its texts are cut until it fits."""
    labels = [f"  {flip.sample_id[:8]}  ", "  target ", "  baseline ", "  candidate "]
    texts = [flip.question, flip.target, flip.baseline.answer, flip.candidate.answer]
    lines = [one_line(text) for text in texts]
    room = width - sum(cell_len(label) for label in labels)
    share = next(
        (
            cells
            for cells in range(_MAX_FLIP_CELLS, len(_ELLIPSIS), -1)
            if sum(min(cell_len(line), cells) for line in lines) <= room
        ),
        len(_ELLIPSIS),
    )
    line = Text(no_wrap=True, overflow="crop")
    for label, text in zip(labels, lines, strict=True):
        line.append(label, "dim").append(_cut(text, share))
    return line


def _cut(line: str, cells: int) -> str:
    if cell_len(line) <= cells:
        return line
    return set_cell_size(line, cells - len(_ELLIPSIS)) + _ELLIPSIS


def _verdict(report: EvalReport) -> Text:
    gated = [task for task in report.tasks if task.gated]
    some_must_improve = any(task.improve for task in gated)
    counts = [
        f"{sum(task.verdict == name for task in gated)} {name}"
        for name in _COUNTED
        if some_must_improve or not name.endswith("improved")
    ]
    return Text.assemble(
        (f"verdict: {report.verdict}", _STYLES[report.verdict]),
        f" ({', '.join(counts)} of {len(gated)} gated tasks)",
    )
