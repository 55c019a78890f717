#!/usr/bin/env python3
"""Put OpenAI's JavaScript client beside the tests that drive it with Node, where it is missing.

Run by ``make test``; needs nothing but Python's standard library. Its version is pinned in
``tests/node/package-lock.json``; the registry is the one that npm is set up for.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from debian import install, say

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "node"
_CLIENT = "node_modules/openai"
_COMMAND = ("ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")


def main() -> int:
    """Install it unless the pinned version is there."""
    if not (shutil.which("node") and shutil.which("npm")):
        status = install("Node.js", "nodejs", "npm")
        if status != 0:
            return status
    if _installed() == _pinned():
        return 0
    say("installing OpenAI's JavaScript client")
    done = subprocess.run(
        ["npm", *_COMMAND], cwd=FOLDER, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        say(f"failed: npm {' '.join(_COMMAND)}\n{done.stdout}{done.stderr}")
    return done.returncode


def _pinned() -> str:
    lock = json.loads((FOLDER / "package-lock.json").read_text())
    return str(lock["packages"][_CLIENT]["version"])


def _installed() -> str | None:
    try:
        about = json.loads((FOLDER / _CLIENT / "package.json").read_text())
    except OSError:
        return None
    return str(about["version"])


if __name__ == "__main__":
    sys.exit(main())
