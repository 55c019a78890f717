"""How far each part moved, and what should not have."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlmserve.checkpoint.source import load_checkpoint
from vlmserve.doctor.components import check_components
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import Evidence, Finding, Outcome

VISION = "visual.blocks."
PROJECTOR = "visual.merger."


def check(directory: Path, base: Path | None = None, *, fast: bool = False) -> list[Outcome]:
    exam = Examination(load_checkpoint(directory, base_model=base), fast=fast)
    return list(check_components(exam))


def the(outcomes: list[Outcome]) -> Finding:
    (finding,) = outcomes
    assert isinstance(finding, Finding)
    return finding


def table(finding: Finding) -> dict[str, str]:
    rows: tuple[Evidence, ...] = finding.evidence
    return {row.key: row.value for row in rows}


def moved(by: float, *prefixes: str) -> Any:
    """Moves every value of the tensors with these prefixes by a share of its size, to and fro."""

    def edit(tensors: Any) -> None:
        for name, tensor in tensors.items():
            if name.startswith(prefixes):
                signs = np.where(np.arange(tensor.size) % 2, 1, -1).reshape(tensor.shape)
                tensors[name] = tensor * (1 + by * signs).astype(tensor.dtype)

    return edit


def swift(directory: Path, **settings: Any) -> None:
    args = {"model": "somewhere", "swift_version": "4.0", **settings}
    (directory / "args.json").write_text(json.dumps(args))


@pytest.fixture
def base(write: Any) -> Path:
    directory: Path = write.model("base")
    return directory


def test_a_table_of_what_was_trained(write: Any, base: Path) -> None:
    tuned = write.model("tuned", edit=moved(0.01, "model.layers.", "visual.merger.ln_q"))
    finding = the(check(tuned, base))
    assert finding.severity == "info"
    assert finding.title == "trained: projector, language model"
    rows = table(finding)
    assert rows["vision tower"].startswith("unchanged (")
    assert rows["projector"] == "1 % (2 of 6 tensors changed)"
    assert rows["language model"].startswith("1 % (24 of ")
    assert rows["embeddings"] == "unchanged (1 tensors)"


def test_nothing_is_said_of_a_copy(write: Any, base: Path) -> None:
    assert check(write.model("copy"), base) == []


@pytest.mark.parametrize(
    ("key", "prefix", "part"),
    [
        ("freeze_vit", VISION, "vision tower"),
        ("freeze_aligner", PROJECTOR, "projector"),
        ("freeze_llm", "model.layers.", "language model"),
    ],
)
def test_frozen_and_moved(write: Any, base: Path, key: str, prefix: str, part: str) -> None:
    tuned = write.model("tuned", edit=moved(0.02, prefix))
    swift(tuned, **{key: True})
    finding = the(check(tuned, base))
    assert (finding.severity, finding.id) == ("warn", "diff.components")
    assert finding.title == f"the {part} moved by 2 % although it was frozen"
    assert finding.evidence[0].file == "args.json"
    assert "more tensors moved" in table(finding)[key]


@pytest.mark.parametrize(
    "settings",
    [
        {"freeze_vit": False, "freeze_aligner": True},
        {"freeze_vit": True, "trainable_parameters": ["visual.blocks"]},
        {"freeze_vit": True, "resume_from_checkpoint": "run/checkpoint-5"},
    ],
)
def test_moved_as_it_was_to(write: Any, base: Path, settings: Any) -> None:
    tuned = write.model("tuned", edit=moved(0.02, VISION))
    swift(tuned, **settings)
    assert the(check(tuned, base)).severity == "info"


def test_settings_of_the_run_above_a_step_count(write: Any, base: Path) -> None:
    tuned = write.model("checkpoint-5", edit=moved(0.02, VISION))
    swift(tuned.parent, freeze_vit=True)
    finding = the(check(tuned, base))
    assert finding.evidence[0].file == "../args.json"
    assert finding.severity == "warn"


def test_a_matrix_that_was_initialised_anew(write: Any, base: Path) -> None:
    def edit(tensors: Any) -> None:
        name = "visual.merger.mlp.2.weight"
        rng = np.random.default_rng(9)
        tensors[name] = 0.1 * rng.normal(size=tensors[name].shape).astype(np.float32)

    finding = the(check(write.model("tuned", edit=edit), base))
    assert finding.severity == "warn"
    assert "1 matrices of the projector have nothing in common" in finding.title
    assert "visual.merger.mlp.2.weight" in finding.evidence[0].value


def test_conversion_is_no_change(write: Any, base: Path) -> None:
    def edit(tensors: Any) -> None:
        for name, tensor in tensors.items():
            tensors[name] = tensor.astype(np.float16)

    assert check(write.model("tuned", edit=edit), base) == []


def test_another_layout_is_no_change(write: Any, base: Path) -> None:
    prefixes = {"language_model.model.": "model.language_model.", "visual.": "model.visual."}
    assert check(write.model("copy", prefixes=prefixes), base) == []


def test_what_is_missing_is_said(write: Any, base: Path) -> None:
    tuned = write.model("tuned")
    assert "--base-model" in getattr(check(tuned)[0], "reason", "")
    assert "fast pass" in getattr(check(tuned, base, fast=True)[0], "reason", "")
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    assert "a pickle" in getattr(check(tuned, base)[0], "reason", "")


def test_a_base_of_other_names_is_said(write: Any, base: Path) -> None:
    tuned = write.model("tuned", prefixes={"visual.": "x.", "language_model.": "y."})
    assert "no tensor of the base" in getattr(check(tuned, base)[0], "reason", "")
