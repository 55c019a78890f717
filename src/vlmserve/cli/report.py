"""``vlmserve report``: the report of a run that is kept, shown or written again."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vlmserve.cli.report_output import add_report_arguments, create_report_console, report_files
from vlmserve.cli.runs import add_store_argument, open_store
from vlmserve.errors import ConfigError

if TYPE_CHECKING:
    from vlmserve.evals.report.eval_report import EvalReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("run_id", metavar="RUN", help="its name, as vlmserve runs lists it")
    add_store_argument(parser)
    add_report_arguments(parser, with_media=False)


def run(args: argparse.Namespace) -> int:
    """Show a run's report, and write it where asked.

    Returns:
        The verdict's exit status: 0 when it passed, 1 at a regression, 3 when undecided.
    """
    from vlmserve.evals.gate import EXIT_STATUS
    from vlmserve.evals.report.files import write_reports
    from vlmserve.evals.report.terminal import print_report

    files = report_files(args)
    report = _load(args.run_id, args.store)
    write_reports(report, files)
    print_report(report, create_report_console())
    return EXIT_STATUS[report.verdict]


def _load(run_id: str, path: Path | None) -> "EvalReport":
    from pydantic import ValidationError

    from vlmserve.evals.archive import known_runs
    from vlmserve.evals.report.eval_report import EvalReport

    with open_store(path) as store:
        text = store.find_report(run_id)
        known = known_runs(store)
        is_imported = text is None and bool(store.list_sides(run_id))
    if is_imported:
        raise ConfigError(
            f"{store.path}: run {run_id} was imported, and not judged here",
            hint=f"vlmserve compare BASELINE {run_id} --margin M judges it",
        )
    if text is None:
        raise ConfigError(f"{store.path}: no run {run_id}", hint=known)
    try:
        return EvalReport.model_validate_json(text)
    except ValidationError as error:
        field = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise ConfigError(
            f"{store.path}: run {run_id}: {field}: {error.errors()[0]['msg']}: the report is of "
            "another version of vlmserve",
            hint=f"judge again with --run-id {run_id}: its answers are kept",
        ) from error
