"""Where reports of an evaluation go: the terminal, and files that the user names."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vlmserve.cli.console import create_console
from vlmserve.cli.output_files import require_writable

if TYPE_CHECKING:
    from rich.console import Console

    from vlmserve.evals.report.files import ReportFormat

# A log or a pipe has no width of its own.
_LOG_COLUMNS = 140


def add_report_arguments(parser: argparse.ArgumentParser, *, with_media: bool) -> None:
    """Add an option for each format that a report can be written in.

    Args:
        parser: The verb's parser.
        with_media: Whether the samples' images and videos are at hand for the page.
    """
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write the report for a pull request"
    )
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write the report as JUnit XML")
    shown = "with the samples" if with_media else "without the images"
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help=f"write the report as one page {shown}"
    )


def report_files(args: argparse.Namespace) -> "dict[ReportFormat, Path]":
    """The files that ``add_report_arguments``' options name, by format.

    To be called before anything is paid for.

    Raises:
        ConfigError: One cannot be written.
    """
    named: dict[ReportFormat, Path | None] = {
        "json": args.json,
        "markdown": args.markdown,
        "junit": args.junit,
        "html": args.html,
    }
    files = {name: path for name, path in named.items() if path is not None}
    for name, path in files.items():
        require_writable(name, path)
    return files


def create_report_console() -> "Console":
    """The console that a report is printed to."""
    return create_console(width=None if sys.stdout.isatty() else _LOG_COLUMNS)
