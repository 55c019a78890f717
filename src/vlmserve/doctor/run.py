"""Running the checks over one checkpoint."""

import logging

from vlmserve.doctor import (
    adapters,
    architecture,
    budget,
    code,
    components,
    config,
    data_image_modes,
    data_media,
    data_overlap,
    files,
    finite,
    generation,
    geometry,
    identity,
    labels,
    lost,
    merge,
    pixels,
    positions,
    processor,
    rope,
    separators,
    templates,
    tensors,
    token_rows,
    tokens,
    training,
    video,
)
from vlmserve.doctor.check import Check
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import Finding, Outcome, Unknown, severity_rank
from vlmserve.doctor.report import DoctorReport
from vlmserve.errors import CheckpointError

_LOGGER = logging.getLogger(__name__)


CHECKS: tuple[Check, ...] = (
    *architecture.CHECKS,
    *files.CHECKS,
    *tensors.CHECKS,
    *finite.CHECKS,
    *config.CHECKS,
    *rope.CHECKS,
    *tokens.CHECKS,
    *token_rows.CHECKS,
    *generation.CHECKS,
    *positions.CHECKS,
    *code.CHECKS,
    *processor.CHECKS,
    *pixels.CHECKS,
    *geometry.CHECKS,
    *video.CHECKS,
    *templates.CHECKS,
    *separators.CHECKS,
    *lost.CHECKS,
    *adapters.CHECKS,
    *identity.CHECKS,
    *merge.CHECKS,
    *training.CHECKS,
    *components.CHECKS,
    *data_media.CHECKS,
    *data_image_modes.CHECKS,
    *data_overlap.CHECKS,
    *budget.CHECKS,
    *labels.CHECKS,
)
"""Every check, in the order in which they run."""

# What a finding follows from when both are there: the id, and the ids that explain it.
_CAUSES: dict[str, tuple[str, ...]] = {
    "ckpt.tensors": ("cfg.two-truths",),
    "lora.match": ("base.identity",),
    "lora.merge-proof": ("ckpt.finite", "base.identity"),
    "diff.components": ("ckpt.finite", "base.identity", "lora.merge-proof"),
    "template.sep-atomic": ("tok.id-stability",),
    "tok.id-stability": ("base.identity",),
    "template.render-diff": ("base.identity",),
    "train.no-signal": ("lora.merge-proof",),
}


def run_checks(exam: Examination) -> DoctorReport:
    """Check a checkpoint. Never raises: what fails to run is reported as unknown."""
    outcomes: list[Outcome] = []
    is_leftover = exam.checkpoint.leftover is not None
    for check in CHECKS:
        if is_leftover and not check.leftovers:
            continue  # the finding on the directory says that nothing else was looked at
        try:
            outcomes += check.run(exam)
        except CheckpointError as error:
            outcomes.append(Unknown(id=check.id, reason=error.message))
        except Exception as error:
            # One broken check must not hide what the others found.
            _LOGGER.exception("check %s failed; this is a bug in vlmserve", check.id)
            outcomes.append(Unknown(id=check.id, reason=f"the check failed: {error!r}"))
    findings = _trace([outcome for outcome in outcomes if isinstance(outcome, Finding)])
    return DoctorReport(
        findings=tuple(sorted(findings, key=lambda finding: severity_rank(finding.severity))),
        unknown=tuple(outcome for outcome in outcomes if isinstance(outcome, Unknown)),
    )


def _trace(findings: list[Finding]) -> list[Finding]:
    """Mark findings that follow from others; what is only worth knowing follows from nothing."""
    # What is less serious explains nothing: it would hide the other.
    ranks: dict[str, int] = {}
    for finding in findings:
        rank = severity_rank(finding.severity)
        ranks[finding.id] = min(rank, ranks.get(finding.id, rank))
    traced = []
    for finding in findings:
        rank, causes = severity_rank(finding.severity), _CAUSES.get(finding.id, ())
        cause = next((cause for cause in causes if ranks.get(cause, rank + 1) <= rank), None)
        if cause is None or finding.severity == "info":
            traced.append(finding)
        else:
            marks = {"severity": "info", "caused_by": cause}
            traced.append(finding.model_copy(update=marks))
    return traced
