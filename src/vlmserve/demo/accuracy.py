"""How often the demo model answers exactly right, task by task."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vlmserve.demo.encoding import SampleEncoder
from vlmserve.demo.forward import score_batch
from vlmserve.demo.samples import Sample, SampleGenerator, Task
from vlmserve.demo.splits import Split

_BATCH = 64
_CHUNKS = 4


@dataclass(frozen=True, slots=True)
class TaskScore:
    """A model's answers to the samples of one task."""

    exact: tuple[bool, ...]
    """For each sample, in order, whether greedy decoding gives exactly the target."""

    nll: float
    """Mean negative log-likelihood of a target token, in nats."""

    @property
    def accuracy(self) -> float:
        """The fraction of exact answers, 0 to 1."""
        return sum(self.exact) / len(self.exact)


def draw_samples(
    tasks: Iterable[Task], split: Split, number: int, seed: int | str
) -> dict[Task, list[Sample]]:
    """Draw ``number`` samples of one turn for each task, whatever other tasks are drawn."""
    drawn = {}
    for task in tasks:
        generator = SampleGenerator(f"{seed}/{task}", split)
        drawn[task] = [generator.sample(task) for _ in range(number)]
    return drawn


def measure_tasks(
    model: Any, encoder: SampleEncoder, samples: Mapping[Task, Sequence[Sample]]
) -> dict[Task, TaskScore]:
    """Score every sample of every task; the model is left as it was.

    Raises:
        ValueError: A task has no samples: it has no accuracy, and 0 would be a lie.
    """
    scores = {}
    for task, asked in samples.items():
        if not asked:
            raise ValueError(f"{task}: no samples to measure")
        exact: list[bool] = []
        nll, tokens = 0.0, 0
        for first in range(0, len(asked), _BATCH):
            batch = asked[first : first + _BATCH]
            encoded = [encoder.encode(sample) for sample in batch]
            with torch.no_grad():
                score = score_batch(model, batch, encoded, chunks=_CHUNKS)
            exact += score.exact
            nll += sum(score.nll)
            tokens += sum(score.tokens)
        scores[task] = TaskScore(tuple(exact), nll / tokens)
    return scores
