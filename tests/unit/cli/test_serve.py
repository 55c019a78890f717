"""What `vlmserve serve` refuses before it imports anything heavy."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.conftest import Q_PROJ, CheckpointWriter, Tensors
from vlmserve.cli.main import main
from vlmserve.errors import ConfigError


def serve(*arguments: str) -> int:
    return main(["serve", "--port", "0", *arguments])


def test_taken_port_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        assert main(["serve", "--ckpt", "nowhere", "--port", str(port)]) == 5

    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in capsys.readouterr().err


def test_missing_directory_is_told_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert serve("--ckpt", str(tmp_path / "nowhere")) == 4

    assert "nowhere" in capsys.readouterr().err


def test_refusals_come_before_the_heavy_imports(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from vlmserve.cli.main import main\n"
        f"status = main(['serve', '--port', '0', '--ckpt', {str(tmp_path)!r}])\n"
        "print(status, [name for name in ('torch', 'vllm', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "4 []"


def test_missing_vision_tower_is_refused_by_component(
    write: CheckpointWriter, capsys: pytest.CaptureFixture[str]
) -> None:
    def drop_vision(tensors: Tensors) -> None:
        for name in [name for name in tensors if name.startswith("visual.blocks")]:
            del tensors[name]

    directory = write.model("tuned", edit=drop_vision)

    assert serve("--ckpt", str(directory)) == 4

    printed = capsys.readouterr().err
    assert "[ckpt.tensors]" in printed
    assert "vision tower" in printed


def test_missing_linear_weight_is_refused(
    write: CheckpointWriter, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "model.layers.1.mlp.down_proj.weight"
    directory = write.model("tuned", edit=lambda tensors: tensors.pop(name))

    assert serve("--ckpt", str(directory)) == 4

    assert "down_proj" in capsys.readouterr().err


def test_adapter_that_matches_nothing_is_refused(
    write: CheckpointWriter, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = write.adapter(write.model("base"), {"decoder.blocks.0.attention.query": (16, 16)})

    assert serve("--ckpt", str(adapter)) == 4

    assert "[lora.match]" in capsys.readouterr().err


@pytest.mark.parametrize("config", [{"use_dora": True}, {"modules_to_save": ["lm_head"]}])
def test_adapter_that_vllm_cannot_apply_is_refused(
    write: CheckpointWriter, config: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = write.adapter(write.model("base"), {Q_PROJ: (16, 16)}, config=config)

    assert serve("--ckpt", str(adapter)) == 4

    printed = capsys.readouterr().err
    assert "[lora.coverage]" in printed
    assert "hint:" in printed


def test_architecture_that_vllm_lacks_is_named(
    write: CheckpointWriter, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = write.model("tuned")
    (directory / "config.json").write_text(
        '{"architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava_llama"}'
    )

    assert serve("--ckpt", str(directory)) == 4

    assert "LlavaLlamaForCausalLM" in capsys.readouterr().err


def test_stale_base_path_is_told_with_its_remedy(
    write: CheckpointWriter, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = write.adapter("/gone/base")

    assert serve("--ckpt", str(adapter)) == 4

    printed = capsys.readouterr().err
    assert "/gone/base" in printed
    assert "--path-map" in printed


@pytest.mark.parametrize("rule", ["/old", "=/new", "/old="])
def test_malformed_path_map_is_refused(rule: str, write: CheckpointWriter) -> None:
    assert serve("--ckpt", str(write.model("base")), "--path-map", rule) == 2


def test_unknown_training_variable_is_refused(
    write: CheckpointWriter, capsys: pytest.CaptureFixture[str]
) -> None:
    assert serve("--ckpt", str(write.model("base")), "--train-env", "MAX_PIXEL=1") == 2

    assert "unknown variable MAX_PIXEL" in capsys.readouterr().err


@pytest.mark.engine
@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (["--model", "x"], "--model cannot be given after --"),
        (["--served_model_name=x"], "--served-model-name cannot be given after --"),
        (["--no-such-flag"], "unrecognized arguments: --no-such-flag"),
        (["--max-num-seqs", "many"], "max-num-seqs"),
        (["stray"], "stray"),
        (["--api-ke", "k"], "--api-ke"),
        (["-asc", "2"], "-asc cannot be given after --"),
        (["--ssl-keyfile", "k"], "a proxy that ends TLS"),
        (["--enable-auto-tool-choice", "--tool-call-parser", "hermess"], "hermess"),
        (["--reasoning-parser", "nonsense"], "nonsense"),
        (["--chat-template", "/no/such.jinja"], "such.jinja"),
    ],
)
def test_flags_for_vllm_are_checked(extra: list[str], reason: str) -> None:
    from vlmserve.engine.environment import prepare_vllm
    from vlmserve.engine.vllm_args import parse_vllm_flags

    prepare_vllm({})
    with pytest.raises(ConfigError) as caught:
        parse_vllm_flags(["--model", "m", "--served-model-name", "m"], extra)

    assert reason in f"{caught.value.message} {caught.value.hint}"


@pytest.mark.engine
@pytest.mark.parametrize(
    "name",
    ["cpu-demo", "qwen2-vl-7b", "qwen2.5-vl-7b", "qwen3-vl-8b", "llava-1.5-7b", "llava-next-7b"],
)
def test_vllm_takes_the_shipped_configurations(
    name: str, root: Path, write: CheckpointWriter, tmp_path: Path
) -> None:
    from vlmserve.checkpoint.source import load_checkpoint
    from vlmserve.config.base import load_config
    from vlmserve.config.serve import ServeConfig
    from vlmserve.engine.environment import prepare_vllm
    from vlmserve.engine.plan import plan_serving
    from vlmserve.engine.vllm_args import parse_vllm_flags, vllm_flags

    prepare_vllm({})
    config = load_config(root / "configs" / f"{name}.yaml", ServeConfig)
    plan = plan_serving(load_checkpoint(write.model("base")), config, tmp_path)

    args = parse_vllm_flags(vllm_flags(plan, config))

    assert args.served_model_name == ["base"]
    assert args.max_model_len == config.engine.max_model_len
    assert args.limit_mm_per_prompt == config.engine.limit_mm_per_prompt.model_dump()


def test_allowed_finding_must_exist(
    write: CheckpointWriter, capsys: pytest.CaptureFixture[str]
) -> None:
    assert serve("--ckpt", str(write.model("base")), "--allow", "ckpt.tensor") == 2

    assert "--allow ckpt.tensor: no such finding" in capsys.readouterr().err
