"""Kinds of samples that got worse."""

from typing import Any

import pytest

from tests.unit.evals.test_session import Lab, always, size_of
from vlmserve.evals.eval_task import load_tasks
from vlmserve.evals.report.eval_report import EvalReport
from vlmserve.evals.session import Session
from vlmserve.evals.store import AnswerStore


@pytest.fixture
def lab() -> Lab:
    return Lab()


def evaluate(
    suites: Any, store: AnswerStore, lab: Lab, rows: Any, answer: Any, before: Any = None
) -> EvalReport:
    suites.task("color", rows)
    suite = suites.load("color", gate={"margin": 0.5})
    session = Session(suite, load_tasks(suite), store, "run")
    old = lab.side("old", before or always("red"))
    return session.evaluate(old, lab.side("new", answer))


def names(report: EvalReport, *, worse: bool) -> set[str]:
    return {each.name for each in report.slices if each.is_worse is worse}


def test_large_images_that_got_worse_are_found(
    suites: Any, colors: Any, store: AnswerStore, lab: Lab
) -> None:
    # Pictures are 8 to 207 pixels wide; the largest quarter is answered wrongly.
    report = evaluate(
        suites, store, lab, colors(200), lambda r: "blue" if size_of(r) >= 149 else "red"
    )

    assert names(report, worse=True) == {"longest side in pixels 157 to 207"}
    worst = report.slices[0]
    assert (worst.n_pairs, worst.baseline, worst.candidate) == (51, 1.0, 0.0)
    assert worst.adjusted_p < 0.001
    assert len([name for name in names(report, worse=False) if "longest" in name]) == 3


def test_number_of_images_and_length_of_targets(suites: Any, store: AnswerStore, lab: Lab) -> None:
    rows = []
    for number in range(80):
        two = number % 2
        pictures = [suites.png(color, size=8 + number) for color in ("red", "blue")[: 1 + two]]
        question = "<image>" * len(pictures) + "Colour?"
        rows.append(suites.row(question, "red" if two else "dark red", *pictures))

    def two_images_wrong(request: Any) -> str:
        n_images = sum(part.kind == "image" for part in request.messages[-1].parts)
        return "blue" if n_images > 1 else "dark red"

    def right(request: Any) -> str:
        n_images = sum(part.kind == "image" for part in request.messages[-1].parts)
        return "red" if n_images > 1 else "dark red"

    report = evaluate(suites, store, lab, rows, two_images_wrong, before=right)

    assert "images = 2" in names(report, worse=True)
    assert "images = 1" in names(report, worse=False)
    assert {"target length = 3", "target length = 8"} <= {each.name for each in report.slices}
    # All ask "Colour?": the placeholders of media are no part of the question's length.
    assert not any(each.name.startswith("question length") for each in report.slices)


def test_fields_of_the_data_and_scripts(
    suites: Any, colors: Any, store: AnswerStore, lab: Lab
) -> None:
    rows = [
        {**row, "question": "<image>" + ("什么颜色?" if n % 3 == 0 else "What color?")}
        for n, row in enumerate(colors(90))
    ]

    def chinese_wrong(request: Any) -> str:
        text = "".join(part.text for part in request.messages[-1].parts if part.kind == "text")
        return "blue" if "什" in text else "red"

    report = evaluate(suites, store, lab, rows, chinese_wrong)

    assert {"script = CJK", "question = <image>什么颜色?"} <= names(report, worse=True)
    assert "script = LATIN" in names(report, worse=False)


def test_chance_alone_names_no_slice(
    suites: Any, colors: Any, store: AnswerStore, lab: Lab
) -> None:
    # Every ninth picture: spread evenly over all sizes.
    report = evaluate(
        suites, store, lab, colors(180), lambda r: "blue" if size_of(r) % 60 == 7 else "red"
    )

    assert report.slices
    assert not names(report, worse=True)


def test_slices_of_a_metric_whose_lower_values_are_better(
    suites: Any, colors: Any, store: AnswerStore, lab: Lab
) -> None:
    (suites.folder / "errors.py").write_text(
        "def count(doc, results):\n    return {'wrong': float(results[0] != doc['target'])}\n"
    )
    suites.task(
        "color",
        colors(120),
        process_results="!function errors.count",
        metric_list=[{"metric": "wrong", "aggregation": "mean", "higher_is_better": False}],
    )
    suite = suites.load({"task": "color", "metric": "wrong", "margin": 0.5})
    session = Session(suite, load_tasks(suite), store, "run")
    answer = lambda request: "blue" if size_of(request) >= 89 else "red"  # noqa: E731
    report = session.evaluate(lab.side("old", always("red")), lab.side("new", answer))
    worst = report.slices[0]

    assert worst.is_worse
    assert (worst.baseline, worst.candidate, worst.difference) == (0.0, 1.0, 1.0)
    assert worst.lower > 0
