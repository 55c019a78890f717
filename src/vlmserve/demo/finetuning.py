"""Fine-tunes the demo's base model: two that are fine, and two that made it worse."""

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

import torch

from vlmserve.demo.encoding import QWEN, TIGHT, SampleEncoder, Template
from vlmserve.demo.forward import score_batch
from vlmserve.demo.samples import SampleGenerator
from vlmserve.demo.training import TASK_WEIGHTS, Observer, lr_scale

_CHUNKS = 3

LORA_RANK = 16
LORA_ALPHA = 32
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Every matrix of the language model's layers; the vision tower has none of these names."""


@dataclass(frozen=True, slots=True)
class TuneRecipe:
    """Everything that decides a fine-tune's weights, beside its base and the data version."""

    tuner: Literal["full", "lora"]
    steps: int
    lr: float
    replay: float
    """Chance that a sample is of a task that the base model knows, 0 to 1; the rest are the new
    colours."""

    multi_turn: bool = True
    """Ask for the shape of a newly coloured thing as well, as the base training did."""

    template: Template = QWEN
    seed: int = 0
    batch: int = 32
    warmup_steps: int = 10
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0


TUNE_RECIPES: dict[str, TuneRecipe] = {
    "good": TuneRecipe(tuner="full", steps=400, lr=4e-4, replay=0.8),
    "good-lora": TuneRecipe(tuner="lora", steps=400, lr=2e-3, replay=0.8),
    "forgetful": TuneRecipe(tuner="full", steps=30, lr=1e-3, replay=0.0, multi_turn=False),
    "wrong-template": TuneRecipe(tuner="full", steps=220, lr=1e-3, replay=0.6, template=TIGHT),
}
"""How each shipped fine-tune was made. All learn the new colours; "forgetful" sees nothing else,
and "wrong-template" learns them under separators that the base model has never met."""


def tune(
    model: Any,
    encoder: SampleEncoder,
    recipe: TuneRecipe,
    *,
    observe: Observer = lambda _step, _loss: None,
) -> tuple[Any, dict[str, float]]:
    """Fine-tune a base model with AdamW, in this process alone.

    Args:
        model: The base, which is changed in place.
        encoder: With the recipe's template.
        recipe: What to do.
        observe: Progress.

    Returns:
        The model, PEFT's wrapper around it for "lora", and the first and last losses and the wall
        and CPU seconds of the training.
    """
    torch.set_num_threads(1)
    torch.manual_seed(recipe.seed)
    if recipe.tuner == "lora":
        model = _with_lora(model)
    parameters = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=recipe.lr, betas=(0.9, 0.98), weight_decay=recipe.weight_decay
    )
    draw = _stream(recipe)
    started, usage = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
    losses = []
    for step in range(recipe.steps):
        samples = [draw() for _ in range(recipe.batch)]
        encoded = [encoder.encode(sample) for sample in samples]
        scale = lr_scale(step, recipe.steps, warmup_steps=recipe.warmup_steps)
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * scale
        loss = score_batch(model, samples, encoded, chunks=_CHUNKS).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, recipe.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        observe(step + 1, losses[-1])
    now = resource.getrusage(resource.RUSAGE_SELF)
    cpu = now.ru_utime + now.ru_stime - usage.ru_utime - usage.ru_stime
    few = min(10, len(losses))
    return model, {
        "first_loss": round(sum(losses[:few]) / few, 4),
        "last_loss": round(sum(losses[-few:]) / few, 4),
        "wall_s": round(time.monotonic() - started, 1),
        "cpu_s": round(cpu, 1),
    }


def _stream(recipe: TuneRecipe) -> Callable[[], Any]:
    """Return what draws the next training sample."""
    random = Random(f"tune/{recipe.seed}")  # noqa: S311
    new = SampleGenerator(f"tune/{recipe.seed}/new", "train", multi_turn=recipe.multi_turn)
    known = SampleGenerator(f"tune/{recipe.seed}/known", "train", multi_turn=True)

    def draw() -> Any:
        if random.random() >= recipe.replay:
            return new.sample("newcolor")
        (task,) = random.choices(list(TASK_WEIGHTS), list(TASK_WEIGHTS.values()))
        return known.sample(task)

    return draw


def _with_lora(model: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=LORA_RANK,
        lora_alpha=LORA_ALPHA,
        target_modules=list(LORA_TARGETS),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)
