"""Sample logs of lmms-eval: ``DATE_samples_TASK.jsonl`` with ``DATE_results.json`` beside them.

Format: lmms-eval 0.7.3 and commit 75571cfe, ``loggers/evaluation_tracker.py`` and ``evaluator.py``.
Media are not in the logs, and ``doc_hash`` may be one value for all samples, so that nothing in a
log says what was asked but the prompt; the rest is joined on ``doc_id``. A request that failed is
logged as the answer ``[LMMS_EVAL_REQUEST_FAILED ...]`` and scored; here it is a failure.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmserve.chat import Usage
from vlmserve.evals.imports.imported import (
    Choice,
    ImportedLog,
    ImportedRow,
    ImportedTask,
    score_of,
    user_turn,
)
from vlmserve.evals.imports.json_lines import (
    as_text,
    pick,
    read_rows,
    required,
    stable,
)
from vlmserve.evals.imports.logged_run import read_run
from vlmserve.evals.records import Failed, Scored

if TYPE_CHECKING:
    from vlmserve.evals.run_record import ContentPart

FAILURE = "[LMMS_EVAL_REQUEST_FAILED"

_NAME = re.compile(
    r"(?P<date>\d{8}_\d{6}|\d{4}-?\d{2}-?\d{2}[T_][\d.-]+)_samples_(?P<task>.+)\.jsonl"
)
# What a row has beside its metrics.
_NOT_METRICS = frozenset(
    {
        "doc_id",
        "doc",
        "target",
        "arguments",
        "input",
        "input_media",
        "resps",
        "filtered_resps",
        "token_counts",
        "doc_hash",
    }
)
_SCORING = ("metric_list", "filter_list", "process_results", "output_type")


def read_lmms_eval(given: Sequence[Path], choice: Choice) -> ImportedLog:
    """Read the logs of one run of lmms-eval.

    Args:
        given: Log files, or the directory that they are in.
        choice: What the user says of metrics and directions.

    Raises:
        ConfigError: Files are missing or not as lmms-eval writes them, or something is open.
    """
    run = read_run(
        given,
        _NAME,
        "lmms-eval",
        results_name="{date}_results.json",
        read_task=lambda name, file, results: _read_task(name, file, results, choice),
    )
    return ImportedLog(
        origin="lmms-eval",
        name=run.model,
        settings={
            key: stable(run.config.get(key)) for key in ("model", "model_args", "gen_kwargs")
        },
        versions={},
        tasks=run.tasks,
        files=run.files,
    )


def _read_task(name: str, file: Path, results: Mapping[str, Any], choice: Choice) -> ImportedTask:
    rows = read_rows(file)
    known = [key for key in rows[0] if key not in _NOT_METRICS] if rows else []
    metric = choice.metric(name, known, file)
    logged = (results.get("higher_is_better") or {}).get(name, {}).get(metric.partition(".")[0])
    config = (results.get("configs") or {}).get(name) or {}
    return ImportedTask(
        name=name,
        metric=metric,
        higher_is_better=choice.direction(name, metric, file, logged=logged),
        recipe={
            "task": name,
            "metric": metric,
            "harness": "lmms-eval",
            "version": str((results.get("versions") or {}).get(name)),
            "generation_kwargs": stable(config.get("generation_kwargs")),
            **{key: stable(config.get(key)) for key in _SCORING},
        },
        rows=[_read_row(row, metric, file, number) for number, row in enumerate(rows, start=1)],
        where=file,
    )


def _read_row(row: Mapping[str, Any], metric: str, file: Path, number: int) -> ImportedRow:
    answer = as_text(required(row, "filtered_resps", file, number))
    # Left out where it is the same as the filtered one.
    text = as_text(row["resps"]) if "resps" in row else answer
    prompt = row.get("input")
    unknown: tuple[ContentPart, ...] = ("media",)
    if not isinstance(prompt, str) or not prompt:
        unknown = ("prompt", "media")
        prompt = ""
    return ImportedRow(
        keys={"doc_id": required(row, "doc_id", file, number)},
        turns=(user_turn(prompt),),
        target=str(required(row, "target", file, number)),
        unknown=unknown,
        outcome=_outcome(row, metric, answer, text),
        text=None if FAILURE in text else text,
        usage=_usage(row.get("token_counts")),
    )


def _outcome(row: Mapping[str, Any], metric: str, answer: str, text: str) -> Scored | Failed:
    for each in (text, answer):
        if FAILURE in each:
            return Failed(error_type="EngineError", message=each[each.index(FAILURE) :])
    score = score_of(pick(row, metric), metric)
    return score if isinstance(score, Failed) else Scored(answer=answer, score=score)


def _usage(counts: Any) -> Usage | None:
    first = counts[0] if isinstance(counts, list) and counts else None
    if not isinstance(first, Mapping) or not {"input_tokens", "output_tokens"} <= first.keys():
        return None
    return Usage(prompt_tokens=first["input_tokens"], completion_tokens=first["output_tokens"])
