"""lm-eval's tasks of choices: real task files, real metrics, a scripted engine's likelihoods."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from vlmserve.chat import ImagePart
from vlmserve.config.suite import SuiteConfig
from vlmserve.engine.base import Engine, GenerationRequest, ScoringRequest
from vlmserve.engine.scripted import ScriptedEngine
from vlmserve.errors import ConfigError, RequestError, ScoringUnsupportedError
from vlmserve.evals.answering import EngineSource, Side
from vlmserve.evals.eval_task import load_tasks
from vlmserve.evals.report.eval_report import EvalReport
from vlmserve.evals.session import Session
from vlmserve.evals.store import AnswerStore

Logprob = Callable[[ScoringRequest], float]
CHOICES = ["red", "a very dark blue", "green"]


class Lab:
    def __init__(self) -> None:
        self.engines: list[ScriptedEngine] = []

    def side(self, name: str, logprob: Logprob | None) -> Side:
        def speak(_: GenerationRequest) -> str:
            raise AssertionError("a task of choices is not asked to speak")

        @contextmanager
        def start() -> Iterator[Engine]:
            self.engines.append(ScriptedEngine(speak, logprob=logprob))
            yield self.engines[-1]

        source = EngineSource(start)
        return Side(name, f"sha256:{name}", {}, source, lambda engine: engine.models[0])


@pytest.fixture
def lab() -> Lab:
    return Lab()


def prefers(word: str) -> Logprob:
    return lambda request: -0.1 if request.target == word else -1.0


def load(suites: Any, rows: list[Any], metric: str = "acc", **settings: Any) -> SuiteConfig:
    metrics = [
        {"metric": name, "aggregation": "mean", "higher_is_better": True}
        for name in ("acc", "acc_norm")
    ]
    keys = {
        "output_type": "multiple_choice",
        "doc_to_choice": CHOICES,
        "doc_to_target": "target",
        "generation_kwargs": None,
        "metric_list": metrics,
        **settings,
    }
    suites.task("color", rows, **keys)
    loaded = suites.load({"task": "color", "metric": metric}, gate={"margin": 0.2})
    assert isinstance(loaded, SuiteConfig)
    return loaded


def run(suite: SuiteConfig, store: AnswerStore, old: Side, new: Side) -> EvalReport:
    return Session(suite, load_tasks(suite), store, "run").evaluate(old, new)


def test_the_likeliest_choice_is_the_answer(
    suites: Any, colors: Any, store: AnswerStore, lab: Lab
) -> None:
    suite = load(suites, colors(12))
    report = run(suite, store, lab.side("old", prefers("red")), lab.side("new", prefers("green")))
    (task,) = report.tasks

    assert (task.baseline, task.candidate, task.n_pairs) == (1.0, 0.0, 12)
    flip = task.flips.regressed[0]
    assert (flip.baseline.answer, flip.candidate.answer, flip.target) == ("red", "green", "red")
    assert "<image>" in flip.question
    # Three choices of twelve questions on each side.
    assert [engine.n_scored for engine in lab.engines] == [36, 36]
    assert report.n_requests_sent == 24


def test_choices_see_the_images(suites: Any, colors: Any, store: AnswerStore, lab: Lab) -> None:
    seen = []

    def look(request: ScoringRequest) -> float:
        seen.append(sum(isinstance(part, ImagePart) for part in request.messages[-1].parts))
        return -1.0

    suite = load(suites, colors(12))
    run(suite, store, lab.side("old", look), lab.side("new", look))

    assert seen == [1] * 72


@pytest.mark.parametrize(("metric", "score"), [("acc", 0.0), ("acc_norm", 1.0)])
def test_metrics_are_lm_evals(
    suites: Any, colors: Any, store: AnswerStore, lab: Lab, metric: str, score: float
) -> None:
    """The long target: less likely as a whole than "red", and likelier by its length."""
    rows = [{**row, "target": "a very dark blue"} for row in colors(12)]

    def each(request: ScoringRequest) -> float:
        return {"red": -1.0, "green": -5.0}.get(request.target, -0.9)

    suite = load(suites, rows, metric)
    (task,) = run(suite, store, lab.side("old", each), lab.side("new", each)).tasks

    assert task.baseline == task.candidate == score


def test_answers_are_kept(suites: Any, colors: Any, store: AnswerStore, lab: Lab) -> None:
    suite = load(suites, colors(12))
    first = run(suite, store, lab.side("old", prefers("red")), lab.side("new", prefers("red")))
    again = run(suite, store, lab.side("old", prefers("red")), lab.side("new", prefers("red")))

    assert (again.n_requests_sent, again.n_reused) == (0, 24)
    assert again.tasks == first.tasks


def test_a_choice_without_a_likelihood_fails_its_sample(
    suites: Any, colors: Any, store: AnswerStore, lab: Lab
) -> None:
    def refuse(request: ScoringRequest) -> float:
        if request.target == "green":
            raise RequestError("the chat template changes the answer")
        return -1.0

    suite = load(suites, colors(12))
    (task,) = run(suite, store, lab.side("old", prefers("red")), lab.side("new", refuse)).tasks

    assert task.verdict == "inconclusive"
    assert (task.n_failed_baseline, task.n_failed_candidate) == (0, 12)
    assert task.failures[0].message == "the chat template changes the answer"


def test_an_engine_that_cannot_tell_ends_the_run(
    suites: Any, colors: Any, store: AnswerStore, lab: Lab
) -> None:
    suite = load(suites, colors(12))
    with pytest.raises(ScoringUnsupportedError):
        run(suite, store, lab.side("old", None), lab.side("new", prefers("red")))


def test_the_target_may_be_a_place(suites: Any, colors: Any, store: AnswerStore, lab: Lab) -> None:
    suite = load(suites, colors(12), doc_to_target="{{['red', 'blue'].index(target)}}")
    (task,) = load_tasks(suite)
    report = run(suite, store, lab.side("old", prefers("red")), lab.side("new", prefers("green")))

    assert {sample.target for sample in task.samples} == {"red"}
    assert {sample.choices for sample in task.samples} == {tuple(CHOICES)}
    assert (report.tasks[0].baseline, report.tasks[0].candidate) == (1.0, 0.0)


def test_one_answer_is_greedy_or_not(
    suites: Any, colors: Any, store: AnswerStore, lab: Lab
) -> None:
    suite = load(
        suites,
        colors(12),
        output_type="loglikelihood",
        doc_to_choice=None,
        metric_list=[{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    )
    sure, unsure = lab.side("old", lambda _: 0.0), lab.side("new", lambda _: -0.5)
    (task,) = run(suite, store, sure, unsure).tasks

    assert (task.baseline, task.candidate) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("metric", "settings", "fault"),
    [
        (
            "acc",
            {"metric_list": [{"metric": "acc_mutual_info", "aggregation": "mean",
                              "higher_is_better": True}]},
            "acc_mutual_info needs the likelihood of a choice without a question",
        ),
        ("exact_match", {}, "no metric 'exact_match'"),
        ("acc", {"doc_to_choice": ["red", " "]}, "a choice is empty"),
        (
            "acc",
            {"filter_list": [{"name": "x", "filter": [{"function": "take_first"}]}]},
            "likelihoods are not filtered",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_told_is_refused(
    suites: Any, colors: Any, metric: str, settings: dict[str, Any], fault: str
) -> None:
    suite = load(suites, colors(12), metric, **settings)
    with pytest.raises(ConfigError, match=fault) as caught:
        load_tasks(suite)
    assert "color" in str(caught.value)
