"""The built wheel: what it holds, and that it runs where the sources are not."""

import os
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def unpacked(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without the network and unpacked where nothing else lies."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder],
        cwd=root,
        check=True,
        capture_output=True,
    )
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(unpacked: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(unpacked)!r})\n"
         "import vlmserve.cli.main as main\n"
         f"assert main.__file__.startswith({str(unpacked)!r}), main.__file__\n"
         f"sys.exit(main.main({list(arguments)!r}))"],
        cwd=unpacked.parent,
        env={**os.environ, "PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_entry_points_are_those_that_vllm_loads(unpacked: Path) -> None:
    parser = ConfigParser()
    (file,) = unpacked.glob("vlmserve-*.dist-info/entry_points.txt")
    parser.read(file)

    assert parser["console_scripts"]["vlmserve"] == "vlmserve.cli.main:main"
    assert parser["vllm.platform_plugins"]["vlmserve"] == "vlmserve.platform:platform_plugin"
    assert parser["vllm.general_plugins"]["vlmserve"] == "vlmserve.engine.plugin:register"


def test_the_html_report_s_parts_are_in_it(unpacked: Path) -> None:
    folder = unpacked / "vlmserve" / "evals" / "report" / "html"

    assert {path.name for path in folder.iterdir()} == {
        "template.html", "report.css", "report.js", "watch.html", "watch.css"
    }  # fmt: skip


def test_the_playground_s_files_are_in_it(unpacked: Path) -> None:
    from vlmserve.server.page import _FILES

    folder = unpacked / "vlmserve" / "server" / "playground"

    assert {path.name for path in folder.iterdir()} == {name for name, _ in _FILES.values()}


def test_types_and_weights_are_in_it(unpacked: Path) -> None:
    weights = unpacked / "vlmserve" / "demo" / "weights"

    assert (unpacked / "vlmserve" / "py.typed").is_file()
    assert {path.parent.name for path in weights.glob("*/*.safetensors")} == {
        "base", "good", "good-lora", "forgetful", "wrong-template"
    }  # fmt: skip


def test_demo_checkpoints_are_built_and_checked_from_it(unpacked: Path, tmp_path: Path) -> None:
    run(unpacked, "demo", "build", "--out", str(tmp_path / "zoo"))

    printed = run(unpacked, "check", "--ckpt", str(tmp_path / "zoo" / "good-lora"))

    assert "LoRA adapter of rank 16" in printed
