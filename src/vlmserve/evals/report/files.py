"""Reports as files: JSON for programs, Markdown for a pull request, JUnit XML for CI."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from vlmserve.errors import ConfigError
from vlmserve.evals.report.json_report import EvalReport
from vlmserve.evals.report.junit import render_junit
from vlmserve.evals.report.markdown import render_markdown

ReportFormat = Literal["json", "markdown", "junit"]


def write_reports(
    report: EvalReport, files: Mapping[ReportFormat, Path], *, inconclusive_fails: bool = True
) -> None:
    """Write a report.

    Args:
        report: What was found.
        files: Where to write each format; directories are made.
        inconclusive_fails: Whether JUnit's reader is told that an undecided task is an error.

    Raises:
        ConfigError: A file cannot be written; the message names the option and the file.
    """
    for name, path in files.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            text = _render(report, name, inconclusive_fails=inconclusive_fails)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--{name} {path}: {error.strerror or error}") from error


def _render(report: EvalReport, name: ReportFormat, *, inconclusive_fails: bool) -> str:
    match name:
        case "json":
            return report.model_dump_json(indent=2) + "\n"
        case "markdown":
            return render_markdown(report)
        case "junit":
            return render_junit(report, inconclusive_fails=inconclusive_fails)
