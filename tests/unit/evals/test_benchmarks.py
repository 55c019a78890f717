"""The shipped benchmark suites over small copies of the published files' schemas.

The published files themselves cannot be had where these tests run.
"""

from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.evals import published_copies as copies
from tests.unit.evals.answers import said
from tests.unit.evals.published_copies import png
from vlmserve.chat import ImagePart, TextPart, VideoPart
from vlmserve.config.suite import load_suite
from vlmserve.engine.scripted import ScriptedEngine
from vlmserve.errors import ConfigError
from vlmserve.evals.answering import EngineSource, Side
from vlmserve.evals.benchmarks import mvbench
from vlmserve.evals.eval_task import EvalTask, load_tasks
from vlmserve.evals.session import Session

if TYPE_CHECKING:
    from vlmserve.evals.records import Scored

BENCHMARKS = Path(__file__).parents[3] / "evals" / "benchmarks"
SUITES = sorted(path.stem for path in BENCHMARKS.glob("*.yaml"))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where local copies lie."""
    monkeypatch.setenv("VLMSERVE_BENCHMARKS", str(tmp_path))
    return tmp_path


def load(name: str) -> list[EvalTask]:
    return load_tasks(load_suite(BENCHMARKS / f"{name}.yaml"))


def parts(task: EvalTask, row: int = 0) -> list[str]:
    """What is sent, in its order: texts, and images by their color."""
    colors = {png(color): color for color in copies.COLORS}
    (message,) = task.samples[row].request("m").messages
    spelled = []
    for part in message.parts:
        if isinstance(part, TextPart):
            spelled.append(part.text)
        elif isinstance(part, ImagePart):
            spelled.append(f"[{colors[part.data]}]")
        else:
            spelled.append("[video]")
    return spelled


def score(task: EvalTask, *answers: str) -> list[float]:
    ids = [sample.sample_id for sample in task.samples]
    outcomes: Any = task.score(said(dict(zip(ids, answers, strict=True))))
    scored: list[Scored] = [outcomes[name] for name in ids]
    return [outcome.score for outcome in scored]


def test_chartqa(root: Path) -> None:
    copies.write_chartqa(root)
    (task,) = load("chartqa")

    assert parts(task) == ["[red]", "How many human_test?\nAnswer the question with a single word."]
    assert score(task, "14.6", "yes") == [1.0, 1.0]
    assert score(task, "15", "no") == [0.0, 0.0]
    assert task.fields()["type"] == ["human_test", "augmented_test"]


def test_docvqa(root: Path) -> None:
    copies.write_docvqa(root)
    (task,) = load("docvqa")

    assert parts(task) == [
        "[red]",
        "Who signed?\nAnswer the question using a single word or phrase.",
    ]
    assert task.samples[0].target == '["J. Smith", "Smith"]'
    assert score(task, "smith") == [1.0]
    assert score(task, "j. smyth") == [pytest.approx(7 / 8)]


@pytest.mark.parametrize("write", [copies.write_ocrbench, copies.write_ocrbench_table])
def test_ocrbench(root: Path, write: Callable[[Path], None]) -> None:
    write(root)
    (task,) = load("ocrbench")

    assert parts(task) == ["[red]", "what is written in the image?"]
    assert parts(task, 1)[0] == "[green]"
    assert task.samples[0].target == '["CENTRE"]'
    assert score(task, "It says Centre.", "x^{2}") == [1.0, 1.0]
    assert score(task, "Center", "x^2") == [0.0, 0.0]


def test_mmstar(root: Path) -> None:
    copies.write_mmstar(root)
    (task,) = load("mmstar")

    assert parts(task) == [
        "[green]",
        "Which is it?\nOptions: A: Red, B: Green, C: Blue, D: None\n"
        "Answer with the option's letter from the given choices directly",
    ]
    assert score(task, "The answer is B.") == [1.0]
    assert score(task, "(A)") == [0.0]


def test_mmbench(root: Path) -> None:
    copies.write_mmbench(root)
    (task,) = load("mmbench")

    assert parts(task) == [
        "[red]",
        "What is shown? There are several options:\nA. a dog\nB. a red square\n\n"
        "Answer with the option's letter from the given choices directly.",
    ]
    assert "A. a red square\nB. a dog" in parts(task, 1)[1]
    assert score(task, "B. a red square", "a dog") == [1.0, 0.0]


def test_mmbench_as_the_published_table(root: Path) -> None:
    copies.write_mmbench_table(root)
    (task,) = load("mmbench")

    assert parts(task)[1].startswith("Look at the color. What is shown? There are several")
    # Its row names the image of the other one.
    assert parts(task, 1)[0] == "[red]"
    assert task.fields()["index"] == ["3", "1000003"]


def test_blink(root: Path) -> None:
    copies.write_blink(root)
    (task,) = load("blink")

    assert len(task.samples) == 14
    assert [len(sample.media) for sample in task.samples[:5]] == [1, 2, 3, 4, 1]
    assert parts(task, 3) == [
        "[red]", "[green]", "[blue]", "[orange]",
        "Note: You only need to respond with A, B without providing any additional information.\n"
        "Which image is it?\nSelect from the following choices.\n(A) the first\n(B) the second",
    ]  # fmt: skip
    assert set(score(task, *["(b) the second"] * 14)) == {1.0}
    assert set(score(task, *["The answer is B"] * 14)) == {0.0}
    assert len(set(task.fields()["sub_task"])) == 14


@pytest.mark.parametrize("write", [copies.write_muirbench, copies.write_muirbench_table])
def test_muirbench(root: Path, write: Callable[[Path], None]) -> None:
    write(root)
    (task,) = load("muirbench")

    assert parts(task) == [
        "Which of ", "[red]", " and ", "[green]", " is like this?\nA. ", "[blue]", "\nB. ",
        "[orange]",
        "\nC. None\nAnswer with the option's letter from the given choices directly.",
    ]  # fmt: skip
    assert score(task, "B.") == [1.0]
    assert score(task, "C") == [0.0]


def test_mmmu(root: Path) -> None:
    copies.write_mmmu(root)
    (task,) = load("mmmu")

    assert len(task.samples) == 31
    assert parts(task) == [
        "In Accounting, unlike ", "[green]", ", what shows ", "[red]", "? See ", "[green]",
        ".\n\n(A) ", "[blue]",
        '\n(B) the "second"\n\nAnswer with the option\'s letter from the given choices directly.',
    ]  # fmt: skip
    row = copies.MMMU_SUBJECTS.index("Math") + 1
    assert parts(task, row) == [
        "[red]",
        " Sum?\n\nAnswer the question using a single word or phrase.",
    ]
    answers = ["The answer is (B)."] * 31
    answers[row] = "The sum is 8.40"
    assert set(score(task, *answers)) == {1.0}
    assert sum(score(task, *["no idea"] * 31)) == 0.0


def test_mvbench(root: Path, suites: Any) -> None:
    clip = suites.mp4()
    copies.write_mvbench(root, mvbench._FOLDERS, clip)
    (task,) = load("mvbench")

    assert len(task.samples) == 20
    assert parts(task) == [
        "[video]",
        "Question:What happened?\nOption:\n(A) he came\n(B) he left\n(C) he slept\n"
        "Only give the best option.\n",
    ]
    (message,) = task.samples[0].request("m").messages
    assert isinstance(message.parts[0], VideoPart)
    assert message.parts[0].data == clip
    assert task.samples[0].target == "B"
    assert set(score(task, *["(B) he left"] * 20)) == {1.0}
    assert set(score(task, *["he left"] * 20)) == {0.0}


def test_mvbench_without_cut_clips_is_refused(root: Path, suites: Any) -> None:
    uncut = {**mvbench._FOLDERS, "action_sequence": "star/Charades_v1_480"}
    copies.write_mvbench(root, uncut, suites.mp4())
    with pytest.raises(ConfigError, match=r"action_sequence: no clip .*Charades_segment") as failed:
        load("mvbench")
    assert "--revision video" in str(failed.value.hint)


_SRT = """1
00:00:00,000 --> 00:00:00,600
<font color="white" size=".72c">Hello</font>

2
00:00:00,600 --> 00:00:01,200
<font color="white" size=".72c">again</font>

3
00:09:00,000 --> 00:09:01,000
<font color="white" size=".72c">after the end</font>
"""


def test_videomme(root: Path, suites: Any) -> None:
    copies.write_videomme(root, suites.mp4(), _SRT)
    plain, subtitled = load("videomme")
    asked = (
        "Select the best answer to the following multiple-choice question based on the video and "
        "the subtitles. Respond with only the letter (A, B, C, or D) of the correct option.\n"
        "How many in abc?\nA. One.\nB. Two.\nC. 3.\nD. 4.\n"
    )

    assert parts(plain) == [
        "[video]",
        f"{asked}\nAnswer with the option's letter from the given choices directly.",
    ]
    assert parts(subtitled) == [
        "[video]",
        "This video's subtitles are listed below: \nHello\nagain\n" + asked + "The best answer is:",
    ]
    assert "\nNo subtitles available\n" in parts(subtitled, 1)[1]
    assert score(plain, "C. 3.", "The best answer is (C)") == [1.0, 1.0]
    assert score(subtitled, "A", "") == [0.0, 0.0]


def test_a_missing_video_is_named(root: Path, suites: Any) -> None:
    copies.write_videomme(root, suites.mp4(), _SRT)
    (root / "videomme/data/xyz.mp4").unlink()
    with pytest.raises(ConfigError, match=r"no video .*videomme/data/xyz\.mp4"):
        load("videomme")


def test_a_whole_evaluation(root: Path, store: Any) -> None:
    copies.write_chartqa(root)
    suite = load_suite(BENCHMARKS / "chartqa.yaml")

    def side(name: str, answer: str) -> Side:
        @contextmanager
        def start() -> Any:
            yield ScriptedEngine(lambda _: answer, models=("m",))

        return Side(
            name=name,
            fingerprint=name,
            settings={},
            source=EngineSource(start),
            model=lambda engine: engine.models[-1],
        )

    report = Session(suite, load_tasks(suite), store, "run").evaluate(
        side("before", "14"), side("after", "yes")
    )
    (task,) = report.tasks
    assert (task.metric, task.n_samples, task.baseline, task.candidate) == (
        "relaxed_accuracy", 2, 0.5, 0.5,
    )  # fmt: skip


@pytest.mark.parametrize("name", SUITES)
def test_a_copy_that_is_not_there_is_named(name: str, root: Path) -> None:
    with pytest.raises(ConfigError, match=rf"VLMSERVE_BENCHMARKS: no such directory: .*/{name}"):
        load(name)


@pytest.mark.parametrize("name", ["mvbench", "videomme"])
def test_videos_must_be_on_this_machine(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLMSERVE_BENCHMARKS", raising=False)
    with pytest.raises(ConfigError, match="must be on this machine") as failed:
        load(name)
    assert "hf download" in str(failed.value.hint)


def test_the_hub_is_asked_where_there_is_no_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLMSERVE_BENCHMARKS", raising=False)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"lmms-lab-encoder/ChartQA: .*") as failed:
        load("chartqa")
    assert "VLMSERVE_BENCHMARKS" in str(failed.value.hint)


def test_files_that_do_not_fit_are_named(root: Path) -> None:
    copies.write_parquet(
        root / "chartqa/train-00000-of-00001.parquet", [{"image": copies.file("red")}]
    )
    with pytest.raises(ConfigError, match=r"no parquet file of the split 'test'.*train-00000"):
        load("chartqa")
    (root / "chartqa/train-00000-of-00001.parquet").rename(root / "chartqa/test.parquet")
    with pytest.raises(ConfigError, match=r"no column 'question', 'answer'; it has: image"):
        load("chartqa")


def _tables() -> dict[str, tuple[str, str]]:
    good = "index\tquestion\tanswer\tcategory\timage\n"
    return {
        "no base64": (f"{good}1\ta\tb\tc\t{'!' * 80}\n", r"t\.tsv: row 1: image: no base64"),
        "a reference to nothing": (
            f"{good}1\ta\tb\tc\t77\n",
            r"t\.tsv: row 1: image: no row has .*77",
        ),
        "too many cells": (f"{good}1\ta\tb\tc\t\tmore\n", r"t\.tsv:2: 5 columns are expected"),
        "no rows": (good, r"t\.tsv: has no rows"),
        "an open quote": (f'{good}1\t"a\tb\n', r"t\.tsv: not a table: unexpected end"),
    }


@pytest.mark.parametrize("fault", _tables())
def test_broken_tables_are_named(fault: str, root: Path) -> None:
    text, message = _tables()[fault]
    (root / "ocrbench").mkdir()
    (root / "ocrbench/t.tsv").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load("ocrbench")


def test_a_row_without_its_image_is_refused(root: Path) -> None:
    (root / "ocrbench").mkdir()
    (root / "ocrbench/t.tsv").write_text(
        "index\tquestion\tanswer\tcategory\timage\n1\tWhat?\t['b']\tc\t\n"
    )
    with pytest.raises(ConfigError, match=r"row 0: the prompt has 1 placeholder.*0 image"):
        load("ocrbench")


def test_two_tables_are_one_too_many(root: Path) -> None:
    copies.write_mmbench_table(root)
    (root / "mmbench/MMBench_DEV_CN.tsv").write_text("index\n")
    with pytest.raises(ConfigError, match=r"holds 2 tables \(\*\.tsv\); keep one"):
        load("mmbench")


def test_every_task_file_says_what_it_is(root: Path) -> None:
    for path in sorted((BENCHMARKS / "tasks").glob("*.yaml")):
        head = path.read_text().split("\ntask:")[0]
        for word in ("# Data ", "# Like ", "VLMSERVE_BENCHMARKS"):
            assert word in head, (path, word)
