"""The demo's checkpoints: the sound ones are clean, and each broken one trips its own check."""

from pathlib import Path
from typing import Any

import pytest

from vlmserve.checkpoint.source import load_checkpoint
from vlmserve.demo.zoo import build_zoo
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.run import run_checks

# (directory, whose shipped weights it is made of, what is found above info)
ZOO: list[tuple[str, list[tuple[str, str]]]] = [
    ("base", []),
    ("good", []),
    ("good-lora", []),
    ("forgetful", []),
    ("wrong-template", [("template.render-diff", "warn")]),
    ("no-signal", [("train.no-signal", "warn")]),
    ("no-vision", [("ckpt.tensors", "block")]),
    ("no-processor", [("proc.present", "warn")]),
]


@pytest.mark.parametrize(("name", "expected"), ZOO, ids=[name for name, _ in ZOO])
def test_zoo(name: str, expected: Any, tmp_path: Path) -> None:
    build_zoo(tmp_path, only=[name])
    report = run_checks(Examination(load_checkpoint(tmp_path / name), fast=False))
    found = [(f.id, f.severity) for f in report.findings if f.severity != "info"]
    assert found == expected
