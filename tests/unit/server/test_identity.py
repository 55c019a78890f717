"""What ``/version`` tells, before and after the weights have been read."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from vlmserve.checkpoint.fingerprint import fingerprint
from vlmserve.checkpoint.source import load_checkpoint
from vlmserve.doctor.finding import Unknown
from vlmserve.doctor.report import DoctorReport
from vlmserve.server.identity import Identity, ServedModel


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_fingerprints_are_those_of_an_evaluation(write: Any) -> None:
    base = load_checkpoint(write.model("base"))
    tuned = load_checkpoint(write.adapter(base.path))
    models = [ServedModel("base", base), ServedModel("tuned", tuned, parent="base")]
    identity = Identity(models, None)
    assert [model["fingerprint"] for model in identity.describe()["models"]] == ["pending"] * 2

    asyncio.run(identity.take_fingerprints())
    identity.aliases["stable"] = "tuned"

    told = identity.describe()
    expected = fingerprint(load_checkpoint(tuned.path))
    assert told["models"] == [
        {"id": "base", "parent": None, "fingerprint": fingerprint(base)},
        {"id": "tuned", "parent": "base", "fingerprint": expected},
        {"id": "stable", "parent": "base", "fingerprint": expected, "alias_of": "tuned"},
    ]
    assert told["check"] is None
    assert {"vlmserve", "vllm", "settings"} <= set(told)


def test_what_cannot_be_read_is_unknown_and_the_server_goes_on(write: Any) -> None:
    checkpoint = load_checkpoint(write.model("base"))
    weights = checkpoint.path / "model.safetensors"
    weights.unlink()
    weights.symlink_to("/proc/self/mem")  # a file that opens and cannot be read
    identity = Identity([ServedModel("base", checkpoint)], None)

    asyncio.run(identity.take_fingerprints())

    assert identity.describe()["models"][0]["fingerprint"] == "unknown"


def test_summary_of_the_checks() -> None:
    report = DoctorReport(findings=(), unknown=(Unknown(id="ckpt.finite", reason="fast"),))

    assert Identity([], report).describe()["check"] == {
        "block": [],
        "warn": [],
        "unknown": ["ckpt.finite"],
    }
