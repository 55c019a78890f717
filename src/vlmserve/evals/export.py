"""Samples of kept runs as rows, for whatever reads JSON Lines, Parquet or CSV."""

import csv
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from vlmserve.errors import ConfigError
from vlmserve.evals.archive import RecordedSide, RecordedTask
from vlmserve.evals.records import NllOutcome, Scored, TargetNll
from vlmserve.evals.run_record import KeptSample

ExportFormat = Literal["jsonl", "parquet", "csv"]

# Names of columns with their types in Parquet. "json" is a value of its own in JSON Lines, and its
# text elsewhere.
_COLUMNS: dict[str, Literal["string", "int64", "float64", "json"]] = {
    "run_id": "string",
    "side": "string",
    "name": "string",
    "fingerprint": "string",
    "suite_digest": "string",
    "task": "string",
    "metric": "string",
    "position": "int64",
    "asked_at": "int64",
    "sample_id": "string",
    "request_digest": "string",
    "status": "string",
    "score": "float64",
    "answer": "string",
    "error_type": "string",
    "error": "string",
    "completion": "string",
    "finish_reason": "string",
    "prompt_tokens": "int64",
    "completion_tokens": "int64",
    "latency_s": "float64",
    "target": "string",
    "target_nll": "float64",
    "target_tokens": "int64",
    "target_bytes": "int64",
    "turns": "json",
    "media_sha256": "json",
    "sampling": "json",
    "fields": "json",
    "keys": "json",
}


def sample_rows(side: RecordedSide) -> Iterator[dict[str, Any]]:
    """Give a row for each sample of a side, asked or not, in the order of the data sets.

    ``status`` is ``scored``, ``failed``, or ``not asked`` where asking had stopped before.
    """
    run = {
        "run_id": side.run_id,
        "side": side.side,
        "name": side.record.name,
        "fingerprint": side.record.fingerprint,
        "suite_digest": side.record.suite.digest,
    }
    for task in side.tasks:
        order = {sample_id: place for place, sample_id in enumerate(task.records)}
        for position, kept in enumerate(task.kept_samples):
            row = dict.fromkeys(_COLUMNS) | run | _asked(task, kept) | _became(task, kept)
            yield row | {"position": position, "asked_at": order.get(kept.sample_id)}


def _asked(task: RecordedTask, kept: KeptSample) -> dict[str, Any]:
    return {
        "task": task.name,
        "metric": task.metric,
        "sample_id": kept.sample_id,
        "request_digest": kept.request_digest,
        "target": kept.target,
        "turns": [turn.model_dump(mode="json") for turn in kept.turns],
        "media_sha256": [
            part.sha256 for turn in kept.turns for part in turn.parts if not isinstance(part, str)
        ],
        "sampling": None if kept.params is None else kept.params.model_dump(mode="json"),
        "fields": kept.fields,
        "keys": kept.keys,
    }


def _became(task: RecordedTask, kept: KeptSample) -> dict[str, Any]:
    nll = _nll(task.nll.get(kept.sample_id))
    became = task.outcomes.get(kept.sample_id)
    if became is None or became.outcome is None:
        return {"status": "not asked", **nll}
    outcome, completion = became.outcome, became.completion
    row: dict[str, Any] = {"status": outcome.status, "completion": became.text, **nll}
    if isinstance(outcome, Scored):
        row |= {"score": outcome.score, "answer": outcome.answer}
    else:
        row |= {"error_type": outcome.error_type, "error": outcome.message}
    usage = became.usage
    if completion is not None:
        usage = completion.usage
        row |= {
            "completion": completion.text,
            "finish_reason": completion.finish_reason,
            "latency_s": completion.latency_s,
        }
    if usage is not None:
        row |= {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
        }
    return row


def _nll(outcome: NllOutcome | None) -> dict[str, Any]:
    if not isinstance(outcome, TargetNll):
        return {}
    return {
        "target_nll": outcome.nats,
        "target_tokens": outcome.n_tokens,
        "target_bytes": outcome.n_bytes,
    }


def export_sides(sides: Sequence[RecordedSide], kind: ExportFormat, path: Path) -> int:
    """Write the samples of some sides, and beside them what is known of the sides as a whole.

    The records of the sides go to ``PATH.run.json``. Files appear when they are complete.

    Args:
        sides: What to write.
        kind: The format.
        path: The file; one that is there is replaced.

    Returns:
        How many rows were written.

    Raises:
        ConfigError: A file cannot be written, or pyarrow is not installed.
    """
    rows = [row for side in sides for row in sample_rows(side)]
    records = [
        {"run_id": side.run_id, "side": side.side, **side.record.model_dump(mode="json")}
        for side in sides
    ]
    write = {"jsonl": _write_jsonl, "csv": _write_csv, "parquet": _write_parquet}[kind]
    about = path.with_name(f"{path.name}.run.json")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for target, write_to in (
            (path, lambda part: write(rows, part)),
            (about, lambda part: part.write_text(_json(records, indent=2) + "\n", "utf-8")),
        ):
            part = target.with_name(f".{target.name}.{os.getpid()}.part")
            try:
                write_to(part)
                part.replace(target)
            finally:
                part.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {path}: {error.strerror or error}") from error
    return len(rows)


def _write_jsonl(rows: Sequence[dict[str, Any]], path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(_json(row) + "\n" for row in rows)


def _write_csv(rows: Sequence[dict[str, Any]], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(_COLUMNS))
        writer.writeheader()
        writer.writerows(map(_flat, rows))


def _write_parquet(rows: Sequence[dict[str, Any]], path: Path) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ConfigError(
            "pyarrow is not installed, which Parquet takes", hint="pip install 'vlmserve[eval]'"
        ) from error
    types = {"string": pa.string(), "int64": pa.int64(), "float64": pa.float64()}
    schema = pa.schema([(name, types.get(kind, pa.string())) for name, kind in _COLUMNS.items()])
    pq.write_table(pa.Table.from_pylist([_flat(row) for row in rows], schema), path)


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _json(value) if _COLUMNS[name] == "json" and value is not None else value
        for name, value in row.items()
    }


def _json(value: Any, *, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
