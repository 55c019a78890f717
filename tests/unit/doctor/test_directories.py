"""Every directory that a training leaves is told what it is, and what makes a checkpoint of it."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.mutation.subjects_fakes import write_fake, write_header, write_llava_original
from vlmserve.checkpoint.source import load_checkpoint
from vlmserve.checkpoint.tensors import read_header
from vlmserve.cli.main import main
from vlmserve.doctor.describe import describe_checkpoint
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import Finding
from vlmserve.doctor.report import DoctorReport
from vlmserve.doctor.run import run_checks
from vlmserve.errors import CheckpointError
from vlmserve.platform import cure_torch_extensions

ONEVISION: dict[str, Any] = {
    "architectures": ["LlavaOnevisionForConditionalGeneration"],
    "model_type": "llava_onevision",
    "text_config": {
        "model_type": "qwen2",
        "vocab_size": 40,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    },
    "vision_config": {
        "model_type": "siglip_vision_model",
        "hidden_size": 8,
        "intermediate_size": 12,
        "num_hidden_layers": 1,
        "image_size": 28,
        "patch_size": 14,
        "vision_use_head": False,
    },
}


def look(directory: Path) -> tuple[str, DoctorReport]:
    """What is said of a directory, which serving refuses."""
    with pytest.raises(CheckpointError):
        load_checkpoint(directory)
    checkpoint = load_checkpoint(directory, leftovers=True)
    return describe_checkpoint(checkpoint), run_checks(Examination(checkpoint))


def only(report: DoctorReport, check_id: str) -> Finding:
    (finding,) = [f for f in report.findings if f.severity != "info"]
    assert (finding.id, finding.severity) == (check_id, "block")
    return finding


def save_pickle(path: Path, **shapes: tuple[int, ...]) -> None:
    cure_torch_extensions()
    torch = pytest.importorskip("torch")
    torch.save({name.replace("__", "."): torch.ones(shape) for name, shape in shapes.items()}, path)


def add_shards(directory: Path, step: int = 20) -> None:
    state = directory / f"global_step{step}"
    state.mkdir(parents=True)
    for rank in range(2):
        (state / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt").write_bytes(b"x")
        (state / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").write_bytes(b"x")
    (directory / "latest").write_text(state.name)
    (directory / "zero_to_fp32.py").write_text("raise SystemExit('not to be run')")


def test_each_header_is_read_once(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def counted(path: Path) -> Any:
        read.append(path)
        return read_header(path)

    monkeypatch.setattr("vlmserve.checkpoint.weights.read_header", counted)
    base = write.shard(write.model("base"), 3)
    for directory in (write.shard(write.model("tuned"), 3), write.adapter(base)):
        read.clear()
        checkpoint = load_checkpoint(directory, base_model=base)
        run_checks(Examination(checkpoint))
        describe_checkpoint(checkpoint)
        assert len(read) == len(set(read)) >= 3


# Directories of a run.


def test_swift_run(tmp_path: Path, write: Any) -> None:
    run = tmp_path / "v0-20250101-000000"
    for step in (100, 20):
        shutil.copytree(write.model(f"model-{step}"), run / f"checkpoint-{step}")
    (run / "args.json").write_text('{"model": "Qwen/Qwen2-VL-2B", "swift_version": "3.5"}')
    text, report = look(run)
    assert "The directory of a training run with 2 checkpoints, checkpoint-20 to" in text
    assert "Trained with ms-swift 3.5 from Qwen/Qwen2-VL-2B" in text
    assert "vLLM can load nothing from it as it is." in text
    finding = only(report, "ckpt.files")
    assert finding.remedy == f"give one of them: --ckpt {run / 'checkpoint-100'}"
    assert report.unknown == ()
    # One level up there are several runs.
    _, report = look(tmp_path)
    assert f"--ckpt {run / 'checkpoint-100'}" in only(report, "ckpt.files").remedy


def test_the_best_checkpoint_of_a_run_is_proposed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for step in (10, 20, 30):
        (run / f"checkpoint-{step}").mkdir(parents=True)
    state = {"best_model_checkpoint": "/elsewhere/run/checkpoint-20", "log_history": []}
    (run / "checkpoint-30" / "trainer_state.json").write_text(json.dumps(state))
    text, report = look(run)
    assert "checkpoint-20 was the best in its evaluation" in text
    assert only(report, "ckpt.files").remedy.endswith("checkpoint-20")


def test_a_run_that_ends_in_a_model_is_that_model(write: Any) -> None:
    model = write.model()
    (model / "checkpoint-5").mkdir()
    assert load_checkpoint(model).leftover is None


# DeepSpeed.


def test_only_shards(tmp_path: Path) -> None:
    step = tmp_path / "run-1" / "checkpoint-20"
    add_shards(step)
    (step / "trainer_state.json").write_text('{"log_history": [{"loss": 1.0, "step": 10}]}')
    text, report = look(step)
    assert "4 shards of parameters and optimizer in global_step20" in text
    assert "Trained with the transformers Trainer." in text
    remedy = only(report, "ckpt.zero").remedy
    assert f"python -m deepspeed.utils.zero_to_fp32 {step} {step}-full" in remedy
    assert "copy config.json" in remedy


def test_shards_beside_a_configuration(write: Any) -> None:
    model = write.model()
    (model / "model.safetensors").unlink()
    add_shards(model)
    report = run_checks(Examination(load_checkpoint(model)))
    assert only(report, "ckpt.zero").title == "only DeepSpeed's own shards, no weights"


def test_empty_tensors_without_their_shards(write: Any) -> None:
    model = write.model()
    write_header(model / "model.safetensors", {"model.norm.weight": (0,)})
    report = run_checks(Examination(load_checkpoint(model)))
    (zero,) = [f for f in report.findings if f.id == "ckpt.zero"]
    assert "go back to the run's own directory" in zero.remedy


# The original LLaVA.


def test_projector_with_its_configuration(tmp_path: Path) -> None:
    write_llava_original(tmp_path / "whole", layers=1)
    alone = tmp_path / "checkpoint-24"
    alone.mkdir()
    shutil.copy(tmp_path / "whole" / "config.json", alone)
    save_pickle(alone / "mm_projector.bin", model__mm_projector__0__weight=(8, 4))
    with pytest.raises(CheckpointError, match="only a projector"):
        load_checkpoint(alone)
    checkpoint = load_checkpoint(alone, leftovers=True)
    text = describe_checkpoint(checkpoint)
    assert "The projector of an original LLaVA alone, mm_projector.bin" in text
    assert "By config.json it is a LLaVA in the original format (one view of an image" in text
    report = run_checks(Examination(checkpoint))
    assert {finding.id for finding in report.findings} == {"ckpt.architecture", "ckpt.files"}


@pytest.mark.parametrize("name", ["projectors/mm_projector.bin", "mm_projector/checkpoint-24.bin"])
def test_projector_without_configuration(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir()
    path.write_bytes(b"x")
    text, report = look(path.parent)
    assert "The projector of an original LLaVA alone" in text
    assert str(path) in only(report, "ckpt.files").remedy


def test_parts_without_their_adapter(tmp_path: Path) -> None:
    (tmp_path / "non_lora_trainables.bin").write_bytes(b"x")
    text, report = look(tmp_path)
    assert "Parts of an original LLaVA's LoRA run" in text
    assert "merge_lora_weights.py" in only(report, "ckpt.files").remedy


def llava_lora(tmp_path: Path, write: Any, base: str | Path) -> Path:
    """LLaVA's own LoRA run: adapter, projector and the whole model's configuration."""
    write_llava_original(tmp_path / "whole", layers=1)
    adapter: Path = write.adapter(base)
    shutil.copy(tmp_path / "whole" / "config.json", adapter)
    save_pickle(
        adapter / "non_lora_trainables.bin",
        base_model__model__model__mm_projector__0__weight=(8, 4),
        base_model__model__model__mm_projector__0__bias=(8,),
    )
    return adapter


def test_llava_lora_on_a_text_model(tmp_path: Path, write: Any) -> None:
    vicuna = tmp_path / "vicuna"
    vicuna.mkdir()
    (vicuna / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    write_header(vicuna / "model.safetensors", {"model.norm.weight": (4,)})
    checkpoint = load_checkpoint(llava_lora(tmp_path, write, vicuna))
    assert checkpoint.architecture == "LlavaLlamaForCausalLM"
    assert checkpoint.model.path == vicuna
    text = describe_checkpoint(checkpoint)
    assert "for a LLaVA in the original format (one view of an image, clip-vit" in text
    assert "non_lora_trainables.bin (2 tensors) was trained beside the adapter" in text
    report = run_checks(Examination(checkpoint))
    serious = {f.id for f in report.findings if f.severity != "info"}
    # The projector beside the adapter is left out by vLLM, which is lora.coverage's to say.
    assert serious - {"lora.coverage"} == {"ckpt.architecture"}
    (finding,) = [f for f in report.findings if f.id == "ckpt.architecture"]
    assert finding.evidence[0].file == "config.json"
    assert "merge an adapter before" in finding.remedy


def test_step_of_a_llava_lora(tmp_path: Path, write: Any) -> None:
    vicuna = tmp_path / "vicuna"
    vicuna.mkdir()
    (vicuna / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    write_header(vicuna / "model.safetensors", {"model.norm.weight": (4,)})
    report = run_checks(Examination(load_checkpoint(write.adapter(vicuna))))
    (finding,) = [f for f in report.findings if f.id == "ckpt.architecture"]
    assert (finding.severity, finding.evidence[0].value) == ("warn", "LlamaForCausalLM")
    assert "non_lora_trainables.bin" in finding.remedy


def test_owl_lora_goes_by_its_own_configuration(tmp_path: Path, write: Any) -> None:
    text = tmp_path / "text"
    text.mkdir()
    (text / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    adapter = write.adapter(text)
    (adapter / "config.json").write_text('{"model_type": "mplug_owl2"}')
    checkpoint = load_checkpoint(adapter)
    assert checkpoint.architecture == "MPLUGOwl2LlamaForCausalLM"
    report = run_checks(Examination(checkpoint))
    (finding,) = [f for f in report.findings if f.id == "ckpt.architecture"]
    assert (finding.evidence[0].file, finding.evidence[0].key) == ("config.json", "model_type")


def test_wrapped_adapter_in_the_weights_is_explained(tmp_path: Path, write: Any) -> None:
    def wrap(tensors: Any) -> None:
        name = "model.layers.0.self_attn.q_proj"
        tensors[f"{name}.base_layer.weight"] = tensors.pop(f"{name}.weight")
        tensors[f"{name}.lora_A.default.weight"] = np.ones((2, 16), np.float32)

    report = run_checks(Examination(load_checkpoint(write.model(edit=wrap))))
    assert "merge_and_unload" in only(report, "ckpt.tensors").remedy


def test_llava_lora_without_its_base(tmp_path: Path, write: Any) -> None:
    adapter = llava_lora(tmp_path, write, "/gone/vicuna-7b")
    text, report = look(adapter)
    assert "A LoRA adapter of rank 2" in text
    assert "its base, /gone/vicuna-7b, is not at hand" in text
    assert {f.id for f in report.findings} == {"ckpt.architecture", "ckpt.files"}


# Adapters.


def test_adapter_whose_base_is_elsewhere(write: Any) -> None:
    adapter = write.adapter("/data/models/base")
    text, report = look(adapter)
    assert "its base, /data/models/base, is not at hand" in text
    finding = only(report, "ckpt.files")
    assert finding.title.startswith("an adapter without its base")
    assert "--path-map /data/models=NEW" in finding.remedy


def test_adapter_that_learned_nothing_is_told_without_its_base(write: Any) -> None:
    def zero(tensors: Any) -> None:
        for name in tensors:
            if "lora_B" in name:
                tensors[name] = np.zeros_like(tensors[name])

    _, report = look(write.adapter("/data/models/base", edit=zero))
    assert {f.id for f in report.findings} == {"ckpt.files", "train.no-signal"}


def test_a_base_that_the_user_names_must_exist(write: Any) -> None:
    with pytest.raises(CheckpointError, match="/gone: no such directory"):
        load_checkpoint(write.adapter(write.model()), base_model="/gone", leftovers=True)


def test_swift_tower_beside_an_adapter(write: Any) -> None:
    adapter = write.adapter(write.model("base"))
    write_header(adapter / "vit.safetensors", {"visual.a": (2,), "visual.b": (3,)})
    text = describe_checkpoint(load_checkpoint(adapter))
    assert "Of this directory vLLM loads the adapter's weights alone." in text
    assert "vit.safetensors (2 tensors) was trained beside the adapter" in text


def test_pickled_adapter_is_read(write: Any) -> None:
    base = write.model("base")
    adapter = write.adapter(base)
    (adapter / "adapter_model.safetensors").unlink()
    module = "base_model__model__model__layers__0__self_attn__q_proj"
    save_pickle(
        adapter / "adapter_model.bin",
        **{f"{module}__lora_A__weight": (2, 16), f"{module}__lora_B__weight": (16, 2)},
    )
    checkpoint = load_checkpoint(adapter)
    assert "1 module" in describe_checkpoint(checkpoint)
    assert "ckpt.files" not in {f.id for f in run_checks(Examination(checkpoint)).findings}


def test_adapter_for_a_family_without_adapters(tmp_path: Path, write: Any) -> None:
    base = tmp_path / "onevision"
    write_fake(base, ONEVISION)
    (base / "chat_template.jinja").write_text("{{ messages }}")
    adapter = write.adapter(base, {"language_model.model.layers.0.self_attn.q_proj": (16, 16)})
    report = run_checks(Examination(load_checkpoint(adapter)))
    found = {f.id: f for f in report.findings if f.severity == "block"}
    assert "takes no adapter for LlavaOnevision" in found["ckpt.architecture"].title
    assert "merge" in found["ckpt.architecture"].remedy


# Full models.


def test_merged_and_stepped_models_say_so(write: Any, tmp_path: Path) -> None:
    merged = tmp_path / "run" / "checkpoint-30-merged"
    merged.parent.mkdir()
    write.model().rename(merged)
    text = describe_checkpoint(load_checkpoint(merged))
    assert text.startswith("A merged adapter, that is a full Qwen2-VL")
    assert "in the layout of transformers 4.x, step 30 of its run." in text
    assert text.endswith("vLLM loads all of its weight files.")
    plain = write.model("plain")
    (plain / "args.json").write_text('{"model": "m", "tuner_type": "lora"}')
    assert describe_checkpoint(load_checkpoint(plain)).startswith("A merged adapter")
    (plain / "args.json").write_text('{"model": "m", "train_type": "full"}')
    assert describe_checkpoint(load_checkpoint(plain)).startswith("A full Qwen2-VL")


def test_pickled_model_is_checked_like_another(write: Any, tiny_qwen2_vl: Any) -> None:
    directory = write.model()
    tensors = load_checkpoint(directory).tensors
    shapes = {name.replace(".", "__"): info.shape for name, info in tensors.items()}
    (directory / "model.safetensors").unlink()
    save_pickle(directory / "pytorch_model.bin", **shapes)
    checkpoint = load_checkpoint(directory)
    assert "in 1 pickled file" in describe_checkpoint(checkpoint)
    report = run_checks(Examination(checkpoint))
    assert not {"ckpt.files", "ckpt.tensors"} & {f.id for f in report.findings}
    shapes.pop("visual__merger__mlp__0__weight")
    save_pickle(directory / "pytorch_model.bin", **shapes)
    report = run_checks(Examination(load_checkpoint(directory)))
    only(report, "ckpt.tensors")


def test_values_of_a_pickled_model_are_read(write: Any) -> None:
    cure_torch_extensions()
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    base, tuned = write.model("base"), write.model("tuned")
    weights = load_file(tuned / "model.safetensors")
    (tuned / "model.safetensors").unlink()
    torch.save(weights, tuned / "pytorch_model.bin")

    def examine() -> DoctorReport:
        return run_checks(Examination(load_checkpoint(tuned, base_model=base), fast=False))

    assert "train.no-signal" in {f.id for f in examine().findings}
    weights["visual.blocks.1.norm2.bias"][3] = float("nan")
    torch.save(weights, tuned / "pytorch_model.bin")
    report = examine()
    (finding,) = [f for f in report.findings if f.id == "ckpt.finite"]
    assert finding.evidence[0].file == "pytorch_model.bin"
    assert finding.evidence[0].key == "visual.blocks.1.norm2.bias"


def test_a_pointer_says_how_to_fetch_the_weights(write: Any) -> None:
    model = write.model()
    (model / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    report = run_checks(Examination(load_checkpoint(model)))
    assert only(report, "ckpt.files").remedy == f"run: git -C {model} lfs pull"
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    report = run_checks(Examination(load_checkpoint(model)))
    assert only(report, "ckpt.files").remedy == f"run: git -C {model} lfs pull"


def test_weights_without_configuration(write: Any) -> None:
    model = write.model()
    (model / "config.json").unlink()
    text, report = look(model)
    assert "Weights without a config.json, model.safetensors" in text
    assert "copy config.json" in only(report, "ckpt.files").remedy


def test_a_directory_of_anything_else_stays_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(CheckpointError, match=r"config\.json: no such file"):
        load_checkpoint(tmp_path, leftovers=True)


def test_the_command_checks_and_serving_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_shards(tmp_path)
    assert main(["check", "--ckpt", str(tmp_path)]) == 4
    out = capsys.readouterr().out
    assert "What DeepSpeed needs to go on training" in out
    assert "block ckpt.zero: only DeepSpeed's own shards" in out
    assert main(["serve", "--ckpt", str(tmp_path)]) == 4
    assert "only DeepSpeed's own shards" in capsys.readouterr().err
