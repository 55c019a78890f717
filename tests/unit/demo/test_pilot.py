import json
import math
from pathlib import Path
from typing import Any

import pytest

from vlmserve.demo.pilot import (
    CANDIDATES,
    CONFIDENCE,
    FLOOR,
    GATED_TASKS,
    MARGIN,
    MAX_TOTAL,
    Paired,
    compare_exact,
    load_pairs,
    load_sizes,
    plan_sizes,
)
from vlmserve.demo.power import PassRule
from vlmserve.demo.samples import TASKS
from vlmserve.errors import ConfigError
from vlmserve.evals.proportions import tango_interval

SHIPPED = Path(__file__).parents[3] / "evals" / "demo" / "pilot.json"


def tango_lower(regressed: int, improved: int, n: int) -> float:
    return tango_interval(regressed, improved, n, alpha=1 - CONFIDENCE)[0]


@pytest.fixture(scope="module")
def rule() -> PassRule:
    return PassRule(tango_lower, MARGIN)


def plan(rule: PassRule, discordance: float, difference: float = 0.0) -> dict[str, Any]:
    paired = dict.fromkeys(TASKS, Paired(discordance, difference))
    return plan_sizes({"good": paired, "good-lora": paired}, 1000, rule)


def enumerate_chance(regress: float, improve: float, n: int) -> float:
    """The chance to pass, over every table of counts: the gate's rule, and nothing else."""
    return math.fsum(
        math.comb(n, regressed)
        * math.comb(n - regressed, improved)
        * regress**regressed
        * improve**improved
        * (1 - regress - improve) ** (n - regressed - improved)
        for regressed in range(n + 1)
        for improved in range(n - regressed + 1)
        if tango_lower(regressed, improved, n) > -MARGIN
    )


def test_pairs_are_counted() -> None:
    base = (True, True, False, False, True)
    candidate = (True, False, True, False, False)

    assert compare_exact(base, candidate) == Paired(0.6, -0.2)


def test_unpaired_answers_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        compare_exact((True,), (True, False))


def test_gated_tasks_get_what_they_need_and_others_the_floor(rule: PassRule) -> None:
    planned = plan(rule, 0.03)
    sizes = planned["sizes"]

    assert {sizes[task] for task in TASKS if task not in GATED_TASKS} == {FLOOR}
    (size,) = {sizes[task] for task in GATED_TASKS}
    chance = 1 - 0.05 / len(GATED_TASKS)
    assert rule.pass_probability(0.03, 0, size - 10) < chance
    assert rule.pass_probability(0.03, 0, size) >= chance
    assert planned["pass_probability"]["good"] >= 0.95


def test_a_size_is_enough_for_every_candidate(rule: PassRule) -> None:
    """The first is content with 160 samples and the second with 170, where the first is not."""
    chance = 1 - 0.05 / len(GATED_TASKS)
    first, second = Paired(0.013, -0.013), Paired(0.034, 0.0)
    assert rule.pass_probability(0.013, 0.013, 160) >= chance
    assert rule.pass_probability(0.013, 0.013, 170) < chance <= rule.pass_probability(0.034, 0, 170)
    assert rule.pass_probability(0.034, 0, 160) < chance

    same = dict.fromkeys(TASKS, Paired(0.0, 0.0))
    planned = plan_sizes(
        {"good": {**same, "color": first}, "good-lora": {**same, "color": second}}, 1000, rule
    )

    assert planned["sizes"]["color"] == 180


@pytest.mark.parametrize(("discordance", "difference"), [(0.1, 0.2), (0.1, -0.2), (1.1, 0)])
def test_impossible_pairs_are_refused(discordance: float, difference: float) -> None:
    with pytest.raises(ValueError, match="no comparison"):
        Paired(discordance, difference)


def test_a_harmed_checkpoint_has_no_plan(rule: PassRule) -> None:
    with pytest.raises(ConfigError, match=r"good is harmed: color: a loss of 0\.200"):
        plan(rule, 0.3, -0.2)


def test_too_many_samples_are_refused(rule: PassRule) -> None:
    with pytest.raises(ConfigError, match=rf"the tasks need \d+ samples, more than {MAX_TOTAL}"):
        plan(rule, 0.1)
    with pytest.raises(ConfigError, match=f"color needs more than 600 .* more than {MAX_TOTAL}"):
        plan(rule, 0.3)


def test_the_shipped_plan_follows_from_its_own_pilot(rule: PassRule) -> None:
    shipped = json.loads(SHIPPED.read_text(encoding="utf-8"))
    pairs, samples = load_pairs(SHIPPED)

    assert tuple(shipped["pilot"]["candidates"]) == CANDIDATES
    assert shipped == plan_sizes(pairs, samples, rule)
    assert shipped["total"] == sum(shipped["sizes"].values()) <= MAX_TOTAL
    assert load_sizes(SHIPPED) == shipped["sizes"]


@pytest.mark.parametrize("name", CANDIDATES)
def test_the_shipped_sizes_let_an_unharmed_fine_tune_pass(name: str) -> None:
    """Every table of counts is gone through, without the code that made the plan."""
    shipped = json.loads(SHIPPED.read_text(encoding="utf-8"))
    chance = 1.0
    for task in GATED_TASKS:
        seen = shipped["pilot"]["candidates"][name][task]
        n, loss = shipped["sizes"][task], max(0.0, -seen["difference"])
        regress, improve = (seen["discordance"] + loss) / 2, (seen["discordance"] - loss) / 2
        chance *= enumerate_chance(regress, improve, n)

    assert chance >= 0.95
    assert chance == pytest.approx(shipped["pass_probability"][name], abs=1e-4)


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


def test_a_plan_without_measurements_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pilot.json"
    shipped = json.loads(SHIPPED.read_text(encoding="utf-8"))
    del shipped["pilot"]["candidates"]["good"]["video"]
    path.write_text(json.dumps(shipped), encoding="utf-8")

    with pytest.raises(ConfigError, match=r"pilot\.json: not a pilot: KeyError\('video'\)"):
        load_pairs(path)


def test_a_plan_of_other_data_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pilot.json"
    path.write_text(
        json.dumps({"data_version": 0, "sizes": dict.fromkeys(TASKS, 1)}), encoding="utf-8"
    )

    with pytest.raises(ConfigError, match="data_version"):
        load_sizes(path)
