"""``vlmserve check`` as a command."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vlmserve.checkpoint.families import find_family
from vlmserve.checkpoint.source import load_checkpoint
from vlmserve.cli.main import main
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.run import run_checks

# What a check of headers must not wait for, and what no check ever imports.
HEAVY = ("numpy", "tokenizers", "jinja2", "PIL", "pyarrow")
NEVER = ("torch", "transformers", "scipy", "vllm")


def test_sound(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--ckpt", str(write.model())]) == 0
    out = capsys.readouterr().out
    assert "A full Qwen2-VL" in out
    assert "train.no-signal: no base model" in out
    assert "nothing found that keeps it from being served" in out


def test_blocking(write: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    base = write.model("base")
    adapter = write.adapter(base, {"[red]wrong": (16, 16)})
    report = tmp_path / "report.json"
    assert main(["check", "--ckpt", str(adapter), "--json", str(report)]) == 4
    out = capsys.readouterr().out
    assert "block lora.match: 0 of 1 LoRA modules fit the base model" in out
    assert "[red]wrong" in out  # shown as it is, not taken for markup
    assert "1 blocking: 0 of 1 LoRA modules fit" in out
    content = json.loads(report.read_text())
    assert [finding["id"] for finding in content["findings"]] == ["lora.match"]


def test_warnings_count_when_strict(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["check", "--ckpt", str(write.model("copy")), "--base-model", str(write.model())]
    assert main(arguments) == 0
    assert "1 warning: this checkpoint answers exactly as its base" in capsys.readouterr().out
    assert main([*arguments, "--strict"]) == 4


def test_markdown_to_standard_output(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--ckpt", str(write.model()), "--markdown", "-"]) == 0
    assert capsys.readouterr().out.startswith("## vlmserve check: nothing found")


def test_one_report_to_standard_output(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--ckpt", str(write.model()), "--markdown", "-", "--json", "-"]) == 2
    assert "only one of them" in capsys.readouterr().err


def test_serve_config_is_read(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["check", "--ckpt", str(write.model()), "--set", "engine.dtype=float7"]
    assert main(arguments) == 2
    assert "engine.dtype" in capsys.readouterr().err


def test_max_length_must_be_positive(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--ckpt", str(write.model()), "--max-length", "0"]) == 2
    assert "--max-length 0: a positive number" in capsys.readouterr().err


def test_json_to_standard_output(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--ckpt", str(write.model()), "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["schema_version"] == 1


def test_path_map(write: Any, tmp_path: Path) -> None:
    write.model("base")
    adapter = write.adapter("/data/base")
    arguments = ["check", "--ckpt", str(adapter)]
    assert main([*arguments, "--path-map", f"/data={tmp_path}"]) == 0
    assert main(arguments) == 4
    assert main([*arguments, "--path-map", "/data"]) == 2


def test_errors(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--ckpt", "/no/where"]) == 4
    assert "error: /no/where: no such directory" in capsys.readouterr().err
    assert main(["check", "--ckpt", str(write.model()), "--json", "/no/where/x.json"]) == 2
    assert main(["check", "--ckpt", "a" * 5000]) == 4
    assert "name too long" in capsys.readouterr().err.replace("\n", "")
    other = ["check", "--ckpt", str(write.model("other"))]
    assert main([*other, "--data", "x.jsonl", "--media-root", "/no/where"]) == 2
    assert "--media-root /no/where: no such directory" in capsys.readouterr().err


@pytest.mark.parametrize("option", [("--max-length", "2048"), ("--media-root", ".")])
def test_options_of_the_data_need_data(
    write: Any, capsys: pytest.CaptureFixture[str], option: tuple[str, str]
) -> None:
    assert main(["check", "--ckpt", str(write.model()), *option]) == 2
    assert f"error: {option[0]}: " in capsys.readouterr().err


def test_a_report_that_cannot_be_written_is_told_before_the_check(
    write: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(exam: object) -> None:
        raise AssertionError

    monkeypatch.setattr("vlmserve.cli.check.run_checks", never)
    model = str(write.model())
    for option in ("--json", "--markdown"):
        for target in (str(tmp_path), str(tmp_path / "no" / "report")):
            assert main(["check", "--ckpt", model, option, target]) == 2
            assert f"error: {option} {target}" in capsys.readouterr().err.replace("\n", "")


def test_a_directory_without_permission(
    write: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = str(write.model())
    # Tests may run as root, who may read everything.
    monkeypatch.setattr("os.access", lambda path, mode: str(path) != model)
    assert main(["check", "--ckpt", model]) == 4
    assert f"error: {model}: permission denied" in capsys.readouterr().err.replace("\n", "")


def test_what_looks_like_an_emoji_is_text(
    write: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    data = tmp_path / "train.jsonl"
    good = '{"messages": [{"role": "user", "content": "a"}]}\n'
    data.write_text(99 * good + "{\n")
    assert main(["check", "--ckpt", str(write.model()), "--data", str(data)]) == 2
    assert "train.jsonl:100: not JSON" in capsys.readouterr().err.replace("\n", "")


@pytest.mark.parametrize("report", [[], ["--json", "-"], ["--markdown", "-"]])
def test_a_terminal_without_unicode(write: Any, report: list[str]) -> None:
    command = [sys.executable, "-m", "vlmserve", "check", "--ckpt", str(write.model("ünï 模型"))]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*command, *report], env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\\u6a21" in done.stdout
    if "--json" in report:
        assert json.loads(done.stdout)["checkpoint"].endswith("ünï 模型")


def test_a_full_disk(write: Any) -> None:
    command = [sys.executable, "-m", "vlmserve", "check", "--ckpt", str(write.model())]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 2
    assert done.stderr.decode().strip() == "error: standard output: No space left on device"


@pytest.mark.parametrize(
    ("arguments", "banned"),
    [
        (["check", "--help"], HEAVY + NEVER),
        (["check", "--ckpt", "CKPT", "--fast"], HEAVY + NEVER),
        (["check", "--ckpt", "CKPT"], NEVER),
    ],
)
def test_nothing_heavy_is_imported(
    write: Any, arguments: list[str], banned: tuple[str, ...]
) -> None:
    adapter = write.adapter(write.model())
    arguments = [argument.replace("CKPT", str(adapter)) for argument in arguments]
    program = (
        "import sys\n"
        "from vlmserve.cli.main import main\n"
        "try:\n"
        f"    status = main({arguments!r})\n"
        "except SystemExit as stop:\n"
        "    status = stop.code\n"
        f"heavy = [name for name in {banned!r} if name in sys.modules]\n"
        "sys.exit(f'imported: {heavy}' if heavy else status)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")


def write_sparse(directory: Path, config: dict[str, Any], shards: int) -> int:
    """A model of real size in sparse files: whole headers, and no data on the disk."""
    family = find_family(config)
    assert family is not None
    expected = family.expected_tensors(config)
    assert expected is not None
    (directory / "config.json").write_text(json.dumps(config))
    names, weight_map, total = list(expected), {}, 0
    for index in range(shards):
        header: dict[str, Any] = {}
        offset = 0
        for name in names[index::shards]:
            size = 2
            for length in expected[name].shape:
                size *= length
            header[name] = {
                "dtype": "BF16",
                "shape": expected[name].shape,
                "data_offsets": [offset, offset + size],
            }
            offset += size
        file = f"model-{index:05}.safetensors"
        weight_map.update(dict.fromkeys(header, file))
        text = json.dumps(header).encode()
        with (directory / file).open("wb") as stream:
            stream.write(struct.pack("<Q", len(text)) + text)
            stream.truncate(8 + len(text) + offset)
        total += offset
    index_path = directory / "model.safetensors.index.json"
    index_path.write_text(json.dumps({"weight_map": weight_map}))
    return total


def test_only_headers_of_a_7b_model_are_read(tmp_path: Path) -> None:
    config = {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_attention_heads": 28,
        "num_hidden_layers": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "vision_config": {"hidden_size": 1280, "intermediate_size": 3420},
    }
    assert write_sparse(tmp_path, config, 5) > 16e9
    before = bytes_read()
    report = run_checks(Examination(load_checkpoint(tmp_path), fast=True))
    assert [finding.id for finding in report.findings] == ["proc.present"]
    # Headers, read anew by a few checks, of 16 GB of weights.
    assert bytes_read() - before < 5e6


def bytes_read() -> int:
    """What this process has read from files so far."""
    counters = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counters["rchar"])
