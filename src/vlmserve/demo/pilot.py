"""How many held-out samples each task of the demo needs: from a pilot on the validation split.

The gate passes a task when the lower end of the two-sided 95 % interval of the paired difference
in accuracy is above ``-margin``. With discordance ``d``, the share of samples that exactly one of
two checkpoints answers right, the difference of ``n`` pairs has variance ``d / n`` at most, so a
checkpoint with true loss ``l`` passes with chance

    Phi((margin - l) / sqrt(d / n) - z(0.975)).

Asking each of ``k`` gated tasks for ``1 - 0.05 / k`` makes all pass together with at least 0.95
(Bonferroni), whatever their dependence:

    n = d * ((z(0.975) + z(1 - 0.05 / k)) / (margin - l))^2.

This is Connor's sample size for McNemar's test (Biometrics 43, 1987) turned into one for
non-inferiority. ``l`` is the loss that the pilot saw, 0 if it saw a gain.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

from vlmserve.demo.samples import TASKS, Task
from vlmserve.demo.splits import DATA_VERSION
from vlmserve.errors import ConfigError

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
"""Samples at least: below that the normal approximation is not to be trusted."""

MAX_TOTAL = 1800
"""Samples of all tasks together, so that an evaluation takes seconds."""

CANDIDATES = ("good", "good-lora")

FORMULA = "n = d * ((z(0.975) + z(1 - 0.05 / k)) / (margin - loss))^2, rounded up, at least floor"


@dataclass(frozen=True, slots=True)
class Paired:
    """How two checkpoints answered the same samples of a task."""

    discordance: float
    """Share of the samples that exactly one of the two answered right."""

    difference: float
    """Accuracy of the candidate less that of the base."""

    @property
    def loss(self) -> float:
        """The accuracy lost, 0 if some was gained."""
        return max(0.0, -self.difference)


def sample_size(discordance: float, loss: float, *, num_gated: int) -> int:
    """Return how many samples a task needs; see the module's text for the formula.

    Args:
        discordance: Between 0 and 1.
        loss: How much accuracy an unharmed checkpoint may lose; 0 or more.
        num_gated: How many tasks must pass together.

    Raises:
        ValueError: The loss reaches the margin: no number of samples lets such a checkpoint pass.
    """
    if loss >= MARGIN:
        raise ValueError(f"a loss of {loss:.3f} is not below the margin of {MARGIN}")
    normal = NormalDist()
    z = normal.inv_cdf((1 + CONFIDENCE) / 2) + normal.inv_cdf(1 - (1 - POWER) / num_gated)
    return max(FLOOR, math.ceil(discordance * (z / (MARGIN - loss)) ** 2))


def pass_probability(discordance: float, loss: float, samples: int) -> float:
    """Return the chance that a checkpoint with these pairs passes one task."""
    if discordance == 0:
        return float(loss < MARGIN)
    normal = NormalDist()
    return normal.cdf(
        (MARGIN - loss) / math.sqrt(discordance / samples) - normal.inv_cdf((1 + CONFIDENCE) / 2)
    )


def plan_sizes(pairs: Mapping[str, Mapping[Task, Paired]], pilot_samples: int) -> dict[str, Any]:
    """Turn a pilot into the content of ``pilot.json``.

    Args:
        pairs: For each candidate, its comparison with the base by task.
        pilot_samples: Samples of each task that the pilot asked.

    Raises:
        ConfigError: A candidate is harmed, see ``sample_size``; or the sizes add up to more than
            ``MAX_TOTAL``, and the demo would be slow.
    """
    sizes: dict[str, int] = dict.fromkeys(TASKS, FLOOR)
    for name, each in pairs.items():
        for task in GATED_TASKS:
            paired = each[task]
            try:
                need = sample_size(paired.discordance, paired.loss, num_gated=len(GATED_TASKS))
            except ValueError as error:
                raise ConfigError(f"{name} is harmed: {task}: {error}") from error
            sizes[task] = max(sizes[task], need)
    chance = {
        name: math.prod(
            pass_probability(each[task].discordance, each[task].loss, sizes[task])
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
        "margin": MARGIN,
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


def run_pilot(
    samples: int, *, observe: Callable[[str], None] = lambda _name: None
) -> dict[str, Any]:
    """Measure the shipped base and the unharmed fine-tunes on validation, and plan the sizes.

    Args:
        samples: Of each task.
        observe: Told the name of each checkpoint before it is measured.

    Returns:
        The content of ``pilot.json``.

    Raises:
        ConfigError: See ``plan_sizes``; or fewer than 1 sample was asked for.
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
    pairs = {
        name: {
            task: compare_exact(scores["base"][task].exact, scores[name][task].exact)
            for task in TASKS
        }
        for name in CANDIDATES
    }
    return plan_sizes(pairs, samples)


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
    try:
        pilot = json.loads(path.read_text(encoding="utf-8"))
        version, sizes = pilot["data_version"], pilot["sizes"]
        found = {task: int(sizes[task]) for task in TASKS}
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror or error}", hint="make it with: vlmserve demo pilot"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not a pilot: {error!r}") from error
    if version != DATA_VERSION:
        raise ConfigError(f"{path}: data_version: is {version}, but the data are {DATA_VERSION}")
    return found
