"""How many tokens a suite's prompts take with a checkpoint, told before anything is asked."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vlmserve.checkpoint.text_config import find_text_section
from vlmserve.datasets.sample import Dataset
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.sample_length import SampleLengths, count_prompts
from vlmserve.evals.lint_report import Remark, TaskLint
from vlmserve.evals.lint_rows import as_row, spread

if TYPE_CHECKING:
    from vlmserve.evals.eval_task import EvalTask

_MOST_SHOWN = 3


def count_tokens(
    task: "EvalTask", lint: TaskLint, checkpoint: Examination
) -> tuple[TaskLint, list[Remark]]:
    """Count the tokens of a task's prompts.

    Args:
        task: The task.
        lint: What is known of it so far.
        checkpoint: Whose tokenizer, chat template and processor count.

    Returns:
        The same with tokens, and what is to be said of them.

    Raises:
        CheckpointError: A file of the checkpoint is broken.
    """
    found = count_prompts(replace(checkpoint, data=prompts_of(task)))
    if isinstance(found, str):
        text = f"the tokens of its prompts cannot be counted: {found}"
        return lint, [Remark(level="note", task=task.name, text=text)]
    n_uncounted = sum(len(places) for places in found.uncounted.values())
    counted = lint.model_copy(
        update={
            "prompt_tokens": spread([length.total for length in found.counted]),
            "n_uncounted": n_uncounted,
        }
    )
    return counted, [
        *_uncounted(task.name, found.uncounted),
        *_too_long(task, found, _context(checkpoint)),
    ]


def prompts_of(task: "EvalTask") -> Dataset:
    """What a task asks as a data set, without the expected answers; rows are counted from 1."""
    path = Path(task.name)
    rows = tuple(
        as_row(sample, path, number, is_answered=False)
        for number, sample in enumerate(task.samples, start=1)
    )
    return Dataset(path, "suite", rows)


def _context(checkpoint: Examination) -> int | None:
    """How many tokens prompt and answer may have together, as far as files tell."""
    length = checkpoint.serve.engine.max_model_len
    if length is not None:
        return length
    value = find_text_section(checkpoint.checkpoint.config).values.get("max_position_embeddings")
    return value if type(value) is int and value > 0 else None


def _uncounted(task: str, uncounted: Mapping[str, Sequence[str]]) -> Iterator[Remark]:
    for reason, places in uncounted.items():
        yield Remark(
            level="note",
            task=task,
            text=f"the tokens of {len(places)} prompts cannot be counted: {reason}",
        )


def _too_long(task: "EvalTask", found: SampleLengths, context: int | None) -> Iterator[Remark]:
    if context is None:
        return
    limits = {row: sample.params.max_tokens for row, sample in enumerate(task.samples, start=1)}
    over = [
        length for length in found.counted if length.total + limits[length.sample.row] > context
    ]
    hopeless = [length for length in over if length.total >= context]
    if hopeless:
        shown = ", ".join(str(length.sample.row) for length in hopeless[:_MOST_SHOWN])
        yield Remark(
            level="error",
            task=task.name,
            text=f"{len(hopeless)} prompts do not fit into {context:,} tokens (sample {shown}); "
            "they would be refused",
        )
    if len(over) > len(hopeless):
        yield Remark(
            level="warning",
            task=task.name,
            text=f"{len(over) - len(hopeless)} prompts leave less than their max_tokens of the "
            f"{context:,} tokens that prompt and answer have together",
        )
