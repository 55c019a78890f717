"""Data sets in the formats that people train with, as tasks of a suite."""

import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.unit.evals.answers import said
from vlmserve.chat import ImagePart, TextPart, VideoPart
from vlmserve.config.suite import SuiteConfig
from vlmserve.config.suite_entries import SuiteData
from vlmserve.datasets.shape import FORMATS
from vlmserve.engine.base import Engine, GenerationRequest
from vlmserve.engine.scripted import ScriptedEngine
from vlmserve.errors import ConfigError
from vlmserve.evals.answering import EngineSource, Side
from vlmserve.evals.data_task import DataTask
from vlmserve.evals.eval_task import load_tasks
from vlmserve.evals.records import Scored
from vlmserve.evals.session import Session
from vlmserve.evals.store import AnswerStore

Write = Callable[..., SuiteConfig]


@pytest.fixture
def images(tmp_path: Path, suites: Any) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for color in ("red", "blue"):
        (folder / f"{color}.png").write_bytes(suites.png(color))
    (folder / "clip.mp4").write_bytes(suites.mp4())
    return folder


@pytest.fixture
def write(tmp_path: Path, images: Path, suites: Any) -> Write:
    """A suite with one data set beside ``images/``."""

    def make(rows: Sequence[Mapping[str, Any]], at: str = "held.jsonl", **keys: Any) -> Any:
        file = tmp_path / at
        if at.endswith(".jsonl"):
            file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        else:
            file.write_text(json.dumps(rows))
        entry = {"data": at, "name": "held", "scorer": "exact_match", **keys}
        return suites.load(entry, include_path=None)

    return make


def load(suite: SuiteConfig, limit: int | None = None) -> DataTask:
    (task,) = load_tasks(suite, limit=limit)
    assert isinstance(task, DataTask)
    return task


def parts(task: DataTask, turn: int = -1) -> tuple[Any, ...]:
    return task.samples[0].request("m").messages[turn].parts


def data_url(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


RED_BLUE: dict[str, dict[str, Any]] = {
    "openai": {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Is "},
                    {"type": "image_url", "image_url": {"url": "images/red.png"}},
                    {"type": "text", "text": " warmer than "},
                    {"type": "image_url", "image_url": {"url": "images/blue.png"}},
                    {"type": "text", "text": "?"},
                ],
            },
            {"role": "assistant", "content": "yes"},
        ]
    },
    "ms-swift": {
        "messages": [
            {"role": "user", "content": "Is <image> warmer than <image>?"},
            {"role": "assistant", "content": "yes"},
        ],
        "images": ["images/red.png", "images/blue.png"],
    },
    "sharegpt": {
        "conversations": [
            {"from": "human", "value": "Is <image> warmer than <image>?"},
            {"from": "gpt", "value": "yes"},
        ],
        "images": ["images/red.png", "images/blue.png"],
    },
    "alpaca": {
        "instruction": "Is <image> warmer than <image>?",
        "output": "yes",
        "images": ["images/red.png", "images/blue.png"],
    },
    "vlmevalkit": {
        "index": 7,
        "image_path": ["images/red.png", "images/blue.png"],
        "question": "Is <image 1> warmer than <image 2>?",
        "answer": "yes",
    },
    "llava": {
        "id": "7",
        "image": ["images/red.png", "images/blue.png"],
        "conversations": [
            {"from": "human", "value": "Is <image> warmer than <image>?"},
            {"from": "gpt", "value": "yes"},
        ],
    },
}


def test_every_format_has_its_case() -> None:
    assert set(RED_BLUE) == set(FORMATS)
    field = SuiteData.model_fields["format"].annotation
    assert all(f"'{name}'" in str(field) for name in FORMATS)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("file", ["held.jsonl", "held.json"])
def test_media_travel_in_reading_order_as_the_files_they_were(
    write: Write, images: Path, name: str, file: str
) -> None:
    task = load(write([RED_BLUE[name]], file))

    assert task.dataset.format == name
    assert parts(task) == (
        TextPart(text="Is "),
        ImagePart(data=(images / "red.png").read_bytes(), content_type="image/png"),
        TextPart(text=" warmer than "),
        ImagePart(data=(images / "blue.png").read_bytes(), content_type="image/png"),
        TextPart(text="?"),
    )
    assert [sample.target for sample in task.samples] == ["yes"]


def test_all_formats_make_the_same_sample(write: Write) -> None:
    digests = {load(write([RED_BLUE[name]])).samples[0].sample_id for name in FORMATS}

    assert len(digests) == 1


def test_files_in_parquet_are_sent_as_they_are(write: Write, images: Path, tmp_path: Path) -> None:
    data = (images / "red.png").read_bytes()
    row = {
        "messages": RED_BLUE["ms-swift"]["messages"],
        "images": [{"bytes": data, "path": None}, {"bytes": data, "path": None}],
        "source": "scan",
    }
    pq.write_table(pa.Table.from_pylist([row, row]), tmp_path / "held.parquet")
    task = load(write([], data="held.parquet"))

    assert [part.data for part in parts(task) if isinstance(part, ImagePart)] == [data, data]
    # The same content twice is asked and counted twice.
    assert [sample.sample_id[32:] for sample in task.samples] == ["", "#2"]


def test_a_data_url_and_a_video_are_sent(write: Write, images: Path) -> None:
    rows = [
        {
            "messages": [
                {"role": "user", "content": "<image>Color? <video>Moves?"},
                {"role": "assistant", "content": "red, up"},
            ],
            "images": [data_url(images / "red.png")],
            "videos": ["images/clip.mp4"],
        }
    ]
    image, _, video, _ = parts(load(write(rows)))

    assert image == ImagePart(data=(images / "red.png").read_bytes(), content_type="image/png")
    assert video == VideoPart(data=(images / "clip.mp4").read_bytes(), content_type="video/mp4")


def test_an_entry_of_dataset_info_is_read_with_its_columns(
    write: Write, images: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "factory"
    folder.mkdir()
    row = {"q": "<image>Color?", "a": "red", "pics": [str(images / "red.png")]}
    (folder / "mine.json").write_text(json.dumps([row]))
    columns = {"prompt": "q", "response": "a", "images": "pics"}
    info = {"mine": {"file_name": "mine.json", "columns": columns}}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    task = load(write([], data="factory:mine"))

    assert task.samples[0].question == "<image>Color?"
    assert task.samples[0].target == "red"


def test_history_is_kept_and_the_last_answer_is_due(write: Write) -> None:
    rows = [
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "<image>Color?"},
                {"role": "assistant", "content": "red"},
                {"role": "user", "content": "And <image>?"},
                {"role": "assistant", "content": "blue"},
            ],
            "images": ["images/red.png", "images/blue.png"],
        }
    ]
    task = load(write(rows, system="Never used here."))
    (sample,) = task.samples

    assert [turn.role for turn in sample.turns] == ["system", "user", "assistant", "user"]
    assert [turn.text() for turn in sample.turns] == [
        "Be brief.",
        "<image>Color?",
        "red",
        "And <image>?",
    ]
    assert sample.target == "blue"


def test_a_system_prompt_is_added_where_a_row_has_none(write: Write) -> None:
    plain = load(write([RED_BLUE["llava"]]))
    prompted = load(write([RED_BLUE["llava"]], system="Be brief."))

    assert [turn.role for turn in prompted.samples[0].turns] == ["system", "user"]
    assert prompted.samples[0].sample_id != plain.samples[0].sample_id


def test_relative_media_start_from_the_media_root(write: Write, images: Path) -> None:
    row = {**RED_BLUE["ms-swift"], "images": ["red.png", "blue.png"]}
    task = load(write([row], media_root="images"))

    assert len(task.samples[0].media) == 2
    with pytest.raises(ConfigError, match=r"tasks\.0\.media_root: no such directory"):
        write([row], media_root="pictures")


def ask(text: str, answer: Any = "yes", **keys: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
    return {"messages": messages, **keys}


def test_boxes_are_carried_over_by_the_size_of_the_one_image(
    write: Write, images: Path, suites: Any
) -> None:
    (images / "red.png").write_bytes(suites.png("red", size=200))
    scorer = {"name": "box_iou", "coordinates": "pixels", "answers": "0-1000"}
    row = ask("<image>Where?", "[0, 0, 100, 100]", images=["images/red.png"])
    task = load(write([row], scorer=scorer))
    sample_id = task.samples[0].sample_id

    outcome = task.score(said({sample_id: "[0, 0, 500, 250]"}))[sample_id]
    assert isinstance(outcome, Scored)
    assert outcome.score == 0.5
    two = ask("<image><image>Where?", "[0, 0, 9, 9]", images=["images/red.png"] * 2)
    with pytest.raises(ConfigError, match=r"held\.jsonl:1: .*the one image, and it has 2"):
        load(write([two], scorer=scorer))


BAD_ROWS: list[tuple[dict[str, Any], str]] = [
    (ask("<image>?", images=["images/none.png"]), r"images/none\.png: No such file"),
    (ask("<image><image>?", images=["images/red.png"]), "2 placeholders <image>, and 1 images"),
    (ask("<image>?", ""), "expected answer is empty"),
    (ask("<image>?", None, images=["images/red.png"]), r"messages\[1\]\.content: text is expected"),
    ({"messages": ask("x")["messages"][:1]}, "the last turn is the user's"),
    ({"messages": ask("x")["messages"][1:]}, "no user's turn"),
    (
        {"messages": [*ask("x")["messages"], {"role": "assistant", "content": "and"}]},
        "two assistant's turns",
    ),
    (
        {
            "messages": [
                *ask("x")["messages"],
                {"role": "tool", "content": "{}"},
                {"role": "assistant", "content": "done"},
            ]
        },
        "a tool's turn cannot be sent",
    ),
    (ask("<video>?", videos=[["images/red.png", "held.jsonl"]]), "like no image or video"),
    (ask("<image>?", images=["https://example.org/red.png"]), "from example.org is not allowed"),
    (ask("<video>?", videos=["images/red.png"]), "image/png stands where a video is due"),
    (ask("<image>?", images=["held.jsonl"]), "begins like no image or video"),
    (ask("Where is <ref-object>?", "<bbox>"), "<ref-object> is filled in by the training"),
    (ask("<audio>?", audios=["a.wav"]), "<audio> is filled in"),
    (ask("<image>?", images=["data:image/png;base64,&&"]), "not base64"),
]


@pytest.mark.parametrize(("row", "match"), BAD_ROWS)
def test_a_bad_row_is_named_with_its_file_and_line(
    write: Write, row: dict[str, Any], match: str
) -> None:
    good = ask("<image>Is it?", images=["images/red.png"])
    with pytest.raises(
        ConfigError,
        match=rf"(?s)task held \(.*suite\.yaml: tasks\.0\): 1 of 2 samples cannot be asked\n"
        rf"  .*held\.jsonl:2: .*{match}",
    ):
        load_tasks(write([good, row], format="ms-swift"))


def test_a_target_of_the_wrong_kind_is_found_before_a_request(write: Write) -> None:
    rows = [ask("a?", "12"), ask("b?", "twelve"), ask("c?", '{"a": 1}')]
    with pytest.raises(
        ConfigError, match=r"(?s)2 of 3 targets are none for json_f1\n  .*held\.jsonl:1: .*:2: "
    ):
        load_tasks(write(rows, scorer="json_f1"))


@pytest.mark.parametrize(
    ("keys", "match"),
    [
        ({"scorer": "exct_match"}, r"suite\.yaml: tasks\.0\.scorer: no scorer 'exct_match'"),
        ({"scorer": {"name": "boxes"}}, r"suite\.yaml: tasks\.0\.scorer\.coordinates: Field"),
        ({"scorer": 5}, r"suite\.yaml:\d+: tasks\.0\.scorer: "),
        ({"margin": 3, "scorer": "anls"}, r"tasks\.0\.margin: 3 is no margin for anls"),
        ({"data": "none.jsonl"}, r"tasks\.0\.data: no such file"),
        ({"format": "llama"}, r"suite\.yaml:\d+: tasks\.0\.format: "),
        ({"scorr": "anls"}, r"suite\.yaml:\d+: tasks\.0\.scorr: unknown key"),
        ({"name": ""}, r"tasks\.0\.name: "),
    ],
)
def test_a_wrong_entry_names_file_and_field(write: Write, keys: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        load_tasks(write([ask("a?")], **keys))


def test_the_gates_margin_is_in_units_too(suites: Any, tmp_path: Path) -> None:
    (tmp_path / "held.jsonl").write_text(json.dumps(ask("a?")))
    entry = {"data": "held.jsonl", "name": "held", "scorer": "anls"}
    with pytest.raises(ConfigError, match="3 is no margin for anls"):
        load_tasks(suites.load(entry, include_path=None, gate={"margin": 3}))


def test_margins_in_edits_may_be_large(write: Write) -> None:
    assert load(write([ask("a?")], scorer="wer", margin=1.5)).metric == "wer"


def test_the_limit_takes_the_first_rows(write: Write) -> None:
    task = load(write([ask("a?"), ask("b?"), ask("c?")]), limit=2)

    assert [sample.question for sample in task.samples] == ["a?", "b?"]


def test_the_recipe_holds_scorer_options_format_and_system_prompt(write: Write) -> None:
    one = ask("a?", "a, b")
    scorer = {"name": "set_f1", "separator": ","}
    task = load(write([one], scorer=scorer, system="Be brief."))

    assert task.recipe == {
        "task": "held",
        "scorer": "set_f1",
        "options": {"separator": ","},
        "format": "openai",
        "system": "Be brief.",
    }


def test_columns_with_a_few_values_make_slices(write: Write) -> None:
    kinds = ["photo", "scan"] * 15
    rows = [ask(f"{index}?", kind=kind, no=index) for index, kind in enumerate(kinds)]
    fields = load(write(rows)).fields()

    assert fields == {"kind": kinds}


def test_slices_do_not_need_the_file_again(write: Write, tmp_path: Path) -> None:
    task = load(write([ask("a?", kind="scan"), ask("b?", kind="photo")]))
    (tmp_path / "held.jsonl").unlink()

    assert task.fields() == {"kind": ["scan", "photo"]}


def test_a_file_of_bad_rows_alone_names_the_task(write: Write) -> None:
    with pytest.raises(ConfigError, match=r"task held \(.*tasks\.0\): .*held\.jsonl:1: .*none of"):
        load_tasks(write([{"text": "a"}, {"text": "b"}]))


def test_answers_are_scored(write: Write) -> None:
    task = load(write([ask("a?", "yes"), ask("b?", "no")]))
    first, second = task.samples
    outcomes = task.score(said({first.sample_id: " yes\n", second.sample_id: "never"}))

    assert outcomes == {
        first.sample_id: Scored(answer=" yes\n", score=1.0),
        second.sample_id: Scored(answer="never", score=0.0),
    }


def test_a_suite_of_data_alone_needs_no_lm_eval(write: Write, tmp_path: Path) -> None:
    import subprocess
    import sys

    write([ask("a?")])
    code = (
        "import sys; from pathlib import Path;"
        "from vlmserve.config.suite import load_suite;"
        "from vlmserve.evals.eval_task import load_tasks;"
        f"load_tasks(load_suite(Path({str(tmp_path / 'suite.yaml')!r})));"
        "sys.exit(bool({'lm_eval', 'datasets', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def side(name: str, answer: Callable[[GenerationRequest], str]) -> Side:
    from contextlib import contextmanager

    @contextmanager
    def start() -> Any:
        yield ScriptedEngine(answer, models=("m",))

    return Side(
        name=name,
        fingerprint=f"sha256:{name}",
        settings={"engine": "scripted"},
        source=EngineSource(start),
        model=lambda engine: engine.models[-1],
    )


def question_of(request: GenerationRequest) -> str:
    return "".join(part.text for part in request.messages[-1].parts if isinstance(part, TextPart))


def test_an_evaluation_of_ones_own_data_beside_an_lm_eval_task(
    suites: Any, colors: Any, images: Path, tmp_path: Path, store: AnswerStore
) -> None:
    rows = [
        ask(f"<image>Total {index}?", f"{index} EUR", images=["images/red.png"], kind=index % 2)
        for index in range(1, 61)
    ]
    # Samples of one picture hang together; each has its own here.
    for index, row in enumerate(rows):
        (images / f"{index}.png").write_bytes(suites.png("blue", size=9 + index))
        row["images"] = [f"images/{index}.png"]
    (tmp_path / "receipts.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    suites.task("color", colors(60))
    entry = {
        "data": "receipts.jsonl",
        "name": "receipts",
        "scorer": "normalised_match",
        "margin": 0.1,
    }
    suite = suites.load("color", entry, gate={"margin": 0.08})
    session = Session(suite, load_tasks(suite), store, "run-1")

    def good(request: GenerationRequest) -> str:
        question = question_of(request)
        return f"{question.split()[1][:-1]} eur." if "Total" in question else "red"

    def bad(request: GenerationRequest) -> str:
        answer = good(request)
        return "0" if answer.endswith("eur.") and int(answer.split()[0]) <= 20 else answer

    report = session.evaluate(side("old", good), side("new", bad))
    color, receipts = report.tasks

    assert (color.verdict, receipts.verdict) == ("pass", "regression")
    assert report.verdict == "regression"
    assert (receipts.task, receipts.metric, receipts.margin) == (
        "receipts",
        "normalised_match",
        0.1,
    )
    assert receipts.difference == pytest.approx(-20 / 60)
    assert receipts.flips.regressed[0].target == "1 EUR"
    again = session.evaluate(side("old", good), side("new", bad))
    assert again.n_requests_sent == 0
    assert again.suite.digest == report.suite.digest


def test_the_digest_of_a_suite_knows_scorer_and_options(write: Write, store: AnswerStore) -> None:
    def digest(scorer: Any) -> str:
        suite = write([ask("a?", "yes"), ask("b?", "no")], scorer=scorer)
        session = Session(suite, load_tasks(suite), store, "run")
        return session.evaluate(
            side("old", lambda _: "yes"), side("new", lambda _: "no")
        ).suite.digest

    scorers = ["exact_match", {"name": "exact_match", "ignore_case": True}, "normalised_match"]
    assert len({digest(scorer) for scorer in scorers}) == 3
    assert digest("exact_match") == digest({"name": "exact_match"})


def test_letters_may_be_chosen_by_likelihood(write: Write, store: AnswerStore) -> None:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"{number}: which? A. a dog B. a cat"},
                {"role": "assistant", "content": "B. a cat"},
            ]
        }
        for number in range(12)
    ]
    scorer = {"name": "multiple_choice", "choices": "AB", "by": "logprob"}
    suite = write(rows, scorer=scorer, margin=0.5)

    def side(name: str, letter: str) -> Side:
        @contextmanager
        def start() -> Iterator[Engine]:
            def speak(_: GenerationRequest) -> str:
                raise AssertionError("it is not asked to speak")

            yield ScriptedEngine(speak, logprob=lambda r: -0.1 if r.target == letter else -1.0)

        return Side(name, f"sha256:{name}", {}, EngineSource(start), lambda e: e.models[0])

    session = Session(suite, load_tasks(suite), store, "run")
    (task,) = session.evaluate(side("old", "B"), side("new", "A")).tasks

    assert (task.baseline, task.candidate) == (1.0, 0.0)
    assert {flip.candidate.answer for flip in task.flips.regressed} == {"A"}
