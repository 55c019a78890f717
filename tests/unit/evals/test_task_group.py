"""Groups of lm-eval's tasks: the suite's own, and one of lm-eval's library over a local copy."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.unit.evals.answers import said
from tests.unit.evals.conftest import png
from vlmserve.errors import ConfigError
from vlmserve.evals.eval_task import load_tasks
from vlmserve.evals.records import Scored

SUBJECTS = ("History", "Literature", "Sociology", "Psychology")


@pytest.fixture
def shapes(suites: Any, colors: Any) -> Any:
    """Two tasks, and a group of them within another one."""
    suites.task("color", colors(3))
    suites.task("digit", [suites.row(f"What is {n} plus 1?", str(n + 1)) for n in range(2)])
    suites.task("word", [suites.row("Say yes.", "yes")])
    write_group(suites, "sums", ["digit"])
    write_group(suites, "all", ["color", "sums", "word"])
    return suites


def write_group(suites: Any, name: str, members: list[Any], **more: Any) -> None:
    text = yaml.safe_dump({"group": name, "task": members, **more})
    (suites.folder / f"{name}_group.yaml").write_text(text)


def test_a_group_is_one_task_of_all_its_samples(shapes: Any) -> None:
    (task,) = load_tasks(shapes.load("all"))

    assert (task.name, task.metric, len(task.samples)) == ("all", "exact_match", 6)
    assert task.fields()["task"] == ["color"] * 3 + ["digit"] * 2 + ["word"]
    answers = ("red", "blue", "red", "1", "9", "yes")
    names = [sample.sample_id for sample in task.samples]
    found = task.score(said(dict(zip(names, answers, strict=True))))
    assert [found[name] for name in names] == [
        Scored(answer=answer, score=score)
        for answer, score in zip(answers, (1.0, 0.0, 1.0, 1.0, 0.0, 1.0), strict=True)
    ]
    json.dumps(task.recipe)


def test_a_limit_is_one_of_each_task(shapes: Any) -> None:
    (task,) = load_tasks(shapes.load("all"), limit=1)

    assert task.fields()["task"] == ["color", "digit", "word"]


def test_what_two_tasks_ask_alike_is_asked_of_both(suites: Any, colors: Any) -> None:
    suites.task("one", colors(2))
    suites.task("two", colors(3))
    write_group(suites, "both", ["one", "two"])
    (task,) = load_tasks(suites.load("both"))

    ids = [sample.sample_id for sample in task.samples]
    assert len(set(ids)) == len(ids) == 5
    assert ids[2:4] == [f"{ids[0]}#2", f"{ids[1]}#2"]
    assert len(task.score(said(dict.fromkeys(ids, "red")))) == 5


def test_another_task_in_a_group_is_another_suite(shapes: Any) -> None:
    (both,) = load_tasks(shapes.load("all"))
    write_group(shapes, "all", ["color", "word"])
    (fewer,) = load_tasks(shapes.load("all"))

    assert fewer.recipe != both.recipe


@pytest.mark.parametrize(
    ("members", "match"),
    [
        (["all"], "'all' is among its own members"),
        (["color", "sums", "digit"], "'all' has digit more than once"),
        ([{"task": "color", "num_fewshot": 1}], "'all' lists no names"),
        (["color", "shape"], "no task 'shape'"),
    ],
)
def test_members_must_be_tasks_that_are_there(shapes: Any, members: list[Any], match: str) -> None:
    write_group(shapes, "all", members)

    with pytest.raises(ConfigError, match=match):
        load_tasks(shapes.load("all"))


def test_a_member_without_the_metric_is_named(shapes: Any) -> None:
    metric = {"metric": "bleu", "aggregation": "bleu", "higher_is_better": True}
    shapes.task("word", metric_list=[metric])

    with pytest.raises(
        ConfigError, match=r"task all: word \(.*word\.yaml\): no metric 'exact_match'"
    ):
        load_tasks(shapes.load("all"))


def test_a_listed_file_may_be_a_group(shapes: Any) -> None:
    files = [f"tasks/{name}.yaml" for name in ("color", "digit", "word", "sums_group", "all_group")]

    (task,) = load_tasks(shapes.load("all", include_path=None, task_files=files))

    assert len(task.samples) == 6


def test_a_group_of_the_library_is_read_with_all_its_tasks(
    suites: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "MMMU" / "MMMU"
    write_mmmu(copy)
    monkeypatch.chdir(tmp_path)

    name = "mmmu_val_humanities_and_social_science"
    (task,) = load_tasks(suites.load({"task": name, "metric": "acc"}))

    members = [f"mmmu_val_{subject.lower()}" for subject in SUBJECTS for _ in range(2)]
    assert sorted(task.fields()["task"]) == sorted(members)
    assert [len(sample.media) for sample in task.samples] == [1] * 8
    found = task.score(said({sample.sample_id: "(A)" for sample in task.samples}))
    scores = [outcome.score for outcome in found.values() if isinstance(outcome, Scored)]
    assert sorted(scores) == [0.0] * 4 + [1.0] * 4


def write_mmmu(folder: Path) -> None:
    """A copy of the data set with two questions a subject, in the columns of its hub page."""
    configs = []
    for subject in SUBJECTS:
        rows = [
            {
                "id": f"validation_{subject}_{place}",
                "question": f"What of {subject} does <image 1> show?",
                "options": "['the first', 'the second']",
                "answer": "AB"[place],
                "question_type": "multiple-choice",
                "image_1": {"bytes": png("red", size=10 + place), "path": "1.png"},
            }
            for place in range(2)
        ]
        (folder / subject).mkdir(parents=True)
        image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        names = ("id", "question", "options", "answer", "question_type")
        schema = pa.schema([*((name, pa.string()) for name in names), ("image_1", image)])
        features = {
            **{name: {"dtype": "string", "_type": "Value"} for name in names},
            "image_1": {"_type": "Image"},
        }
        about = json.dumps({"info": {"features": features}})
        table = pa.Table.from_pylist(rows, schema.with_metadata({"huggingface": about}))
        pq.write_table(table, folder / subject / "validation-00000-of-00001.parquet")
        file = {"split": "validation", "path": f"{subject}/validation-*"}
        configs.append({"config_name": subject, "data_files": [file]})
    head = yaml.safe_dump({"configs": configs})
    (folder / "README.md").write_text(f"---\n{head}---\n")
