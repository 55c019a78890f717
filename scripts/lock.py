#!/usr/bin/env python3
"""Write requirements/*.txt: exact versions of everything that each install needs.

Run by ``make lock``. No index and no folder of the machine that ran it is written down.
"""

import subprocess
import sys

from bootstrap import PYTHON, ROOT, UV, create_venv
from uv_settings import PYTORCH_CPU_INDEX, add_pytorch_index, uv_environment

_CPU_TORCH = "torch==2.13.0+cpu"

# A folder or index of CPU builds must not decide what a GPU machine installs.
_CPU_SOURCES = ("UV_FIND_LINKS", "UV_EXTRA_INDEX_URL")
_CPU_FILES = frozenset({"cpu", "dev"})

# File -> the extras and groups of pyproject.toml that it covers.
_FILES = {
    "cpu": ("--extra", "cpu", "--extra", "eval"),
    "gpu": ("--extra", "gpu", "--extra", "eval"),
    "eval": ("--extra", "eval"),
    "dev": ("--extra", "cpu", "--extra", "eval", "--extra", "demo", "--group", "dev"),
}


def main() -> int:
    """Resolve each file anew; versions that still fit are kept unless ``--upgrade`` is given."""
    create_venv()
    environment = uv_environment(PYTHON)
    if add_pytorch_index(UV, PYTHON, _CPU_TORCH, environment):
        print(f"-- {_CPU_TORCH} is on none of pip's indexes: adding {PYTORCH_CPU_INDEX}")
    for name, selection in _FILES.items():
        target = ROOT / "requirements" / f"{name}.txt"
        command = [
            str(UV), "pip", "compile", "--quiet", "pyproject.toml", *selection,
            "--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28",
            "--no-emit-index-url", "--no-emit-find-links", "--no-annotate",
            "--custom-compile-command", "make lock", "--output-file", str(target),
            *sys.argv[1:],
        ]  # fmt: skip
        sources = {
            variable: value
            for variable, value in environment.items()
            if name in _CPU_FILES or variable not in _CPU_SOURCES
        }
        finished = subprocess.run(command, cwd=ROOT, env=sources, check=False)
        if finished.returncode != 0:
            return finished.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
