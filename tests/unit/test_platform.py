"""The cure for CUDA-linked packages beside CPU torch, in fresh interpreters with fake packages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vlmserve.platform import platform_plugin

CURE = "from vlmserve.platform import cure_torch_extensions as cure; cure(); cure()\n"


def run(script: str, path: Path | None = None) -> str:
    environment = dict(os.environ)
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def package(root: Path, name: str, code: str) -> None:
    (root / name).mkdir(parents=True)
    (root / name / "__init__.py").write_text(code)


def test_torch_less_install_is_left_alone(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "class Hide:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'torch': raise ModuleNotFoundError(name)\n"
        "import importlib.util\n"
        "found = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name: None if name == 'torch' else found(name)\n"
        f"{CURE}"
        "print('torch' in sys.modules)"
    )

    assert run(script) == "False"


@pytest.mark.engine
def test_transformers_vision_imports_after_the_cure() -> None:
    script = (
        f"{CURE}"
        "import torchvision\n"
        "from transformers import Qwen2VLProcessor\n"
        "print(Qwen2VLProcessor.__name__)"
    )

    assert run(script) == "Qwen2VLProcessor"


@pytest.mark.engine
@pytest.mark.parametrize("name", ["torchaudio", "torchcodec"])
@pytest.mark.parametrize("error", ["OSError('no libcudart')", "RuntimeError('FFmpeg')"])
def test_package_that_does_not_load_looks_absent(tmp_path: Path, name: str, error: str) -> None:
    package(tmp_path, name, f"import {name}.part\nraise {error}")
    (tmp_path / name / "part.py").write_text("")
    script = (
        f"{CURE}"
        "import importlib.util, sys\n"
        f"print(importlib.util.find_spec('{name}'), '{name}.part' in sys.modules)"
    )

    assert run(script, tmp_path) == "None False"


@pytest.mark.engine
@pytest.mark.parametrize("name", ["torchaudio", "torchcodec"])
def test_package_that_loads_is_left_alone(tmp_path: Path, name: str) -> None:
    package(tmp_path, name, "sound = 1")

    assert run(f"{CURE}import {name}\nprint({name}.sound)", tmp_path) == "1"


@pytest.mark.engine
def test_operators_of_a_torchvision_that_loads_are_its_own(tmp_path: Path) -> None:
    # A library that loads: any shared object stands in for a real build's.
    import torch

    package(tmp_path, "torchvision", "")
    library = next((Path(torch.__file__).parent / "lib").glob("libshm.so"))
    (tmp_path / "torchvision" / "_C.so").symlink_to(library)
    script = f"{CURE}import torch\nprint(hasattr(torch.ops.torchvision, 'nms'))"

    assert run(script, tmp_path) == "False"


@pytest.mark.engine
def test_plugin_claims_no_platform() -> None:
    assert platform_plugin() is None  # type: ignore[func-returns-value]
