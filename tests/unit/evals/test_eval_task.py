"""Real lm-eval tasks over real Parquet files."""

import hashlib
import io
import logging
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from tests.unit.evals.answers import said
from vlmserve.chat import ImagePart, SamplingParams, TextPart, VideoPart
from vlmserve.errors import ConfigError
from vlmserve.evals.eval_task import EvalTask, load_tasks
from vlmserve.evals.records import Failed, Scored


def load_one(suites: Any, *tasks: Any, limit: int | None = None, **settings: Any) -> EvalTask:
    (task,) = load_tasks(suites.load(*tasks, **settings), limit=limit)
    return task


def jpeg(color: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(buffer, "JPEG")
    return buffer.getvalue()


def test_media_travel_in_reading_order_as_the_files_they_were(suites: Any) -> None:
    first, second, video = suites.png("red"), jpeg("blue"), suites.mp4()
    suites.task(
        "mixed",
        [
            suites.row("Is <image> brighter than <image>?", "no", first, second),
            suites.row("<video>Which way?", "up", video),
            suites.row("What is 1 plus 1?", "2"),
        ],
    )
    task = load_one(suites, "mixed")
    two, moving, words = (sample.request("m").messages[0].parts for sample in task.samples)

    assert two == (
        TextPart(text="Is "),
        ImagePart(data=first, content_type="image/png"),
        TextPart(text=" brighter than "),
        ImagePart(data=second, content_type="image/jpeg"),
        TextPart(text="?"),
    )
    assert moving == (
        VideoPart(data=video, content_type="video/mp4"),
        TextPart(text="Which way?"),
    )
    assert words == (TextPart(text="What is 1 plus 1?"),)
    assert [sample.target for sample in task.samples] == ["no", "up", "2"]


def test_answers_are_scored_by_the_tasks_own_metric(suites: Any, colors: Any) -> None:
    suites.task(
        "color",
        colors(3),
        metric_list=[
            {
                "metric": "exact_match",
                "aggregation": "mean",
                "higher_is_better": True,
                "ignore_case": True,
            }
        ],
        filter_list=[
            {"name": "first", "filter": [{"function": "regex", "regex_pattern": r"(\w+)"}]}
            | {"filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]}
        ],
    )
    task = load_one(suites, "color")
    right, wrong, silent = (sample.sample_id for sample in task.samples)

    assert task.score(said({right: "  RED \n", wrong: "blue"})) == {
        right: Scored(answer="RED", score=1.0),
        wrong: Scored(answer="blue", score=0.0),
    }
    assert silent not in task.score(said({right: "red"}))


def test_a_second_scoring_knows_nothing_of_the_first(suites: Any, colors: Any) -> None:
    suites.task("color", colors(2))
    task = load_one(suites, "color")
    one, two = (sample.sample_id for sample in task.samples)

    task.score(said({one: "red", two: "red"}))
    assert task.score(said({one: "green", two: "red"})) == {
        one: Scored(answer="green", score=0.0),
        two: Scored(answer="red", score=1.0),
    }


def test_samples_are_known_by_content_and_not_by_row(suites: Any, colors: Any) -> None:
    rows = colors(3)
    suites.task("ahead", rows)
    suites.task("behind", list(reversed(rows)))
    suites.task("retargeted", [{**rows[0], "target": "blue"}])
    suites.task("redrawn", [suites.row("<image>What color?", "red", suites.png("blue"))])
    ahead, behind, retargeted, redrawn = (
        load_one(suites, name).samples for name in ("ahead", "behind", "retargeted", "redrawn")
    )

    assert {s.sample_id for s in ahead} == {s.sample_id for s in behind}
    assert ahead[0].sample_id == behind[2].sample_id
    assert retargeted[0].sample_id != ahead[0].sample_id
    # What is asked is the same, so the answer can be.
    assert retargeted[0].request_digest == ahead[0].request_digest
    assert redrawn[0].sample_id != ahead[0].sample_id
    assert redrawn[0].request_digest != ahead[0].request_digest


def test_repetitions_are_counted_and_said(
    suites: Any, colors: Any, caplog: pytest.LogCaptureFixture
) -> None:
    row = colors(1)[0]
    suites.task("color", [row, row, row])
    with caplog.at_level(logging.WARNING):
        task = load_one(suites, "color")
    first, second, third = task.samples

    assert second.sample_id == f"{first.sample_id}#2"
    assert third.sample_id == f"{first.sample_id}#3"
    assert len({sample.request_digest for sample in task.samples}) == 3
    assert "2 of 3 samples repeat another one" in caplog.text


def test_limit_takes_the_first_samples(suites: Any, colors: Any) -> None:
    suites.task("color", colors(5))

    everything, some = load_one(suites, "color"), load_one(suites, "color", limit=2)
    assert some.samples == everything.samples[:2]
    with pytest.raises(ConfigError, match="--limit 0"):
        load_one(suites, "color", limit=0)


def test_images_of_datasets_keep_their_bytes(suites: Any, tmp_path: Path) -> None:
    original = jpeg("green")
    features = datasets.Features(
        {
            "question": datasets.Value("string"),
            "target": datasets.Value("string"),
            "picture": datasets.Image(),
            "more": datasets.List(datasets.Image()),
        }
    )
    file = {"bytes": original, "path": None}
    rows = {"question": ["<image><image>?"], "target": ["a"], "picture": [file], "more": [[file]]}
    datasets.Dataset.from_dict(rows, features).to_parquet(suites.folder / "hf.parquet")
    suites.task("hf", doc_to_image="picture", doc_to_text="<image>{{ question[14:] }}")
    suites.task("listed", doc_to_image="more", doc_to_text="<image>?")
    suites.folder.joinpath("listed.parquet").write_bytes(
        suites.folder.joinpath("hf.parquet").read_bytes()
    )

    for name in ("hf", "listed"):
        (medium,) = load_one(suites, name).samples[0].media
        assert medium.data() == original
        assert medium.content_type == "image/jpeg"


def test_decoded_images_of_a_function_become_png(suites: Any) -> None:
    suites.folder.joinpath("pictures.py").write_text(
        "from PIL import Image\n"
        "def of(doc):\n"
        "    return [Image.new('RGB', (4, 4), doc['target'])]\n"
    )
    suites.task("drawn", [suites.row("<image>?", "blue")], doc_to_image="!function pictures.of")
    (sample,) = load_one(suites, "drawn").samples

    assert sample.media[0].content_type == "image/png"
    with Image.open(io.BytesIO(sample.media[0].data())) as image:
        assert image.getpixel((0, 0)) == (0, 0, 255)


def test_paths_lead_from_the_task_file(
    suites: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suites.folder.joinpath("red.png").write_bytes(suites.png("red"))
    suites.task("path", [{"question": "<image>?", "target": "red", "media": [{"path": "red.png"}]}])
    monkeypatch.chdir(tmp_path / "..")
    (sample,) = load_one(suites, "path").samples

    assert sample.media[0].sha256 == hashlib.sha256(suites.png("red")).hexdigest()
    suites.folder.joinpath("red.png").write_bytes(suites.png("blue"))
    with pytest.raises(Exception, match=r"red\.png has changed since the run began"):
        sample.request("m")


def test_few_shot_examples_are_turns(suites: Any) -> None:
    suites.parquet("shots.parquet", [suites.row("1 + 1", "2"), suites.row("2 + 2", "4")])
    suites.task(
        "sums",
        [suites.row("3 + 3", "6")],
        dataset_kwargs={"data_files": {"train": "shots.parquet", "test": "sums.parquet"}},
        test_split="test",
        fewshot_split="train",
        num_fewshot=2,
        fewshot_config={"sampler": "first_n"},
        description="Add.",
    )
    (sample,) = load_one(suites, "sums").samples

    assert [(turn.role, turn.text()) for turn in sample.turns] == [
        ("system", "Add."),
        ("user", "1 + 1"),
        ("assistant", "2"),
        ("user", "2 + 2"),
        ("assistant", "4"),
        ("user", "3 + 3"),
    ]
    assert sample.question == "3 + 3"


def test_the_same_few_shot_examples_are_drawn_every_time(suites: Any) -> None:
    shots = [suites.row(f"{number} + {number}", str(2 * number)) for number in range(20)]
    suites.parquet("shots.parquet", shots)
    suites.task(
        "sums",
        [suites.row(f"{number} + 1", "x") for number in range(5)],
        dataset_kwargs={"data_files": {"train": "shots.parquet", "test": "sums.parquet"}},
        test_split="test",
        fewshot_split="train",
        num_fewshot=3,
    )
    first, second = (
        [sample.request_digest for sample in load_one(suites, "sums").samples] for _ in range(2)
    )

    assert first == second


def test_sampling_is_the_tasks_unless_the_suite_says_otherwise(suites: Any, colors: Any) -> None:
    suites.task(
        "color",
        colors(1),
        generation_kwargs={"until": ["\n"], "max_gen_toks": 5, "do_sample": True, "top_p": 0.5},
    )

    own = load_one(suites, "color").samples[0].params
    assert own == SamplingParams(temperature=1.0, top_p=0.5, max_tokens=5, stop=("\n",))
    asked = load_one(suites, "color", sampling={"temperature": 0, "max_tokens": 9})
    assert asked.samples[0].params == own.model_copy(update={"temperature": 0.0, "max_tokens": 9})
    assert asked.samples[0].sample_id == load_one(suites, "color").samples[0].sample_id


def test_several_targets_are_one_of_them(suites: Any) -> None:
    suites.task(
        "either",
        [suites.row("?", '["a", "b"]')],
        doc_to_target="{{ target }}",
        doc_to_image=None,
    )
    task = load_one(suites, "either")
    (sample,) = task.samples

    assert task.score(said({sample.sample_id: "b"})) == {
        sample.sample_id: Scored(answer="b", score=1.0)
    }
    assert sample.target == '["a", "b"]'


def test_a_metric_that_raises_fails_its_sample_alone(suites: Any) -> None:
    suites.folder.joinpath("judge.py").write_text(
        "def judge(doc, results):\n"
        "    answer = results[0]\n"
        "    if answer == 'boom':\n"
        "        raise RuntimeError('no such thing')\n"
        "    if answer == 'nan':\n"
        "        return {'grade': float('nan')}\n"
        "    return {} if answer == 'nothing' else {'grade': 0.25}\n"
    )
    suites.task(
        "graded",
        [suites.row(str(number), "x") for number in range(4)],
        process_results="!function judge.judge",
        metric_list=[{"metric": "grade", "aggregation": "mean", "higher_is_better": False}],
        doc_to_image=None,
    )
    task = load_one(suites, {"task": "graded", "metric": "grade"})
    ids = [sample.sample_id for sample in task.samples]
    outcomes = task.score(said(dict(zip(ids, ("boom", "nan", "nothing", "fine"), strict=True))))

    assert [outcomes[key] for key in ids] == [
        Failed(error_type="MetricError", message="RuntimeError: no such thing"),
        Failed(error_type="MetricError", message="the metric gives nan"),
        Failed(error_type="MetricError", message="the metric gave nothing for this answer"),
        Scored(answer="fine", score=0.25),
    ]
    assert not task.higher_is_better


def test_a_filter_that_raises_fails_its_sample_alone(
    suites: Any, colors: Any, caplog: pytest.LogCaptureFixture
) -> None:
    # The second word: an IndexError in lm-eval's filter where there is one only.
    second = {"function": "regex", "regex_pattern": r"(\w+)", "group_select": 1}
    steps = [second, {"function": "take_first"}]
    suites.task("color", colors(4), filter_list=[{"name": "second", "filter": steps}])
    task = load_one(suites, "color")
    right, short, wrong, _ = (sample.sample_id for sample in task.samples)

    with caplog.at_level(logging.WARNING):
        outcomes = task.score(said({right: "a red", short: "red", wrong: "very blue"}))

    assert outcomes == {
        right: Scored(answer="red", score=1.0),
        short: Failed(
            error_type="FilterError", message="second: IndexError: list index out of range"
        ),
        wrong: Scored(answer="blue", score=0.0),
    }
    assert "task color: a filter raised (IndexError" in caplog.text


def test_several_filters_need_a_choice(suites: Any, colors: Any) -> None:
    take = [{"function": "take_first"}]
    loud = [{"function": "uppercase"}, *take]
    suites.task(
        "color",
        colors(1),
        filter_list=[{"name": "plain", "filter": take}, {"name": "loud", "filter": loud}],
    )
    entry = {"task": "color", "metric": "exact_match"}

    with pytest.raises(ConfigError, match="filter: none is chosen; the task has: plain, loud"):
        load_one(suites, entry)
    with pytest.raises(ConfigError, match="there is no 'soft'"):
        load_one(suites, {**entry, "filter": "soft"})
    task = load_one(suites, {**entry, "filter": "loud"})
    assert task.score(said({task.samples[0].sample_id: "red"})) == {
        task.samples[0].sample_id: Scored(answer="RED", score=0.0)
    }


def test_recipes_are_the_same_wherever_the_files_lie(
    suites: Any, colors: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = type(suites)(tmp_path_factory.mktemp("elsewhere"))
    for writer in (suites, other):
        writer.task("color", colors(1))

    assert load_one(suites, "color").recipe == load_one(other, "color").recipe


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        (
            {"doc_to_target": "targt"},
            r"doc_to_target: 'targt' is neither a column.*columns: question, target, media",
        ),
        ({"doc_to_text": "questoin"}, "doc_to_text: 'questoin' is neither a column"),
        ({"doc_to_image": "medai"}, "doc_to_image: 'medai' is neither a column"),
        ({"doc_to_image": ["media", "moer"]}, "doc_to_image: 'moer' is neither"),
        ({"doc_to_text": "{{ questoin }}"}, "UndefinedError: 'questoin' is undefined"),
        ({"doc_to_image": None}, r"1 of 1 samples .*\n.*row 0: the prompt has 1 placeholder"),
        ({"doc_to_text": "What color?"}, r"row 0: the prompt has 0 placeholder.* has 1 image"),
        ({"doc_to_text": "<video>?"}, "placeholder 1 is <video>, its medium image/png"),
        ({"test_split": "test"}, "test_split: no split 'test'; it has: train"),
        (
            {"dataset_kwargs": {"data_files": "gone.parquet"}},
            r"no such file: .*tasks/gone\.parquet",
        ),
        ({"dataset_kwargs": {"data_files": "*.csv"}}, r"no file matches .*tasks/\*\.csv"),
        ({"output_type": "loglikelihood_rolling"}, "no answer to a chat"),
        ({"doc_to_audio": "media"}, "audio is not supported"),
        ({"gen_prefix": "It is"}, "gen_prefix"),
        ({"repeats": 3}, "repeats: only 1"),
        ({"unsafe_code": True}, "runs code that the model wrote"),
        ({"generation_kwargs": {"until": [], "num_beams": 4}}, "unknown setting num_beams"),
        (
            {"generation_kwargs": {"until": [], "max_gen_toks": 0}},
            r"generation_kwargs\.max_gen_toks: .*greater than 0, got 0$",
        ),
        (
            {"generation_kwargs": {"until": [], "max_gen_toks": "many"}},
            r"generation_kwargs\.max_gen_toks: .*valid integer.*, got 'many'$",
        ),
        (
            {"generation_kwargs": {"until": [], "temperature": "hot"}},
            r"generation_kwargs\.temperature: .*valid number.*, got 'hot'$",
        ),
        (
            {"generation_kwargs": {"until": 5}},
            r"generation_kwargs\.until: a string or a list of them is expected, got 5$",
        ),
        ({"generation_kwargs": {"until": ["a", 5]}}, r"generation_kwargs\.until: a string or a"),
        (
            {"generation_kwargs": {"do_sample": "no"}},
            r"generation_kwargs\.do_sample: true or false",
        ),
        ({"generation_kwargs": "greedy"}, "generation_kwargs: a mapping is expected, got 'greedy'"),
        ({"metric_list": "exact_match"}, "metric_list: a list is expected, got 'exact_match'"),
        ({"metric_list": ["exact_match"]}, r"metric_list\.0: a mapping with `metric` is expected"),
        (
            {"metric_list": [{"name": "acc"}]},
            r"metric_list\.0: a mapping with `metric` is expected",
        ),
        ({"filter_list": "x"}, "filter_list: a list is expected, got 'x'"),
        ({"filter_list": ["x"]}, r"filter_list\.0: a mapping with `name` is expected, got 'x'"),
        ({"filter_list": [{"name": "x"}]}, r"filter_list\.0\.filter: a list is expected, got None"),
        (
            {"filter_list": [{"name": "x", "filter": ["take_first"]}]},
            r"filter_list\.0\.filter\.0: a mapping with `function` is expected, got 'take_first'",
        ),
        (
            {"metric_list": [{"metric": "exactmatch", "aggregation": "mean"}]},
            "lm-eval knows no metric 'exactmatch'",
        ),
        ({"doc_to_txt": "question"}, "unexpected keyword argument 'doc_to_txt'"),
    ],
)
def test_a_wrong_task_is_refused_by_name(
    suites: Any, colors: Any, settings: dict[str, Any], match: str
) -> None:
    suites.task("color", colors(1), **settings)

    with pytest.raises(ConfigError, match=match) as caught:
        load_one(suites, "color")
    assert "task color (" in caught.value.message
    assert "color.yaml" in caught.value.message


@pytest.mark.parametrize(
    ("media", "match"),
    [
        ([b"GARBAGE!"], r"begins like no image or video \(8 bytes\)"),
        ([b""], "neither bytes nor a path"),
        ([None], "the medium is missing"),
    ],
)
def test_media_that_are_none_are_found_before_the_first_request(
    suites: Any, media: list[bytes | None], match: str
) -> None:
    row = suites.row("<image>?", "red")
    row["media"] = [None if data is None else {"bytes": data} for data in media]
    suites.task("color", [suites.row("<image>?", "red", suites.png("red")), row])

    with pytest.raises(ConfigError, match=rf"1 of 2 samples cannot be asked\n  row 1: .*{match}"):
        load_one(suites, "color")


def test_an_empty_task_is_refused(suites: Any) -> None:
    suites.task("none", [])

    with pytest.raises(ConfigError, match="the data set has no rows"):
        load_one(suites, "none")


def test_a_metric_that_the_task_lacks_is_refused(suites: Any, colors: Any) -> None:
    suites.task("color", colors(1))

    with pytest.raises(ConfigError, match="no metric 'acc'; the task has: exact_match"):
        load_one(suites, {"task": "color", "metric": "acc"})


def test_a_metric_over_the_whole_set_is_refused(suites: Any, colors: Any) -> None:
    suites.task(
        "color",
        colors(1),
        metric_list=[{"metric": "bleu", "aggregation": "bleu", "higher_is_better": True}],
    )

    with pytest.raises(ConfigError, match=r"metric bleu: gives a .*, not a number"):
        load_one(suites, {"task": "color", "metric": "bleu"})


def test_task_files_are_listed_one_by_one(suites: Any, colors: Any) -> None:
    suites.task("color", colors(2))
    suites.task("other", colors(1))
    task = load_one(suites, "other", include_path=None, task_files=["tasks/other.yaml"])

    assert len(task.samples) == 1
    with pytest.raises(ConfigError, match=r"task_files\.0: no such file: .*nosuch\.yaml"):
        load_one(suites, "other", include_path=None, task_files=["nosuch.yaml"])


def test_a_task_may_include_another_file(suites: Any, colors: Any) -> None:
    suites.task("color", colors(1)).rename(suites.folder / "_base.yaml")
    suites.folder.joinpath("hue.yaml").write_text(
        "include: _base.yaml\ntask: hue\ndescription: Look.\n"
    )
    (sample,) = load_one(suites, "hue").samples

    assert sample.turns[0].text() == "Look."
