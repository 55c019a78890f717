"""How many held-out samples each task of the demo needs: from a pilot on the validation split.

The gate passes a task when the lower end of the two-sided 95 % interval of the paired difference
in accuracy is above ``-margin``. The pilot tells how often an unharmed fine-tune regresses and
improves; ``vlmserve.demo.power`` sums up how often the gate then passes, with the gate's own
interval. Asking each of ``k`` gated tasks for ``1 - 0.05 / k`` makes all pass together with at
least 0.95 (Bonferroni), whatever their dependence. A gain that the pilot saw is taken for no
difference, which makes the sizes larger rather than smaller.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmserve.demo.samples import TASKS, Task
from vlmserve.demo.splits import DATA_VERSION
from vlmserve.errors import ConfigError

if TYPE_CHECKING:
    from vlmserve.demo.power import PassRule

GATED_TASKS: tuple[Task, ...] = (
    "color",
    "shape",
    "count",
    "digit",
    "bright",
    "larger",
    "video",
    "reverse",
)
"""The tasks that decide; chosen before any fine-tune was measured. The others are reported."""

MARGIN = 0.08
CONFIDENCE = 0.95
POWER = 0.95
"""Chance that an unharmed checkpoint passes all gated tasks."""

FLOOR = 100
"""Samples at least, also where the pilot saw no difference: it may only be too rare to be seen."""

STEP = 10
"""Sizes are the floor and multiples of this more."""

MAX_TOTAL = 1800
"""Samples of all tasks together, so that an evaluation takes seconds."""

CANDIDATES = ("good", "good-lora")

FORMULA = (
    f"the smallest of floor, floor + {STEP}, ... with P(lower > -margin) >= 1 - (1 - power) / k "
    "for every candidate; lower is the lower end of Tango's interval, and P is summed over the "
    "trinomial of regressed and improved samples, with shares (d + loss) / 2 and (d - loss) / 2"
)

Pairs = dict[str, dict[Task, "Paired"]]
"""For each candidate, its comparison with the base by task."""


@dataclass(frozen=True, slots=True)
class Paired:
    """How two checkpoints answered the same samples of a task."""

    discordance: float
    """Share of the samples that exactly one of the two answered right."""

    difference: float
    """Accuracy of the candidate less that of the base."""

    def __post_init__(self) -> None:
        """Refuse what no answers can give."""
        if not abs(self.difference) <= self.discordance <= 1:
            raise ValueError(f"{self} is no comparison: difference beyond discordance, or that > 1")

    @property
    def loss(self) -> float:
        """The accuracy lost, 0 if some was gained."""
        return max(0.0, -self.difference)


def plan_sizes(
    pairs: Mapping[str, Mapping[Task, Paired]], pilot_samples: int, rule: "PassRule"
) -> dict[str, Any]:
    """Turn a pilot into the content of ``pilot.json``.

    Args:
        pairs: For each candidate, its comparison with the base by task.
        pilot_samples: Samples of each task that the pilot asked.
        rule: When the gate passes a task.

    Raises:
        ConfigError: A candidate loses the margin or more; or the tasks need more than
            ``MAX_TOTAL`` samples, and the demo would be slow.
    """
    sizes: dict[str, int] = dict.fromkeys(TASKS, FLOOR)
    for task in GATED_TASKS:
        sizes[task] = _size_of(task, {name: each[task] for name, each in pairs.items()}, rule)
    # Each task's samples are drawn for themselves, so that the chances multiply.
    chance = {
        name: math.prod(
            rule.pass_probability(each[task].discordance, each[task].loss, sizes[task])
            for task in GATED_TASKS
        )
        for name, each in pairs.items()
    }
    total = sum(sizes.values())
    if total > MAX_TOTAL:
        raise ConfigError(f"the tasks need {total} samples, more than {MAX_TOTAL}: {sizes}")
    return {
        "data_version": DATA_VERSION,
        "formula": FORMULA,
        "margin": rule.margin,
        "confidence": CONFIDENCE,
        "power": POWER,
        "floor": FLOOR,
        "gated": list(GATED_TASKS),
        "pilot": {
            "split": "validation",
            "samples": pilot_samples,
            "candidates": {
                name: {task: asdict(paired) for task, paired in each.items()}
                for name, each in pairs.items()
            },
        },
        "pass_probability": {name: round(value, 4) for name, value in chance.items()},
        "sizes": sizes,
        "total": total,
    }


def _size_of(task: Task, pairs: Mapping[str, Paired], rule: "PassRule") -> int:
    """Return the smallest size at which every candidate reaches the chance.

    Counts are whole, so that a larger size may do a little worse: the largest of the sizes that
    the candidates need, each by itself, may not be enough for all.
    """
    for name, paired in pairs.items():
        if paired.loss >= rule.margin:
            raise ConfigError(
                f"{name} is harmed: {task}: a loss of {paired.loss:.3f} is not below the margin of "
                f"{rule.margin:g}"
            )
    chance = 1 - (1 - POWER) / len(GATED_TASKS)
    largest = MAX_TOTAL - FLOOR * (len(TASKS) - 1)
    for size in range(FLOOR, largest + 1, STEP):
        if all(
            rule.pass_probability(paired.discordance, paired.loss, size) >= chance
            for paired in pairs.values()
        ):
            return size
    raise ConfigError(
        f"{task} needs more than {largest} samples, and all tasks together then more than "
        f"{MAX_TOTAL}: {', '.join(map(str, pairs.values()))}"
    )


def measure_pairs(samples: int, *, observe: Callable[[str], None] = lambda _name: None) -> Pairs:
    """Measure the shipped base and the unharmed fine-tunes on validation.

    Args:
        samples: Of each task.
        observe: Told the name of each checkpoint before it is measured.

    Raises:
        ConfigError: Fewer than 1 sample was asked for.
    """
    if samples < 1:
        raise ConfigError(f"a pilot needs at least 1 sample, not {samples}")
    import torch

    from vlmserve.demo.accuracy import draw_samples, measure_tasks
    from vlmserve.demo.encoding import SampleEncoder
    from vlmserve.demo.model import load_shipped_model, load_tokenizer
    from vlmserve.demo.recipe import load_shipped

    torch.set_num_threads(1)  # with these small matrices, waiting for threads costs more
    encoder = SampleEncoder(load_tokenizer(load_shipped("base").folder))
    drawn = draw_samples(TASKS, "validation", samples, "pilot")
    scores = {}
    for name in ("base", *CANDIDATES):
        observe(name)
        scores[name] = measure_tasks(load_shipped_model(name), encoder, drawn)
    return {
        name: {
            task: compare_exact(scores["base"][task].exact, scores[name][task].exact)
            for task in TASKS
        }
        for name in CANDIDATES
    }


def compare_exact(base: tuple[bool, ...], candidate: tuple[bool, ...]) -> Paired:
    """Compare answers to the same samples, aligned, both of shape ``(n,)`` with n >= 1."""
    pairs = list(zip(base, candidate, strict=True))
    gained = sum(not one and other for one, other in pairs)
    lost = sum(one and not other for one, other in pairs)
    return Paired(round((gained + lost) / len(pairs), 4), round((gained - lost) / len(pairs), 4))


def load_sizes(path: Path) -> dict[Task, int]:
    """Read the sizes from ``pilot.json``.

    Raises:
        ConfigError: It is missing or is not a pilot of this data version.
    """
    plan = _load_plan(path)
    try:
        return {task: int(plan["sizes"][task]) for task in TASKS}
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not a pilot: {error!r}") from error


def load_pairs(path: Path) -> tuple[Pairs, int]:
    """Read from ``pilot.json`` what was measured, and on how many samples of each task.

    Raises:
        ConfigError: It is missing or is not a pilot of this data version.
    """
    plan = _load_plan(path)
    try:
        pilot = plan["pilot"]
        pairs: Pairs = {
            name: {task: Paired(**pilot["candidates"][name][task]) for task in TASKS}
            for name in CANDIDATES
        }
        return pairs, int(pilot["samples"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not a pilot: {error!r}") from error


def _load_plan(path: Path) -> dict[str, Any]:
    try:
        plan: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = plan["data_version"]
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror or error}", hint="make it with: vlmserve demo pilot"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not a pilot: {error!r}") from error
    if version != DATA_VERSION:
        raise ConfigError(f"{path}: data_version: is {version}, but the data are {DATA_VERSION}")
    return plan
