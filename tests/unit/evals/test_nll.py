"""Expected answers and their likelihoods, from the suite to the verdict, with scripted engines."""

import io
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typing_extensions import override

from vlmserve.chat import ImagePart
from vlmserve.config.suite import NllConfig, SuiteConfig
from vlmserve.engine.base import Engine, ScoringRequest, ScoringResult
from vlmserve.engine.scripted import ScriptedEngine
from vlmserve.errors import ConfigError, EngineError, RequestError
from vlmserve.evals.answering import EngineSource, Side
from vlmserve.evals.archive import load_side
from vlmserve.evals.compare_runs import Terms, compare_runs
from vlmserve.evals.eval_task import load_tasks
from vlmserve.evals.likelihood import choose_targets
from vlmserve.evals.report.eval_report import EvalReport
from vlmserve.evals.report.files import ReportFormat, write_reports
from vlmserve.evals.report.task_report import TaskReport
from vlmserve.evals.report.terminal import print_report
from vlmserve.evals.session import Session
from vlmserve.evals.statistics import compare_measures
from vlmserve.evals.store import AnswerStore

Logprob = Callable[[ScoringRequest], float]


def number_of(request: ScoringRequest) -> int:
    """Which of the ``colors`` a request shows: pictures grow from 8 pixels up."""
    image = next(part for part in request.messages[-1].parts if isinstance(part, ImagePart))
    return int.from_bytes(image.data[16:20], "big") - 8


def around(mean: float) -> Logprob:
    """Log-probabilities that vary from sample to sample, the same in every run."""
    return lambda request: mean - random.Random(number_of(request)).random() / 2  # noqa: S311


def shifted(mean: float) -> Logprob:
    """The same with some variation of their own."""
    return lambda r: around(mean)(r) - random.Random(f"x{number_of(r)}").random() / 10  # noqa: S311


class Lab:
    """Sides whose engines always answer ``red`` and are counted."""

    def __init__(self) -> None:
        self.engines: list[ScriptedEngine] = []

    def side(self, name: str, logprob: Logprob | None, answer: str = "red") -> Side:
        @contextmanager
        def start() -> Iterator[Engine]:
            self.engines.append(ScriptedEngine(lambda _: answer, logprob=logprob))
            yield self.engines[-1]

        source = EngineSource(start)
        return Side(name, f"sha256:{name}", {}, source, lambda engine: engine.models[0])


@pytest.fixture
def lab() -> Lab:
    return Lab()


@pytest.fixture
def rows(colors: Any) -> list[Any]:
    return list(colors(40))


def load(suites: Any, rows: list[Any], **settings: Any) -> SuiteConfig:
    suites.task("color", rows)
    entry = {"task": "color", "metric": "exact_match", **settings.pop("entry", {})}
    loaded = suites.load(entry, **{"gate": {"margin": 0.2}, "nll": True, **settings})
    assert isinstance(loaded, SuiteConfig)
    return loaded


def run(suite: SuiteConfig, store: AnswerStore, old: Side, new: Side, **more: Any) -> EvalReport:
    return Session(suite, load_tasks(suite), store, "run", **more).evaluate(old, new)


def only(report: EvalReport) -> TaskReport:
    (task,) = report.tasks
    return task


def test_a_rise_warns_and_does_not_decide(
    suites: Any, rows: list[Any], store: AnswerStore, lab: Lab
) -> None:
    suite = load(suites, rows)
    report = run(suite, store, lab.side("old", around(-1)), lab.side("new", shifted(-1.2)))
    task = only(report)

    assert report.verdict == task.verdict == "pass"
    assert task.nll is not None
    assert task.nll.per_token is not None
    assert task.nll.per_byte is not None
    assert (task.nll.n_samples, task.nll.n_pairs, task.nll.verdict) == (40, 40, "not gated")
    assert task.nll.per_token.difference == pytest.approx(0.25, abs=0.03)
    assert 0.2 < task.nll.per_token.lower < task.nll.per_token.upper < 0.3
    # "red" and its end: two tokens, three bytes.
    assert task.nll.per_byte.difference == pytest.approx(task.nll.per_token.difference * 2 / 3)
    assert task.nll.is_early_warning
    assert (report.baseline.n_scored, report.candidate.n_scored) == (40, 40)
    assert report.n_requests_sent == 80


def test_no_rise_does_not_warn(suites: Any, rows: list[Any], store: AnswerStore, lab: Lab) -> None:
    suite = load(suites, rows)
    task = only(run(suite, store, lab.side("old", around(-1)), lab.side("new", around(-1))))

    assert task.nll is not None
    assert task.nll.per_token is not None
    assert (task.nll.per_token.lower, task.nll.per_token.upper) == (0.0, 0.0)
    assert not task.nll.is_early_warning


def test_a_rise_with_a_drop_of_the_metric_is_no_early_warning(
    suites: Any, rows: list[Any], store: AnswerStore, lab: Lab
) -> None:
    suite = load(suites, rows)
    new = lab.side("new", shifted(-3), answer="blue")
    task = only(run(suite, store, lab.side("old", around(-1)), new))

    assert task.verdict == "regression"
    assert task.nll is not None
    assert not task.nll.is_early_warning
    flip = task.flips.regressed[0]
    assert flip.baseline.nll is not None
    assert flip.candidate.nll is not None
    assert flip.candidate.nll > flip.baseline.nll


@pytest.mark.parametrize(
    ("margin", "mean", "verdict", "words"),
    [
        (0.1, -1.2, "regression", "regression by NLL (worse beyond chance)"),
        (0.5, -1.2, "pass", "pass (no worse than 20 points)"),
        (0.05, -0.95, "inconclusive", "a rise of 0.05 nats a token is not ruled out"),
    ],
)
def test_a_margin_makes_it_decide(
    suites: Any,
    rows: list[Any],
    store: AnswerStore,
    lab: Lab,
    margin: float,
    mean: float,
    verdict: str,
    words: str,
) -> None:
    suite = load(suites, rows, entry={"nll_margin": margin})

    def noisy(request: ScoringRequest) -> float:
        spread = 0.6 if verdict == "inconclusive" else 0.1
        return min(0.0, mean - random.Random(f"n{number_of(request)}").uniform(-1, 1) * spread)  # noqa: S311

    report = run(suite, store, lab.side("old", lambda _: -1.0), lab.side("new", noisy))
    task = only(report)

    assert report.verdict == task.verdict == verdict
    assert words in task.reason
    assert task.nll is not None
    assert (task.nll.verdict, task.nll.margin) == (verdict, margin)


def test_likelihoods_are_kept_and_failures_are_not(
    suites: Any, rows: list[Any], store: AnswerStore, lab: Lab
) -> None:
    suite = load(suites, rows, gate={"margin": 0.2, "max_failed_fraction": 0.1})

    def fails_once(request: ScoringRequest) -> float:
        if number_of(request) == 3 and len(lab.engines) < 3:
            raise RequestError("the template changes the answer")
        return around(-1)(request)

    first = run(suite, store, lab.side("old", around(-1)), lab.side("new", fails_once))
    again = run(suite, store, lab.side("old", around(-1)), lab.side("new", fails_once))

    nll = only(first).nll
    assert nll is not None
    assert (nll.n_samples, nll.n_pairs, nll.n_failed_candidate) == (40, 39, 1)
    assert nll.failures[0].message == "the template changes the answer"
    assert any("1 on the candidate" in note for note in first.notes)
    assert (again.baseline.n_scored, again.baseline.n_likelihoods_reused) == (0, 40)
    assert (again.candidate.n_scored, again.candidate.n_likelihoods_reused) == (1, 39)
    assert again.n_requests_sent == 0
    # The baseline's engine had nothing to do the second time.
    assert [engine.n_scored for engine in lab.engines] == [40, 40, 1]


def test_a_killed_run_goes_on_where_it_stopped(
    suites: Any, rows: list[Any], store: AnswerStore, lab: Lab
) -> None:
    suite = load(suites, rows)

    class Gone(ScriptedEngine):
        @override
        def score(self, requests: Iterable[ScoringRequest]) -> Iterator[ScoringResult]:
            for count, result in enumerate(super().score(requests)):
                if count == 10:
                    raise EngineError("gone")
                yield result

    @contextmanager
    def start() -> Iterator[Engine]:
        yield Gone(lambda _: "red", logprob=around(-1))

    broken = Side("old", "sha256:old", {}, EngineSource(start), lambda engine: engine.models[0])
    with pytest.raises(EngineError, match="gone"):
        run(suite, store, broken, lab.side("new", around(-1)))
    report = run(suite, store, lab.side("old", around(-1)), lab.side("new", around(-1)))

    assert (report.baseline.n_scored, report.baseline.n_likelihoods_reused) == (30, 10)


def test_an_engine_that_cannot_tell_is_said_and_nothing_is_measured(
    suites: Any, rows: list[Any], store: AnswerStore, lab: Lab
) -> None:
    suite = load(suites, rows)
    report = run(suite, store, lab.side("old", None), lab.side("new", around(-1)))

    assert report.verdict == "pass"
    assert only(report).nll is None
    (said,) = [note for note in report.notes if "NLL" in note]
    assert "not measured: old does not tell" in said


def test_a_margin_without_a_measurement_is_inconclusive(
    suites: Any, rows: list[Any], store: AnswerStore, lab: Lab
) -> None:
    suite = load(suites, rows, entry={"nll_margin": 0.1})
    report = run(suite, store, lab.side("old", None), lab.side("new", around(-1)))

    assert report.verdict == "inconclusive"
    assert only(report).reason == "inconclusive by NLL (it was not measured)"


def test_many_failures_leave_it_open(
    suites: Any, rows: list[Any], store: AnswerStore, lab: Lab
) -> None:
    suite = load(suites, rows, entry={"nll_margin": 5.0})

    def often_fails(request: ScoringRequest) -> float:
        if number_of(request) < 10:
            raise RequestError("no")
        return around(-1)(request)

    report = run(suite, store, lab.side("old", around(-1)), lab.side("new", often_fails))

    assert report.verdict == "inconclusive"
    assert "10 on the candidate; 2.0% may" in only(report).reason


def test_a_kept_run_holds_its_likelihoods(
    suites: Any, rows: list[Any], store: AnswerStore, lab: Lab
) -> None:
    suite = load(suites, rows, nll={"samples": 25})
    report = run(
        suite, store, lab.side("old", around(-1)), lab.side("new", around(-1)), sequential=True
    )
    (task,) = load_side(store, "run", "candidate").tasks

    # Asking stopped early; the likelihoods are of samples that were chosen before.
    assert only(report).n_samples < 40
    assert len(task.records) == only(report).n_samples
    assert len(task.nll) == 25
    assert all(each.status == "measured" for each in task.nll.values())


def test_kept_runs_are_compared_by_it_as_well(
    suites: Any, rows: list[Any], store: AnswerStore, lab: Lab
) -> None:
    suite = load(suites, rows, entry={"nll_margin": 0.1})
    old, new = lab.side("old", around(-1)), lab.side("new", shifted(-1.2))
    report = run(suite, store, old, new)
    again = compare_runs(
        load_side(store, "run", "baseline"), load_side(store, "run", "candidate"), Terms()
    )

    assert again.verdict == report.verdict == "regression"
    assert only(again).nll == only(report).nll


def test_reports_show_it(
    suites: Any, rows: list[Any], store: AnswerStore, lab: Lab, tmp_path: Path
) -> None:
    suite = load(suites, rows)
    old = lab.side("old", around(-1))
    report = run(suite, store, old, lab.side("new", shifted(-1.2)))
    mixed = run(suite, store, old, lab.side("other", shifted(-2), answer="blue"))

    stream = io.StringIO()
    print_report(report, Console(file=stream, width=80))
    shown = stream.getvalue()
    assert "NLL of the expected answers" in shown
    assert "early warning, color: the NLL of the expected answers rose by" in " ".join(
        shown.split()
    )

    files: dict[ReportFormat, Path] = {
        name: tmp_path / name for name in ("json", "markdown", "junit", "html")
    }
    write_reports(report, files)
    assert EvalReport.model_validate_json(files["json"].read_text()) == report
    assert "| color | 40 | 1." in files["markdown"].read_text()
    assert "nats a token, 40 pairs" in files["junit"].read_text()
    page = files["html"].read_text()
    assert 'class="forest nll"' in page
    assert "early warning" in page

    write_reports(mixed, files)
    assert ", NLL of the target 2." in files["html"].read_text()


def test_a_report_without_it_has_no_section(
    suites: Any, rows: list[Any], store: AnswerStore, lab: Lab, tmp_path: Path
) -> None:
    suite = load(suites, rows, nll=False)
    report = run(suite, store, lab.side("old", around(-1)), lab.side("new", around(-2)))
    stream = io.StringIO()
    print_report(report, Console(file=stream, width=80))
    write_reports(report, {"html": tmp_path / "page.html"})

    assert "NLL" not in stream.getvalue()
    assert "Likelihood of the expected answers" not in (tmp_path / "page.html").read_text()
    assert [engine.n_scored for engine in lab.engines] == [0, 0]


def test_samples_are_chosen_by_content(suites: Any, rows: list[Any]) -> None:
    suite = load(suites, rows)
    (task,) = load_tasks(suite)
    chosen = choose_targets(task, NllConfig(samples=10))
    rows.reverse()
    (turned,) = load_tasks(load(suites, rows))
    again = choose_targets(turned, NllConfig(samples=10))

    assert len(chosen.samples) == 10
    assert {s.sample_id for s in chosen.samples} == {s.sample_id for s in again.samples}
    assert chosen.samples != task.samples[:10]


def test_what_is_left_out_is_counted(
    suites: Any, rows: list[Any], store: AnswerStore, lab: Lab
) -> None:
    rows[0]["target"] = "red " * 300
    rows[1]["target"] = " "
    suite = load(suites, rows)
    report = run(suite, store, lab.side("old", around(-1)), lab.side("new", around(-1)))

    nll = only(report).nll
    assert nll is not None
    assert nll.n_samples == 38
    notes = " ".join(report.notes)
    assert "1 of 40 expected answers are longer than nll.max_target_bytes" in notes
    assert "1 of 40 expected answers are empty or no text" in notes


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"nll": None, "entry": {"nll_margin": 0.1}}, "nothing measures it"),
        ({"entry": {"nll_margin": 0.0}}, "nll_margin"),
        ({"nll": {"samples": 0}}, "nll.samples"),
        ({"nll": {"sample": 3}}, "nll.sample"),
        ({"nll": 7}, "nll"),
    ],
)
def test_a_wrong_suite_is_refused(
    suites: Any, rows: list[Any], settings: dict[str, Any], fault: str
) -> None:
    with pytest.raises(ConfigError, match=fault):
        load(suites, rows, **settings)


def test_the_interval_holds_for_skewed_likelihoods() -> None:
    """Covers its level where a few samples become much less likely, as after a fine-tune."""
    rng = np.random.default_rng(0)
    truth, hits, runs = 0.5, 0, 200
    for _ in range(runs):
        before = -rng.exponential(1.0, 60)
        after = before - rng.exponential(truth, 60)
        result = compare_measures(list(before), list(after))
        hits += result.lower < -truth < result.upper
    assert hits / runs > 0.91


def test_few_measures_have_no_interval() -> None:
    with pytest.raises(ValueError, match="at least 10"):
        compare_measures([-1.0] * 9, [-1.1] * 9)


def test_the_same_shift_everywhere_is_that_shift() -> None:
    result = compare_measures([-1.0] * 12, [-1.5] * 12)

    assert (result.lower, result.upper, result.difference) == (-0.5, -0.5, -0.5)
    assert result.drop_level == pytest.approx(2 / 2**12)
