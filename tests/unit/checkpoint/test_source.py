"""What a reference is taken for, and what is said when it is nothing."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from vlmserve.checkpoint.families import unsupported_reason
from vlmserve.checkpoint.source import load_checkpoint
from vlmserve.errors import CheckpointError


def test_full_model(write: Any) -> None:
    checkpoint = load_checkpoint(write.model("My fine-tune (v2)"))
    assert checkpoint.name == "My-fine-tune-v2"
    assert checkpoint.architecture == "Qwen2VLForConditionalGeneration"
    assert checkpoint.model_type == "qwen2_vl"
    assert checkpoint.family is not None
    assert checkpoint.family.name == "qwen2_vl"
    assert checkpoint.adapter is None
    assert checkpoint.base is None
    assert checkpoint.model is checkpoint
    assert checkpoint.tensors["model.norm.weight"].shape == (16,)


def test_adapter_names_its_base(write: Any) -> None:
    base = write.model("base")
    checkpoint = load_checkpoint(str(write.adapter(base)))
    assert checkpoint.name == "adapter"
    assert checkpoint.adapter is not None
    assert checkpoint.base is not None
    assert checkpoint.base.path == base
    assert checkpoint.model is checkpoint.base
    assert checkpoint.config["model_type"] == "qwen2_vl"
    assert checkpoint.base_ref == str(base)
    assert checkpoint.base_ref_source == "adapter_config.json: base_model_name_or_path"
    assert "model.norm.weight" in checkpoint.tensors


def test_given_base_wins(write: Any) -> None:
    base, other = write.model("base"), write.model("other")
    checkpoint = load_checkpoint(write.adapter(base), base_model=other)
    assert checkpoint.base is not None
    assert checkpoint.base.path == other
    assert checkpoint.base_ref_source == "--base-model"


def test_base_from_swift_arguments(write: Any) -> None:
    base, adapter = write.model("base"), write.adapter(None)
    (adapter / "args.json").write_text(json.dumps({"model": str(base), "swift_version": "3.1"}))
    checkpoint = load_checkpoint(adapter)
    assert checkpoint.base is not None
    assert checkpoint.base.path == base
    assert checkpoint.base_ref_source == "args.json: model"


def test_stale_base_is_mended_by_a_path_map(write: Any, tmp_path: Path) -> None:
    base = write.model("base")
    adapter = write.adapter("/data/models/base")
    rules = {"/data": "/nowhere", "/data/models/": str(tmp_path)}
    checkpoint = load_checkpoint(adapter, path_map=rules)
    assert checkpoint.base is not None
    assert checkpoint.base.path == base
    # A prefix is a whole path component.
    with pytest.raises(CheckpointError):
        load_checkpoint(adapter, path_map={"/data/mod": f"{tmp_path}/"})


def test_stale_base_says_what_to_do(write: Any) -> None:
    adapter = write.adapter("/data/models/base")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(adapter, path_map={"/data": "/mnt"})
    message, hint = caught.value.message, caught.value.hint or ""
    assert str(adapter / "adapter_config.json") in message
    assert "/data/models/base (mapped to /mnt/models/base)" in message
    assert "--base-model" in hint
    assert "--path-map /data/models=NEW" in hint


def test_a_base_on_the_hub_is_to_be_downloaded(write: Any) -> None:
    with pytest.raises(CheckpointError, match="is not on this machine") as caught:
        load_checkpoint(write.adapter("Qwen/Qwen2-VL-2B-Instruct"))
    hint = caught.value.hint or ""
    assert "hf download Qwen/Qwen2-VL-2B-Instruct" in hint
    assert "--base-model" in hint
    assert "--path-map" not in hint


def test_a_base_that_cannot_be_one(write: Any) -> None:
    model = write.model()
    with pytest.raises(CheckpointError, match=r"--base-model: .* is an adapter"):
        load_checkpoint(model, base_model=write.adapter(model))


def test_a_base_of_another_family(write: Any) -> None:
    model, other = write.model(), write.model("other")
    config = json.loads((other / "config.json").read_text())
    config |= {"architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl"}
    (other / "config.json").write_text(json.dumps(config))
    said = f"--base-model: {other} is a Qwen2.5-VL, and {model} a Qwen2-VL"
    with pytest.raises(CheckpointError, match=re.escape(said)):
        load_checkpoint(model, base_model=other)
    # What a run's files name may have become another model since: then there is no base.
    (model / "args.json").write_text(json.dumps({"model": str(other), "swift_version": "3.5"}))
    assert load_checkpoint(model).base is None


def test_adapter_without_any_base(write: Any) -> None:
    with pytest.raises(CheckpointError, match="base_model_name_or_path is empty") as caught:
        load_checkpoint(write.adapter(None))
    assert "--base-model" in (caught.value.hint or "")


def test_adapter_on_an_adapter(write: Any) -> None:
    first = write.adapter(write.model())
    with pytest.raises(CheckpointError, match="is an adapter itself"):
        load_checkpoint(write.adapter(first))


def test_training_base_of_a_full_model(write: Any) -> None:
    base, tuned = write.model("base"), write.model("tuned")
    (tuned / "args.json").write_text(json.dumps({"model": str(base)}))
    checkpoint = load_checkpoint(tuned)
    assert checkpoint.base is not None
    assert checkpoint.base.path == base
    # Where it is not on disk, it is only named.
    (tuned / "args.json").write_text(json.dumps({"model": "/gone/base"}))
    checkpoint = load_checkpoint(tuned)
    assert (checkpoint.base, checkpoint.base_ref) == (None, "/gone/base")
    # A base that the user gives must exist.
    with pytest.raises(CheckpointError, match="/gone/too: no such directory"):
        load_checkpoint(tuned, base_model="/gone/too")


def test_models_that_name_each_other(write: Any) -> None:
    first, second = write.model("first"), write.model("second")
    (first / "args.json").write_text(json.dumps({"model": str(second)}))
    (second / "args.json").write_text(json.dumps({"model": str(first)}))
    checkpoint = load_checkpoint(first)
    assert checkpoint.base is not None
    assert (checkpoint.base.path, checkpoint.base.base) == (second, None)


def test_a_model_is_not_its_own_base(write: Any) -> None:
    model = write.model()
    assert load_checkpoint(model, base_model=model).base is None


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("run-7/checkpoint-400", "run-7-checkpoint-400"),
        ("run-7/checkpoint-400-merged", "run-7-checkpoint-400-merged"),
        ("models--Qwen--Qwen2-VL-2B/snapshots/0123abcd", "Qwen2-VL-2B"),
        ("...", "model"),
    ],
)
def test_names(write: Any, tmp_path: Path, place: str, name: str) -> None:
    target = tmp_path / place
    target.parent.mkdir(parents=True, exist_ok=True)
    write.model().rename(target)
    assert load_checkpoint(target).name == name


def test_no_such_directory() -> None:
    with pytest.raises(CheckpointError, match="/no/where: no such directory"):
        load_checkpoint("/no/where")


def test_hub_id_in_the_local_cache(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    repo = tmp_path / "cache" / "models--org--tiny"
    commit = "a" * 40
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    (repo / "snapshots").mkdir()
    write.model().rename(repo / "snapshots" / commit)
    assert load_checkpoint("org/tiny").name == "tiny"
    with pytest.raises(CheckpointError, match="org/other: neither a directory nor a hub id"):
        load_checkpoint("org/other")


def test_a_file_is_no_checkpoint(write: Any) -> None:
    with pytest.raises(CheckpointError, match="a checkpoint is a directory"):
        load_checkpoint(write.model() / "config.json")


def test_run_directory_points_to_its_checkpoints(tmp_path: Path) -> None:
    for step in (20, 5, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
    with pytest.raises(CheckpointError, match="a training run's directory") as caught:
        load_checkpoint(tmp_path)
    assert caught.value.hint == f"give one of them: --ckpt {tmp_path / 'checkpoint-100'}"


def test_broken_config_names_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{\n"a": 1,,')
    with pytest.raises(CheckpointError, match=r"config\.json:2: not JSON"):
        load_checkpoint(tmp_path)


def test_config_without_architecture(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="architectures: missing"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("architecture", "advice"),
    [
        ("LlavaLlamaForCausalLM", "convert it to the transformers format"),
        ("InternLMXComposer2ForCausalLM", "own code"),
        ("mPLUGOwl3Model", "own code"),
        ("MPLUGOwl2LlamaForCausalLM", "own code"),
    ],
)
def test_architectures_that_vllm_lacks(tmp_path: Path, architecture: str, advice: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    assert advice in (unsupported_reason(load_checkpoint(tmp_path).architecture) or "")


def test_supported_architecture(write: Any) -> None:
    assert unsupported_reason(load_checkpoint(write.model()).architecture) is None
