"""Trains the shipped checkpoints again and writes them as they are shipped."""

import dataclasses
import json
import platform
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from vlmserve.demo import finetuning, training
from vlmserve.demo.accuracy import draw_samples, measure_tasks
from vlmserve.demo.encoding import QWEN, SampleEncoder
from vlmserve.demo.model import load_model, load_tokenizer, save_checkpoint
from vlmserve.demo.recipe import RECIPE_FILE, TRAINED, load_shipped, write_recipe
from vlmserve.demo.samples import TASKS
from vlmserve.demo.splits import DATA_VERSION, Split
from vlmserve.demo.tokenizer import create_tokenizer
from vlmserve.errors import ConfigError

Progress = Callable[[str, int], training.Observer]
"""Given a checkpoint's name and its number of steps, returns the observer of its training."""


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """What may differ from the shipped recipes."""

    seed: int | None = None
    """Of the base; the recipe's own if ``None``."""

    steps: int | None = None
    """Of every training, to try things out; each recipe's own if ``None``."""

    processes: int = 2
    """For the base: 1, or one for each shard."""

    samples: int = 1000
    """Of each task, to measure the finished weights on."""

    heldout: bool = False
    """Measure the held-out split too, not validation alone. For weights about to be shipped: what
    is looked at while a recipe is being chosen is held out no longer."""

    def __post_init__(self) -> None:
        """Refuse what cannot be trained or measured."""
        if self.steps is not None and self.steps < 1:
            raise ConfigError(f"steps must be at least 1, not {self.steps}")
        if self.samples < 1:
            raise ConfigError(f"samples must be at least 1, not {self.samples}")

    @property
    def measured(self) -> tuple[Split, ...]:
        """The splits to measure the finished weights on."""
        return ("validation", "heldout") if self.heldout else ("validation",)


def train_variants(
    names: Sequence[str],
    out: Path,
    *,
    settings: Settings = Settings(),
    progress: Progress = lambda _name, _steps: lambda _step, _loss: None,
) -> None:
    """Train checkpoints into ``out/<name>/``, the base first.

    Args:
        names: Of ``TRAINED``. A fine-tune starts from ``out/base`` if that is there or is trained
            now, else from the shipped base.
        out: A folder, made if need be.
        settings: What differs from the shipped recipes.
        progress: Shows how far each training is.

    Raises:
        ConfigError: A name is unknown, or ``out/<name>`` holds something else.
    """
    for name in names:
        if name not in TRAINED:
            raise ConfigError(f"no demo variant {name!r}; there are {', '.join(TRAINED)}")
        _check_ours(out / name)
    changes: dict[str, Any] = {} if settings.steps is None else {"steps": settings.steps}
    if "base" in names:
        seed = {} if settings.seed is None else {"seed": settings.seed}
        recipe = dataclasses.replace(training.BaseRecipe(), **changes, **seed)
        observe = progress("base", recipe.steps)
        _train_base(out / "base", recipe, settings, observe)
    for name in (name for name in TRAINED if name in names and name != "base"):
        tune_recipe = dataclasses.replace(finetuning.TUNE_RECIPES[name], **changes)
        base = load_shipped("base", out) if (out / "base").is_dir() else load_shipped("base")
        observe = progress(name, tune_recipe.steps)
        _tune(base.folder, out / name, tune_recipe, settings, observe)


def _train_base(
    folder: Path, recipe: training.BaseRecipe, settings: Settings, observe: training.Observer
) -> None:
    tokenizer = create_tokenizer()
    _empty(folder)

    def keep(model: Any, log: training.TrainingLog) -> None:
        save_checkpoint(model, tokenizer, folder)
        info = _info("base", dataclasses.asdict(recipe), dataclasses.asdict(log))
        write_recipe(folder, "model.safetensors", info)

    model, log = training.train_base(
        recipe, processes=settings.processes, observe=observe, checkpoint=keep
    )
    info = _info("base", dataclasses.asdict(recipe), dataclasses.asdict(log))
    encoder = SampleEncoder(tokenizer)
    write_recipe(folder, "model.safetensors", info | _measured(model, encoder, settings))


def _tune(
    base: Path,
    folder: Path,
    recipe: finetuning.TuneRecipe,
    settings: Settings,
    observe: training.Observer,
) -> None:
    encoder = SampleEncoder(load_tokenizer(base), recipe.template)
    model, log = finetuning.tune(load_model(base), encoder, recipe, observe=observe)
    _empty(folder)
    model.save_pretrained(folder)
    weights_file = "model.safetensors"
    if recipe.tuner == "lora":
        weights_file = "adapter_model.safetensors"
        _tidy_adapter(folder, base.name)
    if recipe.template != QWEN:
        template = recipe.template.jinja()
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    info = _info(folder.name, dataclasses.asdict(recipe), log)
    info |= {"base_sha256": load_shipped("base", base.parent).recipe["weights"]["sha256"]}
    write_recipe(folder, weights_file, info | _measured(model, encoder, settings))


def _tidy_adapter(folder: Path, base_name: str) -> None:
    """Undo what PEFT makes different each time: the base's path and the order of a set."""
    (folder / "README.md").unlink()  # a model card for the hub
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base_name
    config["target_modules"].sort()
    path.write_text(f"{json.dumps(config, indent=2)}\n", encoding="utf-8")


def _measured(model: Any, encoder: SampleEncoder, settings: Settings) -> dict[str, Any]:
    """Measure accuracies under the template that the weights learned.

    Returns:
        For each split and task the number of samples, the accuracy and the target's NLL in nats.
    """
    measured: dict[str, Any] = {}
    number = settings.samples
    for split in settings.measured:
        scores = measure_tasks(model, encoder, draw_samples(TASKS, split, number, "recipe"))
        measured[split] = {
            task: {"n": number, "accuracy": round(score.accuracy, 4), "nll": round(score.nll, 5)}
            for task, score in scores.items()
        }
    return measured


def _info(name: str, settings: dict[str, Any], log: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "data_version": DATA_VERSION,
        "settings": settings,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "training": log,
    }


def _check_ours(folder: Path) -> None:
    """Refuse a folder that holds anything but an earlier training of the same checkpoint."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    try:
        recipe = json.loads((folder / RECIPE_FILE).read_text(encoding="utf-8"))
        ours = recipe["name"] == folder.name and "data_version" in recipe
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise ConfigError(
            f"{folder} is not empty and holds no trained demo checkpoint",
            hint="name another --out, or move it away",
        )


def _empty(folder: Path) -> None:
    """Make a folder that holds nothing; what it may hold was checked before."""
    if folder.is_dir():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
