"""``vlmserve compare``: kept runs judged again, without an endpoint or an engine."""

import json
import os
import re
import subprocess
import sys
import textwrap
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from vlmserve.cli.main import main

Run = Callable[..., int]


@pytest.fixture
def judged(evaluate: Run, two_models: Any) -> Callable[..., int]:
    """Judges ``new`` with so many wrong answers and keeps the run under a name."""

    def judge(name: str, wrong: int, *more: str) -> int:
        two_models.wrong = wrong
        return evaluate("--run-id", name, *more)

    return judge


@pytest.fixture
def compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Compares; gives the exit status and the report."""

    def compare(baseline: str, candidate: str, *more: str) -> tuple[int, Any]:
        path = tmp_path / "compared.json"
        path.unlink(missing_ok=True)
        status = main(["compare", baseline, candidate, "--json", str(path), *more])
        return status, json.loads(path.read_text()) if path.exists() else None

    return compare


@pytest.mark.parametrize(("wrong", "status"), [(0, 0), (12, 1), (2, 3)])
def test_the_sides_of_a_run_give_its_own_verdict_again(
    judged: Run,
    compared: Callable[..., Any],
    two_models: Any,
    tmp_path: Path,
    wrong: int,
    status: int,
) -> None:
    path = tmp_path / "first.json"
    assert judged("night", wrong, "--aa", "--json", str(path)) == status
    n_sent = len(two_models.bodies)
    first = json.loads(path.read_text())

    again_status, again = compared("night:baseline", "night")
    assert again_status == status
    assert (again["verdict"], again["tasks"], again["slices"]) == (
        first["verdict"],
        first["tasks"],
        first["slices"],
    )
    assert set(first["notes"]) <= set(again["notes"])
    assert len(two_models.bodies) == n_sent


def test_a_sequential_run_is_judged_by_its_own_test_again(
    judged: Run, compared: Callable[..., Any], tmp_path: Path
) -> None:
    path = tmp_path / "first.json"
    judged("night", 20, "--sequential", "--json", str(path))
    first = json.loads(path.read_text())
    assert first["tasks"][0]["method"] == "betting"

    _, again = compared("night:baseline", "night")
    assert (again["verdict"], again["tasks"]) == (first["verdict"], first["tasks"])


def test_candidates_of_two_runs_are_compared(judged: Run, compared: Callable[..., Any]) -> None:
    judged("good", 0)
    judged("bad", 12)

    status, report = compared("good", "bad")
    assert (status, report["verdict"]) == (1, "regression")
    assert report["tasks"][0]["difference"] == -0.6
    assert any("20 samples were joined on the content" in note for note in report["notes"])
    assert compared("bad", "good")[0] == 0


def test_margins_are_those_of_the_run_unless_others_are_given(
    judged: Run, compared: Callable[..., Any], tmp_path: Path
) -> None:
    judged("good", 0)
    judged("worse", 2)
    assert compared("good", "worse")[0] == 3
    status, report = compared("good", "worse", "--margin", "0.5")
    assert (status, report["tasks"][0]["margin"]) == (0, 0.5)
    assert compared("good", "worse", "--margin", "sums=0.5")[0] == 0

    path = tmp_path / "other.yaml"
    task = {"task": "sums", "metric": "exact_match", "margin": 0.4}
    path.write_text(yaml.safe_dump({"name": "other", "tasks": [task]}))
    status, report = compared("good", "worse", "--suite", str(path))
    assert (status, report["tasks"][0]["margin"], report["suite"]["name"]) == (0, 0.4, "other")


@pytest.mark.parametrize(
    ("margin", "message"),
    [
        ("2 points", "expected a number above 0"),
        ("0", "expected a number above 0"),
        ("summs=0.1", "no such task"),
        ("3", "is no margin for exact_match"),
    ],
)
def test_a_wrong_margin_is_said(
    judged: Run, capsys: pytest.CaptureFixture[str], margin: str, message: str
) -> None:
    judged("night", 0)
    assert main(["compare", "night:baseline", "night", "--margin", margin]) == 2
    assert message in capsys.readouterr().err


def _change_suite(suite: Path, **changes: Any) -> None:
    suite.write_text(yaml.safe_dump({**yaml.safe_load(suite.read_text()), **changes}))


def test_other_sampling_is_refused_by_name_unless_it_is_declared(
    judged: Run,
    compared: Callable[..., Any],
    suite: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    judged("greedy", 0)
    _change_suite(suite, sampling={"temperature": 0.7})
    judged("warm", 0)
    capsys.readouterr()

    assert compared("greedy", "warm") == (2, None)
    err = capsys.readouterr().err
    assert "sums: sampling.temperature: 0.0 | 0.7" in err
    assert "--allow-difference sampling" in err
    status, report = compared("greedy", "warm", "--allow-difference", "sampling.temperature")
    assert status == 0
    assert "declared difference: sums: sampling.temperature: 0.0 | 0.7" in report["notes"]
    assert compared("greedy", "warm", "--allow-difference", "target") == (2, None)
    assert "no such field" in capsys.readouterr().err


def test_an_anchor_is_judged_as_well(judged: Run, compared: Callable[..., Any]) -> None:
    judged("best", 0)
    judged("good", 5)
    judged("better", 6)

    assert compared("good", "better")[1]["tasks"][0]["anchor"] is None
    status, report = compared("good", "better", "--anchor", "best")
    (task,) = report["tasks"]
    assert (status, task["anchor"]["difference"]) == (1, pytest.approx(-0.3))
    assert task["anchor"]["decides"]


def test_a_run_with_an_anchor_gives_its_own_verdict_again(
    judged: Run, compared: Callable[..., Any], tmp_path: Path
) -> None:
    judged("best", 0)
    path = tmp_path / "first.json"
    status = judged("better", 6, "--anchor", "best", "--json", str(path))
    first = json.loads(path.read_text())

    again_status, again = compared("better:baseline", "better")
    assert (again_status, again["tasks"]) == (status, first["tasks"])


def test_a_run_that_was_asked_in_another_way_is_refused(
    judged: Run,
    compared: Callable[..., Any],
    suite: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    judged("plain", 0)
    _change_suite(suite, sides={"candidate": {"system": "Think."}})
    judged("prompted", 0)
    capsys.readouterr()

    assert compared("plain", "prompted") == (2, None)
    err = re.sub(r"\s+", " ", capsys.readouterr().err)
    assert "settings.asking.system: null | Think." in err
    assert "--allow-difference settings" in err
    status, report = compared("plain", "prompted", "--allow-difference", "settings.asking")
    assert status == 0
    assert any("declared difference: settings.asking" in note for note in report["notes"])
    # The sides of one run were asked as its suite says.
    assert compared("prompted:baseline", "prompted")[0] == 0


def test_another_scorer_is_refused(
    judged: Run, compared: Callable[..., Any], suite: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judged("strict", 0)
    file = suite.parent / "sums.yaml"
    task = yaml.safe_load(file.read_text())
    task["metric_list"][0]["ignore_case"] = True
    file.write_text(yaml.safe_dump(task))
    judged("loose", 0)
    capsys.readouterr()

    assert compared("strict", "loose") == (2, None)
    assert "sums: scorer.metric_list" in capsys.readouterr().err
    assert compared("strict", "loose", "--allow-difference", "scorer")[0] == 0


def test_samples_of_one_run_alone_are_counted_and_refused(
    judged: Run, compared: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    judged("all", 0)
    judged("some", 0, "--limit", "15")
    capsys.readouterr()

    assert compared("all", "some") == (2, None)
    assert "sums: 5 samples only in the baseline, 0 only in the candidate, 15 in both" in (
        re.sub(r"\s+", " ", capsys.readouterr().err)
    )
    status, report = compared("all", "some", "--allow-partial")
    assert (status, report["tasks"][0]["n_pairs"]) in {(0, 15), (3, 15)}
    assert any("5 samples only in the baseline" in note for note in report["notes"])


def test_rows_in_another_order_are_the_same_samples(
    judged: Run, compared: Callable[..., Any], suite: Path
) -> None:
    judged("forwards", 12)
    data = suite.parent / "sums.jsonl"
    data.write_text("\n".join(reversed(data.read_text().splitlines())))
    judged("backwards", 12)

    status, report = compared("forwards", "backwards")
    assert status == 0
    assert report["tasks"][0]["difference"] == 0.0
    assert not report["tasks"][0]["flips"]["regressed"]


def test_a_changed_target_is_another_sample(
    judged: Run, compared: Callable[..., Any], suite: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judged("before", 0)
    data = suite.parent / "sums.jsonl"
    data.write_text(
        data.read_text().replace('"Sum 3", "target": "right"', '"Sum 3", "target": "x"')
    )
    judged("after", 0)
    capsys.readouterr()

    assert compared("before", "after") == (2, None)
    assert "1 samples only in the baseline, 1 only in the candidate, 19 in both" in (
        re.sub(r"\s+", " ", capsys.readouterr().err)
    )


def test_every_report_can_be_written(
    judged: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judged("good", 0)
    judged("bad", 12)
    files = {kind: tmp_path / f"report.{kind}" for kind in ("json", "markdown", "junit", "html")}
    options = [word for kind, path in files.items() for word in (f"--{kind}", str(path))]
    capsys.readouterr()

    assert main(["compare", "good", "bad", *options]) == 1
    assert "verdict: regression" in capsys.readouterr().out
    assert "regression" in files["markdown"].read_text()
    assert ET.parse(files["junit"]).find(".//failure") is not None
    assert "bad against good" in files["html"].read_text()


def test_an_undecided_comparison_may_pass(judged: Run) -> None:
    judged("good", 0)
    judged("worse", 2)
    assert main(["compare", "good", "worse", "--on-inconclusive", "warn"]) == 0


def test_a_key_that_own_runs_do_not_have_is_said(
    judged: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    judged("night", 0)
    assert main(["compare", "night:baseline", "night", "--key", "doc_id"]) == 2
    assert "has no such key" in capsys.readouterr().err


# Fails at the first import of what a machine without GPU, vLLM and torch lacks.
BLOCKED = """
    import sys

    ABSENT = "torch vllm transformers lm_eval datasets openai pyarrow pandas".split()

    class Blocker:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in ABSENT:
                raise ImportError(f"{name} is blocked")
            return None

    sys.meta_path.insert(0, Blocker())
    from vlmserve.cli.main import main

    sys.exit(main(sys.argv[1:]))
"""


def test_it_takes_neither_vllm_nor_torch_nor_lm_eval(judged: Run, tmp_path: Path) -> None:
    judged("good", 0)
    judged("bad", 12)
    files = ["--html", str(tmp_path / "r.html"), "--junit", str(tmp_path / "r.xml")]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(BLOCKED), "compare", "good", "bad", *files],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "XDG_DATA_HOME": str(tmp_path / "data")},
    )
    assert done.returncode == 1, done.stderr
    assert "verdict: regression" in done.stdout
    assert done.stderr == ""
