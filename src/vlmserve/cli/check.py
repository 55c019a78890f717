"""``vlmserve check``: what is wrong with a checkpoint, from its files."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from vlmserve.checkpoint.source import Checkpoint
from vlmserve.cli.console import create_console
from vlmserve.cli.options import add_checkpoint_arguments, open_checkpoint
from vlmserve.doctor.describe import describe_checkpoint
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import Finding, Severity
from vlmserve.doctor.run import DoctorReport, run_checks
from vlmserve.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from rich.console import Console

_STYLES: dict[Severity, str] = {"block": "bold red", "warn": "bold yellow", "info": "bold cyan"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    add_checkpoint_arguments(parser)
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the report as JSON; - is standard output"
    )
    parser.add_argument(
        "--strict", action="store_true", help="let warnings decide the exit status, too"
    )
    parser.add_argument(
        "--fast", action="store_true", help="leave out the check that reads every weight"
    )


def run(args: argparse.Namespace) -> int:
    """Check a checkpoint and print what was found.

    Returns:
        0, or 4 when something blocks serving (with ``--strict``, also when something warns).
    """
    checkpoint = open_checkpoint(args)
    report = run_checks(Examination(checkpoint, fast=args.fast))
    is_bad = bool(report.blocking or (args.strict and report.warnings))
    text = json.dumps(report.as_json(checkpoint), indent=2, ensure_ascii=False)
    if args.json == Path("-"):
        create_console().out(text)
        return CheckpointError.exit_code if is_bad else 0
    if args.json is not None:
        try:
            args.json.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--json {args.json}: {error.strerror or error}") from error
    _print_report(checkpoint, report)
    return CheckpointError.exit_code if is_bad else 0


def _print_report(checkpoint: Checkpoint, report: DoctorReport) -> None:
    console = create_console()
    console.soft_wrap = True
    console.print(str(checkpoint.path), style="bold", markup=False)
    console.print(describe_checkpoint(checkpoint), markup=False)
    for finding in report.findings:
        console.print()
        _print_finding(console, finding)
    if report.unknown:
        console.print("\nnot checked:", style="bold")
        for unknown in report.unknown:
            console.print(f"  {unknown.id}: {unknown.reason}", markup=False)
    console.print()
    style, verdict = _verdict(report)
    console.print(verdict, style=style, markup=False)


def _print_finding(console: "Console", finding: Finding) -> None:
    console.print(f"{finding.severity:5}", style=_STYLES[finding.severity], end=" ")
    console.print(f"{finding.id}: {finding.title}", style="bold", markup=False)
    if finding.caused_by is not None:
        console.print(f"      follows from {finding.caused_by}", markup=False)
    for evidence in finding.evidence:
        place = " ".join(part for part in (evidence.file, evidence.key) if part)
        console.print(f"      {place}: {evidence.value}", style="dim", markup=False)
    console.print(f"      {finding.consequence}", markup=False)
    console.print(f"      remedy: {finding.remedy}", markup=False)
    console.print(f"      source: {finding.source}", style="dim", markup=False)


def _verdict(report: DoctorReport) -> tuple[str, str]:
    counts = [
        f"{len(report.blocking)} blocking" if report.blocking else "",
        f"{len(report.warnings)} warning{'s' if len(report.warnings) > 1 else ''}"
        if report.warnings
        else "",
    ]
    found = ", ".join(count for count in counts if count)
    if not found:
        return "bold green", "nothing found that keeps it from being served as it was trained"
    serious = (report.blocking or report.warnings)[0]
    return _STYLES[serious.severity], f"{found}: {serious.title}"
