"""Code beside a checkpoint: read, compared by meaning, never run."""

import json
from pathlib import Path
from typing import Any

import pytest

from vlmserve.checkpoint.source import load_checkpoint
from vlmserve.doctor.code import check_code
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import Finding, Outcome, Unknown

TOWER = '''"""A vision tower."""
import torch


class CLIPVisionTower(torch.nn.Module):
    """Cuts images into tiles."""

    def forward(self, images):
        for img in images:
            _, C, H, W = img.shape
            sub_img = img.reshape(1,3,H//336,336,W//336,336).permute(0,2,4,1,3,5)
        return sub_img
'''
QUERY = """def select_query(media_offset, num_queries=None):
    query_indices = media_offset[:, :, 1] >= 0
    assert query_indices.sum().item() % num_queries == 0
    return query_indices
"""


@pytest.fixture
def model(write: Any) -> Path:
    directory: Path = write.model("model")
    return directory


@pytest.fixture
def base(write: Any) -> Path:
    directory: Path = write.model("base")
    return directory


def run(directory: Path, base: Path | None = None) -> list[Outcome]:
    return list(check_code(Examination(load_checkpoint(directory, base_model=base))))


def only(directory: Path, base: Path | None = None) -> Finding:
    (outcome,) = run(directory, base)
    assert isinstance(outcome, Finding)
    return outcome


def test_sound_code_is_clean(model: Path, base: Path) -> None:
    for directory in (model, base):
        (directory / "build_mlp.py").write_text(TOWER)
        (directory / "modeling_hyper_qwen2.py").write_text(QUERY)
    assert run(model) == run(model, base) == []


@pytest.mark.parametrize("first", ["cnt", "len(images)", "2", "-1", "img.shape[0]"])
def test_tiles_of_several_images_mixed_up(model: Path, first: str) -> None:
    text = TOWER.replace("reshape(1,", f"reshape({first}, ")
    (model / "build_mlp.py").write_text(text)
    finding = only(model)
    assert finding.severity == "warn"
    assert finding.evidence[0].file == "build_mlp.py"
    assert finding.evidence[0].key == "line 11"
    assert finding.evidence[0].value.startswith("img.reshape(")


def test_other_reshapes_are_left_alone(model: Path) -> None:
    (model / "build_mlp.py").write_text(f"{TOWER}\nx = y.reshape(cnt, 3, H, W)\n")
    (model / "other.py").write_text(TOWER.replace("reshape(1,", "reshape(cnt,"))
    assert run(model) == []


def test_assertions_taken_out(model: Path) -> None:
    text = "\n".join(line for line in QUERY.splitlines() if "assert" not in line)
    (model / "modeling_hyper_qwen2.py").write_text(text)
    assert "media_offset" in only(model).title


def test_layout_and_words_are_no_difference(model: Path, base: Path) -> None:
    (base / "build_mlp.py").write_text(TOWER)
    other = TOWER.replace("1,3,H//336", "1, 3, H // 336").replace("A vision tower", "Another")
    other = other.replace('"""Cuts images into tiles."""', "# cuts images")
    (model / "build_mlp.py").write_text(other)
    assert run(model, base) == []


def test_code_that_differs_from_the_base(model: Path, base: Path) -> None:
    (base / "build_mlp.py").write_text(TOWER)
    (model / "build_mlp.py").write_text(TOWER.replace("H//336,336", "H//448,448"))
    finding = only(model, base)
    assert finding.severity == "info"
    assert finding.evidence[0].value.startswith("CLIPVisionTower.forward is not as in ")


@pytest.mark.parametrize(
    "change",
    [
        TOWER.replace("torch.nn.Module", "object"),
        TOWER.replace("import torch", "import torch, os"),
        f"{TOWER}\n\ndef more():\n    return 1\n",
    ],
)
def test_every_kind_of_change_is_seen(model: Path, base: Path, change: str) -> None:
    (base / "build_mlp.py").write_text(TOWER)
    (model / "build_mlp.py").write_text(change)
    assert only(model, base).severity == "info"


def test_what_is_no_python_is_not_known(model: Path) -> None:
    (model / "old.py").write_text("print 'hello'\n")
    (outcome,) = run(model)
    assert isinstance(outcome, Unknown)
    assert "old.py" in outcome.reason


def test_code_that_python_warns_of_is_read(model: Path) -> None:
    (model / "build_mlp.py").write_text("pattern = '\\d'\nx = a.reshape(n, 3, 1, 2, 3, 4)\n")
    assert only(model).evidence[0].key == "line 2"


def test_nothing_is_run(model: Path) -> None:
    witness = model / "witness"
    (model / "configuration_evil.py").write_text(f"open({str(witness)!r}, 'w')\n")
    run(model)
    assert not witness.exists()


def test_code_that_auto_map_names_and_that_is_missing(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    config["auto_map"] = {
        "AutoConfig": "configuration_x.XConfig",
        "AutoModel": "owner/name--modeling_x.XModel",
        "AutoTokenizer": ["tokenization_x.XTokenizer", None],
    }
    (model / "config.json").write_text(json.dumps(config))
    (model / "tokenization_x.py").write_text("class XTokenizer: ...\n")
    finding = only(model)
    assert finding.severity == "info"
    assert finding.title.endswith(": configuration_x.py")
    (model / "configuration_x.py").write_text("class XConfig: ...\n")
    assert run(model) == []


def test_base_of_an_adapter_is_read_too(write: Any, base: Path) -> None:
    (base / "build_mlp.py").write_text(TOWER.replace("reshape(1,", "reshape(cnt,"))
    assert only(write.adapter(base)).evidence[0].file == str(base / "build_mlp.py")
