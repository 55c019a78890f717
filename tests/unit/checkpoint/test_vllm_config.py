"""What is read from ``config.json``, and positions, against the installed vLLM."""

import copy
import importlib.util
import json
import subprocess
import sys
from typing import Any

import pytest

from tests.unit.doctor.configs import PUBLIC, SECTION
from vlmserve.checkpoint.text_config import find_rope, is_tied

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]

ROPES: dict[str, dict[str, Any] | None] = {
    "absent": None,
    "mrope": {"type": "mrope", "mrope_section": SECTION},
    "default": {"type": "default", "mrope_section": SECTION},
    "mixed": {"rope_type": "default", "type": "mrope", "mrope_section": SECTION},
    "new": {"rope_type": "mrope", "mrope_section": SECTION},
    "untyped": {"mrope_section": SECTION},
    "linear": {"type": "linear", "factor": 2.0, "mrope_section": SECTION},
    "yarn": {
        "type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 32768,
        "mrope_section": SECTION,
    },
    "new-mixed": {"rope_type": "mrope", "type": "default", "mrope_section": SECTION},
    "contradiction": {
        "type": "mrope",
        "rope_type": "yarn",
        "factor": 2.0,
        "original_max_position_embeddings": 32768,
        "mrope_section": SECTION,
    },
}
MODELS = [
    "Qwen2-VL, as published (4.41)",
    "Qwen2.5-VL-3B, saved by 4.52 (tied in text_config alone)",
    "Qwen3-VL, saved by 4.57",
]
GRID = (5, 2, 3)  # steps in time, rows and columns of tokens

# In a process of its own: vLLM's import takes long and changes much.
PROGRAM = """
import json, sys
from types import SimpleNamespace
from vllm.model_executor.models.qwen2_5_vl import Qwen2_5_VLForConditionalGeneration
from vllm.model_executor.models.qwen2_vl import Qwen2VLForConditionalGeneration
from vllm.transformers_utils.config import get_config, uses_mrope

directories, (steps, rows, columns) = json.load(sys.stdin)
found = {"configs": {}, "behind": []}
for name, directory in directories.items():
    try:
        config = get_config(directory, trust_remote_code=False)
    except ValueError as error:
        found["configs"][name] = str(error)
        continue
    rope = config.get_text_config().rope_parameters
    found["configs"][name] = {
        "theta": rope["rope_theta"],
        "type": rope["rope_type"],
        "section": rope.get("mrope_section"),
        "mrope": uses_mrope(config),
        "tied": config.tie_word_embeddings,
    }
count = steps * rows * columns
for cls in (Qwen2VLForConditionalGeneration, Qwen2_5_VLForConditionalGeneration):
    model = SimpleNamespace(iter_mm_grid_thw=lambda _: [(0, steps, rows, columns, 1.0)])
    positions, _ = cls.get_mrope_input_positions(model, [0] * (count + 1), [])
    found["behind"].append(int(positions[0, -1]))
print("RESULT" + json.dumps(found))
"""


def configs() -> dict[str, dict[str, Any]]:
    """Every spelling in every layout, by name."""
    found = {name: config for name, config in PUBLIC.items() if not name.startswith("InternVL")}
    for model in MODELS:
        for spelling, rope in ROPES.items():
            config = copy.deepcopy(PUBLIC[model])
            section = config.get("text_config", config)
            section.pop("rope_scaling", None)
            if rope is not None:
                section["rope_scaling"] = rope
            found[f"{model}: {spelling}"] = config
    return found


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("configs")
    directories = {}
    for index, (name, config) in enumerate(configs().items()):
        directory = root / str(index)
        directory.mkdir()
        (directory / "config.json").write_text(json.dumps(config))
        directories[name] = str(directory)
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps([directories, GRID]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout.rpartition("RESULT")[2])


@pytest.mark.parametrize("name", configs())
def test_settings_are_those_that_vllm_reads(vllm: Any, name: str) -> None:
    config = configs()[name]
    theirs, ours = vllm["configs"][name], find_rope(config)
    assert ours is not None
    if isinstance(theirs, str):
        assert "conflicts" in theirs
        assert ours.contradiction is not None
        return
    assert ours.contradiction is None
    assert theirs == {
        "theta": ours.theta,
        "type": ours.type,
        "section": None if ours.section is None else list(ours.section),
        "mrope": ours.section is not None,
        "tied": is_tied(config),
    }


def test_text_behind_a_video_follows_its_largest_position(vllm: Any) -> None:
    assert vllm["behind"] == [max(GRID)] * 2
