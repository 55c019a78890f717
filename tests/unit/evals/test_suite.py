from pathlib import Path
from typing import Any

import pytest
import yaml

from vlmserve.config.suite import SuiteConfig, load_suite
from vlmserve.errors import ConfigError
from vlmserve.evals.eval_task import load_tasks
from vlmserve.evals.task_files import find_task_files

REPOSITORY = Path(__file__).parents[3]


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "suite.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("name: s\ntasks: []\n", r"suite\.yaml:2: tasks: "),
        ("name: s\n", r"suite\.yaml:1: tasks: Field required"),
        ("name: s\ntasks: [{task: a}]\n", r"suite\.yaml:2: tasks\.0\.metric: Field required"),
        (
            "name: s\ntasks:\n  - {task: a, metric: m}\n  - {task: a, metric: n}\n",
            r"suite\.yaml:2: tasks: task 'a' is listed 2 times",
        ),
        (
            "name: s\ntasks:\n- {task: a, metric: m, gate: false}\n",
            r"suite\.yaml:2: tasks: no task has gate: true",
        ),
        (
            "name: s\ntasks:\n- task: a\n  metric: m\n  margn: 0.1\n",
            r"suite\.yaml:5: tasks\.0\.margn: unknown key",
        ),
        (
            "name: s\ntasks:\n- task: a\n  metric: m\n  margin: -0.1\n",
            r"suite\.yaml:5: tasks\.0\.margin: .*greater than 0",
        ),
        *(
            (
                f"name: s\ntasks:\n- task: a\n  metric: m\n  margin: {margin}\n",
                r"suite\.yaml:5: tasks\.0\.margin: .*finite",
            )
            for margin in (".inf", ".nan")
        ),
        (
            "name: s\ngate:\n  margin: .inf\ntasks: [{task: a, metric: m}]\n",
            r"suite\.yaml:3: gate\.margin: .*finite",
        ),
        (
            "name: s\ntasks:\n- task: a\n  metric: exact_match\n  margin: 8\n",
            r"suite\.yaml:5: tasks\.0\.margin: 8 is no margin for exact_match.*8 points are 0\.08",
        ),
        (
            "name: s\ngate: {margin: 8}\ntasks: [{task: a, metric: acc}]\n",
            r"suite\.yaml:1: .*gate\.margin: 8 is no margin for acc",
        ),
        (
            "name: s\ngate:\n  alpha: 1\ntasks: [{task: a, metric: m}]\n",
            r"suite\.yaml:3: gate\.alpha",
        ),
        (
            "name: s\ninclude_path: x\ntask_files: [y]\ntasks: [{task: a, metric: m}]\n",
            "include_path and task_files are both given",
        ),
        (
            "name: s\ninclude_path: gone\ntasks: [{task: a, metric: m}]\n",
            "include_path: no such directory: .*/gone",
        ),
    ],
)
def test_a_wrong_suite_names_file_line_and_field(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        load_suite(write(tmp_path, text))


def test_a_task_without_a_margin_takes_the_gates(tmp_path: Path) -> None:
    suite = load_suite(
        write(
            tmp_path,
            "name: s\ngate: {margin: 0.05}\ntasks:\n"
            "- {task: a, metric: m}\n- {task: b, metric: m, margin: 0.1}\n",
        )
    )

    assert [suite.margin_of(entry) for entry in suite.tasks] == [0.05, 0.1]
    assert all(entry.gate for entry in suite.tasks)


def test_metrics_in_other_units_may_have_large_margins(tmp_path: Path) -> None:
    text = "name: s\ntasks: [{task: a, metric: bleu, margin: 1.5}]\n"
    (entry,) = load_suite(write(tmp_path, text)).tasks

    assert entry.margin == 1.5


def test_a_slip_of_the_pen_is_answered_at_once(suites: Any, colors: Any) -> None:
    suites.task("color", colors(1))

    with pytest.raises(ConfigError, match="no task 'colour'") as caught:
        load_tasks(suites.load("colour"))
    assert caught.value.hint == "did you mean 'color'?"


def test_a_slip_of_the_pen_in_a_name_of_the_library_is_answered_too(suites: Any) -> None:
    with pytest.raises(ConfigError, match="no task 'chartqaa'") as caught:
        load_tasks(suites.load({"task": "chartqaa", "metric": "acc"}))
    assert caught.value.hint == "did you mean 'chartqa'?"


def test_a_task_that_is_defined_twice_is_refused(suites: Any, colors: Any) -> None:
    path = suites.task("color", colors(1))
    (suites.folder / "again.yaml").write_text(path.read_text())

    with pytest.raises(
        ConfigError, match=r"'color' is defined twice: .*again\.yaml, .*color\.yaml"
    ):
        load_tasks(suites.load("color"))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("task: color\n  dataset_path: x\n", r"one\.yaml:2: "),
        ("dataset_path: x\n", r"one\.yaml: defines no task"),
    ],
)
def test_a_listed_file_must_define_a_task(suites: Any, text: str, match: str) -> None:
    (suites.folder / "one.yaml").write_text(text)

    with pytest.raises(ConfigError, match=match):
        load_tasks(suites.load("color", include_path=None, task_files=["tasks/one.yaml"]))


def test_a_missing_include_is_said(suites: Any) -> None:
    (suites.folder / "one.yaml").write_text("include: gone.yaml\ntask: one\n")

    with pytest.raises(ConfigError, match=r"one\.yaml\): lm-eval cannot read the file"):
        load_tasks(suites.load("one"))


def test_the_demo_suite_gates_eight_tasks_that_all_have_a_file() -> None:
    path = REPOSITORY / "evals" / "demo.yaml"
    suite = load_suite(path)
    found = find_task_files(suite)
    gated = [entry.name for entry in suite.tasks if entry.gate]

    assert len(gated) <= 8
    assert {suite.margin_of(entry) for entry in suite.tasks} == {0.08}
    assert not found.broken
    for entry in suite.tasks:
        file = found.find(entry.name)
        assert file is not None, entry.name
        data = yaml.safe_load(file.read_text())["dataset_kwargs"]["data_files"]
        assert data == f"data/{entry.name}.parquet"


def test_the_demo_suite_gates_what_its_pilot_planned() -> None:
    from vlmserve.demo.pilot import GATED_TASKS, MARGIN
    from vlmserve.demo.samples import TASKS

    suite = load_suite(REPOSITORY / "evals" / "demo.yaml")

    assert {entry.name for entry in suite.tasks} == set(TASKS)
    assert {entry.name for entry in suite.tasks if entry.gate} == set(GATED_TASKS)
    assert suite.gate.margin == MARGIN


def test_every_setting_of_a_suite_is_described() -> None:
    schema = SuiteConfig.model_json_schema()
    nested = schema["$defs"]["GateConfig"]["properties"]

    assert all("description" in setting for setting in nested.values())


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"gate": False}, "'one' has improve: true and gate: false"),
        ({"margin": 0.1}, "'one' has improve: true and a margin"),
    ],
)
def test_a_target_is_gated_and_has_no_margin(suites: Any, more: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        suites.load({"task": "one", "metric": "exact_match", "improve": True, **more}, "two")


def test_a_suite_may_have_targets_alone(suites: Any) -> None:
    suite = suites.load({"task": "one", "metric": "exact_match", "improve": True})

    assert suite.gated_margin(suite.tasks[0]) is None
