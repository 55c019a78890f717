"""A training's checkpoints in the terminal: a row a step, a column a task."""

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from vlmserve.evals.report.amounts import difference_in_words, score_in_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from vlmserve.evals.report.eval_report import EvalReport
    from vlmserve.evals.watching import Point

_STYLES = {"pass": "green", "improved": "green", "regression": "bold red", "not improved": "red"}


def print_watch(points: "Sequence[Point]", console: "Console") -> None:
    """Print what is known of each checkpoint; nothing where there is none.

    Args:
        points: By step.
        console: Where to.
    """
    if not points:
        console.print("no checkpoint was complete")
        return
    names = list(
        dict.fromkeys(
            task.task for point in points if point.report is not None for task in point.report.tasks
        )
    )
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("step", justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold")
    for name in names:
        table.add_column(Text(name), justify="right", overflow="fold")
    for point in points:
        if point.report is None:
            table.add_row(str(point.step), Text(point.error or "not evaluated", style="yellow"))
            continue
        verdict = Text(point.report.verdict, style=_STYLES.get(point.report.verdict, "yellow"))
        table.add_row(str(point.step), verdict, *(_cell(point.report, name) for name in names))
    console.print(table)


def _cell(report: "EvalReport", name: str) -> Text:
    for task in report.tasks:
        if task.task == name:
            words = f"{score_in_words(task.candidate, task)}\n{difference_in_words(task)}"
            return Text(words, style=_STYLES.get(task.verdict, ""))
    return Text("-")
