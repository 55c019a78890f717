"""Every scorer against published examples of its metric."""

import json
import math
import re
from pathlib import Path

import pytest

from vlmserve.config.base import load_config
from vlmserve.config.suite import SuiteConfig
from vlmserve.config.suite_entries import ScorerConfig, SuiteData
from vlmserve.errors import ConfigError
from vlmserve.evals.scorers.boxes import read_boxes
from vlmserve.evals.scorers.match import NormalisedMatch
from vlmserve.evals.scorers.registry import SCORERS, create_scorer
from vlmserve.evals.scorers.scorer import Scorer
from vlmserve.evals.scorers.table import read_entries
from vlmserve.evals.scorers.vqa import process

PLACE = "suite.yaml: tasks.0.scorer"


def make(name: str, **options: object) -> Scorer:
    return create_scorer(ScorerConfig.model_validate({"name": name, **options}), place=PLACE)


@pytest.mark.parametrize(
    ("answer", "target", "options", "score"),
    [
        (" Paris\n", "Paris", {}, 1.0),
        ("paris", "Paris", {}, 0.0),
        ("paris", "Paris", {"ignore_case": True}, 1.0),
        ("Paris.", "Paris", {}, 0.0),
    ],
)
def test_exact_match(answer: str, target: str, options: dict[str, object], score: float) -> None:
    assert make("exact_match", **options).score(answer, target) == score


# The first four: what SQuAD's evaluate-v1.1.py makes of these texts.
@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  U.S.A.!", "usa"),
        ("a Denver Broncos", "denver broncos"),
        ("“Theatre” — an overture", "theatre overture"),
        ("gold-themed", "goldthemed"),
        ("-5.0 °C", "-5.0 c"),
        ("It is 3.", "it is 3"),
        ("１２", "12"),  # noqa: RUF001 - full-width digits
    ],
)
def test_normalisation(text: str, normal: str) -> None:
    assert NormalisedMatch().normalise(text) == normal


def test_a_target_of_which_nothing_is_left_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing is left"):
        make("normalised_match").check_target("A")
    make("normalised_match", drop_articles=False).check_target("A")
    assert make("normalised_match").score("-5", "5") == 0.0


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("b.", "B"),
        ("**(C)**", "C"),
        ("(D) a dog", "D"),
        ("C. The cat", "C"),
        ("A: yes", "A"),
        ("The answer is B.", "B"),
        ("Answer: (C) because A is too small", "C"),
        ("First I thought the answer is A. No, the answer is (D)", "D"),
        ("The correct option is C", "C"),
        ("The answer is option B. Option A is wrong.", "B"),
        ("It must be [B], I think", "B"),
        ("Surely C", "C"),
        ("答案是B。", "B"),
        ("选择（C）", "C"),  # noqa: RUF001 - full-width brackets
        (r"so \boxed{D}", "D"),
        ("The answer is: **B**", "B"),
        ("A dog and a cat", None),
        ("I think it is E", "E"),
        ("either (A) or (B)", None),
        ("B or C", None),
        ("Z", None),
        ("", None),
        ("The answer is unknown", None),
    ],
)
def test_multiple_choice_finds_the_letter_or_none(text: str, letter: str | None) -> None:
    scorer = make("multiple_choice")
    picks = {one for one in "ABCDEFGHIJ" if scorer.score(text, one)}

    assert picks == ({letter} if letter else set())


def test_letters_that_there_are_not_are_no_choice() -> None:
    with pytest.raises(ValueError, match="picks no letter of ABCD"):
        make("multiple_choice", choices="ABCD").check_target("E")


# google-research/pix2struct metrics_test.py test_pix2struct_metrics, one by one: the means there
# are 12.5, 47.5 and 62.5.
PIX2STRUCT = [
    ("abc", "abc"),
    ("abc", "Abc"),
    ("Abc", "abc"),
    ("100%", "96%"),
    ("100%", "94%"),
    ("100%", "0.96"),
    ("100%", "0.94"),
    ("Don't", "Won't"),
]


@pytest.mark.parametrize(
    ("name", "mean"), [("exact_match", 0.125), ("anls", 0.475), ("relaxed_accuracy", 0.625)]
)
def test_pix2structs_example(name: str, mean: float) -> None:
    scores = [make(name).score(answer, target) for answer, target in PIX2STRUCT]

    assert sum(scores) / len(scores) == pytest.approx(mean)


@pytest.mark.parametrize(
    ("answer", "target", "score"),
    [
        ("105", "100", 1.0),
        ("105.01", "100", 0.0),
        ("0", "0", 1.0),
        ("0.001", "0", 0.0),
        ("about 100", "100", 0.0),
        ("nan", "100", 0.0),
        ("-95", "-100", 1.0),
    ],
)
def test_relaxed_accuracy_at_its_borders(answer: str, target: str, score: float) -> None:
    assert make("relaxed_accuracy").score(answer, target) == score


def test_anls_takes_the_nearest_accepted_answer_and_nothing_below_a_half() -> None:
    scorer = make("anls")
    several = json.dumps(["ITC Limited", "itc"])

    assert scorer.score("ITC  limited", several) == 1.0
    # One of four characters; two of four is a half, three of four is less.
    assert scorer.score("abcx", "abcd") == 0.75
    assert scorer.score("abxx", "abcd") == 0.5
    assert scorer.score("axxx", "abcd") == 0.0
    assert scorer.score("", "abcd") == 0.0
    with pytest.raises(ValueError, match="at least one"):
        scorer.check_target("[]")


# The VQA challenge's own table: min(1, matches / 3) averaged over ten choose nine.
@pytest.mark.parametrize(("agree", "score"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0)])
def test_vqa_accuracy_by_how_many_of_ten_agree(agree: int, score: float) -> None:
    people = ["yes"] * agree + [f"other {number}" for number in range(10 - agree)]

    assert make("vqa_accuracy").score("Yes!", json.dumps(people)) == pytest.approx(score)


@pytest.mark.parametrize(
    ("text", "processed"),
    [
        ("The two dogs, dont!", "2 dogs don't"),
        ("1,000 dollars", "1000 dollars"),
        ("black/white", "black white"),
        ("black / white", "black white"),
        ("3.5", "3.5"),
        ("Mr. T", "mr t"),
        ("none", "0"),
        ("youd've", "you'd've"),
        ("somebody'd", "somebodyd"),
    ],
)
def test_vqa_text_processing(text: str, processed: str) -> None:
    assert process(text) == processed


def test_vqa_processes_nothing_where_all_agree() -> None:
    scorer = make("vqa_accuracy")

    assert scorer.score("Yes", "yes") == 1.0
    assert scorer.score("yes.", "yes") == 0.0
    scorer.check_target("yes")
    with pytest.raises(ValueError, match="3 people"):
        scorer.check_target('["a1", "b1", "c1"]')


# The documentation of Hugging Face's evaluate: wer 0.5, cer 0.34146341463414637.
TRANSCRIPTS = [
    ("this is the prediction", "this is the reference"),
    ("there is an other sample", "there is another one"),
]


@pytest.mark.parametrize(
    ("name", "rate", "size"),
    [("wer", 0.5, lambda text: len(text.split())), ("cer", 14 / 41, len)],
)
def test_error_rates(name: str, rate: float, size: object) -> None:
    assert callable(size)
    scorer = make(name)
    edits = [scorer.score(answer, target) * size(target) for answer, target in TRANSCRIPTS]

    assert sum(edits) / sum(size(target) for _, target in TRANSCRIPTS) == pytest.approx(rate)
    assert not scorer.higher_is_better


def test_error_rates_exceed_one_and_know_composed_letters() -> None:
    assert make("wer").score("one two three", "four") == 3.0
    assert make("cer").score("a\u0308", "ä") == 0.0
    assert make("cer", ignore_case=True).score("A", "a") == 0.0
    with pytest.raises(ValueError, match="no text"):
        make("cer").check_target(" ")


# torchvision test_ops.py TestBoxIou: the first row of its expected matrix.
@pytest.mark.parametrize(
    ("box", "overlap"),
    [("[0, 0, 100, 100]", 1.0), ("[0, 0, 50, 50]", 0.25), ("[200, 200, 300, 300]", 0.0)],
)
def test_box_iou(box: str, overlap: float) -> None:
    assert make("box_iou", coordinates="pixels").score(box, "[0, 0, 100, 100]") == overlap


FULL_HD = (1920, 1080)
# 1920 x 1080 within 1003520 pixels: beta = sqrt(2073600 / 1003520), both sides floored to 28s.
SHRUNK = (1316, 728)


def boxes_of(size: tuple[float, float], *, digits: int = 0) -> str:
    """A box over the right half of an image's lower half, in numbers of which it has these."""
    width, height = size
    return str([round(width / 2, digits), round(height / 2, digits), width, height])


@pytest.mark.parametrize(
    ("coordinates", "target"),
    [
        ("pixels", boxes_of(FULL_HD)),
        ("0-1000", boxes_of((1000, 1000))),
        ("0-1", boxes_of((1, 1), digits=1)),
        ("resized", boxes_of(SHRUNK)),
    ],
)
@pytest.mark.parametrize(
    ("answers", "answer"),
    [
        ("pixels", boxes_of(FULL_HD)),
        ("0-1000", boxes_of((1000, 1000))),
        ("0-1", boxes_of((1, 1), digits=1)),
        ("resized", boxes_of(SHRUNK)),
    ],
)
@pytest.mark.parametrize("name", ["box_iou", "boxes"])
def test_boxes_are_carried_over_between_declared_coordinates(
    name: str, coordinates: str, target: str, answers: str, answer: str
) -> None:
    scorer = make(name, coordinates=coordinates, answers=answers, max_pixels=1003520)

    assert scorer.needs_image_size == (coordinates != answers)
    assert scorer.score_image(answer, target, FULL_HD) == pytest.approx(1.0)
    half = f"[0, 0, {answer.split(', ')[0][1:]}, {answer.split(', ')[1]}]"
    assert scorer.score_image(half, target, FULL_HD) == 0.0


def test_resized_pixels_are_those_of_the_processor() -> None:
    scorer = make("box_iou", coordinates="pixels", answers="resized", max_pixels=1003520)
    # The whole image, and what a scorer would make of it that took the numbers for pixels.
    whole, (width, height) = "[0, 0, 1920, 1080]", SHRUNK

    assert scorer.score_image(f"[0, 0, {width}, {height}]", whole, FULL_HD) == 1.0
    taken = make("box_iou", coordinates="pixels").score(f"[0, 0, {width}, {height}]", whole)
    assert taken == pytest.approx(width * height / (1920 * 1080))
    small = make(
        "box_iou", coordinates="pixels", answers="resized", max_pixels=1003520, min_pixels=50176
    )
    # 100 x 100 grown to at least 50176 pixels: 224 x 224.
    assert small.score_image("[0, 0, 224, 224]", "[0, 0, 100, 100]", (100, 100)) == 1.0


def test_resized_pixels_need_the_limit_of_the_processor() -> None:
    with pytest.raises(ConfigError, match="resized pixels need max_pixels"):
        make("boxes", coordinates="pixels", answers="resized")
    make("boxes", coordinates="resized")


def test_boxes_are_read_in_every_spelling() -> None:
    qwen2 = "<|object_ref_start|>dog<|object_ref_end|><|box_start|>(1,2),(30,40)<|box_end|>"
    stripped = "dog(1,2),(30,40)"
    spelled = '```json\n[{"bbox_2d": [1, 2, 30, 40], "label": "Dog"}]\n```'
    one = (1.0, 2.0, 30.0, 40.0)

    assert [box.corners for box in read_boxes(qwen2)] == [one]
    assert [box.corners for box in read_boxes(stripped)] == [one]
    assert [box.corners for box in read_boxes("<box>(1, 2), (30, 40)</box>")] == [one]
    assert [box.corners for box in read_boxes("It is at [1, 2, 30, 40].")] == [one]
    (labelled,) = read_boxes(spelled)
    assert labelled == (one, "Dog")
    assert read_boxes("no box [1, 2]") == []


def test_boxes_are_matched_one_to_one() -> None:
    scorer = make("boxes", coordinates="0-1000")
    target = "[[0, 0, 100, 100], [200, 200, 300, 300]]"

    assert scorer.score(target, target) == 1.0
    # In another order.
    assert scorer.score("[[200, 200, 300, 300], [0, 0, 100, 100]]", target) == 1.0
    # Twice the same box matches once.
    assert scorer.score("[[0, 0, 100, 100], [0, 0, 100, 100]]", target) == 0.5
    assert scorer.score("[[0, 0, 100, 100]]", target) == pytest.approx(2 / 3)
    assert scorer.score("nothing", target) == 0.0
    # An overlap of .49 is too little, of .51 enough.
    assert scorer.score("[0, 0, 100, 49]", "[0, 0, 100, 100]") == 0.0
    assert scorer.score("[0, 0, 100, 51]", "[0, 0, 100, 100]") == 1.0


def test_as_many_boxes_as_can_be_are_matched() -> None:
    # Greedily the best pair would take the only partner of the other.
    scorer = make("boxes", coordinates="pixels")
    target = "[[0, 0, 100, 100], [0, 0, 100, 60]]"
    answer = "[[0, 0, 100, 90], [0, 0, 100, 190]]"

    assert scorer.score(answer, target) == 1.0


def test_labels_count_where_they_are_asked_for() -> None:
    target = '[{"bbox_2d": [0, 0, 10, 10], "label": "cat"}]'
    answer = '[{"bbox_2d": [0, 0, 10, 10], "label": "dog"}]'

    assert make("boxes", coordinates="pixels").score(answer, target) == 1.0
    assert make("boxes", coordinates="pixels", labels=True).score(answer, target) == 0.0
    with pytest.raises(ValueError, match="without a label"):
        make("boxes", coordinates="pixels", labels=True).check_target("[0, 0, 10, 10]")


@pytest.mark.parametrize(
    ("target", "coordinates", "match"),
    [
        ("no box", "pixels", "no box"),
        ("[10, 10, 5, 20]", "pixels", "swapped corners"),
        ("[0, 0, 1200, 20]", "0-1000", "outside of 0-1000"),
        ("[0, 0, 20, 20]", "0-1", "outside of 0-1"),
        ("[[0, 0, 20, 20], [0, 0, 9, 9]]", "pixels", "2 boxes"),
    ],
)
def test_targets_that_are_no_box_are_refused(target: str, coordinates: str, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make("box_iou", coordinates=coordinates).check_target(target)


def test_json_f1_of_donuts_example() -> None:
    # clovaai/donut util.py: the document in the docstring of flatten; four fields.
    target = json.dumps(
        {"menu": [{"name": ["cake"], "count": ["2"]}, {"name": ["juice"], "count": ["1"]}]}
    )
    scorer = make("json_f1")
    one_wrong = target.replace("juice", "tea")

    assert scorer.score(f"Here it is:\n```json\n{target}\n```", target) == 1.0
    assert scorer.score(one_wrong, target) == 0.75
    assert scorer.score('{"menu": [{"name": "juice", "count": 1}]}', target) == pytest.approx(4 / 6)
    assert scorer.score('{"menu": ', target) == 0.0
    assert scorer.score('{"menu": NaN}', target) == 0.0
    assert scorer.score("[" * 100_000, target) == 0.0
    # An empty field is none, and 0 is a value.
    assert scorer.score('{"a": 1, "b": null}', '{"a": 1}') == 1.0
    assert scorer.score('{"a": 1}', '{"a": 1, "b": 0}') == pytest.approx(2 / 3)
    for wrong in ("5", "text"):
        with pytest.raises(ValueError, match="JSON"):
            scorer.check_target(wrong)


# google-research/google-research deplot/metrics_test.py.
DEPLOT = "title | my table\nyear | argentina | brazil\n1999 | 200 | 158\n"
DEPLOT_TRANSPOSED = "title | my table\ncountry | 1999\nargentina | 200\nbrazil | 158\n"
DEPLOT_ANSWER = "title | my table\nyear | argentina | brazil\n1999 | 202 | 0\n"


def test_table_f1_of_deplots_example() -> None:
    assert dict(read_entries(DEPLOT)) == {
        "title": "my table",
        "1999 argentina": "200",
        "1999 brazil": "158",
    }
    # 1 of the title, .99 of an entry.
    assert make("table_f1").score(DEPLOT_ANSWER, DEPLOT) == pytest.approx(1.99 / 3)
    assert make("table_f1").score(DEPLOT_ANSWER, DEPLOT_TRANSPOSED) == pytest.approx(1.99 / 3)


def test_table_f1_reads_markdown() -> None:
    target = "| Year | Total |\n|------|------:|\n| 1999 | 200 |"

    assert make("table_f1").score(f"The table:\n{target}", target) == 1.0
    assert make("table_f1").score("no table", target) == 0.0
    with pytest.raises(ValueError, match="no table"):
        make("table_f1").check_target("no table")


def test_tool_calls() -> None:
    # The Hermes form of Qwen2.5's documentation.
    target = (
        '<tool_call>\n{"name": "get_current_temperature", "arguments": '
        '{"location": "San Francisco, CA, USA", "days": 1}}\n</tool_call>'
    )
    opened = json.dumps(
        [
            {
                "id": "call_1",
                "type": "function",
                "function": {
                    "name": "get_current_temperature",
                    "arguments": '{"days": 1.0, "location": "San Francisco, CA, USA"}',
                },
            }
        ]
    )
    scorer = make("tool_call")

    assert scorer.score(f"Let me look. {opened}", target) == 1.0
    assert scorer.score(target.replace("1", "2"), target) == 0.0
    assert scorer.score(target.replace("1", '"1"'), target) == 0.0
    assert scorer.score(target * 2, target) == 0.0
    assert scorer.score(target.replace("get_", ""), target) == 0.0
    assert scorer.score("It is 20 degrees.", target) == 0.0
    with pytest.raises(ValueError, match="no tool call"):
        scorer.check_target("It is 20 degrees.")


def test_two_calls_may_come_in_any_order() -> None:
    one, other = '{"name": "f", "arguments": {}}', '{"name": "g", "parameters": {"x": true}}'

    assert make("tool_call").score(f"[{other}, {one}]", f"[{one}, {other}]") == 1.0


def test_regex() -> None:
    scorer = make("regex", pattern=r"total:\s*([\d.]+)", ignore_case=True)

    assert scorer.score("The TOTAL: 12.50 EUR", "total: 12.50") == 1.0
    assert scorer.score("12.50", "total: 12.50") == 0.0
    with pytest.raises(ValueError, match="finds nothing"):
        scorer.check_target("12.50")


def test_set_f1() -> None:
    scorer = make("set_f1")

    assert scorer.score("- Dog\n- cat.\n", "cat, dog") == 1.0
    assert scorer.score("1. cat\n2. cow", "cat, dog") == 0.5
    assert scorer.score("", "cat, dog") == 0.0
    assert make("set_f1", separator="|").score("a, b|c", "c|a, b") == 1.0
    with pytest.raises(ValueError, match="no items"):
        scorer.check_target(", ;")


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"name": "exact"}, r"tasks\.0\.scorer: no scorer 'exact'"),
        ({"name": "anls", "treshold": 0.4}, r"scorer\.treshold: anls has no such option"),
        ({"name": "anls", "threshold": 2}, r"scorer\.threshold: .*less than or equal to 1"),
        ({"name": "box_iou"}, r"scorer\.coordinates: Field required"),
        ({"name": "boxes", "coordinates": "0-999"}, r"scorer\.coordinates: "),
        ({"name": "regex", "pattern": "("}, r"scorer\.pattern: no regular expression"),
        ({"name": "multiple_choice", "choices": "AA"}, r"scorer\.choices: different capital"),
        ({"name": "multiple_choice", "by": "logprob"}, r"scorer.*by: logprob needs choices"),
        ({"name": "multiple_choice", "by": "guess"}, r"scorer\.by: "),
    ],
)
def test_a_wrong_scorer_names_its_place(config: dict[str, object], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        create_scorer(ScorerConfig.model_validate(config), place=PLACE)


# A target of its own kind for each.
TARGETS = {
    "exact_match": "Paris",
    "normalised_match": "The Louvre, Paris",
    "multiple_choice": "B",
    "relaxed_accuracy": "12.5%",
    "anls": "ITC Limited",
    "vqa_accuracy": "yes",
    "cer": "a line",
    "wer": "a line",
    "box_iou": "<|box_start|>(1,2),(30,40)<|box_end|>",
    "boxes": "[[0, 0, 1, 1], [5, 5, 9, 9]]",
    "json_f1": '{"a": [1, {"b": null}]}',
    "table_f1": DEPLOT,
    "tool_call": '{"name": "f", "arguments": {"x": [1, 2.5, null]}}',
    "regex": "total: 5",
    "set_f1": "a, b",
}
OPTIONS: dict[str, dict[str, object]] = {
    "box_iou": {"coordinates": "0-1000"},
    "boxes": {"coordinates": "0-1000"},
    "regex": {"pattern": r"\d"},
}
# Near the deepest that Python reads, and below.
DEEP = ['{"a":' * depth + "1" + "}" * depth for depth in (900, 950, 980, 5000)]
ODD_ANSWERS = [
    "", " ", "\0", "é" * 1000, "[" * 10_000, *DEEP, '{"a": 1e999}', "| |", "|\n|\n|", "NaN",
    "9" * 5000, "(1,2),(1,2)", '[{"bbox_2d": [1, 2]}]', "<tool_call></tool_call>", "%", "[]",
    "[[]]", "\ud800",
]  # fmt: skip


@pytest.mark.parametrize("name", SCORERS)
def test_a_target_is_perfect_by_itself_and_odd_answers_stay_in_range(name: str) -> None:
    scorer = make(name, **OPTIONS.get(name, {}))
    target = TARGETS[name]

    scorer.check_target(target)
    assert scorer.score(target, target) == (1.0 if scorer.higher_is_better else 0.0)
    for answer in ODD_ANSWERS:
        score = scorer.score(answer, target)
        assert math.isfinite(score)
        assert score >= 0.0
        assert score <= 1.0 or not scorer.is_fraction


def test_every_scorer_says_what_it_is_and_where_it_comes_from() -> None:
    for name, scorer in SCORERS.items():
        assert scorer.name == name
        assert scorer.about
        assert scorer.source
        assert all(field.description for field in scorer.model_fields.values())


GUIDE = Path(__file__).parents[3] / "evals" / "README.md"


def test_the_guide_lists_every_scorer_with_its_options() -> None:
    rows = {}
    _, _, table = GUIDE.read_text().partition("| scorer | ")
    for line in table.partition("\n\n")[0].splitlines():
        if line.startswith("| `"):
            _, names, _, _, options, _ = line.split("|")
            for name in re.findall(r"`(\w+)`", names):
                rows[name] = set(re.findall(r"`(\w+)`", options))

    assert rows == {name: set(scorer.model_fields) for name, scorer in SCORERS.items()}


def test_the_guides_example_is_a_suite(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(# receipts\.yaml\n.*?)```", GUIDE.read_text(), re.DOTALL)
    file = tmp_path / "receipts.yaml"
    file.write_text(example)
    suite = load_config(file, SuiteConfig)

    for entry in suite.tasks:
        assert isinstance(entry, SuiteData)
        create_scorer(entry.scorer, place=PLACE)
