"""Logs of other harnesses become runs, and are compared like own ones."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.contract.lm_eval_logs import ScriptedModel, evaluate, sums, write_task
from vlmserve.cli.main import main

pytestmark = pytest.mark.usefixtures("caches")

Compare = Callable[..., Any]


@pytest.fixture
def compared(tmp_path: Path) -> Compare:
    """Compares; gives the exit status and the report."""

    def compare(baseline: str, candidate: str, *more: str) -> tuple[int, Any]:
        path = tmp_path / "compared.json"
        path.unlink(missing_ok=True)
        options = ["--margin", "0.2", "--json", str(path), *more]
        status = main(["compare", baseline, candidate, *options])
        return status, json.loads(path.read_text()) if path.exists() else None

    return compare


def flat(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def read(name: str, *files: Path | str, kind: str = "lm-eval") -> int:
    return main(["import", *map(str, files), "--format", kind, "--name", name])


def rows_of(name: str, path: Path) -> list[dict[str, Any]]:
    assert main(["export", name, "--format", "jsonl", "--out", str(path)]) == 0
    return [json.loads(line) for line in path.read_text().splitlines()]


# lm-eval


def test_logs_with_images_are_joined_on_their_content(tmp_path: Path, compared: Compare) -> None:
    folder = tmp_path / "task"
    write_task(folder, sums(images=True), doc_to_image=["img"])
    old = evaluate(folder, ScriptedModel(lambda _: "right"), tmp_path / "old")
    # The same samples in another order: their numbers say nothing.
    write_task(folder, list(reversed(sums(images=True))), doc_to_image=["img"])
    new = evaluate(
        folder,
        ScriptedModel(lambda number: "wrong" if number < 12 else "right"),
        tmp_path / "new",
    )
    assert read("old", old) == 0
    assert read("new", new) == 0

    status, report = compared("old", "new")
    assert (status, report["verdict"]) == (1, "regression")
    (task,) = report["tasks"]
    assert (task["baseline"], task["candidate"], task["n_pairs"]) == (1.0, 0.4, 20)
    flipped = {flip["question"] for flip in task["flips"]["regressed"]}
    assert flipped == {f"<image>Sum {number}" for number in range(8, 20)}
    assert "joined on the content" in report["notes"][0]
    assert any("kind = " in each["name"] for each in report["slices"])


def test_a_chat_over_an_api_is_read(
    tmp_path: Path, two_models: Any, compared: Compare, monkeypatch: pytest.MonkeyPatch
) -> None:
    """lm-eval's own client against an endpoint: prompts are chats in JSON there."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    reply = two_models.reply

    def as_parts(body: dict[str, Any]) -> Any:
        for message in body["messages"]:
            if isinstance(message["content"], str):
                message["content"] = [{"type": "text", "text": message["content"]}]
        return reply(body)

    two_models.reply = as_parts
    two_models.wrong = 3
    folder = tmp_path / "task"
    write_task(folder, sums())
    for name in ("old", "new"):
        arguments = f"model={name},base_url={two_models.url}/chat/completions,max_retries=1"
        log = evaluate(
            folder,
            "local-chat-completions",
            tmp_path / name,
            model_args=arguments,
            apply_chat_template=True,
        )
        assert read(name, log) == 0

    rows = rows_of("new", tmp_path / "rows.jsonl")
    assert rows[3]["turns"] == [{"role": "user", "parts": ["Sum 3"]}]
    assert (rows[0]["answer"], rows[0]["score"], rows[0]["completion"]) == ("wrong", 0.0, "wrong")
    _, report = compared("old", "new")
    assert [flip["question"] for flip in report["tasks"][0]["flips"]["regressed"]] == [
        "Sum 0",
        "Sum 1",
        "Sum 2",
    ]


def test_choices_by_likelihood_are_read(tmp_path: Path, compared: Compare) -> None:
    folder = tmp_path / "task"
    write_task(
        folder,
        sums(),
        output_type="multiple_choice",
        doc_to_choice=["right", "wrong"],
        generation_kwargs=None,
        metric_list=[{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    )
    old = evaluate(folder, ScriptedModel(lambda _: "right"), tmp_path / "old")
    new = evaluate(
        folder, ScriptedModel(lambda number: "wrong" if number < 12 else "right"), tmp_path / "new"
    )
    read("old", old)
    read("new", new)

    status, report = compared("old", "new")
    assert (status, report["tasks"][0]["candidate"]) == (1, 0.4)


def test_a_margin_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "task"
    write_task(folder, sums())
    read("old", evaluate(folder, ScriptedModel(lambda _: "right"), tmp_path / "old"))
    capsys.readouterr()

    assert main(["compare", "old", "old"]) == 2
    err = flat(capsys.readouterr().err)
    assert "state no margin" in err
    assert "--margin 0.02" in err


def test_what_was_imported_is_listed_and_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "task"
    write_task(folder, sums())
    log = evaluate(folder, ScriptedModel(lambda _: "right"), tmp_path / "old")
    read("old", log)
    out = capsys.readouterr().out
    assert "sums: 20 samples, exact_match, 0 failed" in out
    assert read("old", log) == 2
    assert "there is a run old already" in flat(capsys.readouterr().err)

    assert main(["report", "old"]) == 2
    assert "run old was imported, and not judged here" in flat(capsys.readouterr().err)
    assert main(["runs"]) == 0
    assert re.search(r"old .* imported .*sums", capsys.readouterr().out)


def test_another_prompt_joined_on_a_key_is_an_error_that_names_rows(
    tmp_path: Path, compared: Compare, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "task"
    write_task(folder, sums())
    read("old", evaluate(folder, ScriptedModel(lambda _: "right"), tmp_path / "old"))
    changed = sums()
    changed[4]["question"] = "Sum four"
    write_task(folder, changed)
    read("new", evaluate(folder, ScriptedModel(lambda _: "right"), tmp_path / "new"))
    capsys.readouterr()

    assert compared("old", "new")[0] == 2
    assert "1 samples only in the baseline, 1 only in the candidate" in flat(
        capsys.readouterr().err
    )
    assert compared("old", "new", "--key", "doc_id")[0] == 2
    err = flat(capsys.readouterr().err)
    assert "sums: prompt (1 of 20 samples, such as doc_id 4): Sum 4 | Sum four" in err
    status, report = compared("old", "new", "--key", "doc_id", "--allow-difference", "prompt")
    assert status == 0
    assert any("declared difference: sums: prompt" in note for note in report["notes"])
    # A column that names each row is a key as well.
    assert compared("old", "new", "--key", "doc.uid", "--allow-difference", "prompt")[0] == 0


def test_other_targets_are_never_compared(
    tmp_path: Path, compared: Compare, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "task"
    write_task(folder, sums())
    read("old", evaluate(folder, ScriptedModel(lambda _: "right"), tmp_path / "old"))
    write_task(folder, [{**row, "target": "x"} if row["uid"] == "u7" else row for row in sums()])
    read("new", evaluate(folder, ScriptedModel(lambda _: "right"), tmp_path / "new"))
    capsys.readouterr()

    assert compared("old", "new", "--key", "doc_id")[0] == 2
    err = flat(capsys.readouterr().err)
    assert "1 of 20 samples that doc_id joins have other targets" in err
    assert "doc_id 7: 'right' | 'x'" in err


def test_other_settings_of_the_generation_are_refused(
    tmp_path: Path, compared: Compare, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "task"
    write_task(folder, sums())
    read("old", evaluate(folder, ScriptedModel(lambda _: "right"), tmp_path / "old"))
    write_task(folder, sums(), generation_kwargs={"until": ["\n"], "max_gen_toks": 8})
    read("new", evaluate(folder, ScriptedModel(lambda _: "right"), tmp_path / "new"))
    capsys.readouterr()

    assert compared("old", "new")[0] == 2
    assert "sums: sampling.max_gen_toks: 4 | 8" in flat(capsys.readouterr().err)


def test_files_that_are_no_logs_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "samples_sums_2026-11-26T10-00-00.123456.jsonl"
    for text, message in (
        ('{"doc_id": 0', ":1: no JSON"),
        ("[1]", ":1: a JSON object is expected"),
        ('{"doc_id": 0, "metrics": ["acc"]}', "row 1: no 'arguments'"),
    ):
        log.write_text(text)
        assert read("run", log) == 2
        assert message in flat(capsys.readouterr().err)
    assert read("run", tmp_path / "nowhere") == 2
    (tmp_path / "empty").mkdir()
    assert read("run", tmp_path / "empty") == 2
    assert "no sample logs of lm-eval" in flat(capsys.readouterr().err)


# lmms-eval


def lmms_row(number: int, answer: str, **changes: Any) -> dict[str, Any]:
    """A row as ``save_results_samples`` of lmms-eval 0.7.3 leaves it for one request a sample."""
    return {
        "doc_id": number,
        "target": "right",
        "filtered_resps": answer,
        "token_counts": [{"input_tokens": 300, "output_tokens": 2}],
        # One value for all samples, as it is in real logs.
        "doc_hash": "74234e98afe7498fb5daf1f36ac2d78acc339464f950703b8c019892f982b90b",
        "exact": 1.0 if answer == "right" else 0.0,
        "input": f"Sum {number}",
        **changes,
    }


def lmms_log(folder: Path, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True)
    log = folder / "20261126_101500_samples_sums.jsonl"
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    results = {
        "higher_is_better": {"sums": {"exact": True}},
        "configs": {"sums": {"generation_kwargs": {"max_new_tokens": 16}}},
        "versions": {"sums": 1.0},
        "config": {"model": "async_openai", "model_args": "model=new"},
        "model_name": "async_openai",
    }
    (folder / "20261126_101500_results.json").write_text(json.dumps(results))
    return folder


def test_a_failed_request_of_lmms_eval_is_a_failure_and_no_answer(
    tmp_path: Path, compared: Compare
) -> None:
    failure = "[LMMS_EVAL_REQUEST_FAILED after 3 retries] Connection error."
    rows = [lmms_row(number, "right") for number in range(20)]
    read("old", lmms_log(tmp_path / "old", rows), kind="lmms-eval")
    # The harness scored the failure's own text: here even as right.
    rows[5] = lmms_row(5, failure, exact=1.0)
    rows[6] = lmms_row(6, "", resps=[failure], exact=0.0)
    read("new", lmms_log(tmp_path / "new", rows), kind="lmms-eval")

    status, report = compared("old", "new", "--key", "doc_id")
    (task,) = report["tasks"]
    assert (task["n_failed_candidate"], task["n_pairs"]) == (2, 18)
    assert status == 3
    assert all("Connection error" in each["message"] for each in task["failures"])
    exported = rows_of("new", tmp_path / "rows.jsonl")
    assert (exported[5]["status"], exported[5]["completion"]) == ("failed", None)
    assert (exported[4]["prompt_tokens"], exported[4]["completion_tokens"]) == (300, 2)


def test_without_media_a_key_is_asked_for_and_the_report_says_what_is_not_verified(
    tmp_path: Path, compared: Compare, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [lmms_row(number, "right") for number in range(20)]
    read("old", lmms_log(tmp_path / "old", rows), kind="lmms-eval")
    read("new", lmms_log(tmp_path / "new", rows), kind="lmms-eval")
    capsys.readouterr()

    assert compared("old", "new")[0] == 2
    err = flat(capsys.readouterr().err)
    assert "the log does not hold the media of its samples" in err
    assert "--key, one of doc_id" in err
    status, report = compared("old", "new", "--key", "doc_id")
    assert status == 0
    notes = " ".join(report["notes"])
    assert "20 samples were joined on doc_id" in notes
    assert "the media of 20 joined samples could not be verified" in notes
    assert "which samples ask about the same image is not known" in notes


def test_shifted_rows_of_lmms_eval_do_not_pass_for_the_same(
    tmp_path: Path, compared: Compare, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [lmms_row(number, "right") for number in range(20)]
    read("old", lmms_log(tmp_path / "old", rows), kind="lmms-eval")
    shifted = [{**row, "doc_id": (row["doc_id"] + 1) % 20} for row in rows]
    read("new", lmms_log(tmp_path / "new", shifted), kind="lmms-eval")
    capsys.readouterr()

    assert compared("old", "new", "--key", "doc_id")[0] == 2
    assert "sums: prompt (20 of 20 samples" in flat(capsys.readouterr().err)


def test_a_key_that_names_two_rows_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [lmms_row(number % 3, "right") for number in range(6)]
    assert read("old", lmms_log(tmp_path / "old", rows), kind="lmms-eval") == 2
    assert "two samples are called doc_id=0" in flat(capsys.readouterr().err)


def test_several_metrics_are_chosen_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [lmms_row(number, "right", mme={"score": 1.0, "category": "ocr"}) for number in range(4)]
    log = str(lmms_log(tmp_path / "old", rows))
    command = ["import", log, "--format", "lmms-eval"]
    assert main([*command, "--name", "a"]) == 2
    assert "several metrics or none: exact, mme" in flat(capsys.readouterr().err)
    assert main([*command, "--name", "b", "--metric", "sums=exact"]) == 0
    assert main([*command, "--name", "c", "--metric", "mme.score"]) == 2
    assert "--direction" in flat(capsys.readouterr().err)
    higher = ["--direction", "higher"]
    assert main([*command, "--name", "d", "--metric", "mme.score", *higher]) == 0
    assert "4 samples, mme.score, 0 failed" in capsys.readouterr().out


# VLMEvalKit


def mcq_rows(wrong: int = 0) -> list[dict[str, Any]]:
    """Rows as ``mcq_vanilla_eval`` leaves them, without the images."""
    return [
        {
            "index": number,
            "question": f"Which is number {number}?",
            "hint": None,
            "A": "red",
            "B": "blue",
            "answer": "A",
            "category": ("ocr", "count")[number % 2],
            "prediction": "B" if number < wrong else "A",
            "hit": int(number >= wrong),
            "log": "Prefetch succeed. ",
        }
        for number in range(20)
    ]


def write_xlsx(path: Path, rows: list[dict[str, Any]]) -> Path:
    from openpyxl import Workbook

    book = Workbook()
    book.active.append(list(rows[0]))
    for row in rows:
        book.active.append(list(row.values()))
    book.save(path)
    book.close()
    return path


def write_tsv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_ALL)
        writer.writerow(rows[0])
        writer.writerows(row.values() for row in rows)
    return path


def write_json(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(rows, indent=4))
    return path


@pytest.mark.parametrize(
    ("write", "suffix"), [(write_xlsx, "xlsx"), (write_tsv, "tsv"), (write_json, "json")]
)
def test_tables_of_vlmevalkit_are_read(
    tmp_path: Path, compared: Compare, write: Any, suffix: str
) -> None:
    for name, wrong in (("old", 0), ("new", 12)):
        table = write(tmp_path / f"{name}_MMBench_result.{suffix}", mcq_rows(wrong))
        command = ["import", str(table), "--format", "vlmevalkit", "--name", name]
        assert main([*command, "--task", "mmbench"]) == 0

    status, report = compared("old", "new", "--key", "index")
    (task,) = report["tasks"]
    assert (status, task["task"], task["metric"]) == (1, "mmbench", "hit")
    assert (task["baseline"], task["candidate"]) == (1.0, 0.4)
    assert task["flips"]["regressed"][0]["question"] == "Which is number 0?\nA. red\nB. blue"
    assert {each["name"] for each in report["slices"]} >= {"category = ocr", "category = count"}


def test_a_failed_request_of_vlmevalkit_is_a_failure(tmp_path: Path, compared: Compare) -> None:
    rows = mcq_rows()
    write_tsv(tmp_path / "old.tsv", rows)
    rows[3] |= {"prediction": "Failed to obtain answer via API.", "hit": 0}
    write_tsv(tmp_path / "new.tsv", rows)
    for name in ("old", "new"):
        command = ["import", str(tmp_path / f"{name}.tsv"), "--format", "vlmevalkit"]
        main([*command, "--name", name, "--task", "mcq"])

    _, report = compared("old", "new", "--key", "index")
    assert report["tasks"][0]["n_failed_candidate"] == 1
    assert not report["tasks"][0]["flips"]["regressed"]


@pytest.mark.parametrize(
    ("dataset", "match", "score"),
    [
        ("DocVQA_VAL", "[0.0, 0.8]", 1.0),
        ("DocVQA_VAL", "[np.float64(0.6), np.float64(0.7)]", 0.0),
        ("DocVQA_VAL", "[0.25]", 0.75),
        ("ChartQA_TEST", "[False, True]", 1.0),
        ("TextVQA_VAL", "[1, 0.5]", 0.75),
    ],
)
def test_short_answers_are_scored_by_the_datasets_own_rule(
    tmp_path: Path, dataset: str, match: str, score: float
) -> None:
    row = {"index": 1, "question": "q", "answer": "a", "prediction": "p", "eval_match": match}
    # What VLMEvalKit writes beside it is the mean, of distances where the metric is ANLS.
    table = write_tsv(tmp_path / f"model_{dataset}_results.tsv", [{**row, "eval_score": 0.123}])
    assert read("run", table, kind="vlmevalkit") == 0
    (exported,) = rows_of("run", tmp_path / "rows.jsonl")

    assert exported["score"] == pytest.approx(score)
    assert exported["metric"] == "eval_match"


def test_tables_that_cannot_be_used_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{name: row[name] for name in ("index", "prediction")} for row in mcq_rows()]
    for table, message in (
        (write_tsv(tmp_path / "bare.tsv", rows), "no column with a score"),
        (write_json(tmp_path / "other.json", [{"a": 1}]), "no column 'index'"),
        (write_json(tmp_path / "none.json", []), "the table has no rows"),
        (tmp_path / "missing.tsv", "no such file"),
        (tmp_path / "missing", "no such file"),
        (Path(__file__), "not one of .xlsx, .tsv"),
        (tmp_path, "name the tables themselves"),
    ):
        assert read("run", table, kind="vlmevalkit") == 2
        assert message in flat(capsys.readouterr().err)
    (tmp_path / "broken.xlsx").write_text("no zip")
    assert read("run", tmp_path / "broken.xlsx", kind="vlmevalkit") == 2
    assert "is no xlsx file" in flat(capsys.readouterr().err)
    (tmp_path / "short.tsv").write_text("index\tprediction\thit\n1\tA\n")
    assert read("run", tmp_path / "short.tsv", kind="vlmevalkit") == 2
    assert "row 2 has not as many cells" in flat(capsys.readouterr().err)
