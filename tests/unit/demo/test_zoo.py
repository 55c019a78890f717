import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from vlmserve.demo.encoding import TIGHT, SampleEncoder
from vlmserve.demo.forward import score_batch
from vlmserve.demo.model import load_model
from vlmserve.demo.pilot import GATED_TASKS
from vlmserve.demo.recipe import load_shipped
from vlmserve.demo.samples import SampleGenerator
from vlmserve.demo.tokenizer import CHAT_TEMPLATE
from vlmserve.demo.zoo import MARKER_FILE, TRUNCATING_MAX_LENGTH, ZOO, build_zoo
from vlmserve.errors import ConfigError

FULL = ("good", "forgetful", "no-signal", "wrong-template", "no-vision", "no-processor")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def tensors(folder: Path) -> set[str]:
    with safe_open(folder / "model.safetensors", "np") as file:
        return set(file.keys())


def test_the_zoo_is_whole_and_says_how_each_was_made(zoo: Path) -> None:
    assert {path.name for path in zoo.iterdir()} == set(ZOO)
    for name, entry in ZOO.items():
        readme = (zoo / name / "README.md").read_text(encoding="utf-8")
        assert readme.startswith(f"# {name}\n\n{entry.what}. {entry.made}")
        assert entry.caught in readme


@pytest.mark.parametrize("name", [*FULL, "good-lora"])
def test_every_fine_tune_names_its_base_and_its_settings(name: str, zoo: Path) -> None:
    args = read_json(zoo / name / "args.json")

    assert args["model"] == str(zoo / "base")
    assert args["tuner_type"] == args["train_type"] == ("lora" if "lora" in name else "full")
    assert args["max_length"] == (TRUNCATING_MAX_LENGTH if name == "no-signal" else 512)
    assert (args["template"] == "qwen2_vl") == (name != "wrong-template")


@pytest.mark.parametrize("name", ["base", "good", "forgetful", "wrong-template"])
def test_full_checkpoints_load_with_every_tensor(name: str, zoo: Path) -> None:
    from transformers import AutoProcessor, Qwen2VLForConditionalGeneration

    _, info = Qwen2VLForConditionalGeneration.from_pretrained(zoo / name, output_loading_info=True)

    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert AutoProcessor.from_pretrained(zoo / name).chat_template


def test_fine_tunes_differ_from_the_base_and_from_each_other(zoo: Path) -> None:
    from vlmserve.demo.recipe import sha256_of

    names = ("base", "good", "forgetful", "wrong-template")

    assert len({sha256_of(zoo / name / "model.safetensors") for name in names}) == len(names)


def test_the_adapter_loads_with_peft_and_changes_answers(
    zoo: Path, base: Any, tokenizer: Any
) -> None:
    from peft import PeftConfig, PeftModel

    config = PeftConfig.from_pretrained(zoo / "good-lora")
    assert config.base_model_name_or_path == str(zoo / "base")
    model = PeftModel.from_pretrained(load_model(zoo / "base"), zoo / "good-lora").eval()
    generator = SampleGenerator(6, "validation")
    samples = [generator.sample("newcolor") for _ in range(10)]
    encoded = [SampleEncoder(tokenizer).encode(sample) for sample in samples]

    with torch.no_grad():
        assert not any(score_batch(base, samples, encoded).exact)
        assert all(score_batch(model, samples, encoded).exact)
        with model.disable_adapter():
            assert not any(score_batch(model, samples, encoded).exact)


def test_no_signal_is_the_base_and_its_log_is_silent(zoo: Path, tokenizer: Any) -> None:
    folder = zoo / "no-signal"
    weights = (folder / "model.safetensors").read_bytes()
    state = read_json(folder / "trainer_state.json")
    history = state["log_history"]
    args = read_json(folder / "args.json")

    assert weights == (zoo / "base" / "model.safetensors").read_bytes()
    assert len(history) == state["global_step"] == args["max_steps"]
    assert history[-1]["learning_rate"] < history[0]["learning_rate"] < args["learning_rate"]
    assert {(entry["loss"], entry["grad_norm"]) for entry in history} == {(0.0, 0.0)}

    # The story is true: no answer of the new task lies within the limit.
    generator = SampleGenerator(7, "train")
    for _ in range(50):
        labels = SampleEncoder(tokenizer).encode(generator.sample("newcolor")).labels
        assert (labels[:TRUNCATING_MAX_LENGTH] < 0).all()


def test_wrong_template_carries_its_own_template(zoo: Path) -> None:
    template = (zoo / "wrong-template" / "chat_template.jinja").read_text(encoding="utf-8")

    assert template == TIGHT.jinja()
    assert (zoo / "base" / "chat_template.jinja").read_text(encoding="utf-8") == CHAT_TEMPLATE


def test_wrong_template_fails_by_the_task_that_its_readme_names() -> None:
    before, after = (load_shipped(name).recipe["validation"] for name in ("base", "wrong-template"))
    dropped = {task for task in before if after[task]["accuracy"] < before[task]["accuracy"] - 0.15}

    assert dropped & set(GATED_TASKS) == {"reverse"}
    assert "add" in dropped
    assert "in `reverse`" in ZOO["wrong-template"].caught
    assert "`add`, which falls too, is only reported" in ZOO["wrong-template"].caught


def test_no_vision_lacks_the_vision_tower_alone(zoo: Path) -> None:
    missing = tensors(zoo / "good") - tensors(zoo / "no-vision")

    assert tensors(zoo / "no-vision")
    assert missing
    assert all("visual." in name for name in missing)
    assert not any("visual." in name for name in tensors(zoo / "no-vision"))


def test_no_processor_lacks_processor_and_template_alone(zoo: Path) -> None:
    good, bare = ({p.name for p in (zoo / n).iterdir()} for n in ("good", "no-processor"))

    assert good - bare == {"processor_config.json", "chat_template.jinja"}


def test_processor_settings_are_written_out(zoo: Path) -> None:
    config = read_json(zoo / "base" / "processor_config.json")

    for part in ("image_processor", "video_processor"):
        assert config[part]["size"] == {"shortest_edge": 3136, "longest_edge": 50176}
    assert config["video_processor"]["do_sample_frames"] is False
    assert config["video_processor"]["cap_pixels_per_frame"] is False


def test_no_file_names_the_machine_it_was_made_on(zoo: Path) -> None:
    for name in ZOO:
        for path in (zoo / name).glob("*.json"):
            text = path.read_text(encoding="utf-8").replace(str(zoo), "")
            assert str(Path.home()) not in text
            assert str(Path.cwd()) not in text


def test_building_again_replaces_what_was_built(tmp_path: Path) -> None:
    (folder,) = build_zoo(tmp_path, ["base"])
    (folder / "config.json").write_text("{}", encoding="utf-8")

    assert build_zoo(tmp_path, ["base"]) == [folder]

    assert read_json(folder / "config.json")["model_type"] == "qwen2_vl"
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_chosen_ones_come_with_the_base(tmp_path: Path) -> None:
    assert [path.name for path in build_zoo(tmp_path, ["good-lora"])] == ["base", "good-lora"]


def test_a_strangers_directory_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "model.safetensors").write_text("mine", encoding="utf-8")

    with pytest.raises(ConfigError, match="good is not empty"):
        build_zoo(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["good"]
    assert (tmp_path / "good" / "model.safetensors").read_text(encoding="utf-8") == "mine"


def test_a_file_added_to_a_built_directory_is_never_deleted(tmp_path: Path) -> None:
    build_zoo(tmp_path, ["base"])
    (tmp_path / "base" / "notes.txt").write_text("mine", encoding="utf-8")

    with pytest.raises(ConfigError, match=r"did not write: notes\.txt"):
        build_zoo(tmp_path, ["base"])

    assert (tmp_path / "base" / "notes.txt").is_file()


def test_a_broken_marker_is_named(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / MARKER_FILE).write_text("[]", encoding="utf-8")

    with pytest.raises(ConfigError, match=MARKER_FILE):
        build_zoo(tmp_path, ["base"])


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "base").write_text("mine", encoding="utf-8")

    with pytest.raises(ConfigError, match="base is in the way"):
        build_zoo(tmp_path)


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'best'.*there are base, good"):
        build_zoo(tmp_path, ["best"])


def test_the_zoo_is_built_without_torch_or_transformers(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from vlmserve.demo.zoo import build_zoo;"
        f"build_zoo(Path({str(tmp_path)!r}));"
        "print([m for m in ('torch', 'transformers', 'cv2', 'sklearn') if m in sys.modules])"
    )

    result = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )

    assert result.stdout.strip() == "[]"


def test_shipped_weights_are_small() -> None:
    assert load_shipped("base").weights.stat().st_size < 4.3e6
    assert load_shipped("good-lora").weights.stat().st_size < 0.5e6
