"""``vlmserve compare``: judge one kept run against another, without an engine."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlmserve.cli.export import RUN_HELP
from vlmserve.cli.options import require_packages
from vlmserve.cli.report_output import add_report_arguments, create_report_console, report_files
from vlmserve.cli.runs import add_store_argument, open_store
from vlmserve.errors import ConfigError

if TYPE_CHECKING:
    from vlmserve.evals.archive import RecordedSide
    from vlmserve.evals.records import SideName
    from vlmserve.evals.store import AnswerStore


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("baseline", metavar="BASELINE", help=f"what came before: {RUN_HELP}")
    parser.add_argument("candidate", metavar="CANDIDATE", help="what is judged, likewise")
    parser.add_argument(
        "--suite",
        type=Path,
        metavar="FILE",
        help="margins and gate (default: those that the candidate was judged by)",
    )
    parser.add_argument(
        "--margin",
        action="append",
        default=[],
        metavar="[TASK=]M",
        help="the drop that is acceptable, of one task or of all; repeatable",
    )
    parser.add_argument(
        "--anchor",
        metavar="RUN[:SIDE]",
        help="a fixed point: every gated task is held against it, too",
    )
    parser.add_argument(
        "--key",
        metavar="NAME",
        help="join samples on a name that imported logs give them, such as doc_id (default: on "
        "their content)",
    )
    parser.add_argument(
        "--allow-difference",
        action="append",
        default=[],
        metavar="FIELD",
        help="declare that this may differ between the runs, such as sampling; repeatable",
    )
    parser.add_argument(
        "--allow-partial",
        action="store_true",
        help="leave samples out that only one of the runs has",
    )
    parser.add_argument(
        "--on-inconclusive",
        choices=("fail", "warn"),
        default="fail",
        help="exit with 3 (fail, the default) or 0 (warn) when the samples do not "
        "decide; where too many requests failed, always with 3",
    )
    add_store_argument(parser)
    add_report_arguments(parser, with_media=False)


def run(args: argparse.Namespace) -> int:
    """Compare two runs.

    Returns:
        0 when the candidate passes, 1 at a regression, 3 when the samples do not decide and that
        fails.
    """
    require_packages("scipy")
    from vlmserve.config.suite import load_suite
    from vlmserve.evals.compare_runs import Terms, compare_runs
    from vlmserve.evals.report.files import write_reports
    from vlmserve.evals.report.letting_through import exit_status
    from vlmserve.evals.report.terminal import print_report

    files = report_files(args)
    terms = Terms(
        suite=None if args.suite is None else load_suite(args.suite),
        margins=parse_margins(args.margin),
        key=args.key,
        allowed=args.allow_difference,
        allow_partial=args.allow_partial,
    )
    with open_store(args.store) as store:
        baseline, candidate = _load(store, args.baseline), _load(store, args.candidate)
        others = _others(store, baseline, candidate, args.anchor)
    report = compare_runs(baseline, candidate, terms, others=others)
    inconclusive_fails = args.on_inconclusive == "fail"
    write_reports(report, files, inconclusive_fails=inconclusive_fails)
    console = create_report_console()
    print_report(report, console)
    for path in files.values():
        console.print(f"report: {path}", soft_wrap=True, markup=False)
    return exit_status(report, inconclusive_fails=inconclusive_fails)


def parse_margins(texts: Sequence[str]) -> dict[str | None, float]:
    """Read ``M`` and ``TASK=M``.

    Returns:
        Margins by task; what holds for all tasks is under ``None``.

    Raises:
        ConfigError: One is not a number above 0, or is given twice.
    """
    margins: dict[str | None, float] = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        try:
            margin = float(number)
        except ValueError:
            margin = math.nan
        if not 0 < margin < math.inf:
            raise ConfigError(f"--margin {text}: expected a number above 0, or TASK=NUMBER")
        if (name or None) in margins:
            raise ConfigError(f"--margin {text}: given twice")
        margins[name or None] = margin
    return margins


def _load(store: "AnswerStore", reference: str) -> "RecordedSide":
    from vlmserve.evals.archive import load_side, parse_run

    run_id, side = parse_run(reference)
    return load_side(store, run_id, side or "candidate")


def _others(
    store: "AnswerStore",
    baseline: "RecordedSide",
    candidate: "RecordedSide",
    anchor: str | None,
) -> "dict[SideName, RecordedSide]":
    """What the run itself had beside its two sides, where these are compared; and an anchor."""
    from vlmserve.evals.archive import load_side

    found: dict[SideName, RecordedSide] = {}
    sides = (baseline.run_id, baseline.side, candidate.side)
    if sides == (candidate.run_id, "baseline", "candidate"):
        kept = store.list_sides(baseline.run_id)
        names: tuple[SideName, ...] = ("repeat", "anchor")
        found = {name: load_side(store, baseline.run_id, name) for name in names if name in kept}
    if anchor is not None:
        found["anchor"] = _load(store, anchor)
    return found
