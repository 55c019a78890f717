"""Real logs of lm-eval, written by lm-eval itself."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

from vlmserve.platform import cure_torch_extensions

cure_torch_extensions()

from lm_eval import simple_evaluate  # noqa: E402
from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.api.model import LM  # noqa: E402
from lm_eval.loggers import EvaluationTracker  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

Answer = Callable[[int], str]
"""The answer to the sample of this number."""


class ScriptedModel(LM):  # type: ignore[misc]
    """Answers from a function of the sample's number."""

    MULTIMODAL = True

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self._answer = answer

    def generate_until(self, requests: Sequence[Instance], **_: Any) -> list[str]:
        return [self._answer(request.doc_id) for request in requests]

    def loglikelihood(self, requests: Sequence[Instance], **_: Any) -> list[tuple[float, bool]]:
        """The choice that the answer names is the likeliest."""
        return [
            (0.0 if request.args[1].strip() == self._answer(request.doc_id) else -5.0, False)
            for request in requests
        ]

    def loglikelihood_rolling(self, requests: Sequence[Instance], **_: Any) -> list[float]:
        raise NotImplementedError


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8 + number, 8), "red").save(buffer, "PNG")
    return buffer.getvalue()


def write_task(folder: Path, rows: Sequence[dict[str, Any]], **settings: Any) -> None:
    """A task ``sums`` with its data."""
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), folder / "sums.parquet")
    task = {
        "task": "sums",
        "dataset_path": "parquet",
        "dataset_kwargs": {"data_files": str(folder / "sums.parquet")},
        "test_split": "train",
        "output_type": "generate_until",
        "doc_to_text": "question",
        "doc_to_target": "target",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4, "do_sample": False},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        **settings,
    }
    (folder / "sums.yaml").write_text(yaml.safe_dump(task))


def sums(count: int = 20, *, images: bool = False) -> list[dict[str, Any]]:
    """Rows whose target is ``right``."""
    rows: list[dict[str, Any]] = [
        {
            "question": f"Sum {number}",
            "target": "right",
            "kind": ("even", "odd")[number % 2],
            "uid": f"u{number}",
        }
        for number in range(count)
    ]
    if images:
        for number, row in enumerate(rows):
            row["question"] = f"<image>{row['question']}"
            row["img"] = {"bytes": png(number), "path": None}
    return rows


def evaluate(folder: Path, model: Any, out: Path, **settings: Any) -> Path:
    """Run lm-eval as its command does; gives the directory of its logs."""
    tracker = EvaluationTracker(output_path=str(out))
    results = simple_evaluate(
        model=model,
        tasks=["sums"],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        log_samples=True,
        evaluation_tracker=tracker,
        bootstrap_iters=0,
        **settings,
    )
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples)
    for task in results["configs"]:
        tracker.save_results_samples(task_name=task, samples=samples[task])
    return out
