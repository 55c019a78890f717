"""Settings that stand twice: what is read decides, and what the weights have."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from tests.unit.doctor.configs import PUBLIC, SECTION, SIZES
from vlmserve.checkpoint.source import load_checkpoint
from vlmserve.doctor.config import check_two_truths
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import Finding
from vlmserve.doctor.rope import check_rope
from vlmserve.doctor.run import run_checks
from vlmserve.platform import cure_torch_extensions

ROPE = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": SECTION}
REAL = {
    "Qwen2VLConfig": {"text_config": SIZES | {"rope_parameters": ROPE}},
    "Qwen2_5_VLConfig": {"text_config": SIZES | {"rope_parameters": ROPE}},
    "Qwen3VLConfig": {
        "text_config": SIZES
        | {"head_dim": 16}
        | {"rope_parameters": {**ROPE, "rope_theta": 5e6, "mrope_interleaved": True}}
    },
    "LlavaConfig": {},
    "LlavaNextConfig": {},
    "LlavaOnevisionConfig": {},
    "InternVLConfig": {},
}


def write_config(directory: Path, config: dict[str, Any]) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def findings(check: Any, directory: Path, base: Path | None = None) -> list[Finding]:
    outcomes = list(check(Examination(load_checkpoint(directory, base_model=base))))
    assert all(isinstance(outcome, Finding) for outcome in outcomes)
    return outcomes


@pytest.mark.parametrize("check", [check_two_truths, check_rope])
@pytest.mark.parametrize("name", PUBLIC)
def test_public_configurations_are_clean(tmp_path: Path, name: str, check: Any) -> None:
    model = write_config(tmp_path / "model", PUBLIC[name])
    base = write_config(tmp_path / "base", PUBLIC[name])
    assert findings(check, model) == []
    assert findings(check, model, base) == []


@pytest.mark.parametrize("check", [check_two_truths, check_rope])
@pytest.mark.parametrize("name", REAL)
def test_what_transformers_5_saves_is_clean(tmp_path: Path, name: str, check: Any) -> None:
    cure_torch_extensions()
    import transformers

    config = getattr(transformers, name)(**copy.deepcopy(REAL[name]))
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["transformers_version"] == transformers.__version__
    write_config(tmp_path, {**saved, "architectures": [name.replace("Config", "")]})
    assert findings(check, tmp_path) == []


@pytest.mark.parametrize(
    "name", ["Qwen2-VL, as published (4.41)", "Qwen2.5-VL-3B, saved by 4.52 (tied in text_config"]
)
def test_a_respelling_by_another_version_is_clean(tmp_path: Path, name: str) -> None:
    cure_torch_extensions()
    import transformers

    (public,) = (config for key, config in PUBLIC.items() if key.startswith(name))
    kind = transformers.CONFIG_MAPPING[public["model_type"]]
    kind(**copy.deepcopy(public)).save_pretrained(tmp_path / "tuned")
    base = write_config(tmp_path / "base", public)
    assert findings(check_rope, tmp_path / "tuned", base) == []
    assert findings(check_two_truths, tmp_path / "tuned", base) == []


@pytest.fixture
def nested(tiny_qwen2_vl: dict[str, Any]) -> dict[str, Any]:
    """A Qwen3-VL-like configuration with a section for the language model."""
    keys = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "rope_scaling",
        "rope_theta",
    )
    tiny_qwen2_vl["text_config"] = {key: tiny_qwen2_vl.pop(key) for key in keys}
    return tiny_qwen2_vl


@pytest.fixture
def qwen3(nested: dict[str, Any]) -> dict[str, Any]:
    nested["architectures"] = ["Qwen3VLForConditionalGeneration"]
    nested["model_type"] = "qwen3_vl"
    nested["text_config"]["head_dim"] = 8
    nested["text_config"]["rope_scaling"]["mrope_interleaved"] = True
    nested["vision_config"] = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "out_hidden_size": 16,
        "num_heads": 2,
        "deepstack_visual_indexes": [],
    }
    return nested


@pytest.mark.parametrize("top", [False, None])
def test_tied_in_the_section_alone_where_the_top_is_read(
    write: Any, qwen3: dict[str, Any], top: bool | None
) -> None:
    qwen3["tie_word_embeddings"] = top
    qwen3["text_config"]["tie_word_embeddings"] = True
    (finding,) = findings(check_two_truths, write.model("model", qwen3))
    assert finding.severity == "block"
    assert "lm_head" in finding.title
    assert finding.evidence[0].key == "tie_word_embeddings"
    assert finding.evidence[1].key == "text_config.tie_word_embeddings"


def test_tied_in_the_section_alone_is_right_where_either_is_read(
    write: Any, nested: dict[str, Any]
) -> None:
    nested["tie_word_embeddings"] = False
    nested["text_config"]["tie_word_embeddings"] = True
    assert findings(check_two_truths, write.model("model", nested)) == []


def test_tying_does_not_matter_where_the_head_is_in_the_files(
    write: Any, qwen3: dict[str, Any]
) -> None:
    qwen3["tie_word_embeddings"] = False
    qwen3["text_config"]["tie_word_embeddings"] = True
    directory = write.model("model", qwen3)
    path = directory / "model.safetensors"
    tensors = load_file(path)
    (embedding,) = (value for name, value in tensors.items() if "embed_tokens" in name)
    save_file({**tensors, "lm_head.weight": embedding + 1}, path)
    assert findings(check_two_truths, directory) == []


@pytest.mark.parametrize("key", ["vocab_size", "hidden_size", "intermediate_size"])
def test_sizes_are_judged_by_the_weights(write: Any, nested: dict[str, Any], key: str) -> None:
    directory = write.model("model", nested)
    actual = nested["text_config"][key]
    wrong = {**nested["text_config"], key: actual * 2}
    write_config(directory, {**nested, key: actual, "text_config": wrong})
    (finding,) = findings(check_two_truths, directory)
    assert finding.severity == "block"
    assert f"text_config.{key}" in finding.remedy
    # The other way round, the right one is read.
    write_config(directory, {**nested, key: actual * 2})
    assert findings(check_two_truths, directory) == []
    # Where neither fits, ckpt.tensors says so.
    write_config(directory, {**nested, key: actual * 3, "text_config": wrong})
    assert findings(check_two_truths, directory) == []


def test_number_of_layers_is_judged_by_the_weights(write: Any, nested: dict[str, Any]) -> None:
    directory = write.model("model", nested)
    fewer = {**nested["text_config"], "num_hidden_layers": 1}
    write_config(directory, {**nested, "num_hidden_layers": 2, "text_config": fewer})
    (finding,) = findings(check_two_truths, directory)
    assert finding.severity == "block"


def test_what_weights_do_not_show_is_judged_by_the_base(write: Any, nested: dict[str, Any]) -> None:
    nested["text_config"]["rms_norm_eps"] = 1e-6
    base = write.model("base", nested)
    doubted = {**nested, "rms_norm_eps": 1e-5}
    tuned = write.model("tuned", doubted)
    assert findings(check_two_truths, tuned, base) == []
    (finding,) = findings(check_two_truths, tuned)
    assert finding.severity == "warn"
    wrong = {**nested["text_config"], "rms_norm_eps": 1e-5}
    write_config(tuned, {**nested, "rms_norm_eps": 1e-6, "text_config": wrong})
    (finding,) = findings(check_two_truths, tuned, base)
    assert finding.severity == "block"
    assert finding.evidence[-1].file == str(base / "config.json")


def test_half_precision_over_wider_weights(write: Any, nested: dict[str, Any]) -> None:
    nested["torch_dtype"] = "float16"
    nested["text_config"]["dtype"] = "float32"
    (finding,) = findings(check_two_truths, write.model("model", nested))
    assert finding.severity == "warn"
    assert "engine.dtype=float32" in finding.remedy
    nested["dtype"] = "bfloat16"  # wins over torch_dtype
    assert findings(check_two_truths, write.model("other", nested)) == []


def test_the_base_of_an_adapter_is_what_is_looked_at(write: Any, qwen3: dict[str, Any]) -> None:
    qwen3["tie_word_embeddings"] = False
    qwen3["text_config"]["tie_word_embeddings"] = True
    adapter = write.adapter(write.model("base", qwen3))
    (finding,) = findings(check_two_truths, adapter)
    assert finding.remedy.startswith("in the base model")


def test_shapes_that_follow_from_it_say_so(write: Any, nested: dict[str, Any]) -> None:
    directory = write.model("model", nested)
    wrong = {**nested["text_config"], "vocab_size": 80}
    write_config(directory, {**nested, "vocab_size": 40, "text_config": wrong})
    report = run_checks(Examination(load_checkpoint(directory)))
    (shapes,) = (finding for finding in report.findings if finding.id == "ckpt.tensors")
    assert (shapes.severity, shapes.caused_by) == ("info", "cfg.two-truths")


def test_a_warning_does_not_explain_what_blocks(write: Any, nested: dict[str, Any]) -> None:
    nested["text_config"]["rms_norm_eps"] = 1e-6
    directory = write.model("model", nested, edit=lambda tensors: tensors.pop("model.norm.weight"))
    write_config(directory, {**nested, "rms_norm_eps": 1e-5})
    report = run_checks(Examination(load_checkpoint(directory)))
    severities = {finding.id: finding.severity for finding in report.findings}
    assert severities == {"cfg.two-truths": "warn", "ckpt.tensors": "block"}
