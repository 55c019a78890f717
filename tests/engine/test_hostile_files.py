"""Damaged files of every format that the decoders know: an answer for each, and no crash."""

import json
import subprocess
import sys
from pathlib import Path

_N_FILES = 130
"""Of each of the 21 formats, 2,730 together."""


def test_damaged_files_are_loaded_or_refused(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.engine.hostile_files", str(_N_FILES), "5"],
        check=False,
        cwd=root,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr[-3000:]
    outcomes = json.loads(done.stdout.splitlines()[-1])
    assert len(outcomes) == 21
    for name, counts in outcomes.items():
        assert counts["same"] == 1, name
        assert counts["loaded"] + counts["refused"] == _N_FILES, name
        assert counts["refused"] >= _N_FILES // 5, name
