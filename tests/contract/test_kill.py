"""SIGKILL at any moment: the next call resumes and pays for nothing twice."""

import json
import subprocess
import sys
from pathlib import Path

import yaml

PROGRAM = Path(__file__).with_name("killed_runs.py")
N_SAMPLES = 150


def test_twenty_killed_runs_end_as_one_that_was_not(tmp_path: Path) -> None:
    rows = [{"question": f"Sum {number}", "target": "right"} for number in range(N_SAMPLES)]
    (tmp_path / "sums.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    task = {
        "task": "sums",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": "sums.jsonl"},
        "test_split": "train",
        "output_type": "generate_until",
        "doc_to_text": "question",
        "doc_to_target": "target",
        "generation_kwargs": {"until": [], "max_gen_toks": 4, "do_sample": False},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    (tmp_path / "sums.yaml").write_text(yaml.safe_dump(task))
    (tmp_path / "suite.yaml").write_text(
        "name: small\ntask_files: [sums.yaml]\ngate: {margin: 0.1}\n"
        "tasks: [{task: sums, metric: exact_match}]\n"
    )
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={"HF_DATASETS_CACHE": str(tmp_path / "cache"), "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr
    *killed, undisturbed = [json.loads(line) for line in done.stdout.splitlines()]
    whole = undisturbed["report"]

    assert len(killed) == 20
    assert whole["verdict"] == "regression"
    assert whole["n_requests_sent"] == 2 * N_SAMPLES
    # Most were hit in the middle; one that had just ended proves as much.
    assert sum(row["was_killed"] and 0 < row["n_stored"] < 2 * N_SAMPLES for row in killed) >= 10
    for row in killed:
        report = row["report"]
        assert row["resumed_status"] == 0
        assert report["n_reused"] == row["n_stored"]
        assert report["n_requests_sent"] == 2 * N_SAMPLES - row["n_stored"]
        assert (report["verdict"], report["tasks"]) == (whole["verdict"], whole["tasks"])
        assert report["slices"] == whole["slices"]
        assert row["kept"] == undisturbed["kept"]
