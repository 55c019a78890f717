"""Each fault trips its own check, and nothing else above ``info``."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vlmserve.checkpoint.source import load_checkpoint
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import SEVERITIES, Finding
from vlmserve.doctor.report import DoctorReport
from vlmserve.doctor.run import run_checks
from vlmserve.platform import cure_torch_extensions

Q_PROJ = "model.layers.0.self_attn.q_proj"


def check(directory: Path, base: Path | None = None, *, fast: bool = False) -> DoctorReport:
    return run_checks(Examination(load_checkpoint(directory, base_model=base), fast=fast))


def serious(report: DoctorReport) -> list[tuple[str, str]]:
    return [(f.id, f.severity) for f in report.findings if f.severity != "info"]


def the(report: DoctorReport, finding_id: str) -> Finding:
    (finding,) = [finding for finding in report.findings if finding.id == finding_id]
    return finding


def words(finding: Finding) -> str:
    return json.dumps(finding.model_dump(mode="json"))


def edit_weights(directory: Path, edit: Callable[[Any], object]) -> None:
    path = directory / "model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


def scale_first(tensors: Any) -> None:
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * 2


@pytest.fixture
def base(write: Any) -> Path:
    directory: Path = write.model("base")
    return directory


@pytest.fixture
def tuned(write: Any) -> Path:
    directory: Path = write.model("tuned", edit=scale_first)
    return directory


@pytest.fixture
def adapter(write: Any, base: Path) -> Path:
    directory: Path = write.adapter(base)
    return directory


# Sound ones.


def test_sound_full_model(base: Path, tuned: Path) -> None:
    report = check(tuned, base)
    assert serious(report) == []
    assert report.unknown == ()


def test_sound_adapter(adapter: Path) -> None:
    report = check(adapter)
    assert serious(report) == []
    assert report.unknown == ()


def test_what_cannot_be_checked_is_said(tuned: Path) -> None:
    report = check(tuned, fast=True)
    assert report.findings == ()
    unknown = {outcome.id for outcome in report.unknown}
    assert {"train.no-signal", "ckpt.finite", "tok.id-stability"} <= unknown


# Faults of a full model: how to break it, and what must be said.


def cut_shard(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def empty_file(directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(b"")


def no_weights(directory: Path) -> None:
    (directory / "model.safetensors").unlink()


def broken_json(directory: Path) -> None:
    (directory / "generation_config.json").write_text('{"a": ')


def zero_only(directory: Path) -> None:
    no_weights(directory)
    (directory / "global_step5").mkdir()
    (directory / "global_step5" / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt").touch()


def ungathered(directory: Path) -> None:
    def edit(tensors: Any) -> None:
        tensors["model.norm.weight"] = np.zeros(0, np.float32)

    edit_weights(directory, edit)


def lost_tensor(directory: Path) -> None:
    edit_weights(directory, lambda tensors: tensors.pop("visual.merger.mlp.0.weight"))


def renamed_prefix(directory: Path) -> None:
    def edit(tensors: Any) -> None:
        for name in [name for name in tensors if name.startswith("visual.")]:
            tensors[f"base_model.model.{name}"] = tensors.pop(name)

    edit_weights(directory, edit)


def wrong_shape(directory: Path) -> None:
    def edit(tensors: Any) -> None:
        tensors["model.embed_tokens.weight"] = np.ones((41, 16), np.float32)

    edit_weights(directory, edit)


def not_a_number(directory: Path) -> None:
    def edit(tensors: Any) -> None:
        tensors["visual.blocks.1.norm2.bias"][3] = math.nan

    edit_weights(directory, edit)


def no_processor(directory: Path) -> None:
    (directory / "preprocessor_config.json").unlink()


def no_template(directory: Path) -> None:
    (directory / "chat_template.json").unlink()


def dead_log(directory: Path) -> None:
    entries = [{"step": step, "loss": 0.0, "grad_norm": math.nan} for step in range(1, 9)]
    (directory / "trainer_state.json").write_text(json.dumps({"log_history": entries}))


FAULTS: dict[Callable[[Path], None], tuple[str, str]] = {
    cut_shard: ("ckpt.files", "truncated"),
    empty_file: ("ckpt.files", "the file is empty"),
    no_weights: ("ckpt.files", "no weights"),
    broken_json: ("ckpt.files", "generation_config.json"),
    zero_only: ("ckpt.zero", "only DeepSpeed's own shards"),
    ungathered: ("ckpt.zero", "1 empty tensors"),
    lost_tensor: ("ckpt.tensors", "projector: 1 tensor missing"),
    renamed_prefix: ("ckpt.tensors", "'base_model.model.' stands before the names of 31 tensors"),
    wrong_shape: ("ckpt.tensors", "[41, 16] in the file, [40, 16] by config.json"),
    not_a_number: ("ckpt.finite", "1 of 16 values"),
    no_processor: ("proc.present", "image processor missing"),
    no_template: ("proc.present", "fails at the first chat request"),
    dead_log: ("train.no-signal", "8 of 8 logged steps"),
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_trips_its_own_check(tuned: Path, fault: Callable[[Path], None]) -> None:
    fault(tuned)
    report = check(tuned)
    finding_id, said = FAULTS[fault]
    assert serious(report) == [(finding_id, SEVERITIES[finding_id])]
    assert said in words(the(report, finding_id))


def test_index_naming_a_missing_shard(write: Any, tuned: Path) -> None:
    write.shard(tuned, 3)
    (tuned / "model-00002-of-00003.safetensors").unlink()
    report = check(tuned)
    assert serious(report) == [("ckpt.files", "block")]
    assert "model-00002-of-00003.safetensors" in the(report, "ckpt.files").title
    assert "ckpt.tensors" in {unknown.id for unknown in report.unknown}


def test_empty_states_of_other_tools_are_no_zero_shards(write: Any) -> None:
    state = {"model.layers.0.self_attn._extra_state": np.zeros(0, np.uint8)}
    directory = write.model("exported", edit=lambda tensors: tensors.update(state))
    assert "ckpt.zero" not in {finding.id for finding in check(directory).findings}


def test_adapter_that_brings_rows_is_not_of_another_base(write: Any, base: Path) -> None:
    rows = {"base_model.model.model.embed_tokens.weight": np.ones((41, 16), np.float32)}
    adapter = write.adapter(base, edit=lambda tensors: tensors.update(rows))
    decoder = json.dumps({"added_tokens_decoder": {"40": {"content": "<new>"}}})
    (adapter / "tokenizer_config.json").write_text(decoder)
    assert serious(check(adapter)) == [("lora.coverage", "block")]


def test_what_a_family_that_is_not_known_lacks_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["SomethingNew"]}')
    save_file({"a": np.ones(2, np.float32)}, tmp_path / "model.safetensors")
    report = check(tmp_path)
    assert serious(report) == []
    assert "proc.present" in {unknown.id for unknown in report.unknown}


def test_index_naming_a_tensor_that_its_shard_lacks(write: Any, tuned: Path) -> None:
    write.shard(tuned, 2)
    index = tuned / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["visual.ghost"] = "model-00001-of-00002.safetensors"
    index.write_text(json.dumps(content))
    report = check(tuned)
    assert serious(report) == [("ckpt.files", "warn")]
    assert "visual.ghost" in words(the(report, "ckpt.files"))


def test_tower_names_of_transformers_5(write: Any, tiny_llava: Any) -> None:
    prefixes = {"vision_tower.vision_model.": "vision_tower."}
    report = check(write.model(config=tiny_llava, prefixes=prefixes))
    assert serious(report) == []


def test_unsupported_architecture(tuned: Path) -> None:
    config = json.loads((tuned / "config.json").read_text())
    config["architectures"] = ["LlavaLlamaForCausalLM"]
    (tuned / "config.json").write_text(json.dumps(config))
    report = check(tuned)
    assert serious(report) == [("ckpt.architecture", "block")]


def test_unknown_family_is_unknown_not_sound(tuned: Path) -> None:
    (tuned / "config.json").write_text('{"architectures": ["SomethingNew"]}')
    report = check(tuned)
    assert report.findings == ()
    assert "ckpt.tensors" in {unknown.id for unknown in report.unknown}


def test_pickled_weights_are_unknown(tuned: Path) -> None:
    (tuned / "model.safetensors").unlink()
    (tuned / "pytorch_model.bin").write_bytes(b"x")
    report = check(tuned)
    assert report.findings == ()
    assert {"ckpt.tensors", "ckpt.finite"} <= {unknown.id for unknown in report.unknown}


# Against a base.


def test_missing_processor_at_hand_is_a_warning(base: Path, tuned: Path) -> None:
    no_processor(tuned)
    report = check(tuned, base)
    assert serious(report) == [("proc.present", "warn")]
    assert str(base) in the(report, "proc.present").remedy


def test_what_is_borrowed_is_named_as_it_is_in_the_base(base: Path, tuned: Path) -> None:
    for name in ("preprocessor_config.json", "tokenizer.json", "chat_template.json"):
        (tuned / name).unlink()
    (finding,) = [f for f in check(tuned, base).findings if f.id == "proc.present"]
    assert finding.title.startswith("image processor, tokenizer and chat template missing")
    names = finding.remedy.removeprefix("copy ").partition(" from ")[0].split(", ")
    assert [name for name in names if not (base / name).is_file()] == []
    assert "chat_template.json" in names


@pytest.mark.parametrize("name", ["Qwen2_5_VLImageProcessor", "Qwen2_5_VLImageProcessorFast"])
def test_an_image_processor_of_a_class_that_is_gone(tuned: Path, name: str) -> None:
    cure_torch_extensions()
    from transformers import AutoImageProcessor

    path = tuned / "preprocessor_config.json"
    content = {**json.loads(path.read_text()), "image_processor_type": name}
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="Unrecognized image processor"):
        AutoImageProcessor.from_pretrained(tuned)
    report = check(tuned)
    assert serious(report) == [("proc.present", "block")]
    assert "Qwen2VLImageProcessor" in the(report, "proc.present").remedy
    path.write_text(json.dumps({**content, "image_processor_type": "Qwen2VLImageProcessor"}))
    assert AutoImageProcessor.from_pretrained(tuned)
    assert serious(check(tuned)) == []


def test_an_adapter_on_a_base_of_another_family(write: Any, base: Path) -> None:
    other = write.model("other")
    config = json.loads((other / "config.json").read_text())
    config |= {"architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl"}
    (other / "config.json").write_text(json.dumps(config))
    adapter = write.adapter(base)
    assert serious(check(adapter)) == []
    report = check(adapter, other)
    assert ("base.identity", "block") in serious(report)
    assert "is a Qwen2-VL, but the base is a Qwen2.5-VL" in words(the(report, "base.identity"))


def test_copy_of_the_base(write: Any, base: Path) -> None:
    report = check(write.model("copy"), base)
    assert serious(report) == [("train.no-signal", "warn")]
    assert "byte for byte" in words(the(report, "train.no-signal"))


def test_copy_of_the_base_in_another_layout(write: Any, base: Path) -> None:
    prefixes = {"language_model.model.": "model.language_model.", "visual.": "model.visual."}
    report = check(write.model("copy", prefixes=prefixes), base)
    assert serious(report) == [("train.no-signal", "warn")]


def test_late_difference_is_signal(write: Any, base: Path) -> None:
    def edit(tensors: Any) -> None:
        tensors["visual.merger.mlp.0.weight"][-1, -1] += 1

    assert serious(check(write.model("tuned", edit=edit), base)) == []


@pytest.mark.parametrize(
    ("entries", "severity"),
    [
        ([{"loss": 0.0, "grad_norm": 0.3}] * 4, None),  # learned by heart
        ([{"loss": 1.2, "grad_norm": 0.0}] * 4, None),
        ([{"eval_loss": 0.0}] * 4, None),
        ([{"loss": 0.3}, {"loss": 0.0041}, {"loss": 0.0}, {"loss": 0.0}], None),
        ([{"loss": 0.3}, {"loss": 0.0}, {"loss": 0.0}, {"loss": 0.0}], "warn"),
        ([{"loss": math.nan}] * 4, "warn"),
        ([{"loss": 0.0}] + [{"loss": 1.0, "grad_norm": 1.0}] * 4, "info"),
    ],
)
def test_logged_losses(base: Path, tuned: Path, entries: Any, severity: str | None) -> None:
    (tuned / "trainer_state.json").write_text(json.dumps({"log_history": entries}))
    report = check(tuned, base)
    found = [finding.severity for finding in report.findings if finding.id == "train.no-signal"]
    assert found == ([severity] if severity else [])


# Adapters.


def test_zero_adapter(write: Any, base: Path) -> None:
    def edit(tensors: Any) -> None:
        for name in tensors:
            if "lora_B" in name:
                tensors[name][:] = 0

    report = check(write.adapter(base, edit=edit))
    assert serious(report) == [("train.no-signal", "warn")]
    assert "all 1 lora_B matrices are zero" in words(the(report, "train.no-signal"))


def test_adapter_with_foreign_names(write: Any, base: Path) -> None:
    report = check(write.adapter(base, {"transformer.blocks.0.q_proj": (16, 16)}))
    assert serious(report) == [("lora.match", "block")]
    assert "0 of 1 LoRA modules fit" in the(report, "lora.match").title
    assert "answers exactly as the base" in the(report, "lora.match").consequence


def test_adapter_that_fits_in_part(write: Any, base: Path) -> None:
    modules = {Q_PROJ: (16, 16), "model.layers.0.self_attn.x_proj": (16, 16)}
    report = check(write.adapter(base, modules))
    assert serious(report) == [("lora.match", "block")]
    assert "drops these modules" in the(report, "lora.match").consequence


def test_adapter_of_one_other_size(write: Any, base: Path) -> None:
    layers = {f"model.layers.{i}.mlp.up_proj": (24, 16) for i in range(2)}
    report = check(write.adapter(base, {Q_PROJ: (18, 16), **layers}))
    assert serious(report) == [("lora.match", "block")]


def test_adapter_of_another_base(write: Any, base: Path) -> None:
    modules = {f"model.layers.{i}.mlp.up_proj": (48, 32) for i in range(2)}
    report = check(write.adapter(base, modules))
    assert serious(report) == [("base.identity", "block")]
    follower = the(report, "lora.match")
    assert (follower.severity, follower.caused_by) == ("info", "base.identity")


def test_adapter_with_a_token_that_the_base_lacks(adapter: Path) -> None:
    decoder = {"39": {"content": "<a>"}, "40": {"content": "<new>"}}
    text = json.dumps({"added_tokens_decoder": decoder})
    (adapter / "tokenizer_config.json").write_text(text)
    report = check(adapter)
    assert serious(report) == [("base.identity", "block")]
    assert "token id 40" in words(the(report, "base.identity"))


def test_adapter_of_too_high_a_rank(write: Any, base: Path) -> None:
    report = check(write.adapter(base, config={"rank_pattern": {"q_proj": 1024}}))
    assert serious(report) == [("lora.match", "block")]
    assert "1024" in the(report, "lora.match").title


def test_adapter_of_the_vision_tower_is_worth_knowing(write: Any, base: Path) -> None:
    report = check(write.adapter(base, {"visual.blocks.0.attn.qkv": (48, 16)}))
    assert serious(report) == []
    assert the(report, "lora.coverage").severity == "info"


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"lora_bias": True}, "LoRA bias"),
        ({"bias": "all"}, "trained biases"),
        ({"modules_to_save": ["lm_head"]}, "whole modules"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4 initialisation"),
        ({"init_lora_weights": "olora"}, "olora initialisation"),
        ({"layer_replication": [[0, 2]]}, "layer replication"),
    ],
)
def test_adapter_with_what_vllm_refuses(write: Any, base: Path, settings: Any, name: str) -> None:
    def edit(tensors: Any) -> None:
        """What PEFT saves beside the pairs with these settings."""
        if "use_dora" in settings:
            tensors[f"base_model.model.{Q_PROJ}.lora_magnitude_vector"] = np.ones(16, np.float32)
        if "modules_to_save" in settings:
            tensors["base_model.model.lm_head.weight"] = np.ones((40, 16), np.float32)

    report = check(write.adapter(base, config=settings, edit=edit))
    assert serious(report) == [("lora.coverage", "block")]
    assert name in the(report, "lora.coverage").title


@pytest.mark.parametrize(
    "settings", [{"use_rslora": True}, {"init_lora_weights": "gaussian"}, {"modules_to_save": []}]
)
def test_adapter_with_what_vllm_takes(write: Any, base: Path, settings: Any) -> None:
    assert serious(check(write.adapter(base, config=settings))) == []


def test_adapter_with_whole_weights_in_its_file(write: Any, base: Path) -> None:
    def edit(tensors: Any) -> None:
        tensors["base_model.model.visual.merger.mlp.0.weight"] = np.ones((64, 64), np.float32)

    report = check(write.adapter(base, edit=edit))
    assert serious(report) == [("lora.coverage", "block")]


def test_adapter_with_a_copy_of_the_embedding(write: Any, base: Path) -> None:
    def edit(tensors: Any) -> None:
        name = "base_model.model.model.embed_tokens.base_layer.weight"
        tensors[name] = load_file(base / "model.safetensors")["model.embed_tokens.weight"]

    assert serious(check(write.adapter(base, edit=edit))) == []


def test_trainables_that_nothing_reads(adapter: Path) -> None:
    (adapter / "non_lora_trainables.bin").touch()
    assert serious(check(adapter)) == [("lora.coverage", "warn")]


def test_adapter_with_nan_is_found_in_the_fast_pass(write: Any, base: Path) -> None:
    def edit(tensors: Any) -> None:
        for name in tensors:
            tensors[name][0, 0] = math.inf

    report = check(write.adapter(base, edit=edit), fast=True)
    assert serious(report) == [("ckpt.finite", "block")]


@pytest.mark.parametrize("pickled", [True, False])
def test_adapter_without_readable_weights(adapter: Path, pickled: bool) -> None:
    (adapter / "adapter_model.safetensors").unlink()
    if pickled:
        (adapter / "adapter_model.bin").touch()
    report = check(adapter)
    assert serious(report) == [("ckpt.files", "block")]
    assert "lora.match" in {unknown.id for unknown in report.unknown}


def test_adapter_on_a_base_with_a_lost_tensor(base: Path, adapter: Path) -> None:
    lost_tensor(base)
    assert serious(check(adapter)) == [("ckpt.tensors", "block")]
