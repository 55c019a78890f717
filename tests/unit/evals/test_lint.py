"""Suites looked over before anything is asked."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlmserve.checkpoint.source import load_checkpoint
from vlmserve.cli.main import main
from vlmserve.config.engine import EngineConfig
from vlmserve.config.serve import ServeConfig
from vlmserve.config.suite import SuiteConfig, load_suite
from vlmserve.datasets.read import load_dataset
from vlmserve.doctor.examination import Examination
from vlmserve.evals.eval_task import load_tasks
from vlmserve.evals.lint import lint_suite
from vlmserve.evals.lint_report import LintReport
from vlmserve.evals.power import detectable_at, samples_needed
from vlmserve.evals.slices import find_slices
from vlmserve.evals.statistics import detectable_difference


def texts(report: LintReport, level: str) -> list[str]:
    return [f"{remark.task}: {remark.text}" for remark in report.remarks if remark.level == level]


def write_rows(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


@pytest.fixture
def receipts(tmp_path: Path, suites: Any) -> Path:
    """A suite of 40 pictures, one row twice, of two kinds."""
    folder = tmp_path / "images"
    folder.mkdir()
    rows = []
    for index in range(40):
        (folder / f"{index}.png").write_bytes(suites.png("red", size=20 + index))
        messages = [
            {"role": "user", "content": f"<image>What is the total of receipt {index}?"},
            {"role": "assistant", "content": f"{index} EUR"},
        ]
        kind = "scan" if index % 4 else "photo"
        rows.append({"messages": messages, "images": [f"images/{index}.png"], "kind": kind})
    write_rows(tmp_path / "held.jsonl", [*rows, rows[0]])
    entry = {"data": "held.jsonl", "name": "receipts", "scorer": "anls", "margin": 0.02}
    return suites.suite(entry, include_path=None)  # type: ignore[no-any-return]


def test_a_suite_is_counted_and_its_power_is_told(receipts: Path) -> None:
    report = lint_suite(load_suite(receipts))
    (task,) = report.tasks

    assert (task.n_samples, task.n_duplicates, task.n_clusters) == (41, 1, 40)
    assert task.media == {"image/png": 41}
    assert task.longest_side_px is not None
    assert (task.longest_side_px.smallest, task.longest_side_px.largest) == (20, 59)
    assert task.media_per_sample.largest == 1
    assert task.target_chars.smallest == len("0 EUR")
    assert task.fields == {"kind": {"photo": 11, "scan": 30}}
    assert [power.discordance for power in task.power] == [0.05, 0.1, 0.2]
    assert task.power[1].n_needed == samples_needed(0.02, 0.1, alpha=0.05)
    duplicates, margin = texts(report, "warning")
    assert duplicates == "receipts: 1 of 41 samples repeats another one"
    assert margin.startswith(
        "receipts: margin 0.02 cannot be reached with 41 samples: at 10 % discordance 1,970 are "
    )
    assert not report.count("error")


@pytest.mark.parametrize("n", [50, 400, 3000])
@pytest.mark.parametrize("discordance", [0.1, 0.2])
def test_power_before_a_run_is_that_of_the_statistics_after_it(n: int, discordance: float) -> None:
    # Half of the answers that differ got better, half worse.
    half = round(n * discordance / 2)
    before, after = np.zeros(n), np.zeros(n)
    before[:half], after[half : 2 * half] = 1.0, 1.0

    seen = detectable_difference(before, after, np.arange(n))
    assert detectable_at(n, 2 * half / n, alpha=0.05) == pytest.approx(seen)


@pytest.mark.parametrize("margin", [0.01, 0.03, 0.08, 0.9])
@pytest.mark.parametrize("discordance", [0.05, 0.1, 0.2])
@pytest.mark.parametrize("effect", [1.0, 3.5])
def test_one_sample_less_than_needed_is_too_few(
    margin: float, discordance: float, effect: float
) -> None:
    needed = samples_needed(margin, discordance, alpha=0.05, design_effect=effect)

    def reach(n: int) -> float:
        return detectable_at(n, discordance, alpha=0.05, design_effect=effect)

    assert reach(needed) <= margin + 1e-9
    assert needed == 2 or reach(needed - 1) > margin


def test_a_margin_that_only_independent_samples_reach_is_noted(suites: Any, colors: Any) -> None:
    rows = [
        {**row, "question": f"<image>Color {number}?"} for row in colors(4) for number in range(60)
    ]
    suites.task("color", rows)
    report = lint_suite(suites.load("color", gate={"margin": 0.08}))
    (task,) = report.tasks

    assert (task.n_samples, task.n_clusters) == (240, 4)
    assert task.power[1].detectable < 0.08 < task.power[1].detectable_clustered
    (note,) = texts(report, "note")
    assert "240 samples ask about 4 images" in note


def test_samples_of_one_picture_cannot_be_judged(suites: Any, colors: Any) -> None:
    rows = [{**colors(1)[0], "question": f"<image>Color {number}?"} for number in range(50)]
    suites.task("color", [*rows, suites.row("What?", "no")])
    gated = lint_suite(suites.load("color"))
    assert gated.tasks[0].n_clusters == 2
    suites.task("color", rows)

    # What all samples share tells none of them apart: each question stands for itself.
    assert lint_suite(suites.load("color")).tasks[0].n_clusters == 50


def test_a_bad_task_does_not_hide_the_others(suites: Any, colors: Any, tmp_path: Path) -> None:
    suites.task("color", colors(3))
    write_rows(tmp_path / "held.jsonl", [{"query": "<image>?", "response": "x"}])
    entry = {"data": "held.jsonl", "name": "receipts", "scorer": "anls"}
    report = lint_suite(suites.load("color", entry, {"task": "shape", "metric": "exact_match"}))
    receipts, shape = texts(report, "error")

    assert [task.name for task in report.tasks] == ["color"]
    assert "held.jsonl:1: 1 placeholders <image>, and 0 images" in receipts
    assert shape.startswith("shape: no task 'shape'")


def test_broken_and_cut_images_are_found(suites: Any, colors: Any) -> None:
    whole = suites.png("red", size=64)
    rows = [
        *colors(3),
        suites.row("<image>Cut?", "x", whole[:-40]),
        suites.row("<image>Broken?", "x", b"\x89PNG\r\n\x1a\n" + b"\0" * 40),
    ]
    suites.task("color", rows)
    report = lint_suite(suites.load("color"))

    assert any("1 of 5 images cannot be read" in text for text in texts(report, "error"))
    assert any("1 of 5 image files stop" in text for text in texts(report, "warning"))


def test_samples_that_were_trained_on_are_found(receipts: Path, tmp_path: Path) -> None:
    lines = (tmp_path / "held.jsonl").read_text().splitlines()
    (tmp_path / "train.jsonl").write_text("\n".join(lines[5:8]))
    report = lint_suite(load_suite(receipts), load_dataset(tmp_path / "train.jsonl"))

    (found,) = [text for text in texts(report, "warning") if "trained on" in text]
    assert found.startswith("receipts: 3 of 41 held-out samples were trained on")
    assert "held.jsonl:6 " in found


def test_lm_evals_samples_are_looked_for_in_the_training_set_too(
    suites: Any, colors: Any, tmp_path: Path
) -> None:
    suites.task("color", colors(3))
    (tmp_path / "twin.png").write_bytes(suites.png("red", size=9))
    messages = [
        {"role": "user", "content": "<image>What color?"},
        {"role": "assistant", "content": "red"},
    ]
    write_rows(tmp_path / "train.jsonl", [{"messages": messages, "images": ["twin.png"]}])
    report = lint_suite(suites.load("color"), load_dataset(tmp_path / "train.jsonl"))

    (found,) = [text for text in texts(report, "warning") if "trained on" in text]
    assert "color:2 same files, same question" in found


def test_questions_are_as_long_as_the_slices_take_them_to_be(suites: Any) -> None:
    rows = [
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Hello"},
                {"role": "assistant", "content": "Hi"},
                {"role": "user", "content": f"<image>{'Which?' * (1 + number % 2)}"},
                {"role": "assistant", "content": "A"},
            ],
            "images": [f"{number}.png"],
        }
        for number in range(20)
    ]
    for number in range(20):
        (suites.root / f"{number}.png").write_bytes(suites.png("red", size=8 + number))
    write_rows(suites.root / "held.jsonl", rows)
    suite = suites.load({"data": "held.jsonl", "name": "letters", "scorer": "exact_match"})
    (lint,) = lint_suite(suite).tasks
    (task,) = load_tasks(suite)
    found = find_slices(task, task.samples, {s.sample_id: (1.0, 1.0) for s in task.samples})

    assert (lint.question_chars.smallest, lint.question_chars.largest) == (6, 12)
    assert {name for name, _ in found if name.startswith("question")} == {
        "question length = 6",
        "question length = 12",
    }


def test_one_of_a_thing_is_no_plural(
    suites: Any, colors: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    suites.task(
        "color", [{**row, "question": "?", "target": "A", "media": []} for row in colors(1)]
    )
    main(["suite", "lint", str(suites.suite({"task": "color", "metric": "exact_match"}))])
    out = capsys.readouterr().out

    assert "1, about 1 image, video or text\n" in out
    assert "question      1 character\n" in out
    assert "target        1 character\n" in out
    assert out.endswith("1 task looked over: 1 error, 1 warning, 0 notes\n")


def test_the_command_prints_what_it_found(
    receipts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["suite", "lint", str(receipts)]) == 0
    out = capsys.readouterr().out

    assert "receipts  anls, margin 0.02" in out
    assert "slices by     kind: photo 11, scan 30" in out
    assert "longest side  20 to 59 (median 40, 95 % up to 57) px" in out
    assert "warning: receipts: margin 0.02 cannot be reached" in out
    assert out.endswith("1 task looked over: 0 errors, 2 warnings, 0 notes\n")


def test_warnings_decide_where_they_are_asked_to(receipts: Path) -> None:
    assert main(["suite", "lint", str(receipts), "--strict"]) == 2


def test_the_command_writes_json(
    receipts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["suite", "lint", str(receipts), "--json", str(tmp_path / "lint.json")]) == 0
    capsys.readouterr()
    assert main(["suite", "lint", str(receipts), "--json", "-"]) == 0
    printed = LintReport.model_validate_json(capsys.readouterr().out)

    assert printed == LintReport.model_validate_json((tmp_path / "lint.json").read_text())
    assert printed.tasks[0].n_samples == 41


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train", "none.jsonl"], "none.jsonl: no such file"),
        (["--json", "/none/lint.json"], "--json /none/lint.json: cannot be written: no such dir"),
        (["--json", "/proc/lint.json"], "--json /proc/lint.json: cannot be written"),
    ],
)
def test_a_wrong_argument_is_an_error(
    receipts: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["suite", "lint", str(receipts), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_task_that_cannot_be_loaded_ends_with_two(
    receipts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images" / "3.png").unlink()

    assert main(["suite", "lint", str(receipts)]) == 2
    assert "1 of 41 samples cannot be asked" in capsys.readouterr().out


def test_an_action_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["suite"])
    assert ended.value.code == 2
    assert "ACTION" in capsys.readouterr().err


def test_the_demos_suite_has_no_errors() -> None:
    suite: SuiteConfig = load_suite(Path(__file__).parents[3] / "evals" / "demo.yaml")

    assert not lint_suite(suite).count("error")


DEMO = Path(__file__).parents[3] / "src" / "vlmserve" / "demo" / "weights" / "base"


def test_prompts_are_counted_with_a_checkpoint(
    receipts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exam = Examination(load_checkpoint(DEMO))
    (task,) = lint_suite(load_suite(receipts), checkpoint=exam).tasks

    assert task.n_uncounted == 0
    assert task.prompt_tokens is not None
    # A picture of 20 to 59 pixels is scaled to 56 x 56 at least: 4 tokens.
    assert 4 < task.prompt_tokens.smallest <= task.prompt_tokens.largest < 80
    assert main(["suite", "lint", str(receipts), "--ckpt", str(DEMO)]) == 0
    assert f"prompt        {task.prompt_tokens.smallest:g}" in capsys.readouterr().out


def test_prompts_that_do_not_fit_are_found(receipts: Path) -> None:
    settings = EngineConfig(max_model_len=40)
    exam = Examination(load_checkpoint(DEMO), serve=ServeConfig(engine=settings))
    found = lint_suite(load_suite(receipts), checkpoint=exam)

    (warning,) = [text for text in texts(found, "warning") if "max_tokens" in text]
    assert "leave less than their max_tokens of the 40 tokens" in warning
    short = Examination(
        load_checkpoint(DEMO), serve=ServeConfig(engine=EngineConfig(max_model_len=8))
    )
    (error,) = texts(lint_suite(load_suite(receipts), checkpoint=short), "error")
    assert error.startswith("receipts: 41 prompts do not fit into 8 tokens (sample 1, 2, 3)")


def test_a_checkpoint_that_counts_nothing_says_why(receipts: Path, tmp_path: Path) -> None:
    copy = tmp_path / "bare"
    shutil.copytree(DEMO, copy, ignore=shutil.ignore_patterns("tokenizer*"))
    found = lint_suite(load_suite(receipts), checkpoint=Examination(load_checkpoint(copy)))

    (note,) = texts(found, "note")
    assert "the tokens of its prompts cannot be counted: " in note
    assert "has no tokenizer" in note


def test_the_base_of_no_checkpoint_is_refused(
    receipts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["suite", "lint", str(receipts), "--base-model", str(DEMO)]) == 2
    assert "--base-model: it is the base of --ckpt" in capsys.readouterr().err


def test_requests_and_judgements_are_looked_over(tmp_path: Path, suites: Any) -> None:
    (tmp_path / "frame.png").write_bytes(suites.png("red", size=40))
    frames = {"type": "video", "video": ["frame.png", "frame.png"], "fps": 1}
    rows = [
        {"messages": [{"role": "user", "content": [frames, {"type": "text", "text": f"Q{k}"}]}]}
        for k in range(30)
    ]
    write_rows(tmp_path / "log.jsonl", rows)
    entries = [
        {"requests": "log.jsonl", "name": name, "check": check, **more}
        for name, check, more in (
            ("empty", "empty", {}),
            ("tokens", "answer_tokens", {"margin": 30}),
            ("wins", "judge_pairs", {}),
        )
    ]
    judge = {"url": "http://127.0.0.1:9/v1", "model": "m"}
    suite = suites.load(*entries, include_path=None, judge=judge)
    report = lint_suite(suite, checkpoint=Examination(load_checkpoint(DEMO)))
    empty, tokens, wins = report.tasks

    assert not report.count("error")
    assert empty.media == {"video/jpeg": 30}
    assert empty.longest_side_px is not None
    assert empty.longest_side_px.largest == 40
    assert empty.prompt_tokens is not None
    assert empty.prompt_tokens.smallest > 4
    assert [power.discordance for power in empty.power] == [0.05, 0.1, 0.2]
    assert tokens.power == ()
    assert [power.discordance for power in wins.power] == [0.4, 0.7, 0.9]
    assert not any(text.startswith("tokens:") for text in texts(report, "warning"))
    assert any("at 70 % discordance" in text for text in texts(report, "warning"))
