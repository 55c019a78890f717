"""Trains the demo's base model from nothing, the same weights from the same seed.

A step's batch is a fixed number of shards, each with its own stream of samples. With two processes
each works on its own shard and gloo sums the gradients; with one process the shards come one after
the other. Both give the same sums, so the number of processes does not change the weights.
"""

import contextlib
import math
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from vlmserve.demo.accuracy import draw_samples, measure_tasks
from vlmserve.demo.encoding import SampleEncoder
from vlmserve.demo.forward import score_batch
from vlmserve.demo.model import create_model
from vlmserve.demo.optimizer import Muon
from vlmserve.demo.samples import BASE_TASKS, SampleGenerator, Task
from vlmserve.demo.tokenizer import create_tokenizer
from vlmserve.errors import ConfigError

_CHUNKS = 3

TASK_WEIGHTS: dict[Task, float] = {
    "color": 0.5,
    "shape": 1.2,
    "count": 1.1,
    "digit": 1.8,
    "bright": 0.3,
    "same": 1.4,
    "larger": 1.3,
    "order": 1.3,
    "video": 0.8,
    "add": 1.2,
    "reverse": 0.7,
    "ref": 1.2,
}
"""How often each task is drawn, relative to the others."""

_EASY_WEIGHTS: dict[Task, float] = TASK_WEIGHTS | {
    "shape": 1.8,
    "digit": 2.2,
    "bright": 0.1,
    "same": 0.0,
    "larger": 0.0,
    "order": 0.0,
    "ref": 0.4,
}


@dataclass(frozen=True, slots=True)
class BaseRecipe:
    """Everything that decides the base model's weights, beside the data version."""

    seed: int = 0
    steps: int = 4500
    shards: int = 2
    shard_samples: int = 24
    lr: float = 2e-3
    """AdamW's, for embeddings, the patch embedding, norms and biases."""

    muon_lr: float = 6e-3
    """Muon's, for all other matrices."""

    weight_decay: float = 0.05
    warmup_steps: int = 60
    final_lr_fraction: float = 0.03
    """The learning rate falls along a cosine to this fraction."""

    max_grad_norm: float = 1.0
    easy_fraction: float = 0.3
    """The part of training, at its start, that leaves out comparing images."""

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if min(self.steps, self.shards, self.shard_samples) < 1:
            raise ConfigError("steps, shards and samples a shard must be at least 1")


@dataclass(frozen=True, slots=True)
class Validation:
    """When and on how much to measure during training; does not change the weights."""

    every_steps: int = 300
    samples: int = 60
    """Of each task, drawn from the validation split."""


@dataclass(slots=True)
class TrainingLog:
    """What a training left behind besides the weights."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    """Of all training processes together, validation included; known when training is over."""

    points: list[dict[str, Any]] = field(default_factory=list)
    """One entry each time validation was measured: step, loss, seconds, accuracy by task."""


Observer = Callable[[int, float], None]
"""Called after each step with the number of steps done and the loss."""

Checkpoint = Callable[[Any, TrainingLog], None]
"""Called with model and log after each validation."""


def train_base(
    recipe: BaseRecipe,
    *,
    processes: int = 2,
    validation: Validation = Validation(),
    observe: Observer = lambda _step, _loss: None,
    checkpoint: Checkpoint = lambda _model, _log: None,
) -> tuple[Any, TrainingLog]:
    """Train a new base model.

    Args:
        recipe: What to do.
        processes: 1, or one for each shard; does not change the result.
        validation: When to measure.
        observe: Progress.
        checkpoint: Where to keep what there is so far.

    Returns:
        The model, a ``Qwen2VLForConditionalGeneration`` in fp32, and the log.

    Raises:
        ConfigError: The number of processes is neither 1 nor the number of shards.
    """
    if processes not in {1, recipe.shards}:
        raise ConfigError(
            f"processes must be 1 or the number of shards, {recipe.shards}; not {processes}"
        )
    started, cpu = time.monotonic(), _cpu_s()
    trainer = _Trainer(recipe, range(recipe.shards) if processes == 1 else range(1))
    samples = draw_samples(BASE_TASKS, "validation", validation.samples, "training")
    log = TrainingLog()
    losses: list[float] = []
    with _helpers(recipe, processes):
        for step in range(1, recipe.steps + 1):
            losses.append(trainer.step())
            observe(step, losses[-1])
            if step % validation.every_steps and step != recipe.steps:
                continue
            scores = measure_tasks(trainer.model, trainer.encoder, samples)
            log.wall_s = round(time.monotonic() - started, 1)
            recent = losses[-validation.every_steps :]
            log.points.append(
                {
                    "step": step,
                    "loss": round(sum(recent) / len(recent), 4),
                    "wall_s": log.wall_s,
                    "accuracy": {task: round(s.accuracy, 4) for task, s in scores.items()},
                }
            )
            checkpoint(trainer.model, log)
    log.cpu_s = round(_cpu_s() - cpu, 1)
    return trainer.model, log


def lr_scale(step: int, steps: int, *, warmup_steps: int, final_fraction: float = 0.0) -> float:
    """Return the learning rate's factor: linear warm-up, then a cosine down to a fraction.

    Args:
        step: Steps done before this one.
        steps: Steps in all.
        warmup_steps: Steps until the full rate.
        final_fraction: The factor at the end.
    """
    warm = min(1.0, (step + 1) / warmup_steps)
    cosine = (1 + math.cos(math.pi * step / steps)) / 2
    return warm * (final_fraction + (1 - final_fraction) * cosine)


def _cpu_s() -> float:
    """Return the CPU seconds of this process and of its children that have ended."""
    own, children = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


class _Trainer:
    """One process's model, optimizers and streams of samples."""

    def __init__(self, recipe: BaseRecipe, shards: range) -> None:
        torch.set_num_threads(1)  # with these small matrices, waiting for threads costs more
        self._recipe = recipe
        tokenizer = create_tokenizer()
        self.encoder = SampleEncoder(tokenizer)
        self.model = create_model(tokenizer, recipe.seed)
        self._streams = [
            (
                SampleGenerator(f"base/{recipe.seed}/{shard}", "train", multi_turn=True),
                Random(f"tasks/{recipe.seed}/{shard}"),  # noqa: S311
            )
            for shard in shards
        ]
        self._parameters = list(self.model.parameters())
        self._optimizers = _optimizers(self.model, recipe)
        self._base_lr = [[g["lr"] for g in each.param_groups] for each in self._optimizers]
        self._step = 0

    def step(self) -> float:
        """Do one step and return the loss over all shards."""
        recipe = self._recipe
        easy = self._step < recipe.easy_fraction * recipe.steps
        weights = _EASY_WEIGHTS if easy else TASK_WEIGHTS
        total = torch.stack([self._gradient(*stream, weights) for stream in self._streams]).sum(0)
        if dist.is_initialized():
            dist.all_reduce(total)
        total /= recipe.shards
        self._apply(total[:-1])
        return float(total[-1])

    def _gradient(
        self, generator: SampleGenerator, random: Random, weights: dict[Task, float]
    ) -> torch.Tensor:
        """Return one shard's gradient, flat, with its loss as the last element."""
        tasks = random.choices(list(weights), list(weights.values()), k=self._recipe.shard_samples)
        samples = [generator.sample(task) for task in tasks]
        encoded = [self.encoder.encode(sample) for sample in samples]
        loss = score_batch(self.model, samples, encoded, chunks=_CHUNKS).loss
        gradients = torch.autograd.grad(loss, self._parameters, materialize_grads=True)
        return torch.cat([*(each.flatten() for each in gradients), loss.detach()[None]])

    def _apply(self, gradient: torch.Tensor) -> None:
        sizes = [parameter.numel() for parameter in self._parameters]
        for parameter, part in zip(self._parameters, gradient.split(sizes), strict=True):
            parameter.grad = part.view_as(parameter)
        torch.nn.utils.clip_grad_norm_(self._parameters, self._recipe.max_grad_norm)
        scale = lr_scale(
            self._step,
            self._recipe.steps,
            warmup_steps=self._recipe.warmup_steps,
            final_fraction=self._recipe.final_lr_fraction,
        )
        for optimizer, rates in zip(self._optimizers, self._base_lr, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * scale
            optimizer.step()
        self._step += 1


def _optimizers(model: Any, recipe: BaseRecipe) -> list[torch.optim.Optimizer]:
    """Muon for the hidden matrices, AdamW for the rest, no decay on norms and biases."""
    matrices: list[torch.Tensor] = []
    tables: list[torch.Tensor] = []
    vectors: list[torch.Tensor] = []
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and "embed_tokens" not in name:  # noqa: PLR2004 - a matrix
            matrices.append(parameter)
        else:
            (tables if parameter.ndim > 1 else vectors).append(parameter)
    groups = [
        {"params": tables, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [
        torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.98), fused=True),
        Muon(matrices, lr=recipe.muon_lr, weight_decay=recipe.weight_decay),
    ]


@contextlib.contextmanager
def _helpers(recipe: BaseRecipe, processes: int) -> Iterator[None]:
    """Run the other processes for as long as this one trains, as rank 0."""
    if processes == 1:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        store = f"file://{Path(folder) / 'store'}"
        helpers = mp.spawn(
            _help, (recipe, processes, store), nprocs=processes - 1, join=False, daemon=True
        )
        _join_group(store, 0, processes)
        try:
            yield
        finally:
            dist.destroy_process_group()
            if helpers is not None:
                helpers.join(grace_period=5)


def _help(index: int, recipe: BaseRecipe, processes: int, store: str) -> None:
    """Train along as one of the other ranks; ``mp.spawn`` calls this in a new process."""
    rank = index + 1
    trainer = _Trainer(recipe, range(rank, rank + 1))
    _join_group(store, rank, processes)
    for _ in range(recipe.steps):
        trainer.step()
    dist.destroy_process_group()


def _join_group(store: str, rank: int, processes: int) -> None:
    # All ranks are on this machine; its own name need not resolve.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=processes)
