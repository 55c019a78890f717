"""Whole evaluations, from task files to the report, with engines that follow a script."""

import io
import json
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typing_extensions import override

from vlmserve.chat import Completion, ImagePart, TextPart
from vlmserve.engine.base import Engine, GenerationRequest, GenerationResult
from vlmserve.engine.scripted import ScriptedEngine
from vlmserve.errors import ContextLengthError, EngineError
from vlmserve.evals.answering import EngineSource, Side
from vlmserve.evals.eval_task import load_tasks
from vlmserve.evals.proportions import tango_interval
from vlmserve.evals.records import AskedName
from vlmserve.evals.report.eval_report import EvalReport
from vlmserve.evals.report.files import ReportFormat, write_reports
from vlmserve.evals.report.terminal import print_report
from vlmserve.evals.session import Session
from vlmserve.evals.statistics import compare_pairs
from vlmserve.evals.store import AnswerStore

Answer = Callable[[GenerationRequest], str]


class Lab:
    """Counts the engines that are started, and how many of them at once."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.open: set[str] = set()
        self.most_open = 0

    def source(self, name: str, answer: Answer, models: tuple[str, ...] = ("m",)) -> EngineSource:
        @contextmanager
        def start() -> Iterator[Engine]:
            self.started.append(name)
            self.open.add(name)
            self.most_open = max(self.most_open, len(self.open))
            try:
                yield ScriptedEngine(answer, models=models)
            finally:
                self.open.discard(name)

        return EngineSource(start)

    def side(self, name: str, answer: Answer) -> Side:
        return Side(
            name=name,
            fingerprint=f"sha256:{name}",
            settings={"engine": "scripted"},
            source=self.source(name, answer),
            model=lambda engine: engine.models[-1],
        )


@pytest.fixture
def lab() -> Lab:
    return Lab()


def always(text: str) -> Answer:
    return lambda _: text


def size_of(request: GenerationRequest) -> int:
    """Which of the ``colors`` a request shows: pictures grow from 8 pixels up."""
    image = next(part for part in request.messages[-1].parts if isinstance(part, ImagePart))
    return int.from_bytes(image.data[16:20], "big") - 8


def wrong_below(count: int) -> Answer:
    return lambda request: "blue" if size_of(request) < count else "red"


@pytest.fixture
def session(suites: Any, colors: Any, store: AnswerStore) -> Session:
    suites.task("color", colors(60))
    suite = suites.load("color", gate={"margin": 0.08})
    return Session(suite, load_tasks(suite), store, "run-1")


def test_equal_answers_pass(session: Session, lab: Lab) -> None:
    report = session.evaluate(lab.side("old", always("red")), lab.side("new", always("red")))
    (task,) = report.tasks

    assert report.verdict == task.verdict == "pass"
    assert not report.notes
    assert (task.baseline, task.candidate, task.difference) == (1.0, 1.0, 0.0)
    assert (report.n_requests_sent, report.n_reused) == (120, 0)
    assert lab.started == ["old", "new"]
    assert lab.most_open == 1


def test_worse_answers_are_a_regression_with_their_samples(session: Session, lab: Lab) -> None:
    report = session.evaluate(lab.side("old", wrong_below(2)), lab.side("new", wrong_below(15)))
    (task,) = report.tasks

    assert report.verdict == "regression"
    assert task.difference == pytest.approx(-13 / 60)
    assert task.upper is not None
    assert task.upper < 0
    assert len(task.flips.regressed) == 13
    assert not task.flips.improved
    flip = task.flips.regressed[0]
    assert flip.sample_id == session.tasks[0].samples[2].sample_id
    assert (flip.question, flip.target) == ("<image>What color?", "red")
    assert (flip.baseline.answer, flip.candidate.answer) == ("red", "blue")
    assert flip.media[0].sha256 == session.tasks[0].samples[2].media[0].sha256


def test_a_few_lost_answers_are_inconclusive(session: Session, lab: Lab) -> None:
    report = session.evaluate(lab.side("old", always("red")), lab.side("new", wrong_below(3)))

    assert report.verdict == "inconclusive"


def test_a_second_run_sends_nothing_and_starts_nothing(session: Session, lab: Lab) -> None:
    first = session.evaluate(lab.side("old", always("red")), lab.side("new", wrong_below(9)))
    again = session.evaluate(lab.side("old", always("?")), lab.side("new", always("?")))

    assert lab.started == ["old", "new"]
    assert (again.n_requests_sent, again.n_reused) == (0, 120)
    assert again.tasks == first.tasks
    assert again.suite == first.suite


def test_other_settings_are_not_answered_from_the_store(session: Session, lab: Lab) -> None:
    old, new = lab.side("old", always("red")), lab.side("new", always("red"))
    session.evaluate(old, new)
    changed = Side(new.name, new.fingerprint, {"engine": "other"}, new.source, new.model)
    report = session.evaluate(old, changed)

    assert (report.n_requests_sent, report.n_reused) == (60, 60)
    assert report.candidate.n_requests_sent == 60


def test_an_adapter_and_its_base_share_one_engine(session: Session, lab: Lab) -> None:
    def answer(request: GenerationRequest) -> str:
        return "red" if request.model == "base" else "blue"

    source = lab.source("both", answer, models=("base", "adapter"))
    base = Side("base", "sha256:b", {}, source, lambda engine: engine.models[0])
    adapter = Side("adapter", "sha256:a", {}, source, lambda engine: engine.models[-1])
    report = session.evaluate(base, adapter)

    assert lab.started == ["both"]
    assert (report.tasks[0].baseline, report.tasks[0].candidate) == (1.0, 0.0)


def test_the_same_checkpoint_on_both_sides_is_asked_once_and_said(
    session: Session, lab: Lab
) -> None:
    report = session.evaluate(lab.side("old", always("red")), lab.side("old", always("red")))

    assert lab.started == ["old"]
    assert (report.n_requests_sent, report.n_reused) == (60, 60)
    assert any("compared with themselves" in note for note in report.notes)


def test_equal_requests_of_two_tasks_are_sent_once(
    suites: Any, colors: Any, store: AnswerStore, lab: Lab
) -> None:
    suites.task("color", colors(10))
    suites.task("again", colors(12))
    suite = suites.load("color", "again")
    session = Session(suite, load_tasks(suite), store, "run")
    report = session.evaluate(lab.side("old", always("red")), lab.side("new", always("red")))

    assert report.baseline.n_requests_sent == 12
    assert [task.n_pairs for task in report.tasks] == [10, 12]


def test_failures_are_neither_answers_nor_dropped_nor_kept(
    session: Session, lab: Lab, store: AnswerStore
) -> None:
    def too_long(request: GenerationRequest) -> str:
        if size_of(request) in (3, 4):
            raise ContextLengthError("too long by 7 tokens")
        return "red"

    new = lab.side("new", too_long)
    report = session.evaluate(lab.side("old", always("red")), new)
    (task,) = report.tasks

    assert report.verdict == "inconclusive"
    assert (task.n_samples, task.n_pairs) == (60, 58)
    assert (task.n_failed_baseline, task.n_failed_candidate) == (0, 2)
    assert (task.baseline, task.candidate) == (1.0, 1.0)
    assert [(f.side, f.error_type, f.message) for f in task.failures] == [
        ("candidate", "ContextLengthError", "too long by 7 tokens")
    ] * 2
    again = session.evaluate(lab.side("old", always("red")), new)
    assert (again.candidate.n_requests_sent, again.candidate.n_reused) == (2, 58)


def test_an_engine_that_dies_leaves_its_answers(session: Session, lab: Lab) -> None:
    def dies(request: GenerationRequest) -> str:
        if size_of(request) == 30:
            raise EngineError("gone")
        return "red"

    with pytest.raises(EngineError, match="gone"):
        session.evaluate(lab.side("old", dies), lab.side("new", always("red")))
    report = session.evaluate(lab.side("old", always("red")), lab.side("new", always("red")))

    assert (report.baseline.n_requests_sent, report.baseline.n_reused) == (30, 30)


def test_a_picture_that_vanishes_is_that_samples_failure(
    suites: Any, colors: Any, store: AnswerStore, lab: Lab
) -> None:
    picture = suites.folder / "gone.png"
    picture.write_bytes(suites.png("red", size=99))
    path_row = {"question": "<image>?", "target": "red", "media": [{"path": "gone.png"}]}
    suites.task("color", [path_row, *colors(59)])
    suite = suites.load("color", gate={"margin": 0.08})
    session = Session(suite, load_tasks(suite), store, "run")
    picture.unlink()
    report = session.evaluate(lab.side("old", always("red")), lab.side("new", always("red")))
    (task,) = report.tasks

    assert (task.n_samples, task.n_pairs) == (60, 59)
    assert (task.n_failed_baseline, task.n_failed_candidate) == (1, 1)
    assert report.n_requests_sent == 118
    assert {(f.side, f.error_type) for f in task.failures} == {
        ("baseline", "MediaError"),
        ("candidate", "MediaError"),
    }
    assert "gone.png" in task.failures[0].message


class Broken(ScriptedEngine):
    """Breaks the promise of one result for each request."""

    def __init__(self, edit: Callable[[list[GenerationResult]], list[GenerationResult]]) -> None:
        super().__init__(lambda _: "red")
        self._edit = edit

    @override
    def generate(self, requests: Any) -> Iterator[GenerationResult]:
        yield from self._edit(list(super().generate(requests)))


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (lambda results: results[:-2], "no result for 2 requests"),
        (lambda results: [*results, results[0]], "a request that was not open"),
    ],
)
def test_an_engine_that_loses_or_repeats_answers_is_found_out(
    session: Session, lab: Lab, edit: Any, match: str
) -> None:
    @contextmanager
    def start() -> Iterator[Engine]:
        yield Broken(edit)

    side = Side("odd", "sha256:odd", {}, EngineSource(start), lambda engine: engine.models[0])
    with pytest.raises(EngineError, match=match):
        session.evaluate(side, lab.side("new", always("red")))


def test_an_aborted_answer_is_a_failure(session: Session, lab: Lab) -> None:
    def cut(results: list[GenerationResult]) -> list[GenerationResult]:
        outcome = results[0].outcome
        assert isinstance(outcome, Completion)
        aborted = outcome.model_copy(update={"finish_reason": "abort"})
        return [results[0].model_copy(update={"outcome": aborted}), *results[1:]]

    @contextmanager
    def start() -> Iterator[Engine]:
        yield Broken(cut)

    side = Side("odd", "sha256:odd", {}, EngineSource(start), lambda engine: engine.models[0])
    report = session.evaluate(side, lab.side("new", always("red")))

    assert report.tasks[0].n_failed_baseline == 1


def test_answers_that_were_cut_are_said(session: Session, lab: Lab) -> None:
    long = always("red " * 20)
    report = session.evaluate(lab.side("old", always("red")), lab.side("new", long))

    assert report.tasks[0].n_cut_candidate == 60
    assert any("60 of 60 answers ended at max_tokens" in note for note in report.notes)


def test_listeners_hear_of_every_request(session: Session, lab: Lab) -> None:
    class Counter:
        def __init__(self) -> None:
            self.loaded: list[tuple[str, list[str]]] = []
            self.started_with: list[tuple[AskedName, int, int]] = []
            self.heard: list[tuple[AskedName, bool]] = []

        def loading(self, name: str) -> None:
            self.loaded.append((name, list(lab.started)))

        def started(self, side: AskedName, n_requests: int, n_reused: int) -> None:
            self.started_with.append((side, n_requests, n_reused))

        def scoring(self, side: AskedName, n_requests: int, n_reused: int) -> None:
            raise AssertionError("the suite measures no likelihoods")

        def answered(self, side: AskedName, *, failed: bool) -> None:
            self.heard.append((side, failed))

    counter = Counter()
    heard = Session(session.suite, session.tasks, session.store, "run", listener=counter)
    heard.evaluate(lab.side("old", always("red")), lab.side("new", always("red")))
    heard.evaluate(lab.side("old", always("red")), lab.side("new", always("red")))

    assert counter.started_with == [
        ("baseline", 60, 0),
        ("candidate", 60, 0),
        ("baseline", 0, 60),
        ("candidate", 0, 60),
    ]
    # Each is said before its engine starts, and nothing where none is needed.
    assert counter.loaded == [("old", []), ("new", ["old"])]
    assert counter.heard == [("baseline", False)] * 60 + [("candidate", False)] * 60


def test_metrics_whose_lower_values_are_better_turn_around(
    suites: Any, store: AnswerStore, lab: Lab
) -> None:
    suites.folder.joinpath("judge.py").write_text(
        "def judge(doc, results):\n    return {'errors': float(len(results[0].split()))}\n"
    )
    suites.task(
        "words",
        [suites.row(f"Say {number}.", "x") for number in range(60)],
        process_results="!function judge.judge",
        metric_list=[{"metric": "errors", "aggregation": "mean", "higher_is_better": False}],
        doc_to_image=None,
    )
    suite = suites.load({"task": "words", "metric": "errors", "margin": 0.5})
    session = Session(suite, load_tasks(suite), store, "run")

    def by_number(extra: int) -> Answer:
        def answer(request: GenerationRequest) -> str:
            part = request.messages[-1].parts[0]
            assert isinstance(part, TextPart)
            return "w " * (1 + int(part.text[4:-1]) % 3 + extra)

        return answer

    report = session.evaluate(lab.side("old", by_number(0)), lab.side("new", by_number(2)))
    (task,) = report.tasks

    assert (task.baseline, task.candidate, task.difference) == (2.0, 4.0, 2.0)
    assert task.verdict == "regression"
    assert not task.in_points
    assert len(task.flips.regressed) == 60
    assert task.lower is not None
    assert task.upper is not None
    assert 0 < task.lower < 2.0 <= task.upper + 0.2
    better = session.evaluate(lab.side("new", by_number(2)), lab.side("old", by_number(0)))
    assert better.verdict == "pass"
    assert "no worse than 0.5" in better.tasks[0].reason


@pytest.fixture
def misses(suites: Any, store: AnswerStore) -> Session:
    """Sixty samples scored by ``error``, 0 or 1 or a number between, whose low values are good."""
    suites.folder.joinpath("judge.py").write_text(
        "def judge(doc, results):\n    return {'error': float(results[0])}\n"
    )
    suites.task(
        "misses",
        [suites.row(f"Say {number}.", "0") for number in range(60)],
        process_results="!function judge.judge",
        metric_list=[{"metric": "error", "aggregation": "mean", "higher_is_better": False}],
        doc_to_image=None,
    )
    suite = suites.load({"task": "misses", "metric": "error", "margin": 0.08})
    return Session(suite, load_tasks(suite), store, "run")


def error_below(count: int, amount: str) -> Answer:
    def answer(request: GenerationRequest) -> str:
        part = request.messages[-1].parts[0]
        assert isinstance(part, TextPart)
        return amount if int(part.text[4:-1]) < count else "0"

    return answer


def test_errors_of_zero_and_one_are_proportions_too(misses: Session, lab: Lab) -> None:
    report = misses.evaluate(
        lab.side("old", error_below(3, "1")), lab.side("new", error_below(15, "1"))
    )
    (task,) = report.tasks
    lower, upper = tango_interval(12, 0, 60)

    assert task.method == "matched proportions"
    assert task.verdict == "regression"
    found = [task.baseline, task.candidate, task.difference, task.lower, task.upper]
    assert found == pytest.approx([3 / 60, 15 / 60, 12 / 60, -upper, -lower])
    assert len(task.flips.regressed) == 12


def test_errors_between_zero_and_one_keep_the_fixed_scale(misses: Session, lab: Lab) -> None:
    report = misses.evaluate(
        lab.side("old", error_below(3, "0.25")), lab.side("new", error_below(15, "0.25"))
    )
    (task,) = report.tasks
    # What the same answers give where the metric counts successes.
    mirrored = compare_pairs(
        [0.75] * 3 + [1.0] * 57, [0.75] * 15 + [1.0] * 45, alpha=misses.suite.gate.alpha
    )

    found = [task.baseline, task.candidate, task.lower, task.upper]
    assert found == pytest.approx([0.0125, 0.0625, -mirrored.upper, -mirrored.lower])


def test_failures_are_filled_with_the_worst_and_the_best_score(
    suites: Any, colors: Any, store: AnswerStore, lab: Lab
) -> None:
    # Of 40 samples one failure is 2.5 points: enough to decide when the lower end is at -7.
    suites.task("color", colors(50))
    suite = suites.load("color", gate={"margin": 0.0715, "max_failed_fraction": 0.1})
    session = Session(suite, load_tasks(suite), store, "run")

    def one_fails(request: GenerationRequest) -> str:
        if size_of(request) == 0:
            raise ContextLengthError("too long")
        return "red"

    sure = session.evaluate(lab.side("old", always("red")), lab.side("new", always("red")))
    unsure = session.evaluate(lab.side("old", always("red")), lab.side("fails", one_fails))

    assert sure.verdict == "pass"
    assert unsure.verdict == "inconclusive"


def test_the_report_can_be_read_back_from_file_and_store(
    session: Session, lab: Lab, store: AnswerStore, tmp_path: Path
) -> None:
    report = session.evaluate(lab.side("old", always("red")), lab.side("new", wrong_below(20)))
    write_reports(report, {"json": tmp_path / "new" / "report.json"})
    text = (tmp_path / "new" / "report.json").read_text()
    kept = store.find_report("run-1")

    assert EvalReport.model_validate_json(text) == report
    assert kept is not None
    assert EvalReport.model_validate_json(kept) == report
    raw = json.loads(text)
    assert raw["schema_version"] == 1
    assert {"verdict", "n_requests_sent", "n_reused", "started_at", "versions"} <= raw.keys()
    assert {
        "task",
        "metric",
        "n_pairs",
        "n_failed_baseline",
        "n_failed_candidate",
        "baseline",
        "candidate",
        "difference",
        "lower",
        "upper",
        "p_value",
        "verdict",
        "flips",
    } <= raw["tasks"][0].keys()
    assert raw["tasks"][0]["flips"]["regressed"][0]["sample_id"]


def test_the_suite_digest_follows_the_data(
    suites: Any, colors: Any, store: AnswerStore, lab: Lab
) -> None:
    def digest(rows: list[dict[str, Any]]) -> str:
        suites.task("color", rows)
        suite = suites.load("color")
        session = Session(suite, load_tasks(suite), store, "run")
        report = session.evaluate(lab.side("o", always("red")), lab.side("n", always("red")))
        return report.suite.digest

    rows = colors(4)
    assert digest(rows) == digest(colors(4))
    assert digest(rows) != digest([{**rows[0], "target": "blue"}, *rows[1:]])


def test_questions_about_one_image_are_one_cluster(
    suites: Any, store: AnswerStore, lab: Lab
) -> None:
    pictures = [suites.png("red", size=8 + number // 4) for number in range(40)]
    suites.task(
        "shared",
        [suites.row(f"<image>Part {n}?", "red", data) for n, data in enumerate(pictures)],
    )
    suite = suites.load("shared")
    session = Session(suite, load_tasks(suite), store, "run")
    report = session.evaluate(lab.side("old", always("red")), lab.side("new", always("red")))

    assert (report.tasks[0].n_pairs, report.tasks[0].n_clusters) == (40, 10)
    assert any("shared: 40 samples ask about 10 images" in note for note in report.notes)


def test_a_task_that_must_improve_says_so_in_every_report(
    suites: Any, colors: Any, store: AnswerStore, lab: Lab, tmp_path: Path
) -> None:
    suites.task("color", colors(60))
    suite = suites.load({"task": "color", "metric": "exact_match", "improve": True})
    session = Session(suite, load_tasks(suite), store, "run")
    better = session.evaluate(lab.side("old", wrong_below(20)), lab.side("new", always("red")))
    same = session.evaluate(lab.side("good", always("red")), lab.side("new", always("red")))

    assert (better.verdict, better.tasks[0].verdict) == ("pass", "improved")
    assert (same.verdict, same.tasks[0].verdict) == ("not improved", "not improved")
    assert (same.tasks[0].gated, same.tasks[0].improve, same.tasks[0].margin) == (True, True, None)
    kinds: dict[ReportFormat, Path] = {
        "json": tmp_path / "r.json",
        "markdown": tmp_path / "r.md",
        "junit": tmp_path / "r.xml",
        "html": tmp_path / "r.html",
    }
    write_reports(same, kinds)
    console = Console(file=io.StringIO(), width=120)
    print_report(same, console)
    shown = {kind: path.read_text() for kind, path in kinds.items()}
    case = ET.fromstring(shown["junit"]).find("testsuite/testcase/failure")
    assert case is not None
    assert case.get("type") == "not improved"
    assert "not improved (no gain beyond chance" in shown["markdown"]
    assert "Of 1 gated task: 1 had to improve and did not." in shown["html"]
    assert '<td class="number">must improve</td>' in shown["html"]
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "verdict: not improved (0 regression, 1 not improved," in said
    write_reports(better, kinds)
    assert 'failures="0"' in kinds["junit"].read_text()


def test_a_sequential_run_stops_at_a_sure_gain_and_never_at_a_loss(
    suites: Any, colors: Any, store: AnswerStore, lab: Lab
) -> None:
    suites.task("color", colors(200))
    suite = suites.load({"task": "color", "metric": "exact_match", "improve": True})
    session = Session(suite, load_tasks(suite), store, "run", sequential=True)
    better = session.evaluate(lab.side("old", wrong_below(120)), lab.side("new", always("red")))
    worse = session.evaluate(lab.side("good", always("red")), lab.side("bad", wrong_below(120)))

    assert (better.verdict, better.tasks[0].verdict) == ("pass", "improved")
    assert better.tasks[0].n_samples < 60
    assert better.tasks[0].lower is not None
    assert better.tasks[0].lower > 0
    assert (worse.verdict, worse.tasks[0].n_samples) == ("not improved", 200)
