"""Values that are not finite, or stop being so in float16."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlmserve.checkpoint.source import load_checkpoint
from vlmserve.config.serve import ServeConfig
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finite import check_finite


def check(directory: Path, **serve: Any) -> list[Any]:
    config = ServeConfig.model_validate({"engine": serve})
    exam = Examination(load_checkpoint(directory), fast=False, serve=config)
    return list(check_finite(exam))


def enlarge(tensors: Any) -> None:
    tensors["model.norm.weight"][2] = -70000


@pytest.mark.parametrize(
    ("recorded", "asked", "is_found"),
    [
        ("bfloat16", "auto", False),
        ("float16", "auto", True),
        ("float16", "bfloat16", False),
        ("bfloat16", "float16", True),
        (None, "auto", False),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_too_large_for_float16(
    write: Any, tiny_qwen2_vl: Any, recorded: str, asked: str, *, is_found: bool, nested: bool
) -> None:
    if recorded is not None:
        section = tiny_qwen2_vl
        if nested:
            section = tiny_qwen2_vl["text_config"] = dict(tiny_qwen2_vl)
        section["torch_dtype"] = recorded
    found = check(write.model(config=tiny_qwen2_vl, edit=enlarge), dtype=asked)
    if not is_found:
        assert found == []
        return
    (finding,) = found
    assert (finding.id, finding.severity) == ("ckpt.finite", "block")
    assert finding.title == "1 tensor holds values too large for float16"
    assert finding.evidence[0].value == "70000; float16 ends at 65504"
    assert ("torch_dtype" in finding.remedy) == (asked == "auto")


def test_large_values_beside_a_base(write: Any) -> None:
    base = write.model("base")
    checkpoint = load_checkpoint(write.model("tuned", edit=enlarge), base_model=base)
    serve = ServeConfig.model_validate({"engine": {"dtype": "float16"}})
    (finding,) = check_finite(Examination(checkpoint, fast=False, serve=serve))
    assert "too large" in getattr(finding, "title", "")


def test_all_that_is_not_finite_is_counted(write: Any) -> None:
    def edit(tensors: Any) -> None:
        tensors["model.norm.weight"][:3] = np.inf
        tensors["visual.merger.mlp.0.bias"][0] = np.nan

    (finding,) = check(write.model(edit=edit))
    assert finding.title == "2 tensors hold values that are infinite or not a number"
    assert [item.value for item in finding.evidence] == ["3 of 16 values", "1 of 64 values"]
