import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.conftest import CheckpointWriter
from vlmserve.cli import serve
from vlmserve.cli.main import main
from vlmserve.errors import CheckpointError, EngineError

HEAVY = ("torch", "transformers", "vllm", "lm_eval", "fastapi", "numpy", "scipy", "datasets")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        *([verb, "--help"] for verb in ("check", "serve", "eval", "suite", "demo")),
    ],
    ids=" ".join,
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    script = (
        "import sys\n"
        "from vlmserve.cli.main import main\n"
        f"try: main({arguments!r})\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip().endswith("HEAVY []")


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])

    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("vlmserve 0.")


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["serve"], ["serve", "--ckp", "x"]])
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)

    assert end.value.code == 2


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (CheckpointError("a shard is missing", hint="copy it again"), 4),
        (EngineError("it died"), 5),
        (KeyboardInterrupt(), 130),
        (ZeroDivisionError("ours"), 70),
        (BrokenPipeError(), 0),
    ],
)
def test_errors_become_exit_statuses(
    error: BaseException,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def fail(_: object) -> int:
        raise error

    monkeypatch.setattr(serve, "run", fail)
    monkeypatch.setattr("os.dup2", lambda *_: None)

    assert main(["serve", "--ckpt", "x"]) == status

    printed = capfd.readouterr().err
    assert ("Traceback" in printed) == (status == 70)
    if isinstance(error, CheckpointError):
        assert "error: a shard is missing" in printed
        assert "hint: copy it again" in printed


def test_print_config_shows_what_would_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("engine:\n  dtype: float16\nserver:\n  port: 1\n")
    arguments = ["serve", "--ckpt", "x", "--config", str(file), "--set", "engine.dtype=float32"]

    assert main([*arguments, "--port", "9001", "--print-config"]) == 0

    printed = capsys.readouterr().out
    assert "dtype: float32" in printed
    assert "port: 9001" in printed


def test_wrong_key_names_file_and_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("engine:\n  dtyp: float16\n")

    assert main(["serve", "--ckpt", "x", "--config", str(file), "--print-config"]) == 2

    assert f"{file}:2: engine.dtyp: unknown key" in capsys.readouterr().err


@pytest.mark.parametrize("extra", [[], ["--json", "-"]])
def test_reader_that_leaves_does_not_change_the_status(
    write: CheckpointWriter, extra: list[str]
) -> None:
    directory = write.model("tuned", edit=lambda tensors: tensors.pop("visual.merger.mlp.0.weight"))
    command = [sys.executable, "-m", "vlmserve", "check", "--ckpt", str(directory), *extra]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()

        assert process.wait(60) == 4
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()


def test_sigterm_ends_a_command_as_ctrl_c_does(tmp_path: Path) -> None:
    script = (
        "import os, signal, time\n"
        "from vlmserve.cli import serve\n"
        "from vlmserve.cli.main import main\n"
        "def hang(_):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(30)\n"
        "serve.run = hang\n"
        "raise SystemExit(main(['serve', '--ckpt', 'x']))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)

    assert done.returncode == 130
    assert b"Traceback" not in done.stderr
