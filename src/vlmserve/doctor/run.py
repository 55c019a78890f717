"""Running the checks over one checkpoint."""

import logging
from collections.abc import Iterator
from typing import Any, Protocol

from vlmserve.chat import Value
from vlmserve.checkpoint.source import Checkpoint
from vlmserve.doctor.adapters import check_coverage, check_identity, check_match
from vlmserve.doctor.files import check_architecture, check_files, check_zero
from vlmserve.doctor.finding import Finding, Outcome, Unknown, severity_rank
from vlmserve.doctor.processor import check_present
from vlmserve.doctor.tensors import check_finite, check_tensors
from vlmserve.doctor.training import check_no_signal
from vlmserve.errors import CheckpointError

SCHEMA_VERSION = 1

_LOGGER = logging.getLogger(__name__)


class Check(Protocol):
    """One check over a checkpoint."""

    def __call__(self, checkpoint: Checkpoint, *, fast: bool) -> Iterator[Outcome]:
        """Yield what is wrong, and what could not be checked.

        Raises:
            CheckpointError: A file that it needs is broken; ``run_checks`` notes it as unknown.
        """
        ...


_CHECKS: dict[str, Check] = {
    "ckpt.architecture": check_architecture,
    "ckpt.files": check_files,
    "ckpt.zero": check_zero,
    "ckpt.tensors": check_tensors,
    "proc.present": check_present,
    "base.identity": check_identity,
    "lora.match": check_match,
    "lora.coverage": check_coverage,
    "train.no-signal": check_no_signal,
    "ckpt.finite": check_finite,
}

# Findings that explain others of the same checkpoint: what follows, from what.
_CAUSES = {
    "lora.match": "base.identity",
}


class DoctorReport(Value):
    """What the checks said, most serious first."""

    findings: tuple[Finding, ...]
    unknown: tuple[Unknown, ...]

    @property
    def blocking(self) -> tuple[Finding, ...]:
        """Findings with which it should not be served."""
        return tuple(finding for finding in self.findings if finding.severity == "block")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """Findings with which it serves something other than what was trained."""
        return tuple(finding for finding in self.findings if finding.severity == "warn")

    def as_json(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """The report as ``vlmserve check --json`` writes it."""
        family = checkpoint.family
        return {
            "schema_version": SCHEMA_VERSION,
            "checkpoint": str(checkpoint.path),
            "family": None if family is None else family.name,
            "findings": [finding.model_dump(mode="json") for finding in self.findings],
            "unknown": [unknown.model_dump(mode="json") for unknown in self.unknown],
        }


def run_checks(checkpoint: Checkpoint, *, fast: bool = True) -> DoctorReport:
    """Check a checkpoint. Never raises: what fails to run is reported as unknown.

    Args:
        checkpoint: What to check.
        fast: Leave out what reads every weight; headers and adapters take well under a second.
    """
    outcomes: list[Outcome] = []
    for check_id, check in _CHECKS.items():
        try:
            outcomes += check(checkpoint, fast=fast)
        except CheckpointError as error:
            outcomes.append(Unknown(id=check_id, reason=error.message))
        except Exception as error:
            # One broken check must not hide what the others found.
            _LOGGER.exception("check %s failed; this is a bug in vlmserve", check_id)
            outcomes.append(Unknown(id=check_id, reason=f"the check failed: {error!r}"))
    findings = _trace([outcome for outcome in outcomes if isinstance(outcome, Finding)])
    return DoctorReport(
        findings=tuple(sorted(findings, key=lambda finding: severity_rank(finding.severity))),
        unknown=tuple(outcome for outcome in outcomes if isinstance(outcome, Unknown)),
    )


def _trace(findings: list[Finding]) -> list[Finding]:
    """Mark findings that follow from others."""
    present = {finding.id for finding in findings}
    traced = []
    for finding in findings:
        cause = _CAUSES.get(finding.id)
        if cause in present:
            marks = {"severity": "info", "caused_by": cause}
            traced.append(finding.model_copy(update=marks))
        else:
            traced.append(finding)
    return traced
