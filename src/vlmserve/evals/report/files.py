"""Reports as files: JSON for programs, Markdown for a pull request, JUnit XML for CI, HTML."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vlmserve.errors import ConfigError
from vlmserve.evals.report.eval_report import EvalReport
from vlmserve.evals.report.junit import render_junit
from vlmserve.evals.report.markdown import render_markdown

if TYPE_CHECKING:
    from vlmserve.evals.medium import Medium

ReportFormat = Literal["json", "markdown", "junit", "html"]


def write_reports(
    report: EvalReport,
    files: Mapping[ReportFormat, Path],
    *,
    inconclusive_fails: bool = True,
    media: "Mapping[str, Medium] | None" = None,
) -> None:
    """Write a report.

    Args:
        report: What was found.
        files: Where to write each format; directories are made.
        inconclusive_fails: Whether JUnit's reader is told that an undecided task is an error.
        media: By digest, where the bytes of the samples' images and videos are, for the thumbnails
            of HTML; they are read one at a time. ``None`` where they are not at hand.

    Raises:
        ConfigError: A file cannot be written; the message names the option and the file.
    """
    for name, path in files.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            text = _render(report, name, media, inconclusive_fails=inconclusive_fails)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--{name} {path}: {error.strerror or error}") from error


def _render(
    report: EvalReport,
    name: ReportFormat,
    media: "Mapping[str, Medium] | None",
    *,
    inconclusive_fails: bool,
) -> str:
    match name:
        case "json":
            return report.model_dump_json(indent=2) + "\n"
        case "markdown":
            return render_markdown(report)
        case "junit":
            return render_junit(report, inconclusive_fails=inconclusive_fails)
        case "html":
            # Jinja and Pillow take a moment to import, and few reports need them.
            from vlmserve.evals.report.html_report import render_html

            return render_html(report, media)
