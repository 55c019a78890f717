import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.unit.conftest import CheckpointWriter
from vlmserve.checkpoint.provenance import VisionLimits
from vlmserve.checkpoint.source import load_checkpoint
from vlmserve.config.base import load_config
from vlmserve.config.serve import ServeConfig
from vlmserve.engine.plan import plan_serving
from vlmserve.engine.settings import checkpoint_settings, serving_settings
from vlmserve.engine.vllm_args import rollout_flags, vllm_flags
from vlmserve.errors import AdapterMismatchError, CheckpointError, ConfigError
from vlmserve.media.normalise import VLLM


def config(*settings: str) -> ServeConfig:
    return load_config(None, ServeConfig, settings=settings)


def value(flags: list[str], flag: str) -> str:
    return flags[flags.index(flag) + 1]


def swift_args(directory: Path, **args: Any) -> None:
    (directory / "args.json").write_text(json.dumps({"swift_version": "4.6.0", **args}))


def test_full_checkpoint_is_served_as_it_lies(write: CheckpointWriter, tmp_path: Path) -> None:
    directory = write.model("run-7")

    plan = plan_serving(load_checkpoint(directory), config(), tmp_path)

    assert plan.model_path == directory
    assert plan.names == ("run-7",)
    assert plan.adapter is None
    assert plan.notes == ()


class TestNormalisation:
    def plan(self, write: CheckpointWriter, tmp_path: Path, *settings: str, **args: Any) -> Any:
        directory = write.model("run-7")
        if args:
            swift_args(directory, **args)
        settings = ("media.normalise=training", *settings)
        return plan_serving(load_checkpoint(directory), config(*settings), tmp_path)

    def test_is_vllms_own_by_default(self, write: CheckpointWriter, tmp_path: Path) -> None:
        plan = plan_serving(load_checkpoint(write.model("run-7")), config(), tmp_path)

        assert plan.normalisation == VLLM

    def test_is_what_the_framework_did(self, write: CheckpointWriter, tmp_path: Path) -> None:
        plan = self.plan(write, tmp_path, model="Qwen/Qwen2-VL-2B-Instruct")

        how = plan.normalisation
        assert how.reader == "ms-swift (qwen-vl-utils)"
        assert not how.rotates
        assert how.fills_white
        assert any("as in training (ms-swift (qwen-vl-utils)): left" in n for n in plan.notes)

    def test_is_plain_where_nothing_is_known(self, write: CheckpointWriter, tmp_path: Path) -> None:
        plan = self.plan(write, tmp_path)

        assert (plan.normalisation.rotates, plan.normalisation.fills_white) == (False, False)
        assert any("its framework is not known: plain convert" in note for note in plan.notes)

    def test_is_decided_once(self, write: CheckpointWriter, tmp_path: Path) -> None:
        setting = "engine.media_io_kwargs={image: {rgba_background_color: [0, 0, 0]}}"

        with pytest.raises(ConfigError, match=r"media\.normalise.*media_io_kwargs\.image"):
            self.plan(write, tmp_path, setting)

    def test_decides_what_answers_are_kept_under(
        self, write: CheckpointWriter, tmp_path: Path
    ) -> None:
        vllms = plan_serving(load_checkpoint(write.model("run-8")), config(), tmp_path)
        trained = self.plan(write, tmp_path)

        settings = serving_settings(trained, config("media.normalise=training"))
        assert settings["normalise"] != serving_settings(vllms, config())["normalise"]
        own = checkpoint_settings(trained, config("media.normalise=training"))
        assert "normalise.rotates" in own


def test_adapter_is_served_beside_its_base(write: CheckpointWriter, tmp_path: Path) -> None:
    base = write.model("base")
    checkpoint = load_checkpoint(write.adapter(base))

    plan = plan_serving(checkpoint, config(), tmp_path)
    flags = vllm_flags(plan, config())

    assert plan.names == ("base", "adapter")
    assert plan.candidate_name == "adapter"
    assert value(flags, "--max-lora-rank") == "8"
    assert value(flags, "--max-loras") == "2"
    assert json.loads(value(flags, "--lora-modules"))["name"] == "adapter"
    assert "--enable-tower-connector-lora" not in flags


def test_vision_adapter_gets_its_switch(write: CheckpointWriter, tmp_path: Path) -> None:
    base = write.model("base")
    adapter = write.adapter(base, {"visual.blocks.0.attn.qkv": (48, 16)})

    plan = plan_serving(load_checkpoint(adapter), config(), tmp_path)

    assert "--enable-tower-connector-lora" in vllm_flags(plan, config())


def test_rank_above_the_limit_is_refused(write: CheckpointWriter, tmp_path: Path) -> None:
    adapter = write.adapter(write.model("base"), config={"r": 600})

    with pytest.raises(AdapterMismatchError, match="rank 600 is above vLLM's limit of 512"):
        plan_serving(load_checkpoint(adapter), config(), tmp_path)


def test_base_of_the_same_name_is_told_apart(write: CheckpointWriter, tmp_path: Path) -> None:
    base = write.model("adapter-base")
    base = base.rename(tmp_path / "twin")
    adapter = write.adapter(base)
    settings = ("server.served_model_name=twin",)

    plan = plan_serving(load_checkpoint(adapter), config(*settings), tmp_path)

    assert plan.names == ("twin-base", "twin")
    with pytest.raises(ConfigError, match="adapter's name too"):
        plan_serving(load_checkpoint(adapter), config("server.base_served_name=adapter"), tmp_path)


def test_missing_processor_is_borrowed_from_the_base(
    write: CheckpointWriter, tmp_path: Path
) -> None:
    base, tuned = write.model("base"), write.model("tuned")
    for name in ("preprocessor_config.json", "chat_template.json"):
        (tuned / name).unlink()
    swift_args(tuned, model=str(base))
    scratch = tmp_path / "scratch"
    scratch.mkdir()

    plan = plan_serving(load_checkpoint(tuned), config(), scratch)

    assert plan.model_path.parent == scratch
    assert (plan.model_path / "preprocessor_config.json").is_file()
    assert (plan.model_path / "model.safetensors").samefile(tuned / "model.safetensors")
    assert "preprocessor_config.json" in plan.notes[0]
    assert not (tuned / "preprocessor_config.json").exists()


def test_missing_processor_without_a_base_is_refused(
    write: CheckpointWriter, tmp_path: Path
) -> None:
    tuned = write.model("tuned")
    (tuned / "preprocessor_config.json").unlink()

    with pytest.raises(CheckpointError, match="image processor missing"):
        plan_serving(load_checkpoint(tuned), config(), tmp_path)


def test_training_limits_are_applied_and_said(write: CheckpointWriter, tmp_path: Path) -> None:
    tuned = write.model("tuned")
    swift_args(tuned, max_pixels=50176)
    env = VisionLimits(fps=1.0, fps_max_frames=16, video_total_pixels=9)

    plan = plan_serving(load_checkpoint(tuned), config(), tmp_path, train_env=env)
    flags = vllm_flags(plan, config())

    assert json.loads(value(flags, "--mm-processor-kwargs")) == {"max_pixels": 50176}
    assert json.loads(value(flags, "--media-io-kwargs")) == {
        "video": {"fps": 1.0, "max_frames": 16}
    }
    assert "max_pixels=50176 of the training is applied to serving" in plan.notes
    assert any("video_total_pixels=9 of the training is NOT applied" in note for note in plan.notes)


def test_limits_of_frames_are_the_video_processors(write: CheckpointWriter, tmp_path: Path) -> None:
    tuned = write.model("tuned")
    env = VisionLimits(fps_min_frames=8, video_max_pixels=200704)

    plan = plan_serving(load_checkpoint(tuned), config(), tmp_path, train_env=env)

    size = {"shortest_edge": 100352, "longest_edge": 200704}
    assert plan.mm_processor_kwargs == {"videos_kwargs": {"size": size}}
    assert plan.media_io_kwargs == {"video": {"min_frames": 8}}
    chosen = config("engine.mm_processor_kwargs={videos_kwargs: {max_pixels: 784}}")
    plan = plan_serving(load_checkpoint(tuned), chosen, tmp_path, train_env=env)
    assert plan.mm_processor_kwargs == {"videos_kwargs": {"max_pixels": 784}}
    assert (
        "video_max_pixels=200704 of the training gives way to engine.mm_processor_kwargs"
        in plan.notes
    )


def test_training_limit_never_enlarges_the_processors_own(
    write: CheckpointWriter, tmp_path: Path
) -> None:
    tuned = write.model("tuned")
    (tuned / "preprocessor_config.json").write_text(
        '{"image_processor_type": "Qwen2VLImageProcessor", '
        '"size": {"shortest_edge": 784, "longest_edge": 1568}}'
    )
    swift_args(tuned, max_pixels=50176)

    plan = plan_serving(load_checkpoint(tuned), config(), tmp_path)

    size = {"shortest_edge": 784, "longest_edge": 1568}
    assert plan.mm_processor_kwargs == {"images_kwargs": {"size": size}}


def test_training_limit_below_the_processors_smallest(
    write: CheckpointWriter, tmp_path: Path
) -> None:
    tuned = write.model("tuned")
    (tuned / "preprocessor_config.json").write_text(
        '{"image_processor_type": "Qwen2VLImageProcessor", '
        '"size": {"shortest_edge": 3136, "longest_edge": 50176}}'
    )
    swift_args(tuned, max_pixels=784)

    plan = plan_serving(load_checkpoint(tuned), config(), tmp_path)

    size = {"shortest_edge": 3136, "longest_edge": 3136}
    assert plan.mm_processor_kwargs == {"images_kwargs": {"size": size}}


def test_operator_wins_over_the_training(write: CheckpointWriter, tmp_path: Path) -> None:
    tuned = write.model("tuned")
    swift_args(tuned, max_pixels=50176)
    chosen = config("engine.mm_processor_kwargs={max_pixels: 784}")

    plan = plan_serving(load_checkpoint(tuned), chosen, tmp_path)

    assert plan.mm_processor_kwargs == {"max_pixels": 784}
    assert plan.notes == (
        "max_pixels=50176 of the training gives way to engine.mm_processor_kwargs",
    )


def test_a_setting_that_would_change_nothing_is_refused(
    write: CheckpointWriter, tmp_path: Path, tiny_llava: dict[str, Any]
) -> None:
    video = "engine.media_io_kwargs={{video: {{num_frames: {}}}}}"
    tuned = load_checkpoint(write.model("tuned"))

    with pytest.raises(ConfigError, match=r"video\.num_frames: would change nothing"):
        plan_serving(tuned, config(video.format(8)), tmp_path)
    plan = plan_serving(tuned, config(video.format(64)), tmp_path)
    assert plan.media_io_kwargs == {"video": {"num_frames": 64}}
    assert "limits lists of frames alone" in plan.notes[0]
    # Its loader takes as many frames as it is told.
    llava = load_checkpoint(write.model("llava", tiny_llava))
    assert plan_serving(llava, config(video.format(8)), tmp_path).notes == ()


def test_limits_of_a_family_without_such_settings_are_said(
    write: CheckpointWriter, tmp_path: Path, tiny_llava: dict[str, Any]
) -> None:
    tuned = write.model("tuned", tiny_llava)
    swift_args(tuned, max_pixels=50176)

    plan = plan_serving(load_checkpoint(tuned), config(), tmp_path)

    assert plan.mm_processor_kwargs == {}
    assert "NOT applied" in plan.notes[0]


def test_adapters_of_one_base_are_served_side_by_side(write: Any, tmp_path: Path) -> None:
    base = write.model("base")
    folders = [tmp_path / week / "x" / "checkpoint-100" for week in ("w1", "w2")]
    for folder in folders:
        shutil.copytree(write.adapter(base), folder)
    old, new = map(load_checkpoint, folders)
    plan = plan_serving(new, config(), tmp_path, beside=[old])

    assert plan.names == ("base", "x-checkpoint-100-2", "x-checkpoint-100")
    assert plan.candidate_name == "x-checkpoint-100"
    assert [adapter.path for adapter in plan.adapters] == [old.path, new.path]
    flags = vllm_flags(plan, config())
    assert flags[flags.index("--max-loras") + 1] == "3"
    modules = [json.loads(flag) for flag in flags if flag.startswith("{") and "lora" not in flag]
    assert [module["name"] for module in modules if "base_model_name" in module] == [
        "x-checkpoint-100-2",
        "x-checkpoint-100",
    ]


def test_what_is_no_adapter_cannot_be_served_beside_one(write: Any, tmp_path: Path) -> None:
    base = load_checkpoint(write.model("base"))
    adapter = load_checkpoint(write.adapter(base.path))

    with pytest.raises(AdapterMismatchError, match="not an adapter"):
        plan_serving(adapter, config(), tmp_path, beside=[base])


def test_room_for_adapters_that_come_later(write: CheckpointWriter, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(write.adapter(write.model("base")))
    root = f"server.adapter_root={tmp_path}"
    later = config(root, "server.max_adapters=3", "server.max_adapter_rank=20")
    plan = plan_serving(checkpoint, later, tmp_path)

    assert rollout_flags(plan, config()) == []
    assert rollout_flags(plan, later) == [
        "--enable-lora", "--max-lora-rank", "32", "--max-loras", "4",
    ]  # fmt: skip
    vision = config(root, "server.adapters_in_vision=true")
    assert "--enable-tower-connector-lora" in rollout_flags(plan, vision)


@pytest.mark.parametrize("in_vision", [False, True])
@pytest.mark.parametrize("settings", [[], ["server.adapters_in_vision=true"]])
def test_each_flag_is_given_once(
    write: CheckpointWriter, tmp_path: Path, settings: list[str], *, in_vision: bool
) -> None:
    """vLLM warns of those that are given twice."""
    base = write.model("base")
    modules = {"visual.blocks.0.attn.qkv": (48, 16)} if in_vision else None
    checkpoint = load_checkpoint(write.adapter(base, modules))
    settings = [f"server.adapter_root={tmp_path}", "server.max_adapters=3", *settings]
    later = config(*settings)
    plan = plan_serving(checkpoint, later, tmp_path)

    flags = vllm_flags(plan, later, rollout_flags(plan, later))

    names = [flag for flag in flags if flag.startswith("--")]
    assert sorted(names) == sorted(set(names))
    assert value(flags, "--max-loras") == "4"
    assert value(flags, "--max-lora-rank") == "64"
    assert ("--enable-tower-connector-lora" in flags) == (in_vision or len(settings) > 2)
    assert json.loads(value(flags, "--lora-modules"))["name"] == "adapter"


def test_room_for_adapters_beside_a_whole_model(write: CheckpointWriter, tmp_path: Path) -> None:
    later = config(f"server.adapter_root={tmp_path}")
    plan = plan_serving(load_checkpoint(write.model("base")), later, tmp_path)

    flags = vllm_flags(plan, later, rollout_flags(plan, later))

    assert flags.count("--enable-lora") == 1
    assert "--lora-modules" not in flags
