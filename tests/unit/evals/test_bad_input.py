"""What is wrong with a suite or its data is said by file and line, and nothing is left out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlmserve.cli.main import main
from vlmserve.evals.eval_task import load_tasks

Lint = Callable[..., str]


def row(question: str, answer: Any = "yes", **more: Any) -> dict[str, Any]:
    return {"query": question, "response": answer, **more}


@pytest.fixture
def lint(suites: Any, capsys: pytest.CaptureFixture[str]) -> Lint:
    """Looks a suite of some rows over, which must end with 2, and gives what it said."""

    def look(rows: list[Any] | None, file: str = "held.jsonl", **entry: Any) -> str:
        if rows is not None:
            lines = "".join(f"{json.dumps(one)}\n" for one in rows)
            (suites.root / file).write_text(lines)
        task = {"data": file, "name": "held", "scorer": "exact_match", **entry}
        path = suites.suite(task, include_path=None)
        assert main(["suite", "lint", str(path)]) == 2
        captured = capsys.readouterr()
        return str(captured.out + captured.err)

    return look


def test_a_missing_image(lint: Lint) -> None:
    said = lint([row("a"), row("<image>b", images=["gone.png"])])

    assert "task held" in said
    assert "tasks.0" in said
    assert "1 of 2 samples cannot be asked" in said
    assert "held.jsonl:2: " in said
    assert "gone.png: No such file" in said


def test_a_target_of_the_wrong_type(lint: Lint) -> None:
    assert "held.jsonl:2: response: text is expected, not 12" in lint([row("a"), row("b", 12)])
    said = lint([row("a", "1,2"), row("b", "x")], scorer={"name": "regex", "pattern": r"\d"})
    assert "1 of 2 targets are none for regex" in said
    assert "held.jsonl:2: " in said


def test_an_unknown_scorer(lint: Lint) -> None:
    said = lint([row("a")], scorer="anlss")

    assert "tasks.0.scorer: no scorer 'anlss'" in said
    assert "did you mean 'anls'?" in said


def test_a_row_that_is_no_sample(lint: Lint) -> None:
    assert "held.jsonl:2: neither messages" in lint([row("a"), {"nothing": 1}, row("c")])
    assert "held.jsonl:2: an object is expected" in lint([row("a"), "text"])


def test_an_empty_task(lint: Lint) -> None:
    assert "no samples in it" in lint([])


def test_a_file_that_is_cut_short(lint: Lint, suites: Any) -> None:
    (suites.root / "held.jsonl").write_text(f"{json.dumps(row('a'))}\n{{")
    assert "held.jsonl:2: not JSON" in lint(None)


def parquet(path: Path, images: list[bytes], **settings: Any) -> None:
    image = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    schema = pa.schema([("query", pa.string()), ("response", pa.string()), ("images", image)])
    rows = [row(f"<image>{k}", images=[{"bytes": one}]) for k, one in enumerate(images)]
    pq.write_table(pa.Table.from_pylist(rows, schema), path, **settings)


def test_a_corrupt_image_in_a_parquet_row(lint: Lint, suites: Any) -> None:
    png = suites.png("red")
    parquet(suites.root / "held.parquet", [png, b"no image at all", png])

    said = lint(None, "held.parquet")
    assert "1 of 3 samples cannot be asked" in said
    assert "held.parquet:2: the medium begins like no image or video" in said


@pytest.mark.parametrize("compression", ["none", "snappy"])
def test_a_corrupt_page_of_a_parquet_file(lint: Lint, suites: Any, compression: str) -> None:
    path = suites.root / "held.parquet"
    images = [suites.png("red", size=8 + k) for k in range(4)]
    parquet(path, images, compression=compression, write_page_checksum=True)
    data = bytearray(path.read_bytes())
    data[data.index(b"PNG") + 20] ^= 0xFF
    path.write_bytes(data)

    assert "held.parquet: " in lint(None, "held.parquet")


def test_an_index_that_is_given_twice(lint: Lint, suites: Any) -> None:
    lines = ["index\tquestion\tanswer", "7\ta\tx", "8\tb\tx", "7\tc\tx"]
    (suites.root / "held.tsv").write_text("\n".join(lines) + "\n")

    said = lint(None, "held.tsv")
    assert "1 of 3 samples cannot be asked" in said
    assert 'held.tsv:3: index: "7" is that of an earlier row' in said


def test_an_id_of_a_request_that_is_given_twice(
    suites: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"custom_id": custom_id, "body": {"messages": [{"role": "user", "content": text}]}}
        for custom_id, text in (("a", "One"), ("b", "Two"), ("a", "Three"))
    ]
    (suites.root / "log.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in rows))
    entry = {"requests": "log.jsonl", "name": "log", "check": "empty"}
    assert main(["suite", "lint", str(suites.suite(entry, include_path=None))]) == 2

    said = capsys.readouterr().out
    assert "log.jsonl:3: custom_id: 'a' is that of" in said
    assert "log.jsonl:1, too" in said


def test_samples_of_equal_content_are_all_asked(suites: Any) -> None:
    (suites.root / "held.jsonl").write_text(f"{json.dumps(row('a'))}\n" * 3)
    entry = {"data": "held.jsonl", "name": "held", "scorer": "exact_match"}
    (task,) = load_tasks(suites.load(entry, include_path=None))

    assert len({sample.sample_id for sample in task.samples}) == 3
    assert len({sample.request_digest for sample in task.samples}) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: s\ntasks: []\n", "suite.yaml:2: tasks: "),
        ("name: s\n", "suite.yaml:1: tasks: Field required"),
        ("name: s\ntasks:\n", "suite.yaml:2: tasks: "),
        ("", "suite.yaml:1: "),
        (
            "name: s\ntasks:\n  - {task: a, metric: acc}\n  - {task: a, metric: acc}\n",
            "suite.yaml:2: tasks: task 'a' is listed 2 times",
        ),
        ("name: s\ntasks:\n  - {task: a, metric: acc, gate: false}\n", "nothing to judge"),
        ("name: s\ntasks:\n  - {nothing: a}\n", "suite.yaml:3: tasks.0.task: Field required"),
        (
            "name: s\ntasks:\n  - data: held.jsonl\n    name: h\n    scorer: anls\n    x: 1\n",
            "suite.yaml:6: tasks.0.x: unknown key",
        ),
        (
            "name: s\ntasks:\n  - {data: gone.jsonl, name: h, scorer: anls}\n",
            "tasks.0.data: no such file or directory",
        ),
        (
            "name: s\ntasks:\n  - {requests: gone.jsonl, name: h, check: empty}\n",
            "tasks.0.requests: no such file",
        ),
    ],
)
def test_a_suite_that_is_wrong_or_names_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(text)

    assert main(["suite", "lint", str(path)]) == 2
    assert message in capsys.readouterr().err
