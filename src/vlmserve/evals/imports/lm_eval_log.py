"""Sample logs of lm-eval: ``samples_TASK_DATE.jsonl`` with ``results_DATE.json`` beside them.

Format: lm-eval 0.4.13, ``loggers/evaluation_tracker.py`` (``save_results_samples``) and
``evaluator.py``. Images are logged as digests, of a PNG that Pillow made of them or of their bytes
(``utils.py``, ``hash_dict_images``), so that two logs agree on all of a sample's content.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from vlmserve.chat import Role
from vlmserve.errors import ConfigError
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
    read_rows,
    required,
    stable,
)
from vlmserve.evals.imports.logged_run import read_run
from vlmserve.evals.records import Failed, Scored
from vlmserve.evals.run_record import ContentPart, KeptMedium, KeptTurn

_NAME = re.compile(
    r"samples_(?P<task>.+)_(?P<date>\d{4}-\d{2}-\d{2}T\d{2}-\d{2}-\d{2}(?:\.\d+)?)\.jsonl"
)
_SHA256 = re.compile(r"[0-9a-f]{64}")
# What of a task's settings decides how an answer is scored.
_VERSIONS = {"lm_eval": "lm_eval_version", "transformers": "transformers_version"}
_SCORING = ("metric_list", "filter_list", "process_results", "output_type")


def read_lm_eval(given: Sequence[Path], choice: Choice) -> ImportedLog:
    """Read the logs of one run of lm-eval.

    Args:
        given: Log files, or the directory that they are in.
        choice: What the user says of metrics, filters and directions.

    Raises:
        ConfigError: Files are missing or not as lm-eval writes them, or something is open.
    """
    run = read_run(
        given,
        _NAME,
        "lm-eval",
        results_name="results_{date}.json",
        read_task=lambda name, file, results: _read_task(name, file, results, choice),
    )
    return ImportedLog(
        origin="lm-eval",
        name=run.model,
        settings={
            key: stable(value)
            for key, value in {
                "model": run.results.get("model_source") or run.config.get("model"),
                "model_args": run.config.get("model_args"),
                "chat_template_sha": run.results.get("chat_template_sha"),
                "system_instruction_sha": run.results.get("system_instruction_sha"),
            }.items()
        },
        versions={
            name: str(run.results[key]) for name, key in _VERSIONS.items() if run.results.get(key)
        },
        tasks=run.tasks,
        files=run.files,
    )


def _read_task(name: str, file: Path, results: Mapping[str, Any], choice: Choice) -> ImportedTask:
    rows = _one_filter(read_rows(file), file, choice)
    known = list(rows[0].get("metrics") or ()) if rows else []
    metric = choice.metric(name, known, file)
    logged = (results.get("higher_is_better") or {}).get(name, {}).get(metric)
    config = (results.get("configs") or {}).get(name) or {}
    first = _arguments(rows[0], file, 1) if rows else []
    return ImportedTask(
        name=name,
        metric=metric,
        higher_is_better=choice.direction(name, metric, file, logged=logged),
        recipe={
            "task": name,
            "metric": metric,
            "harness": "lm-eval",
            "filter": rows[0].get("filter") if rows else None,
            "version": str((results.get("versions") or {}).get(name)),
            "generation_kwargs": next(
                (stable(value) for value in first[0][1:2] if isinstance(value, Mapping)), None
            )
            if first
            else None,
            **{key: stable(config.get(key)) for key in _SCORING},
        },
        rows=[_read_row(row, metric, file, number) for number, row in enumerate(rows, start=1)],
        where=file,
    )


def _one_filter(rows: list[dict[str, Any]], file: Path, choice: Choice) -> list[dict[str, Any]]:
    names = list(dict.fromkeys(str(row.get("filter")) for row in rows))
    if len(names) <= 1 and choice.filter in {None, *names}:
        return rows
    if choice.filter in names:
        return [row for row in rows if str(row.get("filter")) == choice.filter]
    said = "none is chosen" if choice.filter is None else f"there is no {choice.filter!r}"
    raise ConfigError(
        f"{file}: answers of several filters, and {said}; it has: {', '.join(names)}",
        hint=f"choose one: --filter {names[0]}",
    )


def _read_row(row: Mapping[str, Any], metric: str, file: Path, number: int) -> ImportedRow:
    arguments = _arguments(row, file, number)
    media, unknown = _media(arguments[0])
    answers = required(row, "filtered_resps", file, number)
    score = score_of(row.get(metric), metric)
    doc = row.get("doc")
    return ImportedRow(
        keys={"doc_id": required(row, "doc_id", file, number)},
        turns=_turns(arguments, media),
        target=str(required(row, "target", file, number)),
        unknown=unknown,
        outcome=score
        if isinstance(score, Failed)
        else Scored(answer=as_text(answers), score=score),
        text=as_text(row.get("resps")),
        columns=doc if isinstance(doc, Mapping) else {},
    )


def _arguments(row: Mapping[str, Any], file: Path, number: int) -> list[list[Any]]:
    """The arguments of each request of a sample, in their order."""
    logged = required(row, "arguments", file, number)
    try:
        requests = [
            [logged[request][argument] for argument in sorted(logged[request])]
            for request in sorted(logged, key=lambda name: int(name.rpartition("_")[2]))
        ]
    except (AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"{file}: row {number}: arguments: not as lm-eval logs them") from error
    if not requests or not requests[0]:
        raise ConfigError(f"{file}: row {number}: arguments: empty")
    return requests


def _media(arguments: Sequence[Any]) -> tuple[list[KeptMedium], tuple[ContentPart, ...]]:
    """The media of a sample by their digests, and whether they are not known."""
    # Behind the context and the settings of the generation.
    extra = next((each for each in arguments[2:3] if isinstance(each, Mapping)), {})
    found = []
    for value in extra.values():
        for each in value if isinstance(value, list) else [value]:
            # An image that was stored undecoded is logged as a mapping of its bytes and its path.
            digest = each.get("bytes") if isinstance(each, Mapping) else each
            if not (isinstance(digest, str) and _SHA256.fullmatch(digest)):
                return [], ("media",)
            found.append(KeptMedium(kind="image", content_type="image/*", sha256=digest))
    return found, ()


def _turns(arguments: Sequence[Sequence[Any]], media: Sequence[KeptMedium]) -> tuple[KeptTurn, ...]:
    context = arguments[0][0]
    # A choice is scored by the likelihood of each continuation: they are part of what was asked.
    choices = [str(each[1]) for each in arguments if len(each) > 1 and isinstance(each[1], str)]
    messages = _messages(context)
    if messages is None:
        return (user_turn("\n".join([str(context), *choices]), media),)
    return tuple(
        # Media are in the last turn of the user: lm-eval sends no images with examples.
        user_turn(text, media)
        if index == len(messages) - 1 and role == "user"
        else KeptTurn(role=role, parts=(text,))
        for index, (role, text) in enumerate(messages)
    )


def _messages(context: Any) -> list[tuple[Role, str]] | None:
    """The turns of a chat; ``None`` where the context is a text. Chat APIs log ``["<JSON>"]``."""
    text = context[0] if isinstance(context, list) and len(context) == 1 else None
    if not isinstance(text, str):
        return None
    try:
        messages = json.loads(text)
        turns = [(message["role"], as_text(message["content"])) for message in messages]
    except (ValueError, TypeError, KeyError):
        return None
    return turns if all(role in get_args(Role) for role, _ in turns) else None
