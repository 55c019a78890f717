#!/usr/bin/env python3
"""Set up .venv: uv, the pinned dependencies of one requirements file, vlmserve, warm caches.

Run by the Makefile with any Python 3.11 or later; needs nothing but its standard library. A second
run with the same requirements ends at once.
"""

import ctypes.util
import hashlib
import importlib.util
import subprocess
import sys
import venv
from pathlib import Path

from uv_settings import PYTORCH_CPU_INDEX, add_pytorch_index, uv_environment

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
UV = VENV / "bin" / "uv"

_OLDEST_PYTHON = (3, 11)
# The demo's; vLLM inspects each model class once and keeps the result in the user's cache.
_WARMED_ARCHITECTURE = "Qwen2VLForConditionalGeneration"
# What vLLM's compiled CPU kernels link against, and Debian's package of it.
_LIBRARIES = {"numa": "libnuma1"}


def main() -> int:
    """Install what ``requirements/NAME.txt`` pins."""
    if sys.version_info < _OLDEST_PYTHON:
        _say(f"vlmserve needs Python 3.11 or later; this is {sys.version.split()[0]}")
        return 2
    name = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    requirements = ROOT / "requirements" / f"{name}.txt"
    stamp = VENV / f".installed-{name}"
    digest = hashlib.sha256(
        requirements.read_bytes() + (ROOT / "pyproject.toml").read_bytes()
    ).hexdigest()
    if stamp.is_file() and stamp.read_text() == digest:
        return 0
    create_venv()
    environment = uv_environment(PYTHON)
    torch = _pinned_cpu_torch(requirements)
    if torch is not None and add_pytorch_index(UV, PYTHON, torch, environment):
        _say(f"{torch} is on none of pip's indexes: adding {PYTORCH_CPU_INDEX}")
    _say(f"installing requirements/{name}.txt")
    install = (UV, "pip", "install", "--quiet", "--python", PYTHON, "--compile-bytecode")
    _run(*install, "-r", requirements, env=environment)
    _run(*install, "--no-deps", "--editable", ROOT, env=environment)
    if torch is not None:
        _require_libraries()
        _say("letting vLLM inspect the demo's model class")
        _run(PYTHON, "-m", "vlmserve.engine.model_cache", _WARMED_ARCHITECTURE)
    stamp.write_text(digest)
    return 0


def create_venv() -> None:
    """Make .venv with pip and uv in it, where there is none."""
    if not (VENV / "bin" / "pip").exists():
        if importlib.util.find_spec("ensurepip") is None:
            _say("this Python cannot make environments; on Debian: apt install python3-venv")
            sys.exit(2)
        _say("creating .venv")
        venv.create(VENV, with_pip=True, clear=True)
    if not UV.exists():
        _run(PYTHON, "-m", "pip", "install", "--quiet", "uv")


def _require_libraries() -> None:
    missing = [name for name in _LIBRARIES if ctypes.util.find_library(name) is None]
    if missing:
        packages = " ".join(_LIBRARIES[name] for name in missing)
        _say(f"vLLM's CPU build needs system libraries; on Debian: apt install {packages}")
        sys.exit(2)


def _pinned_cpu_torch(requirements: Path) -> str | None:
    """The requirement for a CPU build of torch, such as ``torch==2.13.0+cpu``."""
    for line in requirements.read_text().splitlines():
        pin = line.split(";")[0].split()[:1]
        if pin and pin[0].startswith("torch==") and pin[0].endswith("+cpu"):
            return pin[0]
    return None


def _say(text: str) -> None:
    print(f"-- {text}", flush=True)


def _run(*command: object, env: dict[str, str] | None = None) -> None:
    words = [str(word) for word in command]
    finished = subprocess.run(words, env=env, check=False)
    if finished.returncode != 0:
        _say(f"failed with status {finished.returncode}: {' '.join(words)}")
        sys.exit(finished.returncode)


if __name__ == "__main__":
    sys.exit(main())
