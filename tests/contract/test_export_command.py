"""``vlmserve export`` of a run between two endpoints."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from vlmserve.cli.main import main

Run = Callable[..., int]


@pytest.fixture
def exported(evaluate: Run, two_models: Any, tmp_path: Path) -> Callable[..., Path]:
    """Judges once; then writes the run, or what is named."""
    two_models.wrong = 3
    evaluate("--run-id", "night", "--limit", "12")

    def write(kind: str, run: str = "night") -> Path:
        path = tmp_path / "out" / f"samples.{kind}"
        assert main(["export", run, "--format", kind, "--out", str(path)]) == 0
        return path

    return write


def test_json_lines_hold_every_sample_of_both_sides(exported: Callable[..., Path]) -> None:
    rows = [json.loads(line) for line in exported("jsonl").read_text().splitlines()]

    assert [(row["side"], row["position"]) for row in rows] == [
        (side, place) for side in ("baseline", "candidate") for place in range(12)
    ]
    wrong, right = rows[12], rows[-1]
    assert (wrong["status"], wrong["score"], wrong["answer"]) == ("scored", 0.0, "wrong")
    assert (right["score"], right["completion"], right["target"]) == (1.0, "right", "right")
    assert (right["finish_reason"], right["prompt_tokens"]) == ("stop", 11)
    assert right["completion_tokens"] == 2
    assert right["latency_s"] > 0
    assert right["turns"] == [{"role": "user", "parts": ["Sum 11"]}]
    assert right["sampling"]["max_tokens"] == 4


def test_one_side_can_be_asked_for(exported: Callable[..., Path]) -> None:
    rows = [
        json.loads(line) for line in exported("jsonl", "night:candidate").read_text().splitlines()
    ]

    assert {row["side"] for row in rows} == {"candidate"}


def test_the_run_as_a_whole_lies_beside_it(exported: Callable[..., Path]) -> None:
    path = exported("jsonl")
    baseline, candidate = json.loads((path.parent / "samples.jsonl.run.json").read_text())

    assert (baseline["side"], candidate["side"]) == ("baseline", "candidate")
    assert candidate["suite"]["config"]["gate"]["margin"] == 0.2
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "samples.jsonl",
        "samples.jsonl.run.json",
    ]


def test_all_formats_say_the_same(exported: Callable[..., Path]) -> None:
    lines = [json.loads(line) for line in exported("jsonl").read_text().splitlines()]
    table = pq.read_table(exported("parquet")).to_pylist()
    with exported("csv").open(newline="") as file:
        texts = list(csv.DictReader(file))

    assert [row["score"] for row in table] == [row["score"] for row in lines]
    assert [float(row["score"]) for row in texts] == [row["score"] for row in lines]
    for line, row, text in zip(lines, table, texts, strict=True):
        assert json.loads(row["turns"]) == json.loads(text["turns"]) == line["turns"]
        assert row["sample_id"] == text["sample_id"] == line["sample_id"]
        assert row["error"] is None
        assert text["error"] == ""


def test_a_failed_sample_has_a_reason_and_no_score(
    evaluate: Run, two_models: Any, tmp_path: Path
) -> None:
    two_models.reply = lambda _: (400, {"error": {"message": "no", "type": "x", "code": "y"}})
    evaluate("--run-id", "night", "--limit", "2")
    path = tmp_path / "samples.parquet"
    main(["export", "night", "--format", "parquet", "--out", str(path)])

    for row in pq.read_table(path).to_pylist():
        assert (row["status"], row["score"], row["completion"]) == ("failed", None, None)
        assert "no" in row["error"]


def test_what_cannot_be_written_or_found_is_said(
    exported: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    to_file = ["--format", "csv", "--out", str(tmp_path / "file" / "x.csv")]
    assert main(["export", "night", *to_file]) == 2
    assert "--out" in capsys.readouterr().err
    assert main(["export", "day", *to_file]) == 2
    err = capsys.readouterr().err
    assert "no run day" in err
    assert "night" in err
