"""The workflow in the docs: its commands are ones that this version takes."""

import argparse
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from vlmserve.cli.evaluate import add_arguments


@pytest.fixture(scope="module")
def steps(root: Path) -> list[dict[str, Any]]:
    text = (root / "docs" / "github-actions.md").read_text(encoding="utf-8")
    (workflow,) = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    found: list[dict[str, Any]] = yaml.safe_load(workflow)["jobs"]["verdict"]["steps"]
    return found


def test_the_judging_step_is_a_command_of_this_version(steps: list[dict[str, Any]]) -> None:
    (judge,) = [step for step in steps if step.get("name") == "Judge"]
    program, verb, *arguments = shlex.split(judge["run"])
    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
    add_arguments(parser)
    parsed = parser.parse_args(arguments)

    assert (program, verb) == ("vlmserve", "eval")
    assert parsed.sequential
    assert str(parsed.markdown) == "report/report.md"


def test_its_verdict_fails_the_job_and_the_report_is_shown_all_the_same(
    steps: list[dict[str, Any]],
) -> None:
    assert not any("continue-on-error" in step for step in steps)
    after = steps[[step.get("name") for step in steps].index("Judge") + 1 :]

    assert len(after) == 2
    for step in after:
        assert "!cancelled()" in step["if"]
