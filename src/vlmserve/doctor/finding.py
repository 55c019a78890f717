"""What the doctor says: findings, what could not be checked, and how serious each kind is."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field, ValidationInfo, field_validator

from vlmserve.chat import Value
from vlmserve.checkpoint.source import Checkpoint

Severity = Literal["block", "warn", "info"]
"""``block``: it cannot be served or serves nonsense; ``warn``: it serves something other than what
was trained; ``info``: worth knowing."""

SEVERITIES: dict[str, Severity] = {
    "base.identity": "block",
    "cfg.rope": "block",
    "cfg.two-truths": "block",
    "ckpt.architecture": "block",
    "ckpt.files": "block",
    "ckpt.finite": "block",
    "ckpt.lost-tensors": "warn",
    "ckpt.tensors": "block",
    "ckpt.zero": "block",
    "code.hash": "warn",
    "data.budget": "warn",
    "data.image-modes": "warn",
    "data.labels-text": "warn",
    "data.media": "warn",
    "data.overlap": "warn",
    "diff.components": "warn",
    "gen.config-diff": "warn",
    "lora.coverage": "block",
    "lora.match": "block",
    "lora.merge-proof": "warn",
    "pos.mrope": "warn",
    "proc.geometry": "warn",
    "proc.pixels": "warn",
    "proc.present": "block",
    "proc.video": "warn",
    "template.render-diff": "warn",
    "template.sep-atomic": "warn",
    "tok.id-stability": "block",
    "tok.rows": "block",
    "train.no-signal": "warn",
}
"""How serious a finding of each id is; one of a milder form may count for less, never for more."""

_ORDER = get_args(Severity)


class Evidence(Value):
    """One thing that was seen in a file."""

    file: str
    """Relative to the checkpoint, or a path for a file outside of it."""

    key: str
    """What in the file, such as a dotted key or a tensor's name."""

    value: str
    """What was seen there, in words."""


class Finding(Value):
    """One thing that is wrong with a checkpoint."""

    id: str
    """The check's id, such as ``lora.match``."""

    severity: Severity = Field(default_factory=lambda values: SEVERITIES[values["id"]])
    """The id's own unless a milder one is given; never a more serious one."""

    title: str
    """One line: what is wrong."""

    evidence: tuple[Evidence, ...]
    consequence: str
    """What happens when the checkpoint is served as it is."""

    remedy: str
    """A command or an edit."""

    source: str
    """Where this is known from: code, by package and file, or a public thread."""

    caused_by: str | None = None
    """Id of the finding that this one follows from; then it is ``info``."""

    @field_validator("id")
    @classmethod
    def _known(cls, finding_id: str) -> str:
        if finding_id not in SEVERITIES:
            raise ValueError(f"{finding_id} has no severity in SEVERITIES")
        return finding_id

    @field_validator("severity")
    @classmethod
    def _not_above_usual(cls, severity: Severity, info: ValidationInfo) -> Severity:
        usual = SEVERITIES[info.data["id"]]
        if severity_rank(severity) < severity_rank(usual):
            raise ValueError(f"{info.data['id']} is {usual}; a finding of it cannot be {severity}")
        return severity


class Unknown(Value):
    """A check that could not be made. Not the same as nothing being wrong."""

    id: str
    reason: str
    """Why not, and what would make it possible."""


Outcome = Finding | Unknown
"""What a check yields."""


def severity_rank(severity: Severity) -> int:
    """0 for the most serious; for sorting."""
    return _ORDER.index(severity)


def shown_path(path: Path, checkpoint: Checkpoint) -> str:
    """A file's path as evidence shows it: relative to the checkpoint where it lies in it."""
    return str(path.relative_to(checkpoint.path) if path.is_relative_to(checkpoint.path) else path)


def config_evidence(checkpoint: Checkpoint, key: str, value: str) -> Evidence:
    """What ``config.json`` of the model that is loaded says at a dotted key."""
    file = shown_path(checkpoint.model.path / "config.json", checkpoint)
    return Evidence(file=file, key=key, value=value)


def at_model(checkpoint: Checkpoint, remedy: str) -> str:
    """A remedy with the place of the edit: an adapter's is in its base model."""
    return remedy if checkpoint.adapter is None else f"in the base model: {remedy}"


def enumerate_names(names: Iterable[str], limit: int = 3) -> str:
    """The first few names, and how many more there are."""
    listed = list(names)
    more = len(listed) - limit
    return ", ".join(listed[:limit]) + (f" and {more} more" if more > 0 else "")
