"""Tables of VLMEvalKit that hold a score a row: xlsx, TSV, CSV or JSON.

Format: VLMEvalKit at commit e8e78f05. Predictions alone (``MODEL_DATASET.xlsx``) have no score; its
evaluation writes tables that have: ``hit`` of multiple choice (``*_result.xlsx``,
``dataset/image_mcq.py``), ``score`` of yes-or-no (``*_auxmatch.xlsx``, ``dataset/image_yorn.py``)
and ``eval_match`` of short answers (``*_results.xlsx``, ``dataset/image_vqa.py``), from which its
own rule (``dataset/utils/vqa_eval.py``, ``hit_calculate``) makes the score of a sample. Images are
left out of the tables, and a failed request is the prediction ``Failed to obtain answer ...``.
"""

import re
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmserve.errors import ConfigError
from vlmserve.evals.imports.imported import (
    Choice,
    ImportedLog,
    ImportedRow,
    ImportedTask,
    score_of,
    user_turn,
)
from vlmserve.evals.imports.tables import read_table
from vlmserve.evals.records import Failed, Scored

FAILURE = "Failed to obtain answer"

_MATCH = "eval_match"
_METRICS = ("hit", "score", _MATCH, "verifier_match", "eval_score")
# ANLS as VLMEvalKit has it: distances, of which a half or more is a zero.
_DISTANCE_DATASETS = ("DocVQA", "InfoVQA")
_BEST_DATASETS = ("ChartQA", "OCRVQA")
_NUMBER = re.compile(r"True|False|-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_NUMPY = re.compile(r"np\.(?:float|int|bool)\w*\(|np\.(?=True|False)")
_WORDS = {"True": "1", "False": "0"}
_HALF = 0.5


def read_vlmevalkit(given: Sequence[Path], choice: Choice) -> ImportedLog:
    """Read tables of one model.

    Args:
        given: Tables; each is a task that is called as the file is, or as the user says.
        choice: What the user says of names, metrics and directions.

    Raises:
        ConfigError: A file is missing, no such table, or something is open.
    """
    for path in given:
        if path.is_dir():
            raise ConfigError(
                f"{path}: name the tables themselves",
                hint="of a model's directory, those with a score a row: *_result.xlsx, "
                "*_auxmatch.xlsx, *_results.xlsx",
            )
    if choice.task is not None and len(given) > 1:
        raise ConfigError("--task names one table, and several files are given")
    return ImportedLog(
        origin="vlmevalkit",
        name=given[0].stem,
        settings={},
        versions={},
        tasks=[_read_task(path, choice) for path in given],
        files=list(given),
    )


def _read_task(path: Path, choice: Choice) -> ImportedTask:
    rows = read_table(path)
    if not rows:
        raise ConfigError(f"{path}: the table has no rows")
    for needed in ("index", "prediction"):
        if needed not in rows[0]:
            raise ConfigError(
                f"{path}: no column {needed!r}; it has: {', '.join(rows[0])}",
                hint="a table of VLMEvalKit has an index, a prediction and a score in every row",
            )
    name = choice.task or path.stem
    known = [metric for metric in _METRICS if metric in rows[0]]
    if _MATCH in known:
        known = [_MATCH]  # from which eval_score was made by another rule
    if not known and not choice.metrics:
        raise ConfigError(
            f"{path}: no column with a score; it has: {', '.join(rows[0])}",
            hint="predictions alone are not scored yet: let VLMEvalKit evaluate them, and name the "
            "table that it writes",
        )
    metric = choice.metric(name, known or list(rows[0]), path)
    return ImportedTask(
        name=name,
        metric=metric,
        higher_is_better=choice.direction(name, metric, path, logged=metric in _METRICS or None),
        recipe={"task": name, "metric": metric, "harness": "vlmevalkit"},
        rows=[_read_row(row, metric, path) for row in rows],
        where=path,
    )


def _read_row(row: Mapping[str, Any], metric: str, path: Path) -> ImportedRow:
    prediction = _text(row["prediction"])
    target = _text(row.get("answer"))
    return ImportedRow(
        keys={"index": _text(row["index"])},
        turns=(user_turn(_prompt(row)),),
        target=target,
        unknown=("media",) if target else ("target", "media"),
        outcome=_outcome(row, metric, prediction, path),
        text=None if FAILURE in prediction else prediction,
        columns={
            name: value
            for name, value in row.items()
            if name not in ("prediction", "answer", "question", "index", "log", metric)
            and value is not None
        },
    )


def _prompt(row: Mapping[str, Any]) -> str:
    """What the data set asks; VLMEvalKit puts it into a template of the model's own."""
    options = [
        f"{letter}. {_text(row[letter])}"
        for letter in string.ascii_uppercase
        if row.get(letter) not in {None, ""}
    ]
    lines = [_text(row.get("hint")), _text(row.get("question")), *options]
    return "\n".join(line for line in lines if line)


def _outcome(row: Mapping[str, Any], metric: str, prediction: str, path: Path) -> Scored | Failed:
    for text in (prediction, _text(row.get("log"))):
        if FAILURE in text:
            return Failed(error_type="EngineError", message=text)
    value = row.get(metric)
    score = _matched(_text(value), path) if metric == _MATCH else score_of(value, metric)
    return score if isinstance(score, Failed) else Scored(answer=prediction, score=score)


def _matched(text: str, path: Path) -> float | Failed:
    """VLMEvalKit's ``hit_calculate`` for one sample."""
    numbers = [float(_WORDS.get(each, each)) for each in _NUMBER.findall(_NUMPY.sub("", text))]
    if not numbers:
        return Failed(error_type="MetricError", message=f"{_MATCH} is {text!r}")
    if any(name in path.stem for name in _DISTANCE_DATASETS):
        likeness = 1.0 - min(numbers)
        return 0.0 if likeness < _HALF else likeness
    if any(name in path.stem for name in _BEST_DATASETS):
        return max(numbers)
    return sum(numbers) / len(numbers)


def _text(value: Any) -> str:
    return "" if value is None else str(value)
