import json
import math
from pathlib import Path
from random import Random

import pytest
from scipy import stats

from vlmserve.demo.pilot import (
    CANDIDATES,
    FLOOR,
    GATED_TASKS,
    MARGIN,
    MAX_TOTAL,
    Paired,
    compare_exact,
    load_sizes,
    pass_probability,
    plan_sizes,
    sample_size,
)
from vlmserve.demo.samples import TASKS
from vlmserve.errors import ConfigError

SHIPPED = Path(__file__).parents[3] / "evals" / "demo" / "pilot.json"


def plan(discordance: float, difference: float = 0.0) -> dict[str, object]:
    paired = dict.fromkeys(TASKS, Paired(discordance, difference))
    return plan_sizes({"good": paired, "good-lora": paired}, 1000)


def test_pairs_are_counted() -> None:
    base = (True, True, False, False, True)
    candidate = (True, False, True, False, False)

    assert compare_exact(base, candidate) == Paired(0.6, -0.2)


def test_unpaired_answers_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        compare_exact((True,), (True, False))


def test_sample_size_is_the_formula() -> None:
    z = stats.norm.ppf(0.975) + stats.norm.ppf(1 - 0.05 / 8)

    assert sample_size(0.06, 0.0, num_gated=8) == math.ceil(0.06 * z**2 / MARGIN**2)
    assert sample_size(0.06, 0.01, num_gated=8) == math.ceil(0.06 * z**2 / (MARGIN - 0.01) ** 2)
    assert sample_size(0.0, 0.0, num_gated=8) == FLOOR


def test_a_harmed_checkpoint_has_no_sample_size() -> None:
    with pytest.raises(ValueError, match="margin"):
        sample_size(0.2, MARGIN, num_gated=8)


def test_the_size_gives_the_chance_promised() -> None:
    """Simulated: unharmed pairs of the planned number pass one task with 1 - 0.05 / 8."""
    discordance = 0.1
    n = sample_size(discordance, 0.0, num_gated=8)
    random = Random(0)  # noqa: S311
    passed = 0
    trials = 4000
    for _ in range(trials):
        lost = gained = 0
        for _ in range(n):
            draw = random.random()
            lost += draw < discordance / 2
            gained += discordance / 2 <= draw < discordance
        difference = (gained - lost) / n
        variance = ((gained + lost) / n - difference**2) / n
        passed += difference - 1.96 * math.sqrt(variance) > -MARGIN

    assert passed / trials == pytest.approx(1 - 0.05 / 8, abs=0.005)
    assert pass_probability(discordance, 0.0, n) >= 1 - 0.05 / 8


def test_no_discordance_always_passes() -> None:
    assert pass_probability(0.0, 0.0, 100) == 1
    assert pass_probability(0.0, MARGIN, 100) == 0


def test_gated_tasks_get_what_they_need_and_others_the_floor() -> None:
    sizes = plan(0.05)["sizes"]

    assert isinstance(sizes, dict)
    for task in TASKS:
        assert sizes[task] == (sample_size(0.05, 0, num_gated=8) if task in GATED_TASKS else FLOOR)


def test_a_harmed_checkpoint_has_no_plan() -> None:
    with pytest.raises(ConfigError, match="good is harmed: color"):
        plan(0.3, -0.2)


def test_too_many_samples_are_refused() -> None:
    with pytest.raises(ConfigError, match=str(MAX_TOTAL)):
        plan(0.2)


def test_the_shipped_plan_follows_from_its_own_pilot() -> None:
    shipped = json.loads(SHIPPED.read_text(encoding="utf-8"))
    pairs = {
        name: {task: Paired(**each[task]) for task in TASKS}
        for name, each in shipped["pilot"]["candidates"].items()
    }

    assert tuple(pairs) == CANDIDATES
    assert shipped == plan_sizes(pairs, shipped["pilot"]["samples"])
    assert shipped["total"] <= MAX_TOTAL
    assert min(shipped["pass_probability"].values()) >= 0.95
    assert load_sizes(SHIPPED) == shipped["sizes"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a pilot"),
        ('{"data_version": 1}', "sizes"),
        ('{"data_version": 1, "sizes": {"color": 100}}', "shape"),
    ],
)
def test_a_file_that_is_no_plan_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "pilot.json"
    path.write_text(text, encoding="utf-8")

    with pytest.raises(ConfigError, match=rf"pilot\.json.*{message}"):
        load_sizes(path)


def test_a_missing_plan_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"pilot\.json: No such file"):
        load_sizes(tmp_path / "pilot.json")


def test_a_plan_of_other_data_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pilot.json"
    path.write_text(
        json.dumps({"data_version": 0, "sizes": dict.fromkeys(TASKS, 1)}), encoding="utf-8"
    )

    with pytest.raises(ConfigError, match="data_version"):
        load_sizes(path)
