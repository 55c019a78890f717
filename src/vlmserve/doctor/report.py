"""What an examination came to: the report that people read, and the one that programs read."""

from collections import Counter
from typing import Literal

from vlmserve.chat import Value
from vlmserve.checkpoint.source import Checkpoint
from vlmserve.doctor.describe import describe_checkpoint
from vlmserve.doctor.finding import Evidence, Finding, Severity, Unknown

SCHEMA_VERSION: Literal[1] = 1

_WORDS: dict[Severity, tuple[str, str]] = {
    "block": ("blocking", "blocking"),
    "warn": ("warning", "warnings"),
    "info": ("worth knowing", "worth knowing"),
}


class DoctorReport(Value):
    """What the checks said, most serious first."""

    findings: tuple[Finding, ...]
    unknown: tuple[Unknown, ...]

    @property
    def blocking(self) -> tuple[Finding, ...]:
        """Findings with which it should not be served."""
        return self._of("block")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """Findings with which it serves something other than what was trained."""
        return self._of("warn")

    @property
    def verdict(self) -> str:
        """One line: how many findings of each kind, and what the most serious one says."""
        counts = Counter(finding.severity for finding in self.findings)
        said = [
            f"{counts[severity]} {words[counts[severity] > 1]}"
            for severity, words in _WORDS.items()
            if counts[severity] and severity != "info"
        ]
        if not said:
            return "nothing found that keeps it from being served as it was trained"
        return f"{', '.join(said)}: {self.findings[0].title}"

    def _of(self, severity: Severity) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == severity)


class CheckRecord(Value):
    """The report as ``vlmserve check --json`` writes it.

    Within one ``schema_version`` keys are added, never taken away or given another meaning.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    checkpoint: str
    """The directory, absolute."""

    family: str | None
    """The model family's ``model_type``; ``null`` for one that vlmserve does not know."""

    description: str
    """What the directory is, in a paragraph."""

    verdict: str
    """One line: how many findings, and the most serious one."""

    findings: tuple[Finding, ...]
    """What was found, most serious first."""

    unknown: tuple[Unknown, ...]
    """Checks that could not be made; of all others that are not among the findings nothing bad is
    known."""


def create_record(checkpoint: Checkpoint, report: DoctorReport) -> CheckRecord:
    """Put a report and what it is about together, for programs."""
    family = checkpoint.family
    return CheckRecord(
        checkpoint=str(checkpoint.path),
        family=None if family is None else family.name,
        description=describe_checkpoint(checkpoint),
        verdict=report.verdict,
        findings=report.findings,
        unknown=report.unknown,
    )


def render_markdown(record: CheckRecord) -> str:
    """The report for a pull request or a wiki; ends in a newline."""
    lines = [f"## vlmserve check: {_escape(record.verdict)}", "", f"`{record.checkpoint}`", ""]
    lines += [_escape(record.description), ""]
    for finding in record.findings:
        lines += _finding_lines(finding)
    if record.unknown:
        lines += ["### Not checked", ""]
        lines += [f"- `{unknown.id}`: {_escape(unknown.reason)}" for unknown in record.unknown]
        lines.append("")
    return "\n".join(lines)


def _finding_lines(finding: Finding) -> list[str]:
    lines = [f"### {finding.severity}: `{finding.id}` {_escape(finding.title)}", ""]
    if finding.caused_by is not None:
        lines += [f"Follows from `{finding.caused_by}`.", ""]
    lines += [_evidence_line(evidence) for evidence in finding.evidence]
    lines += ["", _escape(finding.consequence), "", f"**Remedy:** {_escape(finding.remedy)}", ""]
    return [*lines, f"Source: {_escape(finding.source)}", ""]


def _evidence_line(evidence: Evidence) -> str:
    place = " ".join(part for part in (evidence.file, evidence.key) if part)
    if "\n" not in evidence.value:
        return f"- `{place}`: {_escape(evidence.value)}"
    # A diff or a table: kept as it is. The fence is longer than any inside of it.
    fence = "```" if "```" not in evidence.value else "`````"
    return f"- `{place}`:\n\n{fence}\n{evidence.value}\n{fence}"


def _escape(text: str) -> str:
    """Keep Markdown and HTML in file names and tokens (``<image>``) from being read as such."""
    for character in "\\`*_<>[]|#":
        text = text.replace(character, f"\\{character}")
    return text
